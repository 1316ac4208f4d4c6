"""What every distillation objective is, and how one is found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from edgessl.config import Options
from edgessl.pretraining.method import StepContext
from edgessl.registry import Registry

__all__ = [
    "OBJECTIVES",
    "DistillationObjective",
    "MapShape",
    "Shapes",
    "StudentFeatures",
    "TeacherFeatures",
]

MapShape = tuple[int, int, int]
"""Channels, rows and columns of a feature map."""


class StudentFeatures(NamedTuple):
    """What the student gives for a batch, all float32.

    Attributes:
        embedding: (N, D_s), the student's own embedding.
        projected: (N, D_t), the same through the projector that goes when training ends; None
            where no objective of this teacher compares it.
        maps: (N, C_s, h_s, w_s), its last feature map; None where no objective compares it.
    """

    embedding: Tensor
    projected: Tensor | None = None
    maps: Tensor | None = None


class TeacherFeatures(NamedTuple):
    """What a teacher gives for the same views, all float32 and without a gradient.

    Attributes:
        embedding: (N, D_t).
        maps: (N, C_t, h_t, w_t), its last feature map; None where no objective compares it.
    """

    embedding: Tensor
    maps: Tensor | None = None


class Shapes(NamedTuple):
    """What an objective is built for.

    Attributes:
        samples: Samples that are trained on, over all processes.
        teacher_dim: D_t, also of the projected student.
        student_map: C_s, h_s, w_s; None where no objective compares maps.
        teacher_map: C_t, h_t, w_t; likewise.
    """

    samples: int
    teacher_dim: int
    student_map: MapShape | None = None
    teacher_map: MapShape | None = None


class DistillationObjective(nn.Module, ABC):
    """How far a student is from agreeing with one teacher.

    All that changes while training is a parameter or a buffer, so that a resumed run goes on
    exactly, and so that the phase for a target's integers starts where the float phase ended.

    Attributes:
        Options: The objective's own settings.
        compares: What it reads of the student: its own ``embedding``, the ``projected`` one, or
            its feature ``maps``. Maps are left out where the student has none to show.
    """

    Options: ClassVar[type[Options]] = Options
    compares: ClassVar[Literal["embedding", "projected", "maps"]] = "projected"

    def __init__(self, shapes: Shapes, options: Any) -> None:
        """Build for these shapes; ``options`` is an instance of ``Options``."""
        super().__init__()
        self.shapes = shapes
        self.options = options

    def start(self, embeddings: Tensor) -> None:
        """Look at teacher embeddings of training samples before the first step.

        Args:
            embeddings: (M, D_t) float32, of samples drawn without replacement, the same on every
                process.
        """

    @abstractmethod
    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """Loss of this process's share of the batch, a scalar.

        Its mean over the processes is that of one process with the whole batch.
        """

    def after_step(self, context: StepContext) -> None:
        """Update queues and centres from all parts of the step."""


OBJECTIVES: Registry[type[DistillationObjective]] = Registry(
    "objective",
    {
        "cosine": "edgessl.distillation.objectives.cosine:Cosine",
        "feature_maps": "edgessl.distillation.objectives.feature_maps:FeatureMaps",
        "normalized_mse": "edgessl.distillation.objectives.normalized_mse:NormalizedMSE",
        "prototypes": "edgessl.distillation.objectives.prototypes:Prototypes",
        "relational_angle": "edgessl.distillation.objectives.relational_angle:RelationalAngle",
        "relational_distance": (
            "edgessl.distillation.objectives.relational_distance:RelationalDistance"
        ),
        "similarity": "edgessl.distillation.objectives.similarity:Similarity",
        "smooth_l1": "edgessl.distillation.objectives.smooth_l1:SmoothL1",
        "tokens": "edgessl.distillation.objectives.tokens:Tokens",
    },
    group="edgessl.objectives",
)
