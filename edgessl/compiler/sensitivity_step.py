"""What a compile worker does for `edgessl.compiler.mixed` and `edgessl.compiler.layer_report`.

One worker opens the trials once and answers for one set of layers after the other, so that the
caller can say how far it is, go on after an interruption, and choose by what it has seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgessl.bundle.manifest import OptionValue
from edgessl.compiler.backends import BuildRequest
from edgessl.compiler.layer_timing import time_layers
from edgessl.compiler.layer_work import count_layers
from edgessl.compiler.samples import Samples
from edgessl.compiler.sensitivity import LayerTrials, open_trials
from edgessl.errors import UsageError
from edgessl.files import sha256_file

__all__ = ["open_layers", "time_open_layers", "try_layers"]


class _Opened:
    """The trials that `try_layers` runs; one per worker."""

    trials: LayerTrials | None = None


def open_layers(request: dict[str, Any], count: int, samples: str | None = None) -> dict[str, Any]:
    """Quantize as a candidate does and open its layers for `try_layers`.

    Args:
        request: A `BuildRequest`.
        count: Samples to run.
        samples: Folder of `Samples`; None takes those of the calibration.

    Returns:
        ``layers``: ``[node, operator]`` of each layer; ``left_float``: the same of nodes without
        integers; ``companions``: activations that go with a layer; ``work``: a `LayerWork` of each
        layer; ``digest``: hash of the integer graph; ``count``: samples that are run.
    """
    validated = BuildRequest.model_validate(request)
    judged = None if samples is None else Samples(Path(samples))
    trials = open_trials(validated, count=count, samples=judged)
    _Opened.trials = trials
    names = [name for name, _ in trials.graph.layers]
    work = count_layers(trials.graph.float_graph, names)
    return {
        "layers": trials.graph.layers,
        "left_float": trials.graph.left_float,
        "companions": trials.graph.companions,
        "work": [entry.model_dump(mode="json") for entry in work],
        "digest": sha256_file(trials.graph.quantized),
        "count": trials.count,
    }


def try_layers(sets: list[list[int]]) -> list[dict[str, Any]]:
    """A `Loss` for each set of layers that compute with integers."""
    return [_trials().loss(set(on)).model_dump(mode="json") for on in sets]


def time_open_layers(
    engine: str, options: dict[str, OptionValue], names: list[str], samples: str
) -> list[float]:
    """Milliseconds that each of these layers adds if it alone computes in floating point."""
    graph = _trials().graph
    place = Samples(Path(samples))
    folder = graph.quantized.parent
    return time_layers(engine, options, graph.float_graph, graph.quantized, names, place, folder)


def _trials() -> LayerTrials:
    if _Opened.trials is None:
        raise UsageError("no layers are open; request open_layers first")
    return _Opened.trials
