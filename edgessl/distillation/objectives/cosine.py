"""``cosine``: the projected student points where the teacher's embedding points."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgessl.distillation.objectives.objective import (
    DistillationObjective,
    StudentFeatures,
    TeacherFeatures,
)
from edgessl.pretraining.method import StepContext

__all__ = ["Cosine"]


class Cosine(DistillationObjective):
    """L = mean over samples of 1 − cos(projected student, teacher)."""

    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """Regress the direction of the embedding."""
        assert student.projected is not None
        return (1 - F.cosine_similarity(student.projected, teacher.embedding, dim=1)).mean()
