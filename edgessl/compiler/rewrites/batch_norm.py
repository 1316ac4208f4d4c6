"""Fold a normalisation by stored statistics into the convolution before it.

γ (W x + b − μ) / √(σ² + ε) + β is a convolution with W γ / √(σ² + ε), bias
(b − μ) γ / √(σ² + ε) + β.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgessl.compiler.rewrites.topology import Array, Topology, attribute, fresh_name
from edgessl.optional import require

__all__ = ["fold_batch_norm", "scale_and_shift", "set_weights"]


def fold_batch_norm(model: Any) -> Any | None:
    """Fold each BatchNormalization that is the only reader of a Conv with constant weights."""
    changed = False
    topology = Topology(model)
    for node in list(model.graph.node):
        affine = scale_and_shift(node, topology)
        conv = topology.producer.get(node.input[0]) if affine is not None else None
        if affine is None or conv is None or conv.op_type != "Conv" or conv.domain:
            continue
        weights = topology.value(conv.input[1])
        bias = topology.value(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else 0.0
        if weights is None or bias is None or not topology.alone(node.input[0]):
            continue
        scale, shift = affine
        folded = weights * scale.reshape(-1, *[1] * (weights.ndim - 1))
        set_weights(model, topology, conv, folded, bias * scale + shift)
        conv.output[0] = node.output[0]
        model.graph.node.remove(node)
        changed = True
        topology = Topology(model)
    return model if changed else None


def scale_and_shift(node: Any, topology: Topology) -> tuple[Array, Array] | None:
    """What a BatchNormalization does per channel, in float64; None for any other node."""
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
        return None
    training = attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1)
    if training or any(topology.uses[name] for name in node.output[1:]):
        return None
    values = [topology.value(name) for name in node.input[1:5]]
    if any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, dtype=np.float64) for value in values)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def set_weights(model: Any, topology: Topology, conv: Any, weights: Array, bias: Array) -> None:
    """Give a convolution new weights and a bias, in the type that it has."""
    onnx = require("onnx", extra="compile")
    dtype = onnx.numpy_helper.to_array(topology.constants[conv.input[1]]).dtype
    for index, values in ((1, weights), (2, bias)):
        name = fresh_name(topology, f"{conv.output[0]}/folded")
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name)
        model.graph.initializer.append(tensor)
        topology.constants[name] = tensor
        if len(conv.input) > index:
            conv.input[index] = name
        else:
            conv.input.append(name)
    read = Topology(model).uses
    unread = [tensor for tensor in model.graph.initializer if not read[tensor.name]]
    for tensor in unread:
        model.graph.initializer.remove(tensor)
