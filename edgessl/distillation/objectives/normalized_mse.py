"""Squared error to a teacher that has the student's own dimension."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from edgessl.distillation.objectives.objective import (
    DistillationObjective,
    StudentFeatures,
    TeacherFeatures,
)
from edgessl.errors import UsageError
from edgessl.pretraining.method import StepContext

__all__ = ["NormalizedMSE"]

_TINY = 1e-12


class NormalizedMSE(DistillationObjective):
    """L = mean ‖s − t‖² / ‖t‖², without a projector: direction and length, sample by sample.

    The inverse of the signal-to-quantization-noise ratio, for a student that is to stay what it
    was: 0.01 is 20 dB.
    """

    compares: ClassVar[Literal["embedding", "projected", "maps"]] = "embedding"

    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """See `DistillationObjective.forward`."""
        have, want = student.embedding.shape[1], teacher.embedding.shape[1]
        if have != want:
            raise UsageError(
                f"objective 'normalized_mse': the student has {have} dimensions, the teacher "
                f"{want}; use cosine or smooth_l1, which have a projector"
            )
        error = (student.embedding - teacher.embedding).square().sum(dim=1)
        power = teacher.embedding.square().sum(dim=1).clamp(min=_TINY)
        return (error / power).mean()
