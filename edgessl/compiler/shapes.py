"""Fix the batch and the other dynamic dimensions of a graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgessl.errors import ModelError, UsageError, nearest

__all__ = ["Shapes", "dynamic_inputs", "fix_shapes", "parse_shapes"]

Shapes = Mapping[str, Sequence[int]]

_MAX_DIMENSION = 2**31 - 1


def parse_shapes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read ``input=1x3x320x320``; ``sr=`` is a scalar.

    Args:
        words: One word per input, as the command line takes them.

    Returns:
        Input name → shape.

    Raises:
        UsageError: A word is not of that form, or an input is named twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, equals, text = word.rpartition("=")
        sizes = text.split("x") if text else []
        if not equals or not name or not all(size.isdecimal() for size in sizes):
            raise UsageError(
                f"'{word}' is not a shape; write name=1x3x320x320, or name= (a scalar)"
            )
        if name in shapes:
            raise UsageError(f"the shape of '{name}' is given twice; give it once")
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes


def fix_shapes(
    model: Any, *, batch_size: int, shapes: Shapes | None, path: object
) -> tuple[str, ...]:
    """Put numbers in place of symbols, in inputs, outputs and everything known between.

    Args:
        model: An ``onnx.ModelProto``; changed in place.
        batch_size: Samples per engine call.
        shapes: Input name → its whole shape, the batch included.
        path: The user's file, for messages.

    Returns:
        The inputs whose first dimension is the batch.

    Raises:
        ModelError: The graph has no such input, a shape does not fit it, or two of them
            contradict each other.
    """
    first = next((v for v in model.graph.input if v.type.tensor_type.shape.dim), None)
    symbol = None if first is None else _symbol(first)
    named = [v.name for v in model.graph.input if symbol is not None and _symbol(v) == symbol]
    bound = _bind_shapes(model, shapes or {}, path)
    _check_batch(first, symbol, batch_size, shapes or {}, path)
    if symbol:
        bound[symbol] = batch_size
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in named and not dims[0].HasField("dim_value"):
            dims[0].dim_value = batch_size
    _substitute(model, bound)
    return tuple(
        value.name
        for value in model.graph.input
        if (dims := value.type.tensor_type.shape.dim)
        and dims[0].dim_value == batch_size
        and (symbol is None or value.name in named)
    )


def dynamic_inputs(model: Any) -> dict[str, tuple[int | str, ...]]:
    """Inputs with a dimension that is not fixed: name → shape, ``"?"`` where it has no name."""
    result = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
        if any(isinstance(size, str) for size in shape):
            result[value.name] = shape
    return result


def _bind_shapes(model: Any, shapes: Shapes, path: object) -> dict[str, int]:
    """Write given shapes into the inputs; the symbols that got a number by it."""
    inputs = {value.name: value for value in model.graph.input}
    bound: dict[str, int] = {}
    by: dict[str, str] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            raise ModelError(f"{path}: has no input '{name}'; {nearest(name, inputs)}")
        tensor = inputs[name].type.tensor_type
        if not tensor.HasField("shape"):
            for _ in shape:
                tensor.shape.dim.add()
        dims = tensor.shape.dim
        if len(shape) != len(dims):
            raise ModelError(
                f"{path}: '{name}' has {len(dims)} dimensions, the given shape {_text(shape)} has "
                f"{len(shape)}; give {len(dims)} numbers"
            )
        for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
            if not 0 < size <= _MAX_DIMENSION:
                raise ModelError(f"{path}: '{name}' cannot have a dimension of {size}; give 1 up")
            if dim.HasField("dim_value"):
                if dim.dim_value != size:
                    raise ModelError(
                        f"{path}: dimension {axis} of '{name}' is fixed at {dim.dim_value}, asked "
                        f"for {size}; export the model with a dynamic dimension or take that size"
                    )
                continue
            symbol = dim.dim_param
            if symbol and bound.setdefault(symbol, size) != size:
                raise ModelError(
                    f"{path}: '{symbol}' is {bound[symbol]} in '{by[symbol]}' and {size} in "
                    f"'{name}'; give both the same size"
                )
            if symbol:
                by.setdefault(symbol, name)
            dim.dim_value = size
    return bound


def _symbol(value: Any) -> str | None:
    """Symbol of the first dimension, "" where it has no name; None where it is fixed or absent."""
    dims = value.type.tensor_type.shape.dim
    if not dims or dims[0].HasField("dim_value"):
        return None
    return str(dims[0].dim_param)


def _check_batch(
    first: Any, symbol: str | None, batch_size: int, shapes: Shapes, path: object
) -> None:
    if first is None:
        if batch_size > 1:
            raise ModelError(f"{path}: no input has a batch dimension; export it with one")
        return
    dim = first.type.tensor_type.shape.dim[0]
    if not dim.HasField("dim_value") or dim.dim_value == batch_size:
        return
    if symbol is not None:
        raise ModelError(
            f"{path}: the shape given for '{first.name}' has a batch of {dim.dim_value}, asked "
            f"for {batch_size}; give the batch size as well"
        )
    # A shape that the user gave says that a fixed first dimension is known, and is no batch.
    if batch_size > 1 or first.name not in shapes:
        raise ModelError(
            f"{path}: the graph takes batches of {dim.dim_value}, asked for {batch_size}; compile "
            "with that batch size, export it with a dynamic batch, or, if its first dimension is "
            f"no batch, say so with --shape {first.name}={_text(_sizes(first))}"
        )


def _sizes(value: Any) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def _substitute(model: Any, bound: Mapping[str, int]) -> None:
    # What is left symbolic in between comes from shape inference; a stale symbol would contradict.
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value") and dim.dim_param in bound:
                dim.dim_value = bound[dim.dim_param]


def _text(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)
