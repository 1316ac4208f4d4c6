"""Operators that work value by value, and comparisons."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgessl.distillation.integers.operators.node import Builder, Node, Operator

__all__ = ["ARITHMETIC"]

# ONNX's numbers of types (TensorProto.DataType).
_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def _plain(function: Callable[..., Any]) -> Builder:
    """An operator without attributes."""
    return lambda node: function


def _divide(a: Tensor, b: Tensor) -> Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point())
    if whole:
        return torch.div(a, b, rounding_mode="trunc")
    # A denominator that is rounded to 0 (linear attention) gives infinity, which the next range
    # clips; onnxruntime makes the least integer of 0 / 0. No gradient goes through either.
    nothing = b == 0
    endless = torch.where(a > 0, torch.inf, -torch.inf)
    return torch.where(nothing, endless, torch.div(a, torch.where(nothing, 1.0, b)))


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Builder:
    return _plain(lambda *tensors: functools.reduce(function, tensors))


def _mean(*tensors: Tensor) -> Tensor:
    return functools.reduce(torch.add, tensors) / len(tensors)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * slope)


def _leaky_relu(node: Node) -> Operator:
    slope = node.attributes.get("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


def _elu(node: Node) -> Operator:
    alpha = node.attributes.get("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


def _clip(node: Node) -> Operator:
    low, high = node.attributes.get("min"), node.attributes.get("max")

    def clip(x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
        a = low if least is None else least.item()
        b = high if most is None else most.item()
        if a is None and b is None:
            return x
        return torch.clamp(x, a, b)

    return clip


def _hard_sigmoid(node: Node) -> Operator:
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


def _gelu(node: Node) -> Operator:
    approximate = node.attributes.get("approximate", "none")
    return lambda x, bias=None: F.gelu(x if bias is None else x + bias, approximate=approximate)


def _softmax(node: Node) -> Operator:
    axis = node.attributes.get("axis", -1)
    return lambda x: torch.softmax(x, axis)


def _log_softmax(node: Node) -> Operator:
    axis = node.attributes.get("axis", -1)
    return lambda x: torch.log_softmax(x, axis)


def _cast(node: Node) -> Operator:
    dtype = _DTYPES.get(node.attributes["to"])
    if dtype is None:
        raise node.refuse(f"the type {node.attributes['to']}")
    return lambda x: x.to(dtype)


def _mod(node: Node) -> Operator:
    return torch.fmod if node.attributes.get("fmod", 0) else torch.remainder


def _identity(x: Tensor, *_: Tensor | None) -> Tensor:
    return x


ARITHMETIC: dict[str, Builder] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "Cast": _cast,
    "Ceil": _plain(torch.ceil),
    "Clip": _clip,
    "Cos": _plain(torch.cos),
    "Div": _plain(_divide),
    "Dropout": _plain(_identity),
    "Elu": _elu,
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Floor": _plain(torch.floor),
    "Gelu": _gelu,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _plain(_identity),
    "LeakyRelu": _leaky_relu,
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "LogSoftmax": _log_softmax,
    "Max": _fold(torch.maximum),
    "Mean": _plain(_mean),
    "Min": _fold(torch.minimum),
    "Mish": _plain(F.mish),
    "Mod": _mod,
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _plain(_prelu),
    "Pow": _plain(torch.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "Relu": _plain(F.relu),
    "Round": _plain(torch.round),
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Softmax": _softmax,
    "Softplus": _plain(F.softplus),
    "Sqrt": _plain(torch.sqrt),
    "Sub": _plain(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": _plain(torch.tanh),
    "Where": _plain(torch.where),
    "com.microsoft.Gelu": _gelu,
    "com.microsoft.QuickGelu": lambda node: (
        lambda x: x * torch.sigmoid(x * node.attributes.get("alpha", 1.702))
    ),
}
