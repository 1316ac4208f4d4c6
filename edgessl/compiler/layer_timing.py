"""How much longer a run takes with one layer in floating point; runs in a compile worker.

The integer graph is opened beside the same graph with one layer's integers taken out, and their
runs alternate. That counts what a profile of operators does not show: conversions at the layer's
borders, and what the engine can no longer fuse, or can.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgessl.bundle.manifest import OptionValue
from edgessl.compiler.quantizers.release import release_nodes
from edgessl.compiler.samples import Samples
from edgessl.optional import require
from edgessl.runtime.session import Array, Session, open_session

__all__ = ["time_layers", "without_integers"]

_BLOCKS = 7
_BLOCK_MS = 20.0
_WARM_UP_RUNS = 5


def time_layers(
    engine: str,
    options: Mapping[str, OptionValue],
    float_graph: Path,
    quantized: Path,
    names: Sequence[str],
    samples: Samples,
    folder: Path,
) -> list[float]:
    """Milliseconds that each layer adds to a run if it alone computes in floating point.

    Args:
        engine: An engine that opens ``.onnx`` files.
        options: Its options.
        float_graph: The ``.onnx`` before quantization.
        quantized: The ``.onnx`` after.
        names: Nodes.
        samples: The first call's inputs are timed.
        folder: Takes one file.

    Returns:
        The median over blocks of the difference, below 0 where floating point is faster; smaller
        than its own spread it counts as 0.
    """
    feeds = samples.feeds(0)
    variant = folder / "variant.onnx"
    added = []
    with open_session(engine, quantized, options) as whole:
        for name in names:
            without_integers(float_graph, quantized, {name}, variant)
            with open_session(engine, variant, options) as session:
                added.append(_difference(whole, session, feeds))
    return added


def without_integers(float_graph: Path, quantized: Path, names: set[str], out: Path) -> None:
    """Write a QDQ graph in which some nodes compute in floating point."""
    onnx = require("onnx", extra="compile")
    model = onnx.load(quantized)
    release_nodes(onnx.load(float_graph).graph, model, names)
    onnx.save(model, out)


def _difference(whole: Session, session: Session, feeds: Mapping[str, Array]) -> float:
    pair = (whole, session)
    typical = [min(_times(s, feeds, _WARM_UP_RUNS)) for s in pair]
    runs = max(2, min(200, round(_BLOCK_MS / max(typical))))
    differences = []
    for block in range(_BLOCKS):
        fastest = [0.0, 0.0]
        for side in (0, 1) if block % 2 == 0 else (1, 0):
            fastest[side] = min(_times(pair[side], feeds, runs))
        differences.append(fastest[1] - fastest[0])
    middle = float(np.median(differences))
    spread = float(np.median(np.abs(np.array(differences) - middle)))
    return middle if abs(middle) > spread else 0.0


def _times(session: Session, feeds: Mapping[str, Array], runs: int) -> list[float]:
    durations = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        session.run(feeds)
        durations.append((time.perf_counter_ns() - start) / 1e6)
    return durations
