"""Put layers back into floating point, at the least cost in time, until a candidate passes.

Each layer's error is measured by itself and, where layers work on each other, beside the others;
what it costs in floating point is measured on the device's engine or counted. The cheapest set
that leaves little enough error is chosen and checked in one session, before any build is made.

Times of layers do not quite add up: neighbours in float share conversions. Where times are measured
the layers with the largest errors are built too, and the two builds are timed as a whole, like all
candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgessl.bundle.manifest import Fidelity
from edgessl.compiler.fidelity import Gate
from edgessl.compiler.layer_choice import cheapest_set
from edgessl.compiler.layer_cost import LayerCosts, layer_costs
from edgessl.compiler.layer_search import LayerSearch
from edgessl.compiler.process import WorkerFailure
from edgessl.compiler.search import Search
from edgessl.compiler.trial import Trial
from edgessl.errors import EdgeSSLError
from edgessl.progress import ProgressEvent

__all__ = ["allowed_share", "rescue"]

_NARROW = 0.1
"""A miss is narrow if the error is at most ten times what the gate allows."""
_BUILDS = 6
_OPTIMISM = 2.0
"""The engine may lose so much less than the session that layers are tried in."""
_LEAST_GAIN = 0.8
"""The first set leaves at most this share of the whole error."""
_MOST_GAIN, _NEXT = 0.3, 0.95
"""After a set that misses the gate, one is tried that leaves between these shares of its error."""
_WORTH = 0.05
"""Share of what a set costs that makes a build without one of its layers worth while."""
_PUT_BACK = 3


def rescue(
    search: Search, trials: Sequence[Trial], *, max_layers: int, remeasure: bool = False
) -> list[Trial]:
    """Try mixed precision for integer candidates that miss the gate narrowly.

    Of candidates that share an engine and a scheme only the first is tried.

    Args:
        search: What the trials have in common.
        trials: Judged, not yet ranked.
        max_layers: Most layers that go back to floating point; 0 tries nothing.
        remeasure: Time the layers anew even if that was done here before.

    Returns:
        The trials, with one or two mixed ones after each that was rescued.
    """
    result, tried = list[Trial](), set[tuple[str, str | None]]()
    for trial in trials:
        result.append(trial)
        kind = (trial.spec.engine, trial.spec.scheme)
        share = allowed_share(search.gate, trial.outcome.fidelity)
        integer = trial.spec.scheme not in (None, "weight-only") and trial.status == "rejected"
        if max_layers and integer and share >= _NARROW and kind not in tried:
            tried.add(kind)
            result += _rescue(search, trial, share, max_layers, remeasure=remeasure)
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


def _rescue(
    search: Search, trial: Trial, share: float, max_layers: int, *, remeasure: bool
) -> list[Trial]:
    def say(message: str, *, warning: bool = False) -> None:
        search.progress(ProgressEvent("compile", message=message, warning=warning))

    try:
        with LayerSearch(search, trial.spec, most=max_layers) as layers:
            costs = layer_costs(search, trial, layers, most=max_layers, remeasure=remeasure)
            return _Rescue(search, trial, layers, costs, max_layers).run(share)
    except (EdgeSSLError, WorkerFailure) as error:
        say(f"{trial.name}: no mixed precision, {error}", warning=True)
        return []


class _Rescue:
    """The search for one candidate."""

    def __init__(
        self, search: Search, trial: Trial, layers: LayerSearch, costs: LayerCosts, most: int
    ) -> None:
        self._search, self._trial = search, trial
        self._layers, self._costs, self._most = layers, costs, most

    def run(self, share: float) -> list[Trial]:
        """The candidate with the cheapest layers in float that passes, and the one with the worst.

        Args:
            share: Share of the candidate's error that the gate allows.
        """
        whole = self._layers.error(frozenset())
        allowed = min(share, _LEAST_GAIN) * whole
        chosen = self._choose(allowed, min(_OPTIMISM * allowed, _LEAST_GAIN * whole))
        if not chosen:
            self._say(f"{self._most} layers in float would not be enough; not tried")
        tried = set[tuple[int, ...]]()
        for _ in range(_BUILDS):
            if not chosen or chosen in tried:
                break
            mixed = self._attempt(chosen)
            if mixed.status == "passed":
                chosen, mixed = self._with_fewer(chosen, mixed)
                return [self._described(chosen, mixed), *self._worst(chosen)]
            if mixed.status == "failed":
                break
            self._say(f"misses the gate: {mixed.outcome.reason}")
            left = self._layers.error(frozenset(chosen))
            again = allowed_share(self._search.gate, mixed.outcome.fidelity)
            allowed = left * min(max(again, _MOST_GAIN), _NEXT)
            tried.add(chosen)
            # Where no set is sure to be enough, the layers that remove most are the last resort.
            chosen = self._choose(allowed, _NEXT * left) or self._most_harmful(self._most)
        return []

    def _worst(self, chosen: tuple[int, ...]) -> list[Trial]:
        """The fewest of the most harmful layers that leave no more error than those chosen."""
        if self._search.obstacle is not None or self._costs.basis != "measured":
            return []
        left = self._layers.error(frozenset(chosen))
        for count in range(1, self._most + 1):
            worst = self._most_harmful(count)
            if self._layers.error(frozenset(worst)) <= left:
                break
        if worst == tuple(sorted(chosen)):
            return []
        trial = self._attempt(worst)
        if trial.status != "passed":
            return []
        names = ", ".join(self._layers.names[k] for k in worst)
        update = {"variant": "-worst", "note": f"the layers with the largest errors: {names}"}
        return [replace(trial, outcome=trial.outcome.model_copy(update=update))]

    def _most_harmful(self, count: int) -> tuple[int, ...]:
        removals = self._layers.removals
        return tuple(sorted(sorted(range(len(removals)), key=lambda k: -removals[k])[:count]))

    def _choose(self, *limits: float) -> tuple[int, ...] | None:
        """The cheapest layers for the first limit that any set keeps."""
        for limit in limits:
            chosen = cheapest_set(
                self._layers.error,
                self._layers.removals,
                self._costs.costs,
                allowed=limit,
                most=self._most,
            )
            if chosen:
                return chosen
        return None

    def _with_fewer(self, chosen: tuple[int, ...], mixed: Trial) -> tuple[tuple[int, ...], Trial]:
        """Put dear layers back into integers where the gate seems to leave room."""
        costs = self._costs.costs
        builds = 0
        for layer in sorted(chosen, key=lambda k: -costs[k]):
            fewer = tuple(k for k in chosen if k != layer)
            room = allowed_share(self._search.gate, mixed.outcome.fidelity)
            limit = 1.1 * room * self._layers.error(frozenset(chosen))
            dear = costs[layer] > _WORTH * sum(abs(costs[k]) for k in chosen)
            if not (fewer and dear and builds < _PUT_BACK):
                continue
            if self._layers.error(frozenset(fewer)) <= limit:
                builds += 1
                attempt = self._attempt(fewer)
                if attempt.status == "passed":
                    chosen, mixed = fewer, attempt
        return chosen, mixed

    def _attempt(self, chosen: tuple[int, ...]) -> Trial:
        names = [self._layers.names[k] for k in chosen]
        self._say(f"building with {len(names)} layers in float: {', '.join(names)}")
        return self._search.attempt(self._trial.spec, keep_float=self._layers.nodes(chosen))

    def _described(self, chosen: tuple[int, ...], mixed: Trial) -> Trial:
        names = ", ".join(self._layers.names[k] for k in chosen)
        measured = self._costs.basis == "measured"
        basis = "times measured here" if measured else "operations and bytes, not by times"
        number = f"{len(chosen)} layer{'s' if len(chosen) > 1 else ''}"
        note = f"{number} in float: {names}, the cheapest by {basis}"
        if measured:
            added = sum(self._costs.costs[k] for k in chosen)
            self._say(f"{note}; about {added:.3f} ms more than all in integers")
        return replace(mixed, outcome=mixed.outcome.model_copy(update={"note": note}))

    def _say(self, message: str) -> None:
        self._search.progress(ProgressEvent("compile", message=f"{self._trial.name}: {message}"))
