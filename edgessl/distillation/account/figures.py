"""The arithmetic of an account: agreements, and where the similarity to the teacher went.

S(a, b), the similarity of two embeddings of the same samples, is the mean of linear CKA and
neighbour agreement (`edgessl.evaluation.similarity`): half of it is the large shape, half is who
is near whom. With a teacher t, the float student f and the integers q,

    1 − S(t, q; held-out) = capacity + distillation + quantization

    capacity      1 − S(t, f; train)                  what the student does not do even where it
                                                      was taught
    distillation  S(t, f; train) − S(t, f; held-out)  what it does there, but not elsewhere
    quantization  S(t, f; held-out) − S(t, q; held-out)

The sum telescopes, so nothing is counted twice and nothing is left over. Intervals are
percentiles over bootstrap draws of samples; where two terms are of the same samples the same draws
are used for both, so that what they share cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.distillation.account.result import Agreement, Drift, Interval, Losses, Part, Role
from edgessl.evaluation.neighbours import unit_rows
from edgessl.evaluation.similarity import Geometry, geometry, linear_cka, neighbour_agreement

__all__ = [
    "LEAST",
    "Likeness",
    "Likenesses",
    "agreements",
    "as_agreement",
    "cosine_rows",
    "drift",
    "likeness",
    "losses",
    "readable_share",
]

LEAST = 0.02
"""A loss of similarity below this is not worth acting on."""

_DIGITS = 6
_WORST = 5
_FOLDS = 5
_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_SMALLEST = 1e-12
Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Likeness:
    """S and its two halves, as the samples are and in each bootstrap draw.

    Attributes:
        value: (3,) S, CKA, neighbour agreement.
        draws: (R, 3) the same in each draw.
    """

    value: Figures
    draws: Figures


def likeness(first: Geometry, second: Geometry, *, k: int, weights: Figures) -> Likeness:
    """Compare two embeddings.

    Args:
        first: The reference.
        second: The other, of the same N samples.
        k: Neighbours.
        weights: (R, N) how often each draw holds each sample.
    """
    shares = neighbour_agreement(first, second, k=k)
    near = np.concatenate([[shares.mean()], weights @ shares / len(shares)]).clip(0.0, 1.0)
    cka = np.concatenate([[linear_cka(first, second)], linear_cka(first, second, weights)])
    figures = np.stack([(cka + near) / 2, cka, near], axis=1)
    return Likeness(figures[0], figures[1:])


Embeddings = Mapping[tuple[Role, Part], NDArray[np.float32]]
Likenesses = dict[tuple[Role, Role, Part], Likeness]


def agreements(
    embeddings: Embeddings, *, k: int, draws: int, seed: int, same_samples: bool
) -> Likenesses:
    """Compare every pair of models, the earlier one as the reference.

    Args:
        embeddings: (role, part) → (N, D); N is the same for all.
        k: Neighbours.
        draws: Bootstrap draws R.
        seed: Of the draws.
        same_samples: The two parts hold views of the same samples, in the same order.
    """
    count = len(next(iter(embeddings.values())))
    generator = np.random.default_rng(seed)
    even = np.full(count, 1.0 / count)
    train = generator.multinomial(count, even, size=draws).astype(np.float64)
    held = train if same_samples else generator.multinomial(count, even, size=draws).astype(float)
    weights: dict[Part, Figures] = {"train": train, "held-out": held}
    found: Likenesses = {}
    for part, drawn in weights.items():
        order = [role for role in _ORDER if (role, part) in embeddings]
        known = {role: geometry(embeddings[role, part]) for role in order}
        for i, first in enumerate(order):
            for second in order[i + 1 :]:
                if (first, second) != ("integers", "bundle"):
                    found[first, second, part] = likeness(
                        known[first], known[second], k=k, weights=drawn
                    )
    return found


_ORDER: tuple[Role, ...] = ("teacher", "float", "integers", "bundle")


def as_agreement(key: tuple[Role, Role, Part], found: Likeness) -> Agreement:
    """One comparison with its intervals."""
    first, second, part = key
    similarity, cka, neighbours = (
        _interval(found.value[i], found.draws[:, i]) for i in range(len(found.value))
    )
    return Agreement(
        first=first,
        second=second,
        part=part,
        similarity=similarity,
        cka=cka,
        neighbours=neighbours,
    )


def losses(found: Likenesses, role: Role) -> Losses:
    """Split what is missing of the teacher up to one model among the stages before it.

    Args:
        found: Must hold teacher and float on both parts, and teacher and ``role`` on held-out.
        role: ``"float"``, ``"integers"`` or ``"bundle"``.
    """
    train, held, end = (
        np.concatenate([[found[key].value[0]], found[key].draws[:, 0]]) for key in _chain(role)
    )
    parts = {"capacity": 1.0 - train, "distillation": train - held}
    if role != "float":
        parts["quantization"] = held - end
    intervals = {name: _interval(values[0], values[1:]) for name, values in parts.items()}
    certain = {n: i for n, i in intervals.items() if i.value > LEAST and i.low > 0}
    largest: Any = max(certain, key=lambda name: certain[name].value) if certain else None
    return Losses(
        role=role,
        capacity=intervals["capacity"],
        distillation=intervals["distillation"],
        quantization=intervals.get("quantization"),
        total=_interval(1.0 - end[0], 1.0 - end[1:]),
        largest=largest,
    )


def _chain(role: Role) -> tuple[tuple[Role, Role, Part], ...]:
    return (
        ("teacher", "float", "train"),
        ("teacher", "float", "held-out"),
        (
            "teacher",
            role,
            "held-out",
        ),
    )


def _interval(value: float, draws: Figures) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    # Percentiles of a figure at its bound lie on one side of it.
    return Interval(
        value=round(float(value), _DIGITS),
        low=round(float(min(low, value)), _DIGITS),
        high=round(float(max(high, value)), _DIGITS),
    )


def drift(
    role: Role, student: NDArray[np.float32], other: NDArray[np.float32], keys: Sequence[str]
) -> Drift | None:
    """Compare embeddings sample by sample; None if their dimensions differ.

    Args:
        role: Whose the other embeddings are.
        student: (N, D) of the float student.
        other: (N, D).
        keys: Names of the samples.
    """
    if student.shape != other.shape:
        return None
    cosines = cosine_rows(student, other)
    mean = student.mean(axis=0, dtype=np.float64)
    worst = np.argsort(cosines, kind="stable")[:_WORST]
    return Drift(
        role=role,
        cosine_mean=round(float(cosines.mean()), _DIGITS),
        cosine_p1=round(float(np.percentile(cosines, 1)), _DIGITS),
        centred_cosine_mean=round(float(cosine_rows(student - mean, other - mean).mean()), _DIGITS),
        worst=tuple((keys[i], round(float(cosines[i]), _DIGITS)) for i in worst),
    )


def cosine_rows(first: NDArray[Any], second: NDArray[Any]) -> Figures:
    """Cosine of each row with its counterpart; two zero rows are alike."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both = (np.linalg.norm(a, axis=1) == 0) & (np.linalg.norm(b, axis=1) == 0)
    cosines = (a * b).sum(axis=1) / np.maximum(sizes, np.finfo(np.float64).tiny)
    return np.where(both, 1.0, np.clip(cosines, -1.0, 1.0))


