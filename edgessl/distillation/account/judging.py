"""All figures that follow from the embeddings and from what the run logged."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
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
from edgessl.distillation.account.gathering import Gathered
from edgessl.distillation.account.result import Account, AccountOptions, Role, Shape
from edgessl.evaluation.spectrum import effective_rank, singular_values, uniformity

__all__ = ["judge"]

_SHOWN_VALUES = 256
_PACKAGES = ("edgessl", "numpy", "onnxruntime", "openvino", "torch")


def judge(
    found: Gathered,
    keys: Sequence[str],
    curves: Mapping[Literal["float", "integers"], Sequence[Mapping[str, Any]]],
    options: AccountOptions,
    *,
    held_out: Literal["declared", "fresh views"],
    precision: str | None,
    facts: Mapping[str, Any],
) -> Account:
    """Turn embeddings into an account.

    Args:
        found: The embeddings.
        keys: Names of the held-out samples.
        curves: What each phase logged.
        options: Settings.
        held_out: What the held-out part is.
        precision: Of the integers that the student was trained for; None if it was not.
        facts: Fields of the account that do not follow from the embeddings.
    """
    embeddings = found.embeddings
    count = len(keys)
    k = max(1, min(options.neighbours, (count - 1) // 5))
    alike = agreements(
        embeddings,
        k=k,
        draws=options.draws,
        seed=options.seed,
        same_samples=held_out == "fresh views",
    )
    roles: list[Role] = [subject.role for subject in found.subjects]
    taught = "teacher" in roles
    ends = [role for role in roles if role != "teacher"]
    quantized = [role for role in ends if role != "float"]
    student = embeddings["float", "held-out"]
    split = [losses(alike, role) for role in ends] if taught else []
    readable = readable_share(student, embeddings["teacher", "held-out"]) if taught else None
    shapes = [_shape(role, embeddings[role, "held-out"]) for role in roles]
    drifts = [drift(role, student, embeddings[role, "held-out"], keys) for role in quantized]
    phases = [convergence(phase, lines) for phase, lines in curves.items()]
    converged = tuple(phase for phase in phases if phase is not None)
    compared = [float(alike["float", role, "held-out"].value[0]) for role in quantized]
    return Account(
        subjects=tuple(found.subjects),
        samples=count,
        held_out=held_out,
        neighbours=k,
        draws=options.draws,
        seed=options.seed,
        agreements=tuple(as_agreement(key, value) for key, value in alike.items()),
        losses=tuple(split),
        readable=readable,
        shapes=tuple(shapes),
        drifts=tuple(d for d in drifts if d is not None),
        convergence=converged,
        scores=found.scores,
        advice=advise(
            split,
            shapes,
            converged,
            readable=readable,
            held_out=held_out,
            precision=precision,
            compared=compared[0] if compared else None,
        ),
        missing=tuple(found.missing),
        versions=_versions(),
        **facts,
    )


def _shape(role: Role, embeddings: NDArray[np.float32]) -> Shape:
    singular = singular_values(embeddings)
    total = max(float(singular.sum()), float(np.finfo(np.float64).tiny))
    return Shape(
        role=role,
        dim=embeddings.shape[1],
        effective_rank=round(effective_rank(embeddings), 4),
        uniformity=round(uniformity(embeddings), 6),
        singular_values=tuple(round(float(s / total), 8) for s in singular[:_SHOWN_VALUES]),
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
