"""What every distillation objective must do; a test class per objective inherits it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgessl.config import Options, build_options
from edgessl.distillation.objectives import (
    OBJECTIVES,
    DistillationObjective,
    Shapes,
    StudentFeatures,
    TeacherFeatures,
)
from edgessl.pretraining import StepContext

__all__ = ["ObjectiveContract", "Side", "step_context"]

Side = dict[str, NDArray[np.float64]]
"""What one side gives, in float64: ``embedding``, ``projected`` (student only), ``maps``."""

SHAPES = Shapes(samples=40, teacher_dim=12, student_map=(5, 4, 3), teacher_map=(7, 3, 3))


def step_context(step: int = 0) -> StepContext:
    return StepContext(step=step, total_steps=10, epoch=0, seed=0)


class ObjectiveContract(ABC):
    """One objective on random features, against its definition in float64."""

    name: str
    settings: ClassVar[dict[str, Any]] = {}
    student_dim: ClassVar[int] = 9

    @abstractmethod
    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        """The loss by its definition, sample by sample."""

    def ideal(self, teacher: TeacherFeatures) -> StudentFeatures | None:
        """A student that agrees completely; None if that takes more than the right features."""
        return StudentFeatures(teacher.embedding, teacher.embedding, teacher.maps)

    least = 0.0
    """The loss of the ideal student; below nothing."""

    def build(self, shapes: Shapes = SHAPES, **changes: Any) -> DistillationObjective:
        torch.manual_seed(0)
        kind = OBJECTIVES.get(self.name)
        options: Options = build_options(
            kind.Options, {**self.settings, **changes}, where=self.name
        )
        objective = kind(shapes, options)
        objective.start(torch.randn(shapes.samples, shapes.teacher_dim))
        return objective.requires_grad_(False)

    def features(self, count: int = 6, seed: int = 1) -> tuple[StudentFeatures, TeacherFeatures]:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return 0.3 + 2 * torch.randn(*shape, generator=generator)

        assert SHAPES.student_map is not None
        assert SHAPES.teacher_map is not None
        student = StudentFeatures(
            draw(count, self.student_dim),
            draw(count, SHAPES.teacher_dim),
            draw(count, *SHAPES.student_map),
        )
        return student, TeacherFeatures(
            draw(count, SHAPES.teacher_dim), draw(count, *SHAPES.teacher_map)
        )

    def test_the_loss_is_its_definition(self) -> None:
        objective = self.build()
        student, teacher = self.features()
        found = objective(student, teacher, step_context())
        wanted = self.expected(_numpy(student), _numpy(teacher), objective)
        assert found.shape == ()
        assert float(found) == pytest.approx(wanted, rel=2e-5, abs=1e-6)

    def test_its_gradient_is_that_of_its_definition(self) -> None:
        objective = self.build()
        student, teacher = self.features()
        which = OBJECTIVES.get(self.name).compares
        inputs = getattr(student, which).clone().requires_grad_()
        loss = objective(student._replace(**{which: inputs}), teacher, step_context())
        (gradient,) = torch.autograd.grad(loss, inputs)
        direction = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2)).numpy()
        slope, step = 0.0, 1e-5
        for sign in (1, -1):
            moved = _numpy(student)
            moved[which] = moved[which] + sign * step * direction
            slope += sign * self.expected(moved, _numpy(teacher), objective) / (2 * step)
        assert float((gradient * torch.from_numpy(direction)).sum()) == pytest.approx(
            slope, rel=2e-3, abs=1e-5
        )

    def test_an_ideal_student_has_the_least_loss(self) -> None:
        objective = self.build()
        _, teacher = self.features()
        ideal = self.ideal(teacher)
        if ideal is None:
            pytest.skip("the projection stands between")
        best = float(objective(ideal, teacher, step_context()))
        assert best == pytest.approx(self.least, abs=1e-5)
        other, _ = self.features(seed=3)
        assert float(objective(other, teacher, step_context())) > best + 1e-3

    def test_the_teacher_gets_no_gradient_and_the_state_moves_only_after_the_step(self) -> None:
        objective = self.build()
        student, teacher = self.features()
        before = {k: v.clone() for k, v in objective.state_dict().items()}
        objective(student, teacher, step_context())
        for key, value in objective.state_dict().items():
            assert torch.equal(value, before[key])
        objective.after_step(step_context())

    def test_its_state_is_all_there_is(self) -> None:
        """A second one with the state of the first goes on exactly as the first."""
        first, student_steps = self.build(), [self.features(seed=s) for s in (1, 2, 3)]
        for step, (student, teacher) in enumerate(student_steps[:2]):
            first(student, teacher, step_context(step))
            first.after_step(step_context(step))
        second = self.build()
        second.start(torch.randn(SHAPES.samples, SHAPES.teacher_dim))
        second.load_state_dict(first.state_dict())
        student, teacher = student_steps[2]
        losses = [float(o(student, teacher, step_context(2))) for o in (first, second)]
        assert losses[0] == losses[1]

    def test_it_is_finite_when_samples_coincide(self) -> None:
        """Black images, say: all embeddings are the same."""
        objective = self.build()
        student, teacher = self.features()
        same = StudentFeatures(*(f[:1].expand_as(f).contiguous() for f in student if f is not None))
        which = OBJECTIVES.get(self.name).compares
        inputs = getattr(same, which).clone().requires_grad_()
        loss = objective(same._replace(**{which: inputs}), teacher, step_context())
        (gradient,) = torch.autograd.grad(loss, inputs)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def _numpy(features: StudentFeatures | TeacherFeatures) -> Side:
    return {
        key: value.detach().double().numpy()
        for key, value in features._asdict().items()
        if value is not None
    }
