"""Which implementation computes a loss, and why."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from edgessl.kernels.arguments import Implementation

__all__ = ["Chosen", "choose", "describe_implementation"]

Chosen = Literal["triton", "chunked", "reference"]

_OLDEST_TRITON = (3, 6)
"""With `map_elementwise`; the kernels were compiled with 3.9."""

_OLDEST = (8, 0)
"""Compute capability from which tensor cores take bfloat16 (Ampere)."""


def _triton_obstacle() -> str | None:
    """Why the package triton cannot be used; None if it can."""
    if find_spec("triton") is None:
        return "needs the package triton, which is not installed"
    found = version("triton")
    numbers = tuple(int(number) for number in found.split(".")[:2])
    if numbers < _OLDEST_TRITON:
        return f"needs triton 3.6 or newer, found {found}"
    return None


_NO_TRITON = _triton_obstacle()


def choose(function: str, implementation: Implementation, rows: Tensor) -> Chosen:
    """The implementation for these rows; ``"auto"`` is Triton on a GPU that it can use.

    Raises:
        ValueError: Triton is asked for where it cannot run.
    """
    if implementation in ("chunked", "reference"):
        return implementation
    obstacle = _obstacle(rows)
    if obstacle is None:
        # The interpreter is for tests: nobody gets it without asking.
        return "triton" if rows.is_cuda or implementation == "triton" else "chunked"
    if implementation == "triton":
        raise ValueError(
            f"{function}: implementation 'triton' {obstacle}; take 'auto' or 'chunked'"
        )
    return "chunked"


def describe_implementation() -> str:
    """What ``"auto"`` takes on this machine, and why: one line."""
    if not torch.cuda.is_available():
        return "chunked: PyTorch sees no CUDA GPU"
    name = torch.cuda.get_device_name()
    capability = torch.cuda.get_device_capability()
    if _NO_TRITON is not None:
        return f"chunked: 'triton' {_NO_TRITON} ({name}); pip install --upgrade triton"
    if capability < _OLDEST:
        return f"chunked: {name} is sm_{capability[0]}{capability[1]}, Triton's kernels need sm_80"
    return f"triton {version('triton')}: {name}, sm_{capability[0]}{capability[1]}"


def _obstacle(rows: Tensor) -> str | None:
    """Why Triton's kernels cannot take these rows; None if they can."""
    if _NO_TRITON is not None:
        return _NO_TRITON
    if rows.dtype == torch.float64:
        return "takes float32, float16 and bfloat16, found float64"
    if rows.is_cuda:
        properties = torch.cuda.get_device_properties(rows.device)
        if (properties.major, properties.minor) < _OLDEST:
            return f"needs sm_80 or newer, found sm_{properties.major}{properties.minor}"
        return None
    # A compiled graph cannot ask Triton; there it is the kernels that find no GPU.
    if rows.device.type == "cpu" and (torch.compiler.is_compiling() or _interpreted()):
        return None
    return f"needs rows on a CUDA GPU, found {rows.device}"


def _interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    from triton import knobs

    return bool(knobs.runtime.interpret)
