"""Operators that move, cut and join tensors, and those that compute with shapes.

Shapes stay on the CPU as int64 tensors, whatever the device of the images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgessl.distillation.integers.operators.node import Builder, Node, Operator, integers

__all__ = ["SHAPES"]

_PADDING = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


def _concat(node: Node) -> Operator:
    axis = node.attributes["axis"]
    return lambda *tensors: torch.cat(tensors, axis)


def _split(node: Node) -> Operator:
    axis = node.attributes.get("axis", 0)
    fixed, count = node.attributes.get("split"), len(node.outputs)

    def split(x: Tensor, sizes: Tensor | None = None) -> Any:
        lengths = integers(sizes if sizes is not None else fixed)
        if lengths is None:
            lengths = [-(-x.shape[axis] // count)] * count
            lengths[-1] = x.shape[axis] - sum(lengths[:-1])
        return torch.split(x, lengths, axis)

    return split


def _slice(node: Node) -> Operator:
    def cut(
        x: Tensor,
        starts: Tensor,
        ends: Tensor,
        axes: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Tensor:
        first, last = integers(starts) or [], integers(ends) or []
        along = integers(axes) or list(range(len(first)))
        every = integers(steps) or [1] * len(first)
        for axis, start, end, step in zip(along, first, last, every, strict=True):
            if step < 0:
                order = torch.arange(x.shape[axis])[slice(None)].flip(0)
                length = x.shape[axis]
                begin = length - 1 - min(start if start >= 0 else start + length, length - 1)
                stop = length - 1 - max(end if end >= 0 else end + length, -1)
                x = x.index_select(axis, order[begin:stop:-step].to(x.device))
                continue
            places: list[slice] = [slice(None)] * x.dim()
            places[axis] = slice(start, end, step)
            x = x[tuple(places)]
        return x

    return cut


def _gather(node: Node) -> Operator:
    axis = node.attributes.get("axis", 0)

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        # Negative indices count from the end.
        if indices.dim() == 0:
            return x.select(axis, int(indices))
        flat = indices.reshape(-1).to(x.device)
        flat = torch.where(flat < 0, flat + x.shape[axis], flat)
        at = axis % x.dim()
        shape = (*x.shape[:at], *indices.shape, *x.shape[at + 1 :])
        return x.index_select(at, flat).reshape(shape)

    return gather


def _reshape(node: Node) -> Operator:
    keeps_zero = bool(node.attributes.get("allowzero", 0))

    def reshape(x: Tensor, shape: Tensor) -> Tensor:
        sizes = integers(shape) or []
        if not keeps_zero:
            sizes = [x.shape[k] if size == 0 else size for k, size in enumerate(sizes)]
        return x.reshape(sizes)

    return reshape


def _flatten(node: Node) -> Operator:
    axis = node.attributes.get("axis", 1)

    def flatten(x: Tensor) -> Tensor:
        at = axis % x.dim() if axis < 0 else axis
        rows = 1
        for size in x.shape[:at]:
            rows *= size
        return x.reshape(rows, -1)

    return flatten


def _transpose(node: Node) -> Operator:
    order = node.attributes.get("perm")
    return lambda x: x.permute(order if order is not None else tuple(range(x.dim()))[::-1])


def _squeeze(node: Node) -> Operator:
    fixed = node.attributes.get("axes")

    def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        along = integers(axes if axes is not None else fixed)
        return x.squeeze() if along is None else x.squeeze(tuple(along))

    return squeeze


def _unsqueeze(node: Node) -> Operator:
    fixed = node.attributes.get("axes")

    def unsqueeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        along = integers(axes if axes is not None else fixed) or []
        rank = x.dim() + len(along)
        for axis in sorted(axis % rank for axis in along):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape) or [])))


def _shape(node: Node) -> Operator:
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return lambda x: torch.tensor(tuple(x.shape)[start:end], dtype=torch.int64)


def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _constant_of_shape(node: Node) -> Operator:
    value = node.attributes.get("value")
    filling = torch.zeros(1) if value is None else torch.from_numpy(value.copy())
    return lambda shape: filling.reshape(()).expand(integers(shape) or []).clone()


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats) or [])


def _pad(node: Node) -> Operator:
    mode = node.attributes.get("mode", "constant")
    if mode not in _PADDING:
        raise node.refuse(f"the mode '{mode}'")

    def pad(
        x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
    ) -> Tensor:
        given = integers(pads) or []
        along = integers(axes) or list(range(len(given) // 2))
        sides = [0] * (2 * x.dim())
        for k, axis in enumerate(along):
            # PyTorch counts from the last dimension, and puts both ends of one side by side.
            place = 2 * (x.dim() - 1 - axis % x.dim())
            sides[place], sides[place + 1] = given[k], given[k + len(along)]
        while len(sides) > 2 and sides[-2:] == [0, 0]:
            sides = sides[:-2]
        if mode == "constant":
            return F.pad(x, sides, value=0.0 if value is None else value.item())
        return F.pad(x, sides, mode=_PADDING[mode])

    return pad


def _reduction(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Builder:
    def build(node: Node) -> Operator:
        fixed, keep = node.attributes.get("axes"), bool(node.attributes.get("keepdims", 1))
        skip = bool(node.attributes.get("noop_with_empty_axes", 0))

        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            along = integers(axes if axes is not None else fixed)
            if not along:
                if skip:
                    return x
                along = list(range(x.dim()))
            return reduce(x, along, keep)

        return run

    return build


def _depth_to_space(node: Node) -> Operator:
    block, mode = node.attributes["blocksize"], node.attributes.get("mode", "DCR")

    def move(x: Tensor) -> Tensor:
        if mode == "CRD":
            return F.pixel_shuffle(x, block)
        count, channels, height, width = x.shape
        x = x.reshape(count, block, block, channels // block**2, height, width)
        x = x.permute(0, 3, 4, 1, 5, 2)
        return x.reshape(count, channels // block**2, height * block, width * block)

    return move


def _space_to_depth(node: Node) -> Operator:
    block = node.attributes["blocksize"]

    def move(x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        x = x.reshape(count, channels, height // block, block, width // block, block)
        x = x.permute(0, 3, 5, 1, 2, 4)
        return x.reshape(count, channels * block**2, height // block, width // block)

    return move


SHAPES: dict[str, Builder] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": lambda node: _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Range": lambda node: _range,
    "ReduceL2": _reduction(
        lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)
    ),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda node: _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda node: _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
