"""``prototypes``: teacher and student assign samples alike to prototypes (DINO-style)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgessl.config import Options
from edgessl.distillation.objectives.objective import (
    DistillationObjective,
    Shapes,
    StudentFeatures,
    TeacherFeatures,
)
from edgessl.distillation.objectives.pending import PendingRows
from edgessl.pretraining.method import StepContext

__all__ = ["Prototypes", "PrototypesOptions"]

_ROUNDS = 10


class PrototypesOptions(Options):
    """Settings of ``prototypes``.

    Attributes:
        prototypes: How many; at most the samples there are.
        temperature: τ of the student's assignment.
        teacher_temperature: τ of the teacher's; lower is sharper.
        centre_decay: How slowly the centre follows the teacher's mean similarities.
    """

    prototypes: Annotated[int, Field(ge=2, le=65536)] = 256
    temperature: Annotated[float, Field(gt=0)] = 0.1
    teacher_temperature: Annotated[float, Field(gt=0)] = 0.04
    centre_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9


class Prototypes(DistillationObjective):
    """L = KL(softmax((P t − c)/τ_t) ‖ softmax(P s/τ_s)), the mean over samples.

    s and t are L2-normalised, the student's after the projector. The prototypes P are centres of
    the teacher's own embeddings (spherical k-means before the first step, no labels) and stay, so
    nothing can collapse. The centre c is a moving average of P t: it keeps a few prototypes from
    taking all samples, as the low τ_t keeps the assignment from being uniform.

    Source: arXiv:2104.14294, section 3.1, eq. 1 and 4.
    """

    Options: ClassVar[type[Options]] = PrototypesOptions
    options: PrototypesOptions
    prototypes: Tensor
    centre: Tensor

    def __init__(self, shapes: Shapes, options: PrototypesOptions) -> None:
        super().__init__(shapes, options)
        count = min(options.prototypes, shapes.samples)
        self.register_buffer("prototypes", torch.zeros(count, shapes.teacher_dim))
        self.register_buffer("centre", torch.zeros(count))
        self._pending = PendingRows()

    def start(self, embeddings: Tensor) -> None:
        """Cluster the teacher's embeddings; the centre starts at their mean similarities."""
        rows = F.normalize(embeddings, dim=1)
        places = torch.arange(len(self.prototypes)) % len(rows)
        centres = rows[places].clone()
        for _ in range(_ROUNDS):
            nearest = (rows @ centres.T).argmax(dim=1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
            # A prototype without samples stays where it is.
            centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, sums, centres)
            centres = F.normalize(centres, dim=1)
        self.prototypes.copy_(centres)
        self.centre.copy_((rows @ centres.T).mean(dim=0))

    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """Compare the two assignments."""
        assert student.projected is not None
        seen = F.normalize(student.projected, dim=1) @ self.prototypes.T
        wanted = F.normalize(teacher.embedding, dim=1) @ self.prototypes.T
        self._pending.add(wanted, context)
        target = ((wanted - self.centre) / self.options.teacher_temperature).log_softmax(dim=1)
        given = (seen / self.options.temperature).log_softmax(dim=1)
        return F.kl_div(given, target, reduction="batchmean", log_target=True)

    def after_step(self, context: StepContext) -> None:
        """Move the centre towards the mean similarities of the step."""
        mean = self._pending.take().mean(dim=0)
        self.centre.lerp_(mean, 1 - self.options.centre_decay)
