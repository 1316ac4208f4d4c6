"""The layers of a candidate: what each removes, and what is left without any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgessl.bundle.manifest import OptionValue
from edgessl.closing import Closing
from edgessl.compiler.layer_work import LayerWork
from edgessl.compiler.process import Worker
from edgessl.compiler.search import Search
from edgessl.compiler.sensitivity import Loss, ranked_scheme
from edgessl.config import Options
from edgessl.progress import ProgressEvent
from edgessl.targets import CandidateSpec

__all__ = ["LayerSearch", "expected_removals"]

_SAMPLES = 8
_ADDS_UP = 0.25
"""Errors add up if their sum is this near to what all layers do together."""
_BESIDE = 4
"""Layers that are kept alone in float, where errors do not add up: this many times those that may
go, the most harmful of them."""
_CHUNK = 16


class _Known(Options):
    """What an interrupted run, or another candidate with the same scheme, found."""

    names: tuple[str, ...]
    work: tuple[LayerWork, ...]
    removals: tuple[float, ...]


class LayerSearch(Closing):
    """A worker in which sets of layers are tried; a context manager.

    Args:
        search: What the candidates have in common.
        spec: The candidate.
        most: Most layers that will be kept in float.

    Attributes:
        names: ONNX names of the layers, in the order of the graph.
        work: What they compute and move.
        removals: Noise over power that is expected to go from the outputs if a layer stays in
            float.
        digest: Hash of the integer graph that is tried.
    """

    def __init__(self, search: Search, spec: CandidateSpec, *, most: int) -> None:
        name = f"layers-{ranked_scheme(spec.scheme or '')}-{spec.precision}"
        folder = search.work.fresh(name)
        limits = search.limits
        self._search = search
        self._errors: dict[frozenset[int], float] = {}
        self._worker = Worker(
            folder,
            threads=search.threads,
            timeout_s=limits.timeout_s,
            memory_bytes=limits.memory_bytes,
        )
        try:
            request = search.request(spec, folder).model_dump(mode="json")
            facts = self._worker.request("open_layers", request=request, count=_SAMPLES)
            self.digest: str = facts["digest"]
            self.names = tuple(node for node, _ in facts["layers"])
            self._companions: dict[str, list[str]] = facts["companions"]
            self.work = tuple(LayerWork.model_validate(entry) for entry in facts["work"])
            known = search.work.recall(name, _Known)
            if known is None or known.names != self.names:
                removals = self._removals(most)
                known = _Known(names=self.names, work=self.work, removals=removals)
                search.work.keep(name, known)
            self.removals = known.removals
        except BaseException:
            self._worker.close()
            raise

    def error(self, kept: frozenset[int]) -> float:
        """Noise over power of the outputs if these layers stay in float and all others do not."""
        if kept not in self._errors:
            on = [k for k in range(len(self.names)) if k not in kept]
            (self._errors[kept],) = self._noise([on])
        return self._errors[kept]

    def nodes(self, chosen: Sequence[int]) -> list[str]:
        """Names of layers, with the activations that stay in float with them."""
        found = []
        for name in (self.names[k] for k in chosen):
            found += [name, *self._companions.get(name, [])]
        return found

    def time(
        self, engine: str, options: Mapping[str, OptionValue], names: Sequence[str]
    ) -> list[float]:
        """Milliseconds that each of these layers adds to a run if it alone stays in float."""
        samples = str(self._search.held_out.folder)
        added: list[float] = self._worker.request(
            "time_open_layers",
            engine=engine,
            options=dict(options),
            names=list(names),
            samples=samples,
        )
        return added

    def _removals(self, most: int) -> tuple[float, ...]:
        count = len(self.names)
        alone = self._tried([[k] for k in range(count)], "layers alone in integers")
        whole = self.error(frozenset())
        if abs(sum(alone) - whole) <= _ADDS_UP * whole:
            return tuple(alone)
        worst = sorted(range(count), key=lambda k: -alone[k])[: _BESIDE * most]
        sets = [[j for j in range(count) if j != k] for k in worst]
        beside = dict(zip(worst, self._tried(sets, "layers alone in float"), strict=True))
        return expected_removals(alone, beside, whole)

    def _tried(self, sets: Sequence[list[int]], unit: str) -> list[float]:
        found: list[float] = []
        for start in range(0, len(sets), _CHUNK):
            self._search.progress(ProgressEvent("sensitivity", start, len(sets), unit=unit))
            found += self._noise(sets[start : start + _CHUNK])
        self._search.progress(ProgressEvent("sensitivity", len(sets), len(sets), unit=unit))
        return found

    def _noise(self, sets: Sequence[list[int]]) -> list[float]:
        answer: list[dict[str, Any]] = self._worker.request("try_layers", sets=list(sets))
        return [Loss.model_validate(entry).noise for entry in answer]

    def close(self) -> None:
        """Stop the worker."""
        self._worker.close()


def expected_removals(
    alone: Sequence[float], beside: dict[int, float], whole: float
) -> tuple[float, ...]:
    """What each layer removes if it stays in float.

    A layer's own error understates it where it amplifies the noise of others, or where layers hide
    each other; then keeping it alone in float says more.

    Args:
        alone: What is left with only this layer in integers.
        beside: Layer → what is left with only this layer in float, where that was tried.
        whole: What is left with all in integers.
    """
    return tuple(
        max(error, whole - beside[layer]) if layer in beside else error
        for layer, error in enumerate(alone)
    )
