"""Whether a rewritten graph computes what the original does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.compiler.samples import Samples
from edgessl.optional import require
from edgessl.runtime.engines.onnxruntime import error_types

__all__ = ["TOLERANCE", "largest_difference", "run_original", "run_plainly", "runtime_errors"]

TOLERANCE = 1e-4
_SAMPLES = 2

Array = NDArray[Any]


def largest_difference(original: Path, changed: Path, samples: Path) -> float:
    """Largest difference of any output, over two samples.

    Args:
        original: The graph that is right.
        changed: The graph to judge; it has the same inputs and outputs.
        samples: Folder of real inputs.

    Returns:
        max |changed − original| / max(1, max |original|); infinite where a shape, a type or the
        place of a NaN differs.
    """
    worst = 0.0
    expected = _expected(original, samples)
    for want, have in zip(expected, _run(changed, samples), strict=True):
        for name, reference in want.items():
            worst = max(worst, _difference(reference, have[name]))
    return worst


def run_original(original: Path, samples: Path) -> None:
    """Run the graph that is right, and keep its outputs.

    Raises:
        Exception: What onnxruntime raises if the graph does not run on the samples.
    """
    _expected(original, samples)


def runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises about a graph or its inputs."""
    return error_types(require("onnxruntime", extra="compile"))


def run_plainly(model: Path | bytes, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a graph in onnxruntime as it stands, without the engine's own rewrites.

    Args:
        model: The file, or a serialised model.
        feeds: Input name → array.
    """
    session = _session(model)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _session(model: Path | bytes) -> Any:
    runtime = require("onnxruntime", extra="compile")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=1)
def _expected(original: Path, samples: Path) -> list[dict[str, Array]]:
    """One worker applies several rewrites, and the original's outputs stay the same."""
    return _run(original, samples)


def _run(model: Path, samples: Path) -> list[dict[str, Array]]:
    stored = Samples(samples)
    session = _session(model)
    names = [value.name for value in session.get_outputs()]
    return [
        dict(zip(names, session.run(names, stored.feeds(call)), strict=True))
        for call in range(min(_SAMPLES, stored.calls))
    ]


def _difference(reference: Array, actual: Array) -> float:
    if reference.shape != actual.shape or reference.dtype != actual.dtype:
        return float("inf")
    want, have = reference.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(want)
    if not np.array_equal(want[~finite], have[~finite], equal_nan=True):
        return float("inf")
    difference = np.abs(have[finite] - want[finite])
    scale = max(1.0, float(np.max(np.abs(want[finite]), initial=0.0)))
    return float(np.max(difference, initial=0.0)) / scale
