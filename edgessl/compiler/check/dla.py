"""NVIDIA's DLA: what it takes of a graph, by the documented limits of each layer.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/
dla-layer-restrictions.html, "DLA Supported Layers and Restrictions" (Orin). Only its summary could
be read here (November 2026); the limits of single layers (padding, dilation, windows) are from
memory and not compared with the page. Limits on buffers are not covered: the device may refuse
more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgessl.compiler.check.inventory import Inventory
from edgessl.compiler.rewrites.topology import attribute

__all__ = ["MAX_LOADABLES", "dla_reason"]

MAX_LOADABLES = 16
_MAX_BATCH, _MAX_SIZE = 4096, 8192

Rule = Callable[[Any, Inventory], str]


def dla_reason(node: Any, inventory: Inventory) -> str:
    """Why the GPU runs a node in place of the DLA; empty if the DLA takes it."""
    if node.op_type not in _RULES:
        hint = "; write it as a 1×1 Conv" if node.op_type in ("Gemm", "MatMul") else ""
        return f"the DLA has no {node.op_type}{hint}"
    # Constant operands may have fewer dimensions: they are broadcast.
    tensors = [n for n in [*node.input, *node.output] if n not in inventory.topology.constants]
    for name in filter(None, tensors):
        shape = inventory.shape(name)
        if shape is None:
            return "the DLA takes static shapes only"
        if len(shape) != 4:
            return f"the DLA takes 4 dimensions, '{name}' has {len(shape)}"
        if shape[0] > _MAX_BATCH or max(shape[1:]) > _MAX_SIZE:
            return f"'{name}' is larger than the DLA's {_MAX_BATCH}×{_MAX_SIZE}×{_MAX_SIZE}²"
    return _RULES[node.op_type](node, inventory)


def _outside(values: Sequence[int], low: int, high: int) -> bool:
    return any(not low <= value <= high for value in values)


def _convolution(node: Any, inventory: Inventory) -> str:
    weights = inventory.shape(node.input[1])
    if node.input[1] not in inventory.topology.constants or weights is None:
        return "the DLA needs constant weights"
    kernel, pads = weights[2:], attribute(node, "pads", [0])
    strides, dilations = attribute(node, "strides", [1]), attribute(node, "dilations", [1])
    if _outside(kernel, 1, 32):
        return f"kernel {_text(kernel)}; the DLA takes 1 to 32"
    if max(weights[0], weights[1]) > _MAX_SIZE:
        return f"more than {_MAX_SIZE} channels"
    if node.op_type == "ConvTranspose":
        if attribute(node, "group", 1) != 1 or _outside(dilations, 1, 1):
            return "the DLA has no grouped or dilated deconvolution"
        if any(pads) or any(attribute(node, "output_padding", [0])):
            return "the DLA's deconvolution takes no padding"
        return f"stride {_text(strides)}; 1 to 32" if _outside(strides, 1, 32) else ""
    if _outside(pads, 0, 31):
        return f"padding {_text(pads)}; the DLA takes 0 to 31"
    if _outside(strides, 1, 8):
        return f"stride {_text(strides)}; the DLA takes 1 to 8"
    return f"dilation {_text(dilations)}; 1 to 32" if _outside(dilations, 1, 32) else ""


def _pooling(node: Any, inventory: Inventory) -> str:
    if node.op_type.startswith("Global"):
        window: Sequence[int] = (inventory.shape(node.input[0]) or ())[2:]
    else:
        window = attribute(node, "kernel_shape", [1, 1])
    if _outside(window, 1, 8):
        return f"window {_text(window)}; the DLA takes 1 to 8"
    if _outside(attribute(node, "pads", [0]), 0, 7):
        return "the DLA pads a pooling by 0 to 7"
    if _outside(attribute(node, "strides", [1]), 1, 16):
        return "the DLA's pooling strides are 1 to 16"
    if attribute(node, "ceil_mode", 0):
        return "the DLA's pooling rounds down"
    return ""


def _elementwise(node: Any, inventory: Inventory) -> str:
    if len(node.input) != 2:
        return "the DLA takes two operands"
    full = inventory.shape(node.output[0]) or ()
    for name in node.input:
        shape = inventory.shape(name) or ()
        padded = (1,) * (4 - len(shape)) + tuple(shape)
        spread = [axis for axis in range(4) if padded[axis] != full[axis]]
        constant = name in inventory.topology.constants
        # NC11 and N111 against NCHW are what it broadcasts, and constants per channel.
        allowed = [[], [2, 3], [1, 2, 3], *([[0, 2, 3]] if constant else [])]
        if spread not in allowed and padded != (1, 1, 1, 1):
            return f"the DLA does not broadcast {_text(padded)} to {_text(full)}"
    return ""


def _clip(node: Any, inventory: Inventory) -> str:
    bounds = [inventory.topology.value(name) for name in node.input[1:3]]
    low = attribute(node, "min", None) if not bounds or bounds[0] is None else bounds[0]
    high = attribute(node, "max", None) if len(bounds) < 2 or bounds[1] is None else bounds[1]
    if low is None or high is None or float(low) != 0 or not 1 <= float(high) <= 127:
        return "the DLA clips from 0 to a constant of 1 to 127 only"
    return ""


def _concat(node: Any, inventory: Inventory) -> str:
    if attribute(node, "axis", 1) not in (1, -3):
        return "the DLA joins along the channels only"
    return "" if len(node.input) > 1 else "the DLA joins at least two tensors"


def _resize(node: Any, inventory: Inventory) -> str:
    before, after = inventory.shape(node.input[0]) or (), inventory.shape(node.output[0]) or ()
    if before[:2] != after[:2]:
        return "the DLA resizes height and width only"
    mode = attribute(node, "mode", b"nearest")
    most = {b"nearest": 32, b"linear": 4}.get(mode, 0)
    scales = [new / old for new, old in zip(after[2:], before[2:], strict=True)]
    if not all(scale.is_integer() and 1 <= scale <= most for scale in scales):
        return f"the DLA enlarges by whole numbers, nearest up to 32 and linear up to 4: {scales}"
    return ""


def _softmax(node: Any, inventory: Inventory) -> str:
    shape = inventory.shape(node.input[0]) or ()
    axis = attribute(node, "axis", -1) % 4
    others = [size for k, size in enumerate(shape) if k not in (0, axis)]
    if axis == 0 or any(size != 1 for size in others):
        return "the DLA's softmax runs along one axis, and the others but the batch must be 1"
    return ""


def _shuffle(node: Any, inventory: Inventory) -> str:
    before, after = inventory.shape(node.input[0]) or (), inventory.shape(node.output[0]) or ()
    moved = node.op_type == "Transpose" and attribute(node, "perm", [3])[0] != 0
    return "the DLA does not move the batch" if moved or before[0] != after[0] else ""


def _lrn(node: Any, inventory: Inventory) -> str:
    return "" if attribute(node, "size", 0) in (3, 5, 7, 9) else "windows of 3, 5, 7 or 9 only"


def _constant_operand(node: Any, inventory: Inventory) -> str:
    varying = [n for n in node.input[1:] if n and n not in inventory.topology.constants]
    return "the DLA needs constant operands here" if varying else ""


def _anything(node: Any, inventory: Inventory) -> str:
    return ""


def _text(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)


_RULES: dict[str, Rule] = {
    "Abs": _anything,
    "LeakyRelu": _anything,
    "Relu": _anything,
    "Sigmoid": _anything,
    "Tanh": _anything,
    "BatchNormalization": _constant_operand,
    "PRelu": _constant_operand,
    "ReduceMax": _constant_operand,
    "Slice": _constant_operand,
    "Clip": _clip,
    "Concat": _concat,
    "LRN": _lrn,
    "Reshape": _shuffle,
    "Resize": _resize,
    "Softmax": _softmax,
    "Transpose": _shuffle,
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolution),
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"), _elementwise),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pooling),
}
