"""The student's loss: agree with the teacher about neighbours, and about the embedding itself."""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from edgessl.config import Options
from edgessl.data.loader import Batch
from edgessl.kernels import gather_rows
from edgessl.models import Encoder
from edgessl.pretraining.method import Objective, StepContext, StepOutput

__all__ = ["Distillation", "DistillationOptions"]


class DistillationOptions(Options):
    """Settings of the distillation.

    Attributes:
        similarity_weight: Weight of the similarity loss.
        regression_weight: Weight of the embedding regression.
        temperature: τ of the student's similarities.
        teacher_temperature: τ of the teacher's similarities.
        queue_size: Teacher embeddings that a sample is compared with; at most the samples there
            are.
        projector_layers: Layers between the student's embedding and the teacher's dimension.
        view_seeds: Different views of each sample that the teacher sees.
        teacher_image_size: Side of the teacher's input; None takes its own, up to 224.
    """

    similarity_weight: Annotated[float, Field(ge=0)] = 1.0
    regression_weight: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 0.1
    teacher_temperature: Annotated[float, Field(gt=0)] = 0.05
    queue_size: Annotated[int, Field(ge=16)] = 4096
    projector_layers: Annotated[int, Field(ge=1, le=4)] = 1
    view_seeds: Annotated[int, Field(ge=1, le=1024)] = 4
    teacher_image_size: Annotated[int, Field(ge=1)] | None = None


class Distillation(Objective):
    """Cross entropy between similarity distributions over a queue, plus 1 − cosine.

    Teacher embeddings are read from a table, so the teacher is not needed while training.

    Args:
        student: The encoder that is trained and kept.
        features: (view_seeds, N, D) float16 teacher embeddings of all samples.
        options: Settings.

    Source: similarity distillation, arXiv:2101.04731, eq. 3 to 5.
    """

    queue: Tensor
    cursor: Tensor

    def __init__(self, student: Encoder, features: Tensor, options: DistillationOptions) -> None:
        super().__init__()
        self.encoder = student
        self.options = options
        self.features = features
        dim = features.shape[2]
        widths = [student.dim] * options.projector_layers + [dim]
        layers: list[nn.Module] = []
        for i, (taken, given) in enumerate(itertools.pairwise(widths)):
            layers += [nn.ReLU()] * (i > 0) + [nn.Linear(taken, given)]
        self.projector = nn.Sequential(*layers)
        size = min(options.queue_size, features.shape[1])
        start = F.normalize(features[0, torch.randperm(features.shape[1])[:size]].float(), dim=1)
        self.register_buffer("queue", start)
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))
        self._pending: list[Tensor] = []

    def forward(self, batch: Batch, context: StepContext) -> StepOutput:
        """Loss of one view per sample; the mean cosine to the teacher is reported."""
        (view,) = batch.views
        teacher = self._teacher(batch.indices, context.epoch)
        student = F.normalize(self.projector(self.encoder(view)).float(), dim=1)
        similarity = self._similarity(student, teacher)
        cosine = (student * teacher).sum(dim=1).mean()
        loss = self.options.similarity_weight * similarity
        loss = loss + self.options.regression_weight * (1 - cosine)
        self._pending.append(gather_rows(teacher, context.group))
        return StepOutput(
            loss, {"teacher_cosine": cosine.detach(), "similarity_loss": similarity.detach()}
        )

    def after_step(self, context: StepContext) -> None:
        """Put the step's teacher embeddings, of all its parts, into the queue in turn."""
        newest = torch.cat(self._pending)[-len(self.queue) :]
        self._pending.clear()
        places = torch.arange(len(newest), device=self.queue.device) + self.cursor
        self.queue[places % len(self.queue)] = newest
        self.cursor.add_(len(newest)).remainder_(len(self.queue))

    def _teacher(self, indices: Tensor, epoch: int) -> Tensor:
        seed = epoch % self.features.shape[0]
        rows = self.features[seed, indices.cpu()]
        return F.normalize(rows.to(indices.device).float(), dim=1)

    def _similarity(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The queue and the sample's own teacher embedding are what both compare with."""
        own = (teacher * teacher).sum(dim=1, keepdim=True)
        wanted = torch.cat([own, teacher @ self.queue.T], dim=1) / self.options.teacher_temperature
        own = (student * teacher).sum(dim=1, keepdim=True)
        given = torch.cat([own, student @ self.queue.T], dim=1) / self.options.temperature
        return F.cross_entropy(given, wanted.softmax(dim=1))
