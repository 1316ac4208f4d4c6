"""Put the layers that hurt most back into floating point, until an integer candidate passes."""

from __future__ import annotations

from collections.abc import Sequence

from edgessl.bundle.manifest import Fidelity
from edgessl.compiler.process import WorkerFailure
from edgessl.compiler.search import Search
from edgessl.compiler.trial import Trial
from edgessl.errors import EdgeSSLError
from edgessl.progress import ProgressEvent

__all__ = ["rescue"]

_NARROW = 5.0
"""A miss is narrow if the loss of cosine is at most so many times what the gate allows."""
_NARROW_DB = 8.0


def rescue(search: Search, trials: Sequence[Trial], *, max_layers: int) -> list[Trial]:
    """Try mixed precision for integer candidates that miss the gate narrowly.

    Args:
        search: What the trials have in common.
        trials: Judged, not yet ranked.
        max_layers: Most layers that go back to floating point; 0 tries nothing.

    Returns:
        The trials, with a mixed one after each that was rescued.
    """
    result = []
    for trial in trials:
        result.append(trial)
        if max_layers and _missed_narrowly(search, trial):
            mixed = _rescue(search, trial, max_layers)
            if mixed is not None:
                result.append(mixed)
    return result


def _missed_narrowly(search: Search, trial: Trial) -> bool:
    fidelity = trial.outcome.fidelity
    integer = trial.spec.scheme not in (None, "weight-only")
    if trial.status != "rejected" or fidelity is None or not (integer and fidelity.finite):
        return False
    return _is_narrow(search, fidelity)


def _is_narrow(search: Search, fidelity: Fidelity) -> bool:
    gate = search.gate
    if not gate.encoder:
        return (fidelity.sqnr_db or 0.0) >= gate.sqnr_db - _NARROW_DB
    return 1.0 - fidelity.cosine_mean <= _NARROW * (1.0 - gate.cosine_mean)


def _rescue(search: Search, trial: Trial, max_layers: int) -> Trial | None:
    try:
        order = _layers(search, trial)
    except (EdgeSSLError, WorkerFailure) as error:
        message = f"{trial.name}: no mixed precision, {error}"
        search.progress(ProgressEvent("compile", message=message, warning=True))
        return None
    for count in range(1, min(max_layers, len(order)) + 1):
        kept = order[:count]
        message = f"building {trial.spec.name} with {count} layers in float: {kept[-1]}"
        search.progress(ProgressEvent("compile", message=message))
        mixed = search.attempt(trial.spec, keep_float=kept)
        if mixed.status == "passed":
            reason = f"passes with {count} layers in float: {', '.join(kept)}"
            return mixed.becomes("passed", reason, reason)
        if mixed.status == "failed":
            return None
    return None


def _layers(search: Search, trial: Trial) -> list[str]:
    """Names of the quantized nodes, most harmful first."""
    folder = search.work.fresh(f"{trial.name}-layers")
    request = search.request(trial.spec, folder)
    answer = search.ask(folder, "order_layers", request=request.model_dump(mode="json"))
    return [str(name) for name, _ in answer]
