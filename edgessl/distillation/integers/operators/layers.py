"""Convolutions, matrix products, normalization, pooling and resizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgessl.distillation.integers.operators.node import Builder, Node, Operator, integers

__all__ = ["LAYERS"]

_CONV: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    3: F.conv_transpose1d,
    4: F.conv_transpose2d,
    5: F.conv_transpose3d,
}
_AVERAGE: dict[int, Callable[..., Tensor]] = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}
_GREATEST: dict[int, Callable[..., Tensor]] = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}


class _Window:
    """Kernel, strides, dilations and pads of a node, for any number of dimensions."""

    def __init__(self, node: Node) -> None:
        attributes = node.attributes
        self._auto: str = attributes.get("auto_pad", "NOTSET")
        if self._auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise node.refuse(f"auto_pad '{self._auto}'")
        self._pads = attributes.get("pads")
        self._strides = attributes.get("strides")
        self._dilations = attributes.get("dilations")

    def strides(self, rank: int) -> Sequence[int]:
        return self._strides or (1,) * rank

    def dilations(self, rank: int) -> Sequence[int]:
        return self._dilations or (1,) * rank

    def pads(self, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
        """Begin and end of each dimension."""
        rank = len(kernel)
        if self._auto.startswith("SAME"):
            begins, ends = [], []
            steps = zip(x.shape[2:], kernel, self.strides(rank), self.dilations(rank), strict=True)
            for size, width, stride, dilation in steps:
                reach = (math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1
                total = max(reach - size, 0)
                less, more = total // 2, total - total // 2
                upper = self._auto == "SAME_UPPER"
                begins.append(less if upper else more)
                ends.append(more if upper else less)
            return begins, ends
        pads = list(self._pads) if self._pads and self._auto == "NOTSET" else [0] * (2 * rank)
        return pads[:rank], pads[rank:]


def _widened(x: Tensor, begins: list[int], ends: list[int], value: float = 0.0) -> Tensor:
    sides = [side for pair in zip(begins[::-1], ends[::-1], strict=True) for side in pair]
    return F.pad(x, sides, value=value)


def _conv(node: Node) -> Operator:
    window, groups = _Window(node), node.attributes.get("group", 1)

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = weight.dim() - 2
        begins, ends = window.pads(x, weight.shape[2:])
        if begins != ends:
            x, begins = _widened(x, begins, ends), [0] * rank
        return _CONV[weight.dim()](
            x, weight, bias, window.strides(rank), begins, window.dilations(rank), groups
        )

    return conv


def _conv_transpose(node: Node) -> Operator:
    window, groups = _Window(node), node.attributes.get("group", 1)
    extra = node.attributes.get("output_padding")
    if node.attributes.get("output_shape") or node.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise node.refuse("output_shape or auto_pad")

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = weight.dim() - 2
        begins, ends = window.pads(x, weight.shape[2:])
        more = list(extra or [0] * rank)
        same = begins == ends
        out = _TRANSPOSED[weight.dim()](
            x,
            weight,
            bias,
            window.strides(rank),
            begins if same else [0] * rank,
            more,
            groups,
            window.dilations(rank),
        )
        if not same:
            out = _widened(out, [-b for b in begins], [-e for e in ends])
        return out

    return conv


def _gemm(node: Node) -> Operator:
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    flip_a, flip_b = node.attributes.get("transA", 0), node.attributes.get("transB", 0)

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if flip_a else a
        rows = b if flip_b else b.t()
        if alpha == 1.0 and beta == 1.0 and (c is None or c.dim() == 1):
            return F.linear(a, rows, c)
        out: Tensor = alpha * F.linear(a, rows)
        return out if c is None else out + beta * c

    return gemm


def _batch_norm(node: Node) -> Operator:
    epsilon = node.attributes.get("epsilon", 1e-5)
    if node.attributes.get("training_mode", 0):
        raise node.refuse("training_mode")

    def normalize(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> Any:
        return F.batch_norm(x, mean, var, scale, shift, False, 0.0, epsilon)

    return normalize


def _layer_norm(node: Node) -> Operator:
    axis, epsilon = node.attributes.get("axis", -1), node.attributes.get("epsilon", 1e-5)
    if len(node.outputs) > 1:
        raise node.refuse("more than one output")

    def normalize(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, x.shape[axis:], scale, shift, epsilon)

    return normalize


def _instance_norm(node: Node) -> Operator:
    epsilon = node.attributes.get("epsilon", 1e-5)
    return lambda x, scale, shift: F.instance_norm(
        x, weight=scale, bias=shift, use_input_stats=True, eps=epsilon
    )


def _group_norm(node: Node) -> Operator:
    groups, epsilon = node.attributes["num_groups"], node.attributes.get("epsilon", 1e-5)

    def normalize(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        # Before opset 21 scale and shift are per group.
        repeat = x.shape[1] // scale.shape[0]
        if repeat > 1:
            scale, shift = scale.repeat_interleave(repeat), shift.repeat_interleave(repeat)
        return F.group_norm(x, groups, scale, shift, epsilon)

    return normalize


def _lp_norm(node: Node) -> Operator:
    axis, order = node.attributes.get("axis", -1), node.attributes.get("p", 2)
    return lambda x: x / torch.linalg.vector_norm(x, order, axis, keepdim=True)


def _global_average(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def _global_max(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def _average_pool(node: Node) -> Operator:
    window, kernel = _Window(node), list(node.attributes["kernel_shape"])
    counts_pads = bool(node.attributes.get("count_include_pad", 0))
    ceil = bool(node.attributes.get("ceil_mode", 0))
    if any(d != 1 for d in node.attributes.get("dilations") or ()):
        raise node.refuse("dilations")

    def pool(x: Tensor) -> Tensor:
        begins, ends = window.pads(x, kernel)
        strides = window.strides(len(kernel))
        run = _AVERAGE[x.dim()]
        if begins == ends:
            return run(x, kernel, strides, begins, ceil, counts_pads)
        out = run(_widened(x, begins, ends), kernel, strides, 0, ceil)
        if counts_pads:
            return out
        share = run(_widened(torch.ones_like(x[:1, :1]), begins, ends), kernel, strides, 0, ceil)
        return out / share

    return pool


def _max_pool(node: Node) -> Operator:
    window, kernel = _Window(node), list(node.attributes["kernel_shape"])
    ceil = bool(node.attributes.get("ceil_mode", 0))
    if len(node.outputs) > 1:
        raise node.refuse("a second output")

    def pool(x: Tensor) -> Tensor:
        rank = len(kernel)
        begins, ends = window.pads(x, kernel)
        if begins != ends or any(2 * b > k for b, k in zip(begins, kernel, strict=True)):
            x, begins = _widened(x, begins, ends, -math.inf), [0] * rank
        return _GREATEST[x.dim()](
            x, kernel, window.strides(rank), begins, window.dilations(rank), ceil
        )

    return pool


def _resize(node: Node) -> Operator:
    mode = node.attributes.get("mode", "nearest")
    where = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    nearest = node.attributes.get("nearest_mode", "round_prefer_floor")
    corners: bool | None = None
    if mode == "nearest" and (where, nearest) == ("asymmetric", "floor"):
        how = "nearest"
    elif mode == "nearest" and where == "half_pixel":
        how = "nearest-exact"
    elif mode in ("linear", "cubic") and where in (
        "half_pixel",
        "pytorch_half_pixel",
        "align_corners",
    ):
        how, corners = mode, where == "align_corners"
    else:
        raise node.refuse(f"the mode '{mode}' with coordinates '{where}' ({nearest})")
    antialias = bool(node.attributes.get("antialias", 0))
    if mode == "cubic" and not antialias and node.attributes.get("cubic_coeff_a", -0.75) != -0.75:
        raise node.refuse("a coefficient of cubic interpolation other than -0.75")

    def resize(
        x: Tensor,
        roi: Tensor | None = None,
        scales: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        rank = x.dim() - 2
        given = integers(sizes) if sizes is not None and sizes.numel() else None
        if given is None:
            factors = [] if scales is None else scales.tolist()
            given = [math.floor(n * f) for n, f in zip(x.shape, factors, strict=True)]
        name = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank] if how == "linear" else how
        name = "bicubic" if how == "cubic" else name
        return F.interpolate(
            x, given[-rank:], mode=name, align_corners=corners, antialias=antialias
        )

    return resize


def _einsum(node: Node) -> Operator:
    equation: str = node.attributes["equation"]
    return lambda *tensors: torch.einsum(equation, *tensors)


def _plain(function: Callable[..., Any]) -> Builder:
    return lambda node: function


LAYERS: dict[str, Builder] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _plain(_global_average),
    "GlobalMaxPool": _plain(_global_max),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": _plain(torch.matmul),
    "MaxPool": _max_pool,
    "Resize": _resize,
}
