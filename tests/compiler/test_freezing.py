"""Frozen inputs: the same results as with the input fed, and no condition left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from contracts.compiling import ONNX_INT8, compile_quietly, target_of
from contracts.sound_model import RATE_HZ, SAMPLES, expected, write_sound_model
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.rewrites.topology import nodes_of
from edgessl.errors import UsageError
from edgessl.runtime import load


def write_conditional(path: Path) -> Path:
    """Twice the input in mode 1; else minus it in mode 2, else the input itself."""

    def value(name: str, kind: int = TensorProto.FLOAT, shape: list[int] | None = None) -> object:
        return helper.make_tensor_value_info(name, kind, shape)

    inner = [
        helper.make_graph([node], name, [], [value(output, shape=[1, 8])])
        for node, name, output in [
            (helper.make_node("Neg", ["x"], ["negative"]), "two", "negative"),
            (helper.make_node("Identity", ["x"], ["same"]), "other", "same"),
        ]
    ]
    nested = [
        helper.make_node("Constant", [], ["two"], value_int=2),
        helper.make_node("Equal", ["mode", "two"], ["is_two"]),
        helper.make_node("If", ["is_two"], ["chosen"], then_branch=inner[0], else_branch=inner[1]),
    ]
    branches = {
        "then_branch": helper.make_graph(
            [helper.make_node("Add", ["x", "x"], ["twice"])],
            "one",
            [],
            [value("twice", shape=[1, 8])],
        ),
        "else_branch": helper.make_graph(nested, "else", [], [value("chosen", shape=[1, 8])]),
    }
    nodes = [
        helper.make_node("Constant", [], ["one"], value_int=1),
        helper.make_node("Equal", ["mode", "one"], ["is_one"]),
        helper.make_node("If", ["is_one"], ["y"], **branches),
    ]
    inputs = [value("x", shape=[1, 8]), value("mode", TensorProto.INT64, [])]
    graph = helper.make_graph(nodes, "conditional", inputs, [value("y", shape=[1, 8])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("mode", "factor"), [(1, 2.0), (2, -1.0), (3, 1.0)])
def test_conditions_within_conditions_are_resolved(
    tmp_path: Path, mode: int, factor: float
) -> None:
    path, out = write_conditional(tmp_path / "m.onnx"), tmp_path / "p.onnx"
    graph = prepare_graph(path, out, batch_size=1, frozen={"mode": mode})
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert "If" not in {node.op_type for node in nodes_of(onnx.load(out).graph)}
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], factor * x)


def test_a_state_is_frozen_in_its_shape(tmp_path: Path) -> None:
    path = write_sound_model(tmp_path / "m.onnx")
    numbers = {"state": 0.25, "rate": RATE_HZ}
    graph = prepare_graph(path, tmp_path / "p.onnx", batch_size=1, frozen=numbers)
    assert [spec.name for spec in graph.inputs] == ["sound"]
    x = np.random.default_rng(0).standard_normal((1, SAMPLES)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
    found = session.run(None, {"sound": x})[0]
    np.testing.assert_allclose(found, expected(x, state=0.25), rtol=1e-4, atol=1e-4)


def test_what_is_frozen_is_quantized_and_gone_from_the_bundle(tmp_path: Path) -> None:
    path = write_sound_model(tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    rows: NDArray[np.float32] = rng.standard_normal((40, SAMPLES)).astype(np.float32)
    overrides = {"freeze": {"rate": RATE_HZ, "state": 0}}
    compile_quietly(path, target_of(ONNX_INT8), {"sound": rows}, overrides=overrides)
    with load(tmp_path / "model.edge") as model:
        assert [spec.name for spec in model.manifest.inputs] == ["sound"]
        found = model(rows)
    cosine = (found * expected(rows)).sum() / np.linalg.norm(found) / np.linalg.norm(expected(rows))
    assert cosine > 0.99


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"moode": 1}, "no input 'moode' to freeze; did you mean mode"),
        ({"mode": 1.5}, "mode=1.5 does not fit the input's int64"),
        ({"mode": 1, "x": 0}, "every input is frozen"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, numbers: dict[str, float], reason: str) -> None:
    path = write_conditional(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=reason):
        prepare_graph(path, tmp_path / "p.onnx", batch_size=1, frozen=numbers)


def test_an_open_size_asks_for_a_shape(tmp_path: Path) -> None:
    path = write_sound_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input[1].type.tensor_type.shape.dim[2].dim_param = "width"
    onnx.save(model, path)
    with pytest.raises(UsageError, match="--shape state=2x1x1"):
        prepare_graph(path, tmp_path / "p.onnx", batch_size=1, frozen={"state": 0})
