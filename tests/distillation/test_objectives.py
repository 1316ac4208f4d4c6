"""Every objective under the contract, against loops in float64."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contracts.objective_contract import SHAPES, ObjectiveContract, Side, step_context
from edgessl.distillation.objectives import (
    OBJECTIVES,
    DistillationObjective,
    Shapes,
    StudentFeatures,
    TeacherFeatures,
)
from edgessl.distillation.options import chosen_objectives
from edgessl.errors import UsageError

Array = NDArray[np.float64]


def unit(rows: Array, axis: int = -1) -> Array:
    return rows / np.sqrt((rows**2).sum(axis=axis, keepdims=True))


def softmax(row: Array) -> Array:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def huber(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def buffer(objective: DistillationObjective, name: str) -> Array:
    return objective.get_buffer(name).double().numpy()


class TestCosine(ObjectiveContract):
    name = "cosine"

    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        pairs = zip(unit(student["projected"]), unit(teacher["embedding"]), strict=True)
        return float(np.mean([1 - s @ t for s, t in pairs]))


class TestSmoothL1(ObjectiveContract):
    name = "smooth_l1"
    settings: ClassVar[dict[str, Any]] = {"beta": 1.5}

    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        losses = []
        for s, t in zip(student["projected"], teacher["embedding"], strict=True):
            wanted = (t - t.mean()) / np.sqrt(t.var() + 1e-5)
            for d in np.abs(s - wanted):
                losses.append(d * d / 3 if d < 1.5 else d - 0.75)
        return float(np.mean(losses))

    def ideal(self, teacher: TeacherFeatures) -> StudentFeatures:
        rows = teacher.embedding
        rows = (rows - rows.mean(1, keepdim=True)) / rows.var(1, correction=0, keepdim=True).sqrt()
        return StudentFeatures(rows, rows)


class TestNormalizedMSE(ObjectiveContract):
    name = "normalized_mse"
    student_dim = 12

    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        pairs = zip(student["embedding"], teacher["embedding"], strict=True)
        return float(np.mean([((s - t) ** 2).sum() / (t**2).sum() for s, t in pairs]))

    def test_without_a_projector_dimensions_must_agree(self) -> None:
        student, teacher = self.features()
        with pytest.raises(UsageError, match="the student has 5 dimensions, the teacher 12"):
            self.build()(StudentFeatures(student.embedding[:, :5]), teacher, step_context())


class TestSimilarity(ObjectiveContract):
    name = "similarity"
    settings: ClassVar[dict[str, Any]] = {
        "queue_size": 16,
        "temperature": 0.2,
        "teacher_temperature": 0.1,
    }

    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        queue, total = buffer(objective, "queue"), 0.0
        pairs = zip(unit(student["projected"]), unit(teacher["embedding"]), strict=True)
        for s, t in pairs:
            anchors = np.concatenate([t[None], queue])
            wanted, given = softmax(anchors @ t / 0.1), softmax(anchors @ s / 0.2)
            total -= float((wanted * np.log(given)).sum())
        return total / len(student["projected"])

    def test_an_ideal_student_has_the_least_loss(self) -> None:
        """With equal temperatures; the least is then the entropy of the teacher."""
        objective = self.build(temperature=0.1)
        student, teacher = self.features()
        best = objective(StudentFeatures(*[teacher.embedding] * 2), teacher, step_context())
        assert float(objective(student, teacher, step_context())) > float(best)
        nudged = teacher.embedding + 0.05 * torch.randn_like(teacher.embedding)
        assert float(objective(StudentFeatures(nudged, nudged), teacher, step_context())) > best


def pairs_of(rows: Array) -> Array:
    count = len(rows)
    distances = np.array(
        [
            np.sqrt(((rows[i] - rows[j]) ** 2).sum())
            for i, j in itertools.permutations(range(count), 2)
        ]
    )
    return distances / distances.mean()


class TestRelationalDistance(ObjectiveContract):
    name = "relational_distance"

    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        both = zip(pairs_of(student["embedding"]), pairs_of(teacher["embedding"]), strict=True)
        return float(np.mean([huber(s - t) for s, t in both]))

    def test_scale_and_rotation_do_not_matter(self) -> None:
        objective = self.build()
        _, teacher = self.features()
        turn = torch.linalg.qr(torch.randn(12, 12))[0]
        turned = StudentFeatures(7 * teacher.embedding @ turn + 3)
        assert float(objective(turned, teacher, step_context())) == pytest.approx(0, abs=1e-6)


def cosine_at(rows: Array, i: int, j: int, k: int) -> float:
    a, b = rows[i] - rows[j], rows[k] - rows[j]
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


class TestRelationalAngle(ObjectiveContract):
    name = "relational_angle"

    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        s, t = student["embedding"], teacher["embedding"]
        triplets = itertools.permutations(range(len(s)), 3)
        return float(np.mean([huber(cosine_at(s, *ijk) - cosine_at(t, *ijk)) for ijk in triplets]))

    def test_scale_and_rotation_do_not_matter(self) -> None:
        objective = self.build()
        _, teacher = self.features()
        turn = torch.linalg.qr(torch.randn(12, 12))[0]
        turned = StudentFeatures(7 * teacher.embedding @ turn + 3)
        assert float(objective(turned, teacher, step_context())) == pytest.approx(0, abs=1e-6)

    def test_chunks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        objective = self.build()
        student, teacher = self.features(count=9)
        whole = objective(student, teacher, step_context())
        module = "edgessl.distillation.objectives.relational_angle._CHUNK_NUMBERS"
        monkeypatch.setattr(module, 600)
        parts = objective(student, teacher, step_context())
        assert float(parts) == pytest.approx(float(whole), rel=1e-6)

    def test_at_most_so_many_samples_are_compared(self) -> None:
        student, teacher = self.features(count=9)
        few = self.build(samples=5)(student, teacher, step_context())
        first = StudentFeatures(student.embedding[:5])
        wanted = self.build()(first, TeacherFeatures(teacher.embedding[:5]), step_context())
        assert float(few) == pytest.approx(float(wanted), rel=1e-6)


class TestPrototypes(ObjectiveContract):
    name = "prototypes"
    settings: ClassVar[dict[str, Any]] = {"prototypes": 8, "temperature": 0.2}

    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        prototypes, centre = buffer(objective, "prototypes"), buffer(objective, "centre")
        total = 0.0
        pairs = zip(unit(student["projected"]), unit(teacher["embedding"]), strict=True)
        for s, t in pairs:
            wanted = softmax((prototypes @ t - centre) / 0.04)
            given = softmax(prototypes @ s / 0.2)
            total += float((wanted * (np.log(wanted + 1e-300) - np.log(given))).sum())
        return total / len(student["projected"])

    def test_an_ideal_student_has_the_least_loss(self) -> None:
        """With equal temperatures and no centre."""
        objective = self.build(temperature=0.04)
        objective.get_buffer("centre").zero_()
        student, teacher = self.features()
        ideal = StudentFeatures(teacher.embedding, teacher.embedding)
        assert float(objective(ideal, teacher, step_context())) == pytest.approx(0, abs=1e-6)
        assert float(objective(student, teacher, step_context())) > 0.1

    def test_the_centre_follows_the_mean(self) -> None:
        objective = self.build(centre_decay=0.75)
        before = buffer(objective, "centre").copy()
        parts = [self.features(seed=seed) for seed in (1, 2)]
        for student, teacher in parts:
            objective(student, teacher, step_context())
        objective.after_step(step_context())
        rows = np.concatenate([unit(t.embedding.double().numpy()) for _, t in parts])
        mean = (rows @ buffer(objective, "prototypes").T).mean(axis=0)
        np.testing.assert_allclose(
            buffer(objective, "centre"), 0.75 * before + 0.25 * mean, atol=1e-6
        )

    def test_prototypes_are_the_middles_of_groups(self) -> None:
        torch.manual_seed(0)
        groups = torch.eye(12)[:4].repeat_interleave(10, dim=0)
        rows = groups + 0.05 * torch.randn(40, 12)
        objective = self.build(prototypes=4)
        objective.start(rows[torch.tensor([0, 10, 20, 30, *range(1, 10), *range(11, 20)])])
        closeness = objective.get_buffer("prototypes") @ torch.eye(12)[:4].T
        assert (closeness.max(dim=1).values > 0.95).all()


def resized(maps: Array, weight: Array, bias: Array) -> Array:
    """(N, 5, 4, 3) → (N, 7, 3, 3): a matrix over channels, then rows by an antialiased triangle."""
    projected = np.einsum("nchw,kc->nkhw", maps, weight) + bias[None, :, None, None]
    out = np.zeros((*projected.shape[:2], 3, 3))
    scale = 4 / 3
    for row in range(3):
        centre = (row + 0.5) * scale
        weights = np.array([max(0.0, 1 - abs(r + 0.5 - centre) / scale) for r in range(4)])
        out[:, :, row] = np.einsum("nkhw,h->nkw", projected, weights / weights.sum())
    return out


class MapContract(ObjectiveContract):
    def student_map(self, student: Side, objective: DistillationObjective) -> Array:
        weight = objective.get_parameter("projection.weight").detach().double().numpy()
        bias = objective.get_parameter("projection.bias").detach().double().numpy()
        return resized(student["maps"], weight[:, :, 0, 0], bias)

    def ideal(self, teacher: TeacherFeatures) -> None:
        return None


class TestFeatureMaps(MapContract):
    name = "feature_maps"

    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        wanted = teacher["maps"] - teacher["maps"].mean(axis=1, keepdims=True)
        wanted = wanted / np.sqrt(teacher["maps"].var(axis=1, keepdims=True) + 1e-5)
        return float(((self.student_map(student, objective) - wanted) ** 2).mean())


class TestTokens(MapContract):
    name = "tokens"

    def expected(self, student: Side, teacher: Side, objective: DistillationObjective) -> float:
        given = unit(self.student_map(student, objective), axis=1)
        return float((1 - (given * unit(teacher["maps"], axis=1)).sum(axis=1)).mean())


def test_every_objective_is_under_the_contract() -> None:
    tested = {c.name for c in _leaves(ObjectiveContract) if not c.__name__.startswith("_")}
    assert set(OBJECTIVES.names()) <= tested


def test_queues_and_prototypes_are_never_more_than_the_samples() -> None:
    few = Shapes(samples=5, teacher_dim=12, student_map=None, teacher_map=None)
    assert len(TestSimilarity().build(few).get_buffer("queue")) == 5
    assert len(TestPrototypes().build(few).get_buffer("prototypes")) == 5


def test_wrong_objectives_are_named() -> None:
    with pytest.raises(UsageError, match="unknown objective 'cosin'; did you mean cosine"):
        chosen_objectives({"cosin": 1.0}, where="x")
    with pytest.raises(UsageError, match="unknown key 'queue'; did you mean queue_size"):
        chosen_objectives({"similarity": {"queue": 5}}, where="x")
    with pytest.raises(UsageError, match="weight is -1"):
        chosen_objectives({"cosine": {"weight": -1}}, where="x")
    with pytest.raises(UsageError, match="no objective has a weight; give one of cosine"):
        chosen_objectives({"cosine": 0.0}, where="x")
    assert SHAPES.samples == 40


def _leaves(kind: type[ObjectiveContract]) -> list[type[ObjectiveContract]]:
    below = [leaf for child in kind.__subclasses__() for leaf in _leaves(child)]
    return below or [kind]
