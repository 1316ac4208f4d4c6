"""What it costs to compute a layer in floating point instead of integers.

Where the device is at hand and its engine opens ONNX files, its runs are timed with and without
the layer's integers. Elsewhere operations and bytes are counted. A measurement is an input of the
choice: it is remembered, so that compiling again gives the same bundle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

import pydantic

from edgessl.compiler.layer_search import LayerSearch
from edgessl.compiler.layer_work import LayerWork
from edgessl.compiler.process import WorkerFailure
from edgessl.compiler.search import Search
from edgessl.compiler.trial import Trial
from edgessl.config import Options
from edgessl.errors import EdgeSSLError, OutputError
from edgessl.files import cache_directory, sha256_json, write_json
from edgessl.progress import ProgressEvent

__all__ = ["LayerCosts", "counted_costs", "layer_costs"]

_TIMED = 4
"""Layers that are timed: this many times those that may go, the most harmful of them."""
_CHUNK = 8
_OPENS_ONNX = frozenset({"onnxruntime", "openvino"})
_SAVED_BYTES = 3
"""An element in float32 is three bytes more than one in 8 bits."""
_OPERATIONS_PER_BYTE = 10.0
"""Operations that a device does in the time of one byte from memory: the knee of the roofline of
small CPUs and NPUs lies between 5 and 50. It ranks layers, it predicts no time."""


class LayerCosts(Options):
    """Costs of the layers, below 0 for one that is faster in float.

    Attributes:
        basis: ``"measured"``: milliseconds on the target's engine; ``"counted"``: operations, with
            bytes converted to operations.
        why: Why they were counted; empty if they were measured.
        costs: One for each layer; infinite for one that was not timed.
    """

    basis: Literal["measured", "counted"]
    why: str = ""
    costs: tuple[float, ...]


class _Measured(Options):
    added_ms: tuple[float, ...]


def layer_costs(
    search: Search, trial: Trial, layers: LayerSearch, *, most: int, remeasure: bool
) -> LayerCosts:
    """Cost of each layer of a built integer candidate.

    Args:
        search: What the candidates have in common.
        trial: The candidate, built with all its layers in integers.
        layers: Its layers; where the scheme has no ONNX file, those of the scheme that is ranked
            in its place are timed.
        most: Most layers that will be kept in float.
        remeasure: Measure even if there is a remembered result.
    """
    engine = trial.spec.engine
    if search.obstacle is not None or trial.built.kind == "portable":
        why = search.obstacle or "the build is finished on the device"
        return counted_costs(layers.work, why=why)
    if engine not in _OPENS_ONNX:
        return counted_costs(layers.work, why=f"{engine} opens no ONNX files")
    count = len(layers.names)
    worst = sorted(range(count), key=lambda k: -layers.removals[k])[: _TIMED * most]
    try:
        added = _added(search, trial, layers, sorted(worst), remeasure=remeasure)
    except OutputError:
        raise
    except (EdgeSSLError, WorkerFailure) as error:
        message = f"{trial.name}: layers cannot be timed ({error}); counting their operations"
        search.progress(ProgressEvent("measure", message=message, warning=True))
        return counted_costs(layers.work, why=f"{engine} does not run single layers in float")
    costs = dict(zip(sorted(worst), added, strict=True))
    return LayerCosts(
        basis="measured", costs=tuple(costs.get(k, float("inf")) for k in range(count))
    )


def counted_costs(work: Sequence[LayerWork], *, why: str) -> LayerCosts:
    """Operations, and the bytes that integers save, converted to operations.

    Source: Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009 (the knee).
    """
    costs = [
        layer.operations + _OPERATIONS_PER_BYTE * _SAVED_BYTES * (layer.weights + layer.activations)
        for layer in work
    ]
    return LayerCosts(basis="counted", why=why, costs=tuple(costs))


def _added(
    search: Search, trial: Trial, layers: LayerSearch, which: list[int], *, remeasure: bool
) -> tuple[float, ...]:
    host, options = search.host, dict(sorted(trial.built.options.items()))
    names = [layers.names[k] for k in which]
    machine = [host.arch, host.cpu, sorted(host.features)]
    kind = [trial.spec.engine, trial.engine.version, options]
    key = sha256_json(["layers added", machine, kind, layers.digest, names])
    place = cache_directory("measurements", f"{key}.json")
    if not remeasure:
        try:
            return _Measured.model_validate(json.loads(place.read_text("utf-8"))).added_ms
        except (OSError, ValueError, pydantic.ValidationError):
            pass  # nothing is remembered, or nothing readable
    message = f"timing {len(which)} layers of {trial.spec.name} in float"
    search.progress(ProgressEvent("measure", message=message))
    added: list[float] = []
    for done in range(0, len(names), _CHUNK):
        search.progress(ProgressEvent("measure", done, len(names), unit="layers"))
        part = names[done : done + _CHUNK]
        added += layers.time(trial.spec.engine, trial.built.options, part)
    search.progress(ProgressEvent("measure", len(names), len(names), unit="layers"))
    measured = _Measured(added_ms=tuple(round(ms, 4) for ms in added))
    try:
        write_json(place, measured.model_dump(mode="json"))
    except OutputError as error:
        message = f"the measurement is not remembered: {error}"
        search.progress(ProgressEvent("measure", message=message, warning=True))
    return measured.added_ms
