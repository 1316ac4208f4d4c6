"""What a hostile file says reaches a person as one printable line, or not at all."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from contracts.onnx_models import write_cnn
from edgessl.cli.main import main
from edgessl.compiler.graph import prepare_graph
from edgessl.errors import BundleError, ModelError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – ±  text", "plain – ±  text"),
        ("two\nlines\r\n\tthree ", "two lines three"),
        ("\x1b[2Jcleared", "\\x1b[2Jcleared"),
        ("nul\0byte", "nul\\x00byte"),
        ("\u202eright to left", "\\u202eright to left"),
        ("half a pair \ud800", "half a pair \\ud800"),
    ],
)
def test_errors_are_one_printable_line(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(BundleError(text)) == shown


def test_a_long_error_keeps_its_beginning_and_its_remedy() -> None:
    text = str(ModelError(f"x.onnx: '{'y' * 100_000}' is odd; export it again"))
    assert len(text) < 2100
    assert text.startswith("x.onnx: 'yyy")
    assert text.endswith("yyy' is odd; export it again")


def test_a_model_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(write_cnn(tmp_path / "cnn.onnx"))
    model.graph.node[0].domain = "\x1b]0;title\x07\n\x1b[31m"
    model.opset_import.append(helper.make_opsetid(model.graph.node[0].domain, 1))
    onnx.save(model, tmp_path / "cnn.onnx")
    words = ["compile", str(tmp_path / "cnn.onnx"), "--target", "host", "--calibration", "x.npy"]
    assert main([*words, "--out", str(tmp_path / "m.edge")]) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert len(said.err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["nul\0byte", "line\nbreak", "\x1b[31m"])
def test_names_that_engines_cut_or_terminals_obey_are_refused(tmp_path: Path, name: str) -> None:
    model = onnx.load(write_cnn(tmp_path / "cnn.onnx"))
    model.graph.output[0].name = model.graph.node[-1].output[0] = name
    onnx.save(model, tmp_path / "cnn.onnx")
    with pytest.raises(ModelError, match="control characters"):
        prepare_graph(tmp_path / "cnn.onnx", tmp_path / "out.onnx", batch_size=1)


@pytest.mark.parametrize("text", [b"embeddings", b"images", b"conv2", b"Relu", b"w3", b"batch"])
def test_texts_that_are_not_utf8_are_refused(tmp_path: Path, text: bytes) -> None:
    path = write_cnn(tmp_path / "cnn.onnx")
    path.write_bytes(path.read_bytes().replace(text, b"\xff" + text[1:]))
    with pytest.raises(ModelError, match="not UTF-8"):
        prepare_graph(path, tmp_path / "out.onnx", batch_size=1)


def test_a_newer_file_format_becomes_one_that_engines_read(tmp_path: Path) -> None:
    model = onnx.load(write_cnn(tmp_path / "cnn.onnx"))
    model.ir_version = 13
    onnx.save(model, tmp_path / "cnn.onnx")
    prepare_graph(tmp_path / "cnn.onnx", tmp_path / "out.onnx", batch_size=1)
    assert onnx.load(tmp_path / "out.onnx").ir_version == 10
