"""Rows of all parts of a step and of all processes, kept until the step is done."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels import gather_rows
from edgessl.pretraining.method import StepContext

__all__ = ["PendingRows"]


class PendingRows:
    """Empty between steps, so that it is no part of the state."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def add(self, rows: Tensor, context: StepContext) -> None:
        """Keep (N, …) rows of this process, and those of the others."""
        self._rows.append(gather_rows(rows.detach(), context.group))

    def take(self) -> Tensor:
        """All rows of the step, (M, …), in the order of parts and processes; then none are kept."""
        rows = torch.cat(self._rows)
        self._rows.clear()
        return rows
