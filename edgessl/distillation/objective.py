"""What a distillation trains: the student, and its agreement with each of the teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgessl.config import Options
from edgessl.data.loader import Batch
from edgessl.distillation.agreement import Agreement
from edgessl.distillation.feature_table import FeatureSource
from edgessl.distillation.objectives import OBJECTIVES, Shapes
from edgessl.distillation.options import (
    DistillationOptions,
    ObjectiveSettings,
    TeacherOptions,
    chosen_objectives,
)
from edgessl.distillation.student_maps import embedding_and_map, has_maps, map_shape
from edgessl.errors import ModelError, RunError, UsageError
from edgessl.models import Encoder
from edgessl.pretraining.method import Objective, StepContext, StepOutput

__all__ = ["Distillation", "DistillationOptions", "TaughtBy"]

_START_ROWS = 16384
_START_SEED = 0x7EAC


class TaughtBy(NamedTuple):
    """One teacher, as a distillation sees it.

    Attributes:
        source: Its features of all training samples.
        weight: Factor on its losses.
        objectives: Its objectives; None takes those of all teachers.
    """

    source: FeatureSource
    weight: float = 1.0
    objectives: ObjectiveSettings | None = None

    @classmethod
    def configured(cls, source: FeatureSource, options: TeacherOptions) -> TaughtBy:
        """A teacher with the settings that a recipe gives it."""
        return cls(source, options.weight, options.objectives)


class Distillation(Objective):
    """The sum over the teachers of weight × their objectives.

    Teachers' features are read from tables, so a teacher is not needed while training. All state
    is in parameters and buffers: ``encoder.*`` is the student, ``teachers.K.*`` the projector and
    the objectives of the K-th teacher.

    Args:
        student: The encoder that is trained and kept: a timm one, or any other.
        teachers: At least one.
        options: Settings.
        maps: False leaves out the objectives that compare feature maps, for a student that has
            none to show (an integer replay); `left_out` then names them.

    Attributes:
        left_out: Objectives that were left out for want of feature maps.

    Raises:
        UsageError: An unknown objective or setting, or nothing is left to train.
        ModelError: Feature maps are compared, and the student or a teacher has none.
    """

    def __init__(
        self,
        student: Encoder,
        teachers: Sequence[TaughtBy],
        options: DistillationOptions,
        *,
        maps: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = student
        self.options = options
        self._sources = [teacher.source for teacher in teachers]
        self._weights = [teacher.weight for teacher in teachers]
        self.left_out: list[str] = []
        chosen = [self._choose(teacher, maps=maps) for teacher in teachers]
        self._uses_maps = any(compares_maps(objectives) for objectives in chosen)
        if self._uses_maps and not has_maps(student):
            raise ModelError(
                f"the student {student.name} has no feature maps; leave the objectives "
                "feature_maps and tokens out"
            )
        own_map = map_shape(student) if self._uses_maps else None
        self.teachers = nn.ModuleList()
        for source, objectives in zip(self._sources, chosen, strict=True):
            shapes = Shapes(source.samples, source.dim, own_map, source.map_shape)
            agreement = Agreement(
                student.dim, shapes, objectives, projector_layers=options.projector_layers
            )
            agreement.start(_first_look(source))
            self.teachers.append(agreement)

    def forward(self, batch: Batch, context: StepContext) -> StepOutput:
        """Loss of one view per sample; each objective's loss and the cosine are reported."""
        (view,) = batch.views
        maps = None
        if self._uses_maps:
            embedding, maps = embedding_and_map(self.encoder, view)
        else:
            embedding = self.encoder(view)
        loss = embedding.new_zeros((), dtype=torch.float32)
        metrics: dict[str, Tensor] = {}
        several = len(self._sources) > 1
        for k, (source, agreement) in enumerate(zip(self._sources, self.teachers, strict=True)):
            seed = context.epoch % source.views
            teacher = source.features(seed, batch.indices)
            own, figures = agreement(embedding, maps, teacher, context)
            loss = loss + self._weights[k] * own
            metrics |= {f"{n}_{k + 1}" if several else n: v for n, v in figures.items()}
        return StepOutput(loss, metrics)

    def after_step(self, context: StepContext) -> None:
        """Let queues and centres follow."""
        for agreement in self.teachers:
            cast(Agreement, agreement).after_step(context)

    def load_agreements(self, state: Mapping[str, Tensor]) -> None:
        """Take projectors, queues, prototypes and centres from another run's state.

        Args:
            state: The ``state_dict`` of a `Distillation` with the same teachers and objectives,
                whatever its student; of objectives that are left out here nothing is taken.

        Raises:
            RunError: Something is missing or of another shape.
        """
        own = self.teachers.state_dict(prefix="teachers.")
        for name, tensor in own.items():
            if name not in state or state[name].shape != tensor.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise RunError(
                    f"the state of the first phase has {found} for '{name}', "
                    f"{tuple(tensor.shape)} is wanted; keep teachers, objectives and student"
                )
            with torch.no_grad():
                tensor.copy_(state[name])

    def _choose(self, teacher: TaughtBy, *, maps: bool) -> dict[str, tuple[float, Options]]:
        where = f"teacher {teacher.source.name}"
        settings = teacher.objectives if teacher.objectives is not None else self.options.objectives
        chosen = chosen_objectives(settings, where=where)
        if not maps:
            dropped = [name for name in chosen if OBJECTIVES.get(name).compares == "maps"]
            self.left_out += [name for name in dropped if name not in self.left_out]
            chosen = {name: value for name, value in chosen.items() if name not in dropped}
            if not chosen:
                raise UsageError(
                    f"{where}: only {' and '.join(dropped)} is trained, and the student has no "
                    "feature maps; add cosine or similarity"
                )
        if compares_maps(chosen) and teacher.source.map_shape is None:
            raise ModelError(
                f"{where}: has no feature maps; leave the objectives feature_maps and tokens out, "
                "or name a spatial output"
            )
        return chosen


def compares_maps(objectives: Mapping[str, object]) -> bool:
    """Tell whether any of these objectives reads feature maps."""
    return any(OBJECTIVES.get(name).compares == "maps" for name in objectives)


def _first_look(source: FeatureSource) -> Tensor:
    """(M, D) embeddings of the first view of samples drawn at random, the same in every run."""
    generator = np.random.default_rng(_START_SEED)
    chosen = generator.permutation(source.samples)[:_START_ROWS]
    parts = torch.from_numpy(chosen.astype(np.int64)).split(1024)
    return torch.cat([source.features(0, part).embedding for part in parts])
