"""How closely an engine must follow a model that is quantized already.

The model was trained and judged with its integers, so an engine has to give the same: a mean cosine
of 0.999. Some cannot, because they round in ways of their own; then what passes the target's
ordinary gate is taken, and said to be less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgessl.compiler.fidelity import Gate
from edgessl.compiler.search import Search
from edgessl.compiler.trial import Trial
from edgessl.progress import ProgressEvent
from edgessl.targets import Target

__all__ = ["accept_nearest", "strict_gate"]

_SAME_INTEGERS = 0.999
"""Least mean cosine between a quantized graph and an engine that computes with its integers."""


def strict_gate(target: Target, *, encoder: bool) -> Gate:
    """The gate of a quantized model: the target's, but with a mean cosine of 0.999.

    Args:
        target: The device.
        encoder: See `Gate`; other models need the ratio that belongs to that cosine.
    """
    gate = _usual_gate(target, encoder=encoder)
    same = Gate.of(_SAME_INTEGERS, neighbour_agreement=target.min_neighbour_agreement)
    return gate.model_copy(update={"cosine_mean": same.cosine_mean, "sqnr_db": same.sqnr_db})


def accept_nearest(search: Search, trials: Sequence[Trial]) -> tuple[Search, list[Trial]]:
    """Judge candidates of a quantized model by the target's own gate where none gives the same.

    Args:
        search: What the trials have in common; its gate is the strict one.
        trials: Judged by it.

    Returns:
        Both, unchanged if a candidate passed or none passes the target's gate either.
    """
    gate = _usual_gate(search.target, encoder=search.gate.encoder)
    judged = [_judged(trial, gate) for trial in trials]
    passed = [trial for trial in judged if trial.status == "passed"]
    if any(trial.status == "passed" for trial in trials) or not passed:
        return search, list(trials)
    first = passed[0].outcome.fidelity
    figure = "" if first is None else f" (cosine {first.cosine_mean:.4g})"
    message = (
        f"{passed[0].name} rounds in ways of its own{figure}: its results differ from what the "
        "model was trained with"
    )
    search.progress(ProgressEvent("compile", message=message, warning=True))
    return replace(search, gate=gate), judged


def _usual_gate(target: Target, *, encoder: bool) -> Gate:
    return Gate.of(
        target.min_fidelity,
        neighbour_agreement=target.min_neighbour_agreement,
        sqnr_db=target.min_sqnr_db,
        encoder=encoder,
    )


def _judged(trial: Trial, gate: Gate) -> Trial:
    fidelity = trial.outcome.fidelity
    if trial.status != "rejected" or fidelity is None or gate.objection(fidelity) is not None:
        return trial
    reason = f"rounds in ways of its own: {trial.outcome.reason}"
    return trial.becomes("passed", reason, reason)
