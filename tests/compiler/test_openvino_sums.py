"""OpenVINO computes a quantized residual sum with the integers that the graph says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgessl.compiler.backends.openvino_sums import keep_sums_apart
from edgessl.compiler.rewrites.parity import run_plainly

openvino = pytest.importorskip("openvino", reason="openvino is not installed")

SCALE = 0.02


def write_sum(path: Path) -> Path:
    """Three 1×1 convolutions and a sum around two of them, with pairs throughout."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    values: list[Any] = []

    def constant(name: str, value: Any) -> str:
        values.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(tensor: str, scale: float) -> str:
        grid = [
            constant(f"{tensor}_scale", np.float32(scale)),
            constant(f"{tensor}_zero", np.uint8(121)),
        ]
        q, d = f"{tensor}_q", f"{tensor}_d"
        nodes.append(helper.make_node("QuantizeLinear", [tensor, *grid], [q], q))
        nodes.append(helper.make_node("DequantizeLinear", [q, *grid], [d], d))
        return d

    def convolution(tensor: str, name: str) -> str:
        weights = rng.integers(-127, 128, (16, 16, 1, 1)).astype(np.int8)
        scales = rng.uniform(0.5e-2, 1e-2, 16).astype(np.float32)
        stored = [constant(f"{name}_w", weights), constant(f"{name}_ws", scales)]
        stored.append(constant(f"{name}_wz", np.zeros(16, np.int8)))
        nodes.append(
            helper.make_node("DequantizeLinear", stored, [f"{name}_wd"], f"{name}_wd", axis=0)
        )
        bias = constant(f"{name}_b", rng.standard_normal(16).astype(np.float32))
        nodes.append(helper.make_node("Conv", [tensor, f"{name}_wd", bias], [name], name))
        return name

    first = pair(convolution(pair("x", SCALE), "first"), 0.11)
    second = pair(convolution(first, "second"), 0.6)
    third = pair(convolution(second, "third"), 1.9)
    nodes.append(helper.make_node("Add", [first, third], ["sum"], "sum"))
    output = pair("sum", 1.97)
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 16, 8, 8])],
        values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def run(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(path), "CPU", hints)
    return np.array(compiled(x)[0])


def test_the_integers_are_the_graphs(tmp_path: Path) -> None:
    path = write_sum(tmp_path / "sum.onnx")
    x = np.random.default_rng(1).uniform(-2, 2, (1, 16, 8, 8)).astype(np.float32)
    (wanted,) = run_plainly(path, {"x": x}).values()
    assert keep_sums_apart(path, tmp_path / "apart.onnx") == 2
    differ = np.abs(run(tmp_path / "apart.onnx", x) - wanted) > 0.5
    assert differ.mean() <= 0.002
    (same,) = run_plainly(tmp_path / "apart.onnx", {"x": x}).values()
    np.testing.assert_array_equal(same, wanted)
