"""``edgessl compile`` as a person or a script calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from contracts.onnx_models import cnn_inputs
from edgessl.cli.main import main


@pytest.fixture
def arguments(model: Path) -> list[str]:
    np.savez(model.parent / "c.npz", images=cnn_inputs(40))
    words = ["compile", str(model), "--target", "host", "--calibration"]
    return [*words, str(model.parent / "c.npz"), "--out", str(model.parent / "m.edge")]


def test_json_is_one_object(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*arguments, "--precision", "fp32", "--engine", "onnxruntime", "--json", "threads=1"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["chosen"] == "onnxruntime-fp32"
    assert result["calibration_samples"] == 24
    assert Path(result["bundle"]).stat().st_size == result["size_bytes"]


def test_a_gate_that_says_no_shows_the_table(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*arguments, "--precision", "int8", "--engine", "onnxruntime", "--min-fidelity", "1"]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "onnxruntime-int8-u8s8" in shown.out
    assert "rejected" in shown.out
    (line,) = (x for x in shown.err.splitlines() if x.startswith("error:"))
    assert "no candidate passes" in line


def test_a_users_mistake_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(arguments[1]).write_bytes(b"\x08")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
