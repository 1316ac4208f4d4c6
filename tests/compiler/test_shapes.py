"""Dynamic dimensions get numbers, and contradictions are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.shapes import parse_shapes
from edgessl.errors import ModelError, UsageError


def write_adder(path: Path, *shapes: list[Any]) -> Path:
    """``out = a + b + …`` with the given input shapes."""
    names = "abc"[: len(shapes)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(names, shapes, strict=True)
    ]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [helper.make_node("Sum", list(names), ["out"])], "adder", inputs, [output]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def test_words_become_shapes() -> None:
    words = ["input=1x3x320x320", "sr=", "odd=name=2"]
    assert parse_shapes(words) == {"input": (1, 3, 320, 320), "sr": (), "odd=name": (2,)}


@pytest.mark.parametrize("word", ["input", "=1x3", "input=1x", "input=axb", "input=1,3", "x=-1"])
def test_what_is_no_shape_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="not a shape"):
        parse_shapes([word])


def test_an_input_is_given_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_shapes(["a=1", "a=2"])


def test_symbols_and_results_are_fixed(tmp_path: Path) -> None:
    path = write_adder(tmp_path / "m.onnx", ["n", 3, "h", "w"], ["n", 1, "h", 1])
    info = prepare_graph(path, tmp_path / "o.onnx", batch_size=1, shapes={"a": (1, 3, 8, 6)})
    assert [spec.shape for spec in info.inputs] == [(1, 3, 8, 6), (1, 1, 8, 1)]
    assert info.outputs[0].shape == (1, 3, 8, 6)
    assert info.batched_inputs == ("a", "b")


def test_dimensions_without_a_name_are_fixed(tmp_path: Path) -> None:
    path = write_adder(tmp_path / "m.onnx", [None, None])
    info = prepare_graph(path, tmp_path / "o.onnx", batch_size=1, shapes={"a": (1, 7)})
    assert info.outputs[0].shape == (1, 7)


def test_what_is_not_given_stays_dynamic_unless_the_target_is_static(tmp_path: Path) -> None:
    path = write_adder(tmp_path / "m.onnx", ["n", "t", 4])
    info = prepare_graph(path, tmp_path / "o.onnx", batch_size=1)
    assert info.inputs[0].shape == (1, "t", 4)
    with pytest.raises(ModelError, match=r"'a' is 1xtx4.*--shape a=1xNx4"):
        prepare_graph(path, tmp_path / "o.onnx", batch_size=1, static=True)
    prepare_graph(path, tmp_path / "o.onnx", batch_size=1, shapes={"a": (1, 5, 4)}, static=True)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"aa": (1, 2)}, "no input 'aa'"),
        ({"a": (1, 2, 3)}, "has 2 dimensions"),
        ({"a": (1, 5)}, "fixed at 4, asked for 5"),
        ({"a": (1, 4), "b": (2, 4)}, "'n' is 1 in 'a' and 2 in 'b'"),
        ({"a": (0, 4)}, "cannot have a dimension of 0"),
        ({"a": (3, 4)}, "batch of 3, asked for 1"),
    ],
)
def test_contradictions_are_named(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], reason: str
) -> None:
    path = write_adder(tmp_path / "m.onnx", ["n", 4], ["n", 4])
    with pytest.raises(ModelError, match=reason):
        prepare_graph(path, tmp_path / "o.onnx", batch_size=1, shapes=shapes)


def test_a_given_shape_says_that_a_fixed_first_dimension_is_no_batch(tmp_path: Path) -> None:
    path = write_adder(tmp_path / "m.onnx", [80, 4])
    with pytest.raises(ModelError, match=r"batches of 80, asked for 1.*--shape a=80x4"):
        prepare_graph(path, tmp_path / "o.onnx", batch_size=1)
    info = prepare_graph(path, tmp_path / "o.onnx", batch_size=1, shapes={"a": (80, 4)})
    assert info.batched_inputs == ()


def test_scalars_may_be_all_there_is(tmp_path: Path) -> None:
    info = prepare_graph(
        write_adder(tmp_path / "m.onnx", [], []), tmp_path / "o.onnx", batch_size=1
    )
    assert [spec.shape for spec in info.inputs] == [(), ()]


def test_silero_with_its_state(shared: Path, tmp_path: Path) -> None:
    path = shared / "models/silero-vad/silero_vad.onnx"
    if not path.is_file():
        pytest.skip("silero is not on this machine")
    shapes = parse_shapes(["input=1x576", "state=2x1x128", "sr="])
    info = prepare_graph(path, tmp_path / "o.onnx", batch_size=1, shapes=shapes, static=True)
    assert [spec.shape for spec in info.inputs] == [(1, 576), (2, 1, 128), ()]
    assert info.batched_inputs == ("input",)


def test_magika_has_integers_and_a_batch(shared: Path, tmp_path: Path) -> None:
    path = shared / "models/magika/magika_standard_v3_3.onnx"
    if not path.is_file():
        pytest.skip("magika is not on this machine")
    info = prepare_graph(path, tmp_path / "o.onnx", batch_size=2)
    assert (info.inputs[0].dtype, info.inputs[0].shape) == ("int32", (2, 2048))
    assert info.outputs[0].shape == (2, 214)
