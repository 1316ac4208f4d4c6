"""Run a float graph over calibration samples and note what its tensors hold.

The graph runs sample by sample with its intermediate tensors as further outputs. Nothing but
histograms is kept, and the tensors are split into groups so that those of one sample fit into a
bound; a group costs one more pass over the samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.compiler.ranges.histogram import HistogramBuilder
from edgessl.compiler.ranges.store import Ranges
from edgessl.compiler.samples import Samples
from edgessl.errors import BundleError, ModelError
from edgessl.files import cache_directory, sha256_file, sha256_json
from edgessl.optional import require
from edgessl.runtime.engines.onnxruntime import error_types

__all__ = ["MAX_BYTES_PER_SAMPLE", "cached_ranges", "collect_ranges"]

MAX_BYTES_PER_SAMPLE = 256 * 1024**2
"""Default bound on the tensors of one call that are held at once."""

# Raised when the same inputs would give another result.
_FORMAT = 1
_UNKNOWN_BYTES = 16 * 1024**2


def cached_ranges(graph: Path, samples: Samples) -> Ranges:
    """What `collect_ranges` gives, from the cache if the same was collected here before.

    The place is named by a hash of the graph, of the samples and of the format, and the file
    appears whole or not at all: processes that meet there write the same bytes.

    Raises:
        ModelError: See `collect_ranges`.
        OutputError: The cache cannot be written.
    """
    onnxruntime = require("onnxruntime", extra="compile")
    version = str(onnxruntime.__version__)
    key = sha256_json([_FORMAT, version, sha256_file(graph), samples.sha256()])
    place = cache_directory("ranges", f"{key}.npz")
    if place.is_file():
        try:
            return Ranges.load(place)
        except BundleError:
            place.unlink(missing_ok=True)  # it is only a cache, and can be made again
    ranges = collect_ranges(graph, samples)
    ranges.save(place)
    return ranges


def collect_ranges(
    graph: Path, samples: Samples, *, max_bytes: int = MAX_BYTES_PER_SAMPLE
) -> Ranges:
    """Collect histograms of all floating-point tensors of the main graph.

    Weights are left out: their values are in the file. So are tensors inside the branches of
    ``If`` and the bodies of loops.

    Args:
        graph: The float ``.onnx``.
        samples: Calibration inputs.
        max_bytes: Bound on the tensors of one call that are held at once.

    Raises:
        ModelError: The graph does not run on these samples.
    """
    onnx = require("onnx", extra="compile")
    model = onnx.load(graph)
    feeds = samples.feeds(0)
    builders: dict[str, HistogramBuilder] = {}
    for call in range(samples.calls):
        for name, value in samples.feeds(call).items():
            _add(builders, name, value)
    for names in _groups(_tensors(onnx, model, feeds), max_bytes):
        try:
            run = _session(onnx, model, names)
            for call in range(samples.calls):
                for name, value in zip(names, run(samples.feeds(call)), strict=True):
                    _add(builders, name, value)
        except error_types(require("onnxruntime", extra="compile")) as error:
            text = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{graph.name}: does not run on the calibration samples: {text}"
            ) from error
    return Ranges({name: builder.result() for name, builder in builders.items()})


def _add(builders: dict[str, HistogramBuilder], name: str, value: Any) -> None:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        builders.setdefault(name, HistogramBuilder()).add(value)


def _tensors(onnx: Any, model: Any, feeds: Mapping[str, Any]) -> dict[str, int]:
    """Tensors that nodes compute and that may hold floats → bytes in one call."""
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    for value in bound.graph.input:
        shape = value.type.tensor_type.shape
        for dim, size in zip(shape.dim, feeds[value.name].shape, strict=False):
            dim.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(bound)
    known = {v.name: v.type for v in [*inferred.graph.value_info, *inferred.graph.output]}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    sizes = {}
    for node in model.graph.node:
        for name in node.output:
            kind = known.get(name)
            if not name or node.op_type == "Constant":
                continue
            if kind is None:
                sizes[name] = _UNKNOWN_BYTES
            elif kind.tensor_type.elem_type in floats:
                sizes[name] = _bytes(kind.tensor_type)
    return sizes


def _bytes(tensor: Any) -> int:
    dims = [dim.dim_value for dim in tensor.shape.dim]
    if not tensor.HasField("shape") or 0 in dims:
        return _UNKNOWN_BYTES
    return int(np.prod([4, *dims], dtype=np.int64))


def _groups(sizes: Mapping[str, int], max_bytes: int) -> Iterator[list[str]]:
    """Tensors in the order of the graph, as many together as fit."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > max_bytes:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def _session(onnx: Any, model: Any, names: list[str]) -> Any:
    """A function from feeds to the values of the named tensors."""
    onnxruntime = require("onnxruntime", extra="compile")
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    there = {value.name for value in model.graph.output}
    extended.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in there)
    options = onnxruntime.SessionOptions()
    # Optimizations fuse nodes, and with them the tensors in between.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # Threads that wait for work would take the cores from the counting.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        extended.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: session.run(names, feeds)
