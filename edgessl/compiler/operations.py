"""What a compile worker can do; arguments and results are JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.bundle.manifest import OptionValue
from edgessl.compiler.backends import BACKENDS, BuildRequest
from edgessl.compiler.check.operation import (
    describe_for_check,
    place_for_check,
    prepare_for_check,
)
from edgessl.compiler.graph import prepare_graph, workload_of_file
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.integer_step import place_integers
from edgessl.compiler.rewrites.pipeline import apply_rewrite
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.compiler.sensitivity_step import open_layers, time_open_layers, try_layers
from edgessl.errors import UsageError
from edgessl.runtime.session import ENGINES, Array, Session, open_session

__all__ = ["OPERATIONS"]


class _Opened:
    """The session that `time_runs` measures; one per worker."""

    session: Session | None = None
    feeds: Mapping[str, Array] = {}


def inspect(
    model: str,
    out: str,
    batch_size: int,
    shapes: dict[str, list[int]] | None = None,
    static: bool = False,
    frozen: dict[str, int | float] | None = None,
) -> dict[str, Any]:
    """Check a model and write it with a fixed batch and fixed shapes: a `GraphInfo`."""
    graph = prepare_graph(
        Path(model),
        Path(out),
        batch_size=batch_size,
        shapes=shapes,
        static=static,
        frozen=frozen,
    )
    return graph.model_dump(mode="json")


def count_workload(model: str) -> dict[str, Any] | None:
    """Count what one run of a model file computes: a `Workload`; None where that is not known."""
    found = workload_of_file(Path(model))
    return None if found is None else found.model_dump(mode="json")


def rewrite(
    name: str, graph: dict[str, Any], original: str, out: str, samples: str
) -> dict[str, Any]:
    """Apply one rewrite to a prepared graph: the graph to go on with, and a `RewriteRemark`."""
    result, remark = apply_rewrite(
        name, GraphInfo.model_validate(graph), Path(original), Path(out), Path(samples)
    )
    return {"graph": result.model_dump(mode="json"), "remark": remark.model_dump(mode="json")}


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Build one candidate: a `Built`."""
    validated = BuildRequest.model_validate(request)
    backend = BACKENDS.get(validated.candidate.engine)
    return backend.build(validated).model_dump(mode="json")


def embed(
    engine: str, model: str, options: dict[str, OptionValue], samples: str, out: str
) -> dict[str, Any]:
    """Run a model over samples and store its outputs as `Samples` in ``out``.

    Returns:
        The engine's version, and the inputs and outputs as the session describes them.
    """
    inputs = Samples(Path(samples))
    with open_session(engine, Path(model), options) as session:
        first = session.run(inputs.feeds(0))
        streams = tuple(_stream(name, first[name], inputs.batch_size) for name in first)
        with SampleWriter(Path(out), streams, batch_size=inputs.batch_size) as writer:
            for call in range(inputs.calls):
                result = session.run(inputs.feeds(call)) if call else first
                keep = min(inputs.batch_size, inputs.count - call * inputs.batch_size)
                writer.append(
                    {
                        s.name: result[s.name][:keep] if s.batched else result[s.name][None]
                        for s in streams
                    }
                )
        signature = {
            "inputs": [spec.model_dump(mode="json") for spec in session.inputs],
            "outputs": [spec.model_dump(mode="json") for spec in session.outputs],
        }
    return {"version": ENGINES.get(engine).version(), **signature}


def open_model(
    engine: str, model: str, options: dict[str, OptionValue], samples: str
) -> dict[str, Any]:
    """Open a model for `time_runs`, on the first sample."""
    _Opened.feeds = Samples(Path(samples)).feeds(0)
    _Opened.session = open_session(engine, Path(model), options)
    return {}


def time_runs(runs: int) -> list[float]:
    """Milliseconds of each of ``runs`` runs, back to back."""
    session = _Opened.session
    if session is None:
        raise UsageError("no model is open; request open_model first")
    durations = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        session.run(_Opened.feeds)
        durations.append((time.perf_counter_ns() - start) / 1e6)
    return durations


def _stream(name: str, value: Array, batch_size: int) -> Stream:
    batched = value.ndim > 0 and value.shape[0] == batch_size
    if not batched and batch_size > 1:
        raise UsageError(f"output '{name}' is not one row per sample; compile with a batch of 1")
    shape = value.shape[1:] if batched else value.shape
    return Stream(name=name, dtype=np.dtype(value.dtype).name, shape=shape, batched=batched)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "build": build,
    "check_facts": describe_for_check,
    "check_place": place_for_check,
    "check_prepare": prepare_for_check,
    "count_workload": count_workload,
    "embed": embed,
    "inspect": inspect,
    "open_layers": open_layers,
    "open_model": open_model,
    "place_integers": place_integers,
    "rewrite": rewrite,
    "time_open_layers": time_open_layers,
    "time_runs": time_runs,
    "try_layers": try_layers,
}
