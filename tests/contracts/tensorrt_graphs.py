"""Q/DQ graphs as the schemes tensorrt and tensorrt-dla write them, by hand and small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "SIZE",
    "images",
    "write_branch",
    "write_concat",
    "write_float",
    "write_large",
    "write_qdq",
]

SIZE = 16


def images(count: int, *, seed: int = 3) -> NDArray[np.float32]:
    """``(N, 16, 16, 16)`` float32."""
    return np.random.default_rng(seed).standard_normal((count, 16, SIZE, SIZE)).astype(np.float32)


def _weights(tiny_channel: float, dead_channel: bool) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    first = rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12
    second = rng.standard_normal((32, 16, 3, 3)).astype(np.float32) / 12
    if tiny_channel:
        second[3] *= np.float32(tiny_channel)
    if dead_channel:
        first[2] = np.float32(1e-12) * np.sign(first[2])
    bias = rng.standard_normal(16).astype(np.float32)
    return {"w1": first, "b1": bias, "w2": second}


def _model(nodes: list[Any], initializers: list[Any], *, opset: int, batch: int | str) -> Any:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 16, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 32])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_float(path: Path, *, gain: float = 1.0, batch: int | str = 1) -> Path:
    """The network in float32; ``gain`` multiplies what is between the convolutions."""
    values = _weights(0.0, False)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        helper.make_node("Mul", ["b", "gain"], ["c"], name="up"),
        helper.make_node("Div", ["c", "gain"], ["d"], name="down"),
        helper.make_node("Conv", ["d", "w2"], ["e"], name="conv2", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], name="pool"),
        helper.make_node("Flatten", ["f"], ["y"], name="flatten"),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in values.items()]
    constants.append(numpy_helper.from_array(np.float32(gain), "gain"))
    onnx.save(_model(nodes, constants, opset=17, batch=batch), path)
    return path


def write_large(path: Path, *, large_output: bool = False) -> Path:
    """Values that float16 does not hold, made of a tensor read twice and of a mask.

    Args:
        path: Where to write.
        large_output: What the graph gives is as large too.
    """
    values = _weights(0.0, False)
    last = "g" if large_output else "h"
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Greater", ["a", "zero"], ["p"], name="positive"),
        helper.make_node("Cast", ["p"], ["m"], name="mask", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "gain"], ["c"], name="up"),
        helper.make_node("Mul", ["m", "gain"], ["d"], name="masked"),
        helper.make_node("Sub", ["c", "d"], ["e"], name="difference"),
        helper.make_node("Add", ["e", "a"], ["g"], name="sum"),
        helper.make_node("Div", ["g", "gain"], ["h"], name="down"),
        helper.make_node("Concat", [last, last], ["j"], "concat", axis=1),
        helper.make_node("GlobalAveragePool", ["j"], ["f"], name="pool"),
        helper.make_node("Flatten", ["f"], ["y"], name="flatten"),
    ]
    constants = [numpy_helper.from_array(values[name], name) for name in ("w1", "b1")]
    constants += [
        numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("gain", 1e6))
    ]
    onnx.save(_model(nodes, constants, opset=17, batch=1), path)
    return path


def write_qdq(
    path: Path,
    *,
    opset: int = 17,
    tiny_channel: float = 0.0,
    dead_channel: bool = False,
    shared_scale: bool = True,
    batch: int | str = 1,
) -> Path:
    """Symmetric Q/DQ around the inputs of two convolutions, weights per channel on axis 0.

    Args:
        path: Where it goes.
        opset: 13 or later.
        tiny_channel: Factor on one channel of the second convolution, to make its scale tiny.
        dead_channel: One channel of the first convolution holds next to nothing.
        shared_scale: Q and DQ share one scale, as quantizers write it.
        batch: Of the input.
    """
    values = _weights(tiny_channel, dead_channel)
    nodes: list[Any] = []
    constants = [numpy_helper.from_array(values["b1"], "b1")]

    def pair(tensor: str, scale: NDArray[np.float32], axis: int | None = None) -> str:
        extra = {} if axis is None else {"axis": axis}
        zeros = np.zeros(scale.shape, np.int8)
        q_scale, q_zero, dq_scale = f"{tensor}_s", f"{tensor}_z", f"{tensor}_s"
        constants.append(numpy_helper.from_array(scale, q_scale))
        constants.append(numpy_helper.from_array(zeros, q_zero))
        if not shared_scale:
            dq_scale = f"{tensor}_ds"
            constants.append(numpy_helper.from_array(scale, dq_scale))
        nodes.append(
            helper.make_node(
                "QuantizeLinear", [tensor, q_scale, q_zero], [f"{tensor}_q"], f"{tensor}_Q", **extra
            )
        )
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{tensor}_q", dq_scale, q_zero],
                [f"{tensor}_dq"],
                f"{tensor}_DQ",
                **extra,
            )
        )
        return f"{tensor}_dq"

    def weight(name: str) -> str:
        array = values[name]
        constants.append(numpy_helper.from_array(array, name))
        scale = (np.abs(array).max(axis=(1, 2, 3)) / 127).astype(np.float32)
        return pair(name, scale, axis=0)

    def convolution(inputs: list[str], output: str, name: str, **extra: Any) -> None:
        nodes.append(helper.make_node("Conv", inputs, [output], name=name, **extra))

    x = pair("x", np.float32(3.7 / 127).reshape(()))
    convolution([x, weight("w1"), "b1"], "a", "conv1", pads=[1, 1, 1, 1])
    nodes.append(helper.make_node("Relu", ["a"], ["b"], name="relu1"))
    b = pair("b", np.float32(4.9 / 127).reshape(()))
    convolution([b, weight("w2")], "e", "conv2", strides=[2, 2])
    nodes.append(helper.make_node("GlobalAveragePool", ["e"], ["f"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["f"], ["y"], name="flatten"))
    onnx.save(_model(nodes, constants, opset=opset, batch=batch), path)
    return path


def write_concat(path: Path) -> Path:
    """A Concat with a pair before and after it, as the scheme tensorrt-dla writes everywhere."""
    scale, zero = np.float32(3.7 / 127), np.int8(0)
    nodes = []
    for name in ("x", "r", "joined"):
        if name == "r":
            nodes.append(helper.make_node("Neg", ["x"], ["r"], "negative"))
        if name == "joined":
            nodes.append(helper.make_node("Concat", ["x_dq", "r_dq"], ["joined"], "concat", axis=1))
        both = [[name, "s", "z"], [f"{name}_q", "s", "z"]]
        nodes.append(helper.make_node("QuantizeLinear", both[0], [f"{name}_q"], f"{name}_Q"))
        nodes.append(helper.make_node("DequantizeLinear", both[1], [f"{name}_dq"], f"{name}_DQ"))
    nodes.append(helper.make_node("GlobalAveragePool", ["joined_dq"], ["f"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["f"], ["y"], name="flatten"))
    constants = [numpy_helper.from_array(a, n) for n, a in (("s", scale), ("z", zero))]
    onnx.save(_model(nodes, constants, opset=17, batch=1), path)
    return path


def write_branch(path: Path) -> Path:
    """An If whose branches read the graph's input and a constant from outside."""
    branches = []
    for name, operator in (("then", "Add"), ("else", "Mul")):
        node = helper.make_node(operator, ["x", "two"], [f"{name}_out"], name=f"{name}_node")
        shape = [1, 16, SIZE, SIZE]
        given = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, shape)
        branches.append(helper.make_graph([node], name, [], [given]))
    nodes = [
        helper.make_node(
            "If", ["yes"], ["a"], "if", then_branch=branches[0], else_branch=branches[1]
        ),
        helper.make_node("Concat", ["a", "a"], ["b"], "concat", axis=1),
        helper.make_node("GlobalAveragePool", ["b"], ["f"], name="pool"),
        helper.make_node("Flatten", ["f"], ["y"], name="flatten"),
    ]
    constants = [
        numpy_helper.from_array(np.float32(2), "two"),
        numpy_helper.from_array(np.bool_(True), "yes"),
    ]
    onnx.save(_model(nodes, constants, opset=17, batch=1), path)
    return path
