"""A loss that is planted at one stage is found at that stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgessl.distillation.account.advice import advise
from edgessl.distillation.account.convergence import convergence
from edgessl.distillation.account.figures import (
    agreements,
    as_agreement,
    drift,
    losses,
    readable_share,
)
from edgessl.distillation.account.result import Losses, Part, Role, Shape

COUNT, DIM = 150, 32
Rows = NDArray[np.float32]
Embeddings = dict[tuple[Role, Part], Rows]


def teacher(seed: int) -> Rows:
    """Clusters with spread in every direction, as an encoder gives them."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(8, DIM))
    return (centres[generator.integers(0, 8, COUNT)] + generator.normal(size=(COUNT, DIM))).astype(
        np.float32
    )


def noise(size: float, seed: int, dim: int = DIM) -> Rows:
    return (size * np.random.default_rng(seed).normal(size=(COUNT, dim))).astype(np.float32)


def perfect() -> Embeddings:
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(DIM, DIM)))[0].astype(np.float32)
    found: Embeddings = {}
    for part, seed in (("train", 0), ("held-out", 1)):
        found["teacher", part] = teacher(seed)
        found["float", part] = found["integers", part] = teacher(seed) @ turn
    return found


def split(found: Embeddings, role: Role = "integers", **changes: Any) -> Losses:
    how = {"k": 10, "draws": 100, "seed": 0, "same_samples": False, **changes}
    return losses(agreements(found, **how), role)


def test_equal_embeddings_lose_nothing() -> None:
    given = split(perfect())
    assert given.quantization is not None
    for loss in (given.capacity, given.distillation, given.quantization, given.total):
        assert loss.value == pytest.approx(0.0, abs=1e-5)
    assert given.largest is None
    alike = agreements(perfect(), k=10, draws=20, seed=0, same_samples=False)
    for key, value in alike.items():
        agreement = as_agreement(key, value)
        assert agreement.similarity.value == pytest.approx(1.0, abs=1e-5), key


@pytest.mark.parametrize("stage", ["capacity", "distillation", "quantization"])
def test_a_planted_loss_is_found_where_it_was_planted(stage: str) -> None:
    found = perfect()
    if stage == "capacity":
        narrow = np.random.default_rng(3).normal(size=(DIM, 3)).astype(np.float32)
        for part in ("train", "held-out"):
            found["float", part] = found["integers", part] = found["teacher", part] @ narrow
    elif stage == "distillation":
        found["float", "held-out"] = found["float", "held-out"] + noise(1.5, 4)
        found["integers", "held-out"] = found["float", "held-out"]
    else:
        for part in ("train", "held-out"):
            found["integers", part] = 4.0 * np.rint(found["float", part] / 4.0)
    given = split(found)
    assert given.largest == stage
    parts = {name: getattr(given, name) for name in ("capacity", "distillation", "quantization")}
    assert parts[stage].low > 0.1
    for name, loss in parts.items():
        if name != stage:
            assert abs(loss.value) < 0.05, name
    assert sum(x.value for x in parts.values()) == pytest.approx(given.total.value, abs=1e-5)
    assert split(found, "float").quantization is None


def test_same_samples_share_their_draws() -> None:
    """What both terms have in common cancels, so the interval is narrower."""
    found = perfect()
    for part in ("train", "held-out"):
        found["float", part] = found["teacher", "train"] + noise(1.0, 4)
        found["teacher", part] = found["teacher", "train"]
    width = {}
    for same in (False, True):
        loss = split(found, "float", same_samples=same).distillation
        assert loss.value == 0.0
        width[same] = loss.high - loss.low
    assert width[True] < 1e-6 < width[False]


def test_a_gain_is_below_zero() -> None:
    found = perfect()
    found["float", "held-out"] = found["float", "held-out"] + noise(1.5, 4)
    given = split(found)
    assert given.quantization is not None
    assert given.quantization.high < 0
    assert given.largest == "distillation"


def test_readable_is_what_a_linear_map_finds() -> None:
    rows = teacher(0)
    mixed = rows @ np.random.default_rng(7).normal(size=(DIM, 48)).astype(np.float32)
    assert readable_share(mixed, rows) > 0.9
    assert readable_share(noise(1.0, 8), rows) < 0.05
    half = rows.copy()
    half[:, : DIM // 2] = 0
    assert 0.3 < readable_share(half, rows) < 0.9


def test_drift_names_the_farthest() -> None:
    student = teacher(0)
    other = student.copy()
    other[17] = -student[17]
    other[4] += 5.0
    given = drift("bundle", student, other, [f"photo-{i}.jpg" for i in range(COUNT)])
    assert given is not None
    assert given.worst[0] == ("photo-17.jpg", -1.0)
    assert given.worst[1][0] == "photo-4.jpg"
    cosine = np.einsum("nd,nd->n", student, other, dtype=np.float64)
    cosine /= np.linalg.norm(student, axis=1) * np.linalg.norm(other, axis=1)
    assert given.cosine_mean == pytest.approx(cosine.mean(), abs=1e-5)
    assert drift("bundle", student, student[:, :8], []) is None


def curve(rate: float, steps: int = 200) -> list[dict[str, float]]:
    generator = np.random.default_rng(0)
    return [
        {"step": step, "loss": 1 + np.exp(-rate * step / steps) + 0.01 * generator.normal()}
        for step in range(steps)
    ]


def test_a_loss_that_still_falls_is_told_from_one_that_does_not() -> None:
    slow, fast = convergence("float", curve(2.0)), convergence("float", curve(30.0))
    assert slow is not None
    assert fast is not None
    assert slow.still_falling
    assert not fast.still_falling
    # exp(-1) to exp(-2) of all from 1 to exp(-2), but for the width of the tenths.
    assert slow.recent_share == pytest.approx(0.27, abs=0.03)
    assert convergence("float", curve(2.0, steps=12)) is None
    assert convergence("float", [{"step": 1, "effective_rank": 2.0}] * 30) is None


def test_advice_follows_the_rules() -> None:
    found = perfect()
    narrow = np.random.default_rng(3).normal(size=(DIM, 3)).astype(np.float32)
    for part in ("train", "held-out"):
        found["float", part] = found["integers", part] = found["teacher", part] @ narrow
    shapes = [shape("teacher", 20.0), shape("float", 3.0), shape("integers", 3.0)]
    slow, fast = convergence("float", curve(2.0)), convergence("float", curve(30.0))
    assert slow is not None
    assert fast is not None

    def say(phase: Any, **changes: Any) -> str:
        how = {"readable": 0.1, "held_out": "declared", "precision": "int8", "compared": None}
        ends = [split(found, "float"), split(found)]
        return " ".join(advise(ends, shapes, [phase], **{**how, **changes}))

    assert "train longer" in say(slow)
    assert "larger student" in say(fast)
    assert "projector" in say(fast, readable=0.95)
    assert "validation part" in say(fast, held_out="fresh views")
    assert "validation part" not in say(fast)

    for part in ("train", "held-out"):
        found["float", part] = found["teacher", part]
        found["integers", part] = 4.0 * np.rint(found["float", part] / 4.0)
    assert "edgessl sensitivity" in say(fast)
    assert "--for-target" in say(fast, precision=None)
    collapsed = [shape("teacher", 20.0), shape("float", 1.2)]
    text = advise([], collapsed, [], readable=None, held_out="declared", precision=None, compared=1)
    assert "collapsed" in text[0]
    assert len(text) == 1


def shape(role: Role, rank: float) -> Shape:
    return Shape(role=role, dim=DIM, effective_rank=rank, uniformity=-2.0, singular_values=(1.0,))