def readable_share(student: NDArray[np.float32], teacher: NDArray[np.float32]) -> float:
    """Share of the teacher's variance that a linear map reads off the student, in [0, 1].

    Ridge regression from unit rows to unit rows, five folds; the penalty that serves best is
    taken. The student is trained through a linear projector that is dropped at the end: what is
    readable and yet not similar was learnt and lies in other directions.

    Args:
        student: (N, D).
        teacher: (N, E), same samples.
    """
    x, y = unit_rows(student).astype(np.float64), unit_rows(teacher).astype(np.float64)
    folds = np.arange(len(x)) % min(_FOLDS, len(x))
    errors = np.zeros(len(_PENALTIES))
    whole = 0.0
    for fold in np.unique(folds):
        kept, left = folds != fold, folds == fold
        centre, middle = x[kept].mean(axis=0), y[kept].mean(axis=0)
        u, s, v = np.linalg.svd(x[kept] - centre, full_matrices=False)
        given, wanted = (x[left] - centre) @ v.T, y[left] - middle
        taught = u.T @ (y[kept] - middle)
        for row, penalty in enumerate(_PENALTIES):
            shrunk = s / (s**2 + penalty * max(float(s[0]) ** 2, _SMALLEST))
            errors[row] += float((((given * shrunk) @ taught - wanted) ** 2).sum())
        whole += float((wanted**2).sum())
    if whole <= _SMALLEST:
        return 0.0
    return round(max(0.0, 1.0 - float(errors.min()) / whole), _DIGITS)
