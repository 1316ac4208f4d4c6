"""Put the layers that hurt most back into floating point, until an integer candidate passes.

Errors of layers nearly add up, so the layers' own errors tell how many must go before any build is
made: the search starts there, and is not begun where too many would have to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgessl.bundle.manifest import Fidelity
from edgessl.compiler.fidelity import Gate
from edgessl.compiler.process import WorkerFailure
from edgessl.compiler.search import Search
from edgessl.compiler.sensitivity import ranked_scheme
from edgessl.compiler.trial import Trial
from edgessl.config import Options
from edgessl.errors import EdgeSSLError
from edgessl.progress import ProgressEvent

__all__ = ["allowed_share", "first_count", "rescue"]

_NARROW = 0.1
"""A miss is narrow if the error is at most ten times what the gate allows."""
_OPTIMISM = 0.5
"""What is left may turn out this much smaller than the sum says."""


class _Ranking(Options):
    nodes: tuple[str, ...]
    errors: tuple[float, ...]


def rescue(search: Search, trials: Sequence[Trial], *, max_layers: int) -> list[Trial]:
    """Try mixed precision for integer candidates that miss the gate narrowly.

    Of candidates that share an engine and a scheme only the first is tried.

    Args:
        search: What the trials have in common.
        trials: Judged, not yet ranked.
        max_layers: Most layers that go back to floating point; 0 tries nothing.

    Returns:
        The trials, with a mixed one after each that was rescued.
    """
    result, tried = list[Trial](), set[tuple[str, str | None]]()
    for trial in trials:
        result.append(trial)
        kind = (trial.spec.engine, trial.spec.scheme)
        share = allowed_share(search.gate, trial.outcome.fidelity)
        integer = trial.spec.scheme not in (None, "weight-only") and trial.status == "rejected"
        if max_layers and integer and share >= _NARROW and kind not in tried:
            tried.add(kind)
            mixed = _rescue(search, trial, share, max_layers)
            if mixed is not None:
                result.append(mixed)
    return result


def allowed_share(gate: Gate, fidelity: Fidelity | None) -> float:
    """What share of its error a candidate may keep to pass; 0 where that cannot be said."""
    if fidelity is None or not fidelity.finite:
        return 0.0
    if not gate.encoder:
        return float(10.0 ** (((fidelity.sqnr_db or 0.0) - gate.sqnr_db) / 10.0))
    pairs = [
        (gate.cosine_mean, fidelity.cosine_mean),
        (gate.cosine_p1, fidelity.cosine_p1),
        (gate.centred_cosine_mean, fidelity.centred_cosine_mean),
    ]
    return min((1.0 - want) / max(1.0 - have, 1e-12) for want, have in pairs)


def first_count(errors: Sequence[float], share: float) -> int:
    """How many of the worst layers must go at least, if errors add up.

    Args:
        errors: Error of each layer, the largest first.
        share: Share of the whole error that may stay.
    """
    total = float(np.sum(errors))
    if total <= 0.0:
        return 1
    left = 1.0 - np.cumsum(errors) / total
    enough = np.flatnonzero(_OPTIMISM * left <= share)
    return int(enough[0]) + 1 if enough.size else len(errors)


def _rescue(search: Search, trial: Trial, share: float, max_layers: int) -> Trial | None:
    def say(message: str, *, warning: bool = False) -> None:
        search.progress(ProgressEvent("compile", message=message, warning=warning))

    try:
        names, errors = _layers(search, trial)
    except (EdgeSSLError, WorkerFailure) as error:
        say(f"{trial.name}: no mixed precision, {error}", warning=True)
        return None
    start = first_count(errors, share)
    if start > max_layers:
        say(f"{trial.name}: {start} layers at least would have to stay in float; not tried")
        return None
    for count in range(start, min(max_layers, len(names)) + 1):
        kept = names[:count]
        say(f"building {trial.spec.name} with {count} layers in float, lately {kept[-1]}")
        mixed = search.attempt(trial.spec, keep_float=kept)
        if mixed.status == "passed":
            reason = f"passes with {count} layers in float: {', '.join(kept)}"
            return mixed.becomes("passed", reason, reason)
        if mixed.status == "failed":
            return None
    return None


def _layers(search: Search, trial: Trial) -> tuple[list[str], list[float]]:
    """Names and errors of the quantized nodes, most harmful first."""
    name = f"layers-{ranked_scheme(trial.spec.scheme or '')}-{trial.spec.precision}"
    known = search.work.recall(name, _Ranking)
    if known is not None:
        return list(known.nodes), list(known.errors)
    folder = search.work.fresh(name)
    request = search.request(trial.spec, folder)
    answer = search.ask(folder, "order_layers", request=request.model_dump(mode="json"))
    ranking = _Ranking(nodes=tuple(n for n, _ in answer), errors=tuple(e for _, e in answer))
    search.work.keep(name, ranking)
    return list(ranking.nodes), list(ranking.errors)
