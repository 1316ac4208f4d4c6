"""A student and one teacher: the projector between them, and the objectives on what they give."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.config import Options
from edgessl.distillation.objectives import (
    OBJECTIVES,
    DistillationObjective,
    Shapes,
    StudentFeatures,
    TeacherFeatures,
)
from edgessl.pretraining.method import StepContext

__all__ = ["Agreement"]


class Agreement(nn.Module):
    """The weighted sum of one teacher's objectives.

    Args:
        student_dim: D_s.
        shapes: Of both sides.
        objectives: Name → weight and settings.
        projector_layers: Layers of the projector; there is none where nothing compares it.

    Attributes:
        projector: From the student's embedding to the teacher's dimension; None if unused.
        objectives: Name → objective.
    """

    def __init__(
        self,
        student_dim: int,
        shapes: Shapes,
        objectives: Mapping[str, tuple[float, Options]],
        *,
        projector_layers: int,
    ) -> None:
        super().__init__()
        self.weights = {name: weight for name, (weight, _) in objectives.items()}
        kinds = {name: OBJECTIVES.get(name) for name in objectives}
        self.projector: nn.Sequential | None = None
        if any(kind.compares == "projected" for kind in kinds.values()):
            widths = [student_dim] * projector_layers + [shapes.teacher_dim]
            layers: list[nn.Module] = []
            for i, (taken, given) in enumerate(itertools.pairwise(widths)):
                layers += [nn.ReLU()] * (i > 0) + [nn.Linear(taken, given)]
            self.projector = nn.Sequential(*layers)
        self.objectives = nn.ModuleDict(
            {name: kind(shapes, objectives[name][1]) for name, kind in kinds.items()}
        )

    def forward(
        self,
        embedding: Tensor,
        maps: Tensor | None,
        teacher: TeacherFeatures,
        context: StepContext,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and each objective's own beside the mean cosine to the teacher.

        Args:
            embedding: (N, D_s), the student's.
            maps: (N, C_s, h_s, w_s), the student's; None where nothing compares them.
            teacher: What the teacher gives for the same views.
            context: Of the step.
        """
        projected = None if self.projector is None else self.projector(embedding).float()
        student = StudentFeatures(
            embedding.float(), projected, None if maps is None else maps.float()
        )
        loss = embedding.new_zeros((), dtype=torch.float32)
        metrics: dict[str, Tensor] = {}
        # Similarities divided by a small temperature, and small distances, want all digits.
        with torch.autocast(embedding.device.type, enabled=False):
            for name, objective in self.objectives.items():
                own = objective(student, teacher, context)
                loss = loss + self.weights[name] * own
                metrics[f"{name}_loss"] = own.detach()
            if projected is not None:
                cosines = F.cosine_similarity(projected.detach(), teacher.embedding, dim=1)
                metrics["teacher_cosine"] = cosines.mean()
        return loss, metrics

    def start(self, embeddings: Tensor) -> None:
        """Let every objective look at (M, D_t) teacher embeddings before the first step."""
        for objective in self._each():
            objective.start(embeddings)

    def after_step(self, context: StepContext) -> None:
        """Let every objective update its queue or centre."""
        for objective in self._each():
            objective.after_step(context)

    def _each(self) -> list[DistillationObjective]:
        return [o for o in self.objectives.values() if isinstance(o, DistillationObjective)]
