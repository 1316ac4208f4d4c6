"""``relational_distance``: the student keeps the teacher's distances between samples (RKD-D)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgessl.distillation.objectives.objective import (
    DistillationObjective,
    StudentFeatures,
    TeacherFeatures,
)
from edgessl.kernels import gather_rows
from edgessl.pretraining.method import StepContext

__all__ = ["RelationalDistance"]


class RelationalDistance(DistillationObjective):
    """L = mean over pairs i ≠ j of Huber(‖s_i − s_j‖/μ_s − ‖t_i − t_j‖/μ_t).

    μ is the mean distance over the pairs of the batch, so dimensions and scales need not agree and
    no projector stands between: s is the student's own embedding. Pairs are those of the whole
    batch over all processes; memory is O(B²).

    Source: arXiv:1904.05068, section 3.2.1 (Huber with δ = 1).
    """

    compares: ClassVar[Literal["embedding", "projected", "maps"]] = "embedding"

    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """Compare all distances of the batch."""
        seen = gather_rows(student.embedding, context.group)
        wanted = gather_rows(teacher.embedding, context.group)
        return F.smooth_l1_loss(relative_distances(seen), relative_distances(wanted))


def relative_distances(rows: Tensor) -> Tensor:
    """Distances of all pairs in units of their mean.

    Args:
        rows: (B, D) float32.

    Returns:
        (B·(B − 1)/2,) float32, non-negative.
    """
    # Differences, not the Gram matrix: that loses the digits of small distances.
    distances = torch.pdist(rows)
    return distances / distances.mean().clamp(min=torch.finfo(rows.dtype).tiny)
