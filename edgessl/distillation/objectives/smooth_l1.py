"""``smooth_l1``: the projected student gives the teacher's embedding, number by number."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgessl.config import Options
from edgessl.distillation.objectives.objective import (
    DistillationObjective,
    StudentFeatures,
    TeacherFeatures,
)
from edgessl.pretraining.method import StepContext

__all__ = ["SmoothL1", "SmoothL1Options"]


class SmoothL1Options(Options):
    """Settings of ``smooth_l1``.

    Attributes:
        beta: Below this difference the loss is quadratic, above it linear.
    """

    beta: Annotated[float, Field(gt=0)] = 2.0


class SmoothL1(DistillationObjective):
    """L = mean of d²/2β where |d| < β, else |d| − β/2, with d = projected student − LN(teacher).

    LN standardises each of the teacher's embeddings by its own mean and deviation over the
    dimensions, without parameters, so that teachers of any scale weigh alike.

    Source: arXiv:2205.14141, section 3 (whitened targets, smooth L1 with β = 2).
    """

    Options: ClassVar[type[Options]] = SmoothL1Options
    options: SmoothL1Options

    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """Regress the standardised embedding."""
        assert student.projected is not None
        wanted = F.layer_norm(teacher.embedding, teacher.embedding.shape[1:])
        return F.smooth_l1_loss(student.projected, wanted, beta=self.options.beta)
