"""Contrastive losses in Triton: on GPUs from sm_80, or on CPUs in Triton's interpreter.

Rows of D ≤ 512 stay on the chip while a kernel walks the columns; wider rows go the way of
`edgessl.kernels.fused.wide`.
"""

from edgessl.kernels.fused.by_width import (
    gradients,
    mutual_gradients,
    mutual_sigmoid,
    queue,
    sigmoid,
)
from edgessl.kernels.fused.mutual import mutual_statistics
from edgessl.kernels.fused.statistics import statistics
from edgessl.kernels.fused.unit_rows import unit_rows

__all__ = [
    "gradients",
    "mutual_gradients",
    "mutual_sigmoid",
    "mutual_statistics",
    "queue",
    "sigmoid",
    "statistics",
    "unit_rows",
]
