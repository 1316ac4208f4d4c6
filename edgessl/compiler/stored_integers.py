"""Read a graph that holds its integers already: which scheme they follow, and their very bits."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from edgessl.compiler.graph_info import StoredIntegers
from edgessl.errors import ModelError
from edgessl.onnx_metadata import IntegerFacts
from edgessl.optional import require

__all__ = ["fingerprint_integers", "read_integers"]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_SEVEN_BITS = 64
# (activations, weights) → scheme, precision; weights that stay floats are called so.
_SCHEMES: dict[tuple[str | None, str | None], tuple[str, str]] = {
    ("uint8", "int8"): ("u8s8", "int8"),
    ("uint8", None): ("u8s8", "int8"),
    ("int8", "int8"): ("s8s8", "int8"),
    ("int8", None): ("s8s8", "int8"),
    ("int8", "float"): ("tensorrt", "int8"),
    ("uint8", "uint8"): ("qnn", "int8"),
    ("uint16", "uint8"): ("qnn", "a16w8"),
    ("uint16", "int8"): ("qnn", "a16w8"),
    ("uint16", None): ("qnn", "a16w8"),
}


def read_integers(model: Any, facts: IntegerFacts | None, *, where: str) -> StoredIntegers | None:
    """Find out what a graph computes with; None if its activations are floats throughout.

    Args:
        model: The ``onnx.ModelProto``.
        facts: What its metadata say.
        where: The file, for messages.

    Raises:
        ModelError: The types of its integers belong to no scheme that is known.
    """
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    quantized = {n.output[0]: n for n in model.graph.node if n.op_type == _QUANTIZE}
    activations, weights, largest = set[str](), set[str](), 0
    for node in model.graph.node:
        if node.op_type != _DEQUANTIZE:
            continue
        maker = quantized.get(node.input[0])
        if maker is not None:
            if maker.input[0] in values:
                weights.add("float")
            else:
                activations.add(_type_of(maker, values))
        elif node.input[0] in values:
            stored = values[node.input[0]]
            kind = _name(stored.data_type)
            if kind == "int32" or len(stored.dims) < 2:
                continue  # a bias, or a number beside activations
            weights.add(kind)
            largest = max(largest, _magnitude(node, stored, values))
    if not activations:
        return None
    types = (_only(activations), _only(weights) if weights else None)
    if types not in _SCHEMES:
        found = f"activations {'/'.join(sorted(activations))}"
        found += f", weights {'/'.join(sorted(weights)) or 'none'}"
        raise ModelError(
            f"{where}: is quantized with {found}, which no engine here takes as a whole; quantize "
            "it as U8S8, S8S8, or as TensorRT or QNN want it, or give the float model"
        )
    scheme, precision = _SCHEMES[types]
    if facts is not None and (facts.scheme, scheme) == ("tensorrt-dla", "tensorrt"):
        scheme = facts.scheme  # which tensors have pairs does not show in types
    return StoredIntegers(
        scheme=scheme,
        precision=precision,
        target=None if facts is None else facts.target,
        seven_bits=largest <= _SEVEN_BITS,
    )


def fingerprint_integers(model: Any) -> Counter[str]:
    """Hash of each pair's half: its operator, and its stored integers, scale and zero point."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    halves: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in (_QUANTIZE, _DEQUANTIZE):
            digest = hashlib.sha256(node.op_type.encode())
            for item in sorted(node.attribute, key=lambda a: a.name):
                digest.update(item.SerializeToString(deterministic=True))
            for name in node.input:
                digest.update(_bits(values.get(name)))
            halves[digest.hexdigest()] += 1
    return halves


def _bits(tensor: Any) -> bytes:
    if tensor is None:
        return b"computed;"
    numpy_helper = require("onnx", extra="compile").numpy_helper
    array = np.asarray(numpy_helper.to_array(tensor))
    return f"{array.dtype}{array.shape};".encode() + np.ascontiguousarray(array).tobytes()


def _type_of(node: Any, values: dict[str, Any]) -> str:
    if len(node.input) > 2 and node.input[2] in values:
        return _name(values[node.input[2]].data_type)
    chosen = next((a.i for a in node.attribute if a.name == "output_dtype" and a.i), 0)
    return _name(chosen) if chosen else "uint8"


def _magnitude(node: Any, stored: Any, values: dict[str, Any]) -> int:
    """Largest distance of a stored weight from zero's integer."""
    onnx = require("onnx", extra="compile")
    integers = onnx.numpy_helper.to_array(stored).astype(np.int64)
    zero = values.get(node.input[2]) if len(node.input) > 2 else None
    if zero is not None and not np.any(onnx.numpy_helper.to_array(zero)):
        zero = None
    # A zero point other than 0 belongs to unsigned weights, which nobody halves.
    return int(np.abs(integers).max(initial=0)) if zero is None else 256


def _name(code: int) -> str:
    onnx = require("onnx", extra="compile")
    return str(onnx.TensorProto.DataType.Name(code)).lower()


def _only(kinds: set[str]) -> str | None:
    return next(iter(kinds)) if len(kinds) == 1 else "mixed"
