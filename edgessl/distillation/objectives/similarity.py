"""``similarity``: teacher and student agree about who in a queue resembles a sample (SEED)."""

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

__all__ = ["Similarity", "SimilarityOptions"]


class SimilarityOptions(Options):
    """Settings of ``similarity``.

    Attributes:
        temperature: τ of the student's similarities.
        teacher_temperature: τ of the teacher's similarities.
        queue_size: Teacher embeddings that a sample is compared with; at most the samples there
            are.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.1
    teacher_temperature: Annotated[float, Field(gt=0)] = 0.05
    queue_size: Annotated[int, Field(ge=16)] = 4096


class Similarity(DistillationObjective):
    """L = H(softmax(t·Q⁺/τ_t), softmax(s·Q⁺/τ_s)), the mean over samples of a cross entropy.

    s and t are the L2-normalised projected student and teacher; Q⁺ is a queue of the teacher's
    embeddings of earlier samples, and t itself.

    Source: arXiv:2101.04731, eq. 3 to 5.
    """

    Options: ClassVar[type[Options]] = SimilarityOptions
    options: SimilarityOptions
    queue: Tensor
    cursor: Tensor

    def __init__(self, shapes: Shapes, options: SimilarityOptions) -> None:
        super().__init__(shapes, options)
        size = min(options.queue_size, shapes.samples)
        self.register_buffer("queue", torch.zeros(size, shapes.teacher_dim))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))
        self._pending = PendingRows()

    def start(self, embeddings: Tensor) -> None:
        """Fill the queue; a few samples repeat where fewer are given than it holds."""
        rows = torch.arange(len(self.queue)) % len(embeddings)
        self.queue.copy_(F.normalize(embeddings[rows], dim=1))

    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """Compare both with the queue and with the sample's own teacher embedding."""
        assert student.projected is not None
        seen, wanted = (F.normalize(rows, dim=1) for rows in (student.projected, teacher.embedding))
        self._pending.add(wanted, context)
        targets = self._similarities(wanted, wanted) / self.options.teacher_temperature
        given = self._similarities(seen, wanted) / self.options.temperature
        return F.cross_entropy(given, targets.softmax(dim=1))

    def after_step(self, context: StepContext) -> None:
        """Put the step's teacher embeddings, of all its parts, into the queue in turn."""
        newest = self._pending.take()[-len(self.queue) :]
        places = torch.arange(len(newest), device=self.queue.device) + self.cursor
        self.queue[places % len(self.queue)] = newest
        self.cursor.add_(len(newest)).remainder_(len(self.queue))

    def _similarities(self, rows: Tensor, teacher: Tensor) -> Tensor:
        own = (rows * teacher).sum(dim=1, keepdim=True)
        return torch.cat([own, rows @ self.queue.T], dim=1)
