"""Put numbers in place of inputs that never change, like a sample rate or a mode.

What depends on them alone is then known ahead: conditions go, and with them what no NPU takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgessl.compiler.rewrites.conditions import inline_conditions
from edgessl.compiler.rewrites.constants import fold_constants
from edgessl.errors import UsageError, nearest
from edgessl.optional import require

__all__ = ["check_number", "freeze_inputs", "resolve_conditions"]

Number = int | float


def freeze_inputs(model: Any, values: Mapping[str, Number], path: object) -> None:
    """Turn inputs into initializers that hold one number everywhere.

    Args:
        model: An ``onnx.ModelProto`` with fixed shapes; changed in place.
        values: Input name → number.
        path: The user's file, for messages.

    Raises:
        UsageError: There is no such input, its size is open, the number does not fit its dtype,
            or no input is left.
    """
    onnx = require("onnx", extra="compile")
    inputs = {value.name: value for value in model.graph.input}
    for name, number in values.items():
        if name not in inputs:
            raise UsageError(f"{path}: has no input '{name}' to freeze; {nearest(name, inputs)}")
        tensor = inputs[name].type.tensor_type
        dims = tensor.shape.dim
        if any(dim.dim_value <= 0 for dim in dims):
            sizes = "x".join(str(dim.dim_value or 1) for dim in dims)
            raise UsageError(
                f"{path}: input '{name}' has an open size; fix it to freeze it, like "
                f"--shape {name}={sizes}"
            )
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        check_number(name, number, dtype)
        filled = np.full([dim.dim_value for dim in dims], number, dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(filled, name))
    kept = [value for value in model.graph.input if value.name not in values]
    if not kept:
        raise UsageError(f"{path}: every input is frozen; leave one to give")
    del model.graph.input[:]
    model.graph.input.extend(kept)


def resolve_conditions(model: Any) -> Any:
    """Compute ahead what follows from frozen inputs, and inline the branches that are taken.

    This is no matter of speed: onnxruntime 1.31 crashes where it inlines some conditions within
    conditions itself (those of silero-vad), and other engines take no condition at all.
    """
    while True:
        folded = fold_constants(model)
        model = model if folded is None else folded
        inlined = inline_conditions(model)
        if inlined is None:
            return model
        model = inlined


def check_number(name: str, number: Number, dtype: np.dtype[Any]) -> None:
    """Refuse a number that an input's dtype does not hold.

    Raises:
        UsageError: A fraction for whole numbers, or out of range.
    """
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(number) != number or not limits.min <= number <= limits.max:
            raise UsageError(f"{name}={number} does not fit the input's {dtype.name}")
