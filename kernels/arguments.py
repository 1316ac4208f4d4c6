"""Checks of the losses' arguments: each error names the argument, what was found and the rule."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = [
    "Implementation",
    "Reduction",
    "check_labels",
    "check_pair",
    "check_rows",
    "check_same",
    "check_word",
    "in_one_dtype",
    "inverse_temperature",
    "positive_scalar",
    "scalar",
]

Reduction = Literal["mean", "sum", "none"]
Implementation = Literal["auto", "triton", "chunked", "reference"]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_rows(function: str, argument: str, rows: Tensor) -> None:
    """Rows are a floating (N, D) matrix that is not empty.

    Raises:
        TypeError: Not a tensor, or of another dtype.
        ValueError: Another shape.
    """
    if not isinstance(rows, Tensor):
        raise TypeError(f"{function}: {argument} must be a tensor, found {type(rows).__name__}")
    if rows.dtype not in _FLOATS:
        raise TypeError(
            f"{function}: {argument} must be float32, float16, bfloat16 or float64, "
            f"found {rows.dtype}; convert it with .float()"
        )
    if rows.ndim != 2 or rows.shape[0] == 0 or rows.shape[1] == 0:
        raise ValueError(
            f"{function}: {argument} must be (N, D) with N ≥ 1 and D ≥ 1, found {tuple(rows.shape)}"
        )


def check_same(function: str, first: str, a: Tensor, second: str, b: Tensor, *, rows: bool) -> None:
    """Two matrices on one device that can be compared, with as many rows each if ``rows``.

    Raises:
        ValueError: They differ.
    """
    if a.device != b.device:
        raise ValueError(
            f"{function}: {first} and {second} must be on one device, "
            f"found {a.device} and {b.device}"
        )
    if a.shape[1] != b.shape[1] or (rows and a.shape[0] != b.shape[0]):
        rule = "the same shape" if rows else "the same D"
        raise ValueError(
            f"{function}: {first} and {second} must have {rule}, "
            f"found {tuple(a.shape)} and {tuple(b.shape)}"
        )


def check_pair(
    function: str, first: str, a: Tensor, second: str, b: Tensor
) -> tuple[Tensor, Tensor]:
    """Two (N, D) matrices of the same shape, in one dtype: the wider of both.

    Raises:
        TypeError: As `check_rows`.
        ValueError: As `check_rows` and `check_same`.
    """
    check_rows(function, first, a)
    check_rows(function, second, b)
    check_same(function, first, a, second, b, rows=True)
    return in_one_dtype(a, b)


def in_one_dtype(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider dtype of the two; float32 holds float16 and bfloat16."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def check_labels(function: str, labels: Tensor, rows: Tensor) -> None:
    """One non-negative integer for each row.

    On a GPU the values are not looked at, since that would wait for it: there a negative label
    makes its row's loss NaN.

    Raises:
        TypeError: Not integers.
        ValueError: Another shape or device, or a negative label.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        found = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{function}: labels must be a tensor of integers, found {found}")
    if labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{function}: labels must be ({rows.shape[0]},), one for each row of z, "
            f"found {tuple(labels.shape)}"
        )
    if labels.device != rows.device:
        raise ValueError(
            f"{function}: labels and z must be on one device, found {labels.device} and "
            f"{rows.device}"
        )
    if _can_be_read(labels):
        smallest = int(labels.min())
        if smallest < 0:
            raise ValueError(
                f"{function}: labels must be ≥ 0, found {smallest}; leave rows without a label out"
            )


def check_word(function: str, argument: str, word: object, words: object) -> None:
    """A keyword's value is one of the words of a Literal.

    Raises:
        ValueError: It is not.
    """
    choices = get_args(words)
    if word not in choices:
        raise ValueError(f"{function}: {argument} must be one of {choices}, found {word!r}")


def inverse_temperature(function: str, temperature: float | Tensor, like: Tensor) -> Tensor:
    """1/τ as `positive_scalar` gives it, with the gradient to a tensor τ."""
    if isinstance(temperature, Tensor):
        return 1 / positive_scalar(function, "temperature", temperature, like)
    positive_scalar(function, "temperature", temperature, like)
    return scalar(function, "temperature", 1 / temperature, like)


def positive_scalar(function: str, argument: str, value: float | Tensor, like: Tensor) -> Tensor:
    """A number > 0 as `scalar` gives it.

    A tensor on a GPU is not looked at, since that would wait for it.

    Raises:
        TypeError: Neither a number nor a floating tensor.
        ValueError: Not finite or not > 0, of several elements, or on another device.
    """
    tensor = scalar(function, argument, value, like)
    number = None
    if not isinstance(value, Tensor):
        number = float(value)
    elif _can_be_read(value):
        number = float(value.detach())
    if number is not None and not number > 0:
        raise ValueError(f"{function}: {argument} must be > 0, found {number:g}")
    return tensor


def scalar(function: str, argument: str, value: float | Tensor, like: Tensor) -> Tensor:
    """A finite number as a 0-dimensional tensor of the losses' precision, on the rows' device.

    A tensor keeps its gradient: float32, or float64 for float64 rows.

    Raises:
        TypeError: Neither a number nor a floating tensor.
        ValueError: Not finite, of several elements, or on another device.
    """
    precision = torch.float64 if like.dtype == torch.float64 else torch.float32
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{function}: {argument} must be floating point, found {value.dtype}")
        if value.numel() != 1:
            raise ValueError(
                f"{function}: {argument} must have one element, found {tuple(value.shape)}"
            )
        if value.device != like.device:
            raise ValueError(
                f"{function}: {argument} must be on the rows' device {like.device}, "
                f"found {value.device}"
            )
        if _can_be_read(value) and not math.isfinite(float(value.detach())):
            raise ValueError(
                f"{function}: {argument} must be finite, found {float(value.detach()):g}"
            )
        return value.reshape(()).to(precision)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{function}: {argument} must be a number or a tensor, found {type(value).__name__}"
        )
    if not math.isfinite(value):
        raise ValueError(f"{function}: {argument} must be finite, found {value:g}")
    return torch.full((), value, dtype=precision, device=like.device)


def _can_be_read(tensor: Tensor) -> bool:
    """Reading a value costs nothing on the CPU; a compiled graph has no values to read."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
