"""What a worker does for a check: prepare a graph, and have one engine place its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.compiler.check.inventory import Inventory, shape_problems
from edgessl.compiler.check.request import CHECKERS, CheckRequest
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.errors import ModelError
from edgessl.targets import Target

__all__ = ["describe_for_check", "place_for_check", "prepare_for_check", "write_made_up_samples"]

_SAMPLES = 2
# In place of a dimension that nobody fixed; only the parity check and rough ranges see it.
_UNKNOWN_SIZE = 16
_MAX_SAMPLE_BYTES = 1 << 30


def prepare_for_check(
    model: str,
    out: str,
    samples: str,
    batch_size: int,
    shapes: Mapping[str, Sequence[int]] | None,
    frozen: Mapping[str, int | float] | None,
) -> dict[str, Any]:
    """Prepare a graph, and made-up inputs for it."""
    graph = prepare_graph(
        Path(model), Path(out), batch_size=batch_size, shapes=shapes, frozen=frozen
    )
    write_made_up_samples(graph, Path(samples))
    return graph.model_dump(mode="json")


def describe_for_check(graph: str, target: Mapping[str, Any]) -> dict[str, Any]:
    """Count and weigh a prepared graph, and say what is wrong with it on any engine."""
    inventory = Inventory(Path(graph))
    return {
        "node_count": len(inventory.nodes),
        "weights_bytes": inventory.weights_bytes(),
        "activations_bytes": inventory.activations_bytes(),
        "problems": shape_problems(inventory, Target.model_validate(target)),
    }


def place_for_check(request: Mapping[str, Any]) -> dict[str, Any]:
    """Have one engine, or a table in its place, say where each node runs."""
    validated = CheckRequest.model_validate(request)
    return CHECKERS.get(validated.engine).check(validated).model_dump(mode="json")


def write_made_up_samples(graph: GraphInfo, folder: Path) -> Samples:
    """Normal numbers, and 0 or 1 for integers: no range that anything is judged by."""
    rng = np.random.default_rng(0)
    streams = tuple(
        Stream(
            name=spec.name,
            dtype=spec.dtype,
            shape=tuple(
                size if isinstance(size, int) else _UNKNOWN_SIZE
                for size in graph.sample_shape(spec)
            ),
            batched=spec.name in graph.batched_inputs,
        )
        for spec in graph.inputs
    )
    size_bytes = sum(stream.sample_bytes for stream in streams)
    if size_bytes > _MAX_SAMPLE_BYTES:
        raise ModelError(
            f"one sample of the inputs has {size_bytes} bytes, above {_MAX_SAMPLE_BYTES}; export "
            "the model with smaller inputs"
        )
    with SampleWriter(folder, streams, batch_size=graph.batch_size) as writer:
        for _ in range(_SAMPLES):
            writer.append({s.name: _values(rng, s) for s in streams})
    return Samples(folder)


def _values(rng: np.random.Generator, stream: Stream) -> Any:
    shape = (1, *stream.shape)
    if np.dtype(stream.dtype).kind == "f":
        return rng.standard_normal(shape).astype(stream.dtype)
    return rng.integers(0, 2, shape).astype(stream.dtype)
