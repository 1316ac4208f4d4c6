"""Small ONNX graphs with fixed weights, made without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["cnn_inputs", "write_cnn"]

SIZE = 16


def write_cnn(
    path: Path,
    *,
    batch: int | str = "batch",
    dim: int = 8,
    properties: dict[str, str] | None = None,
    seed: int = 0,
) -> Path:
    """Two convolutions, pooling and a linear layer: ``images (N, 3, 16, 16)`` to ``(N, dim)``."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        fan_in = int(np.prod(shape[1:]))
        values = rng.standard_normal(shape) / np.sqrt(fan_in)
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["images", "w1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        helper.make_node(
            "Conv", ["b", "w2"], ["c"], name="conv2", pads=[1, 1, 1, 1], strides=[2, 2]
        ),
        helper.make_node("Relu", ["c"], ["d"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="pool"),
        helper.make_node("Flatten", ["e"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["embeddings"], name="head", transB=1),
    ]
    shape = [batch, 3, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, [batch, dim])],
        [weight("w1", 16, 3, 3, 3), weight("w2", 32, 16, 3, 3), weight("w3", dim, 32)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, properties or {})
    onnx.save(model, path)
    return path


def cnn_inputs(count: int, *, seed: int = 1) -> NDArray[np.float32]:
    """Inputs for `write_cnn` that differ from one another: smooth patterns under noise."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, SIZE)
    a, b, c = rng.standard_normal((3, count, 3, 1, 1))
    patterns = np.sin(3 * a * axis[:, None] + 3 * b * axis) + c
    noise = 0.1 * rng.standard_normal((count, 3, SIZE, SIZE))
    return np.asarray(patterns + noise, dtype=np.float32)
