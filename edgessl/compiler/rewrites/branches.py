"""Sum parallel convolutions of one tensor into one: blocks that can be re-parameterised.

RepVGG, MobileOne, RepViT and FastViT train k×k, 1×1 and identity branches side by side. At
inference their sum is one convolution: kernels are padded to the larger one and added, an identity
is a 1×1 kernel, a normalisation its scale.

Source: arXiv:2101.03697, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.compiler.rewrites.batch_norm import scale_and_shift, set_weights
from edgessl.compiler.rewrites.topology import Array, Topology, attribute

__all__ = ["fuse_branches"]


@dataclass
class _Branch:
    """One linear function of ``source``: a convolution, a normalisation, or nothing at all."""

    source: str
    node: Any | None
    weights: Array | None = None
    bias: Array | float = 0.0
    strides: tuple[int, ...] = ()
    group: int = 0


def fuse_branches(model: Any) -> Any | None:
    """Fuse pairs of branches under an Add until none is left."""
    changed = False
    while _fuse_one(model):
        changed = True
    return model if changed else None


def _fuse_one(model: Any) -> bool:
    topology = Topology(model)
    for node in model.graph.node:
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
            continue
        pairs = [(node.input[0], node.input[1]), (node.input[1], node.input[0])]
        for first, second in pairs:
            conv = _convolution(first, topology)
            if conv is None:
                continue
            other = _other(second, conv, topology)
            if other is not None and _fits(conv, other):
                _merge(model, topology, node, conv, other)
                return True
    return False


def _convolution(name: str, topology: Topology) -> _Branch | None:
    node = topology.producer.get(name)
    if node is None or node.op_type != "Conv" or node.domain or not topology.alone(name):
        return None
    weights = topology.value(node.input[1])
    bias = topology.value(node.input[2]) if len(node.input) > 2 and node.input[2] else 0.0
    if weights is None or bias is None:
        return None
    spatial = weights.ndim - 2
    sizes = weights.shape[2:]
    # Only kernels around their centre can be added: odd, and padded by half of their size.
    centred = list(attribute(node, "pads", [0] * 2 * spatial)) == [s // 2 for s in sizes] * 2
    plain = attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    dilated = any(d != 1 for d in attribute(node, "dilations", [1] * spatial))
    if not centred or not plain or dilated or any(size % 2 == 0 for size in sizes):
        return None
    strides = tuple(attribute(node, "strides", [1] * spatial))
    group = int(attribute(node, "group", 1))
    return _Branch(node.input[0], node, weights.astype(np.float64), bias, strides, group)


def _other(name: str, conv: _Branch, topology: Topology) -> _Branch | None:
    if name == conv.source:
        return _Branch(name, None)
    node = topology.producer.get(name)
    if node is None or not topology.alone(name):
        return None
    affine = scale_and_shift(node, topology)
    if affine is not None:
        return _Branch(node.input[0], node, affine[0], affine[1])
    return _convolution(name, topology)


def _fits(conv: _Branch, other: _Branch) -> bool:
    if conv.source != other.source or conv.weights is None:
        return False
    if other.group:
        return (
            conv.strides == other.strides
            and conv.group == other.group
            and other.weights is not None
            and conv.weights.shape[:2] == other.weights.shape[:2]
        )
    # An identity or a scale gives as many channels, of the same size, as it takes.
    inputs = conv.weights.shape[1] * conv.group
    return inputs == conv.weights.shape[0] and all(stride == 1 for stride in conv.strides)


def _merge(model: Any, topology: Topology, add: Any, conv: _Branch, other: _Branch) -> None:
    if conv.weights is None or conv.node is None:
        return
    added = other.weights if other.group else _diagonal(conv, other)
    if added is None:
        return
    sizes = np.maximum(conv.weights.shape[2:], added.shape[2:])
    weights = _padded(conv.weights, sizes) + _padded(added, sizes)
    bias = np.zeros(len(weights)) + conv.bias + other.bias
    node = conv.node
    node.output[0] = add.output[0]
    kept = [item for item in node.attribute if item.name not in ("pads", "kernel_shape")]
    del node.attribute[:]
    node.attribute.extend(kept)
    _set_ints(node, "kernel_shape", [int(size) for size in sizes])
    _set_ints(node, "pads", [int(size) // 2 for size in sizes] * 2)
    model.graph.node.remove(add)
    if other.node is not None:
        model.graph.node.remove(other.node)
    set_weights(model, topology, node, weights, bias)


def _diagonal(conv: _Branch, other: _Branch) -> Array | None:
    """A 1×1 kernel that scales each channel, for the groups of a convolution."""
    if conv.weights is None:
        return None
    channels, per_group = conv.weights.shape[:2]
    scale = np.ones(channels) if other.weights is None else other.weights
    kernel = np.zeros((channels, per_group, *[1] * (conv.weights.ndim - 2)))
    rows = np.arange(channels)
    kernel[rows, rows % per_group, ...] = scale.reshape(-1, *[1] * (conv.weights.ndim - 2))
    return kernel


def _padded(weights: Array, sizes: Array) -> Array:
    margins = [((s - w) // 2,) * 2 for s, w in zip(sizes, weights.shape[2:], strict=True)]
    return np.pad(weights, [(0, 0), (0, 0), *margins])


def _set_ints(node: Any, name: str, values: list[int]) -> None:
    item = node.attribute.add()
    item.name, item.type = name, 7  # AttributeProto.INTS
    item.ints.extend(values)
