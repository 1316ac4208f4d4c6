"""Have a target's quantizer place its integers; what `edgessl.compiler.integers` asks a worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgessl import onnx_metadata
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.open_batch import open_batch
from edgessl.compiler.quantizers import QUANTIZERS, QuantizationJob
from edgessl.compiler.ranges import Method
from edgessl.compiler.rewrites.parity import run_plainly, runtime_errors
from edgessl.compiler.samples import Samples
from edgessl.errors import ModelError
from edgessl.onnx_metadata import IntegerFacts
from edgessl.optional import require

__all__ = ["place_integers"]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_TOLERANCE = 1e-3
# They move values or compute shapes: nothing in them is quantized or not.
_MOVERS = frozenset({"Cast", "Concat", "Constant", "DepthToSpace", "Expand", "Flatten", "Gather"})
_MOVERS |= {"Identity", "Pad", "Reshape", "Shape", "Slice", "SpaceToDepth", "Split", "Squeeze"}
_MOVERS |= {"Tile", "Transpose", "Unsqueeze"}
# Engines compute these together with the layer before them.
_FUSED = frozenset({"Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid"})
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def place_integers(
    graph: dict[str, Any],
    samples: str,
    folder: str,
    target: str,
    scheme: str,
    precision: str,
    per_channel: bool,
    reduce_range: bool,
    method: Method,
    keep_float: list[str],
    engine: str,
    rough: bool,
) -> dict[str, Any]:
    """Quantize a rewritten graph and open its batch.

    Returns:
        ``float_model`` and ``model``: files in ``folder``; ``kept_float``: ``[node, operator,
        reason]`` of each node that computes in floating point.
    """
    onnx = require("onnx", extra="compile")
    info = GraphInfo.model_validate(graph)
    job = QuantizationJob(
        graph=info,
        samples=Samples(Path(samples)),
        folder=Path(folder),
        scheme=scheme,
        precision=precision,
        remainder=None,
        per_channel=per_channel,
        reduce_range=reduce_range,
        method=method,
        keep_float=tuple(keep_float),
        engine=engine,
        rough=rough,
    )
    quantized, _ = QUANTIZERS.get(scheme).quantize(job)
    fused = job.folder / "fused.onnx"
    source = fused if fused.exists() else job.folder / "float.onnx"
    integers = onnx.load(quantized)
    kept = _kept_float(integers.graph, attention=info.attention, asked=frozenset(keep_float))
    facts = IntegerFacts(target, scheme, precision)
    properties = _properties(onnx, info, facts)
    results = {}
    for key, path in (("float_model", source), ("model", quantized)):
        opened = open_batch(onnx.load(path), info.batched_inputs)
        if key == "model":
            del opened.metadata_props[:]
            onnx.helper.set_model_props(opened, properties)
        onnx.checker.check_model(opened)
        out = job.folder / f"{key}.onnx"
        onnx.save(opened, out)
        _check_batches(path, out, job.samples)
        results[key] = out.name
    return {**results, "kept_float": kept}


def _properties(onnx: Any, info: GraphInfo, facts: IntegerFacts) -> dict[str, str]:
    model = onnx.load(info.path, load_external_data=False)
    said = {item.key: item.value for item in model.metadata_props}
    known = onnx_metadata.decode(said, where=Path(info.path).name)
    described = replace(
        known,
        preprocessing=info.preprocessing,
        embedding_dim=info.embedding_dim,
        lineage=dict(info.lineage),
        integers=facts,
    )
    return onnx_metadata.encode(described)


def _check_batches(fixed: Path, opened: Path, samples: Samples) -> None:
    """Two samples at once must give what they give one by one."""
    singles = [samples.feeds(call) for call in range(min(2, samples.calls))]
    both = {name: np.concatenate([feeds[name] for feeds in singles]) for name in singles[0]}
    expected = [run_plainly(fixed, feeds) for feeds in singles]
    try:
        found = run_plainly(opened, both)
    except runtime_errors() as error:
        said = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the graph does not run on two samples at once ({said}), so it cannot be trained; "
            "choose another backbone"
        ) from error
    for name, have in found.items():
        want = np.concatenate([outputs[name] for outputs in expected])
        if have.shape != want.shape or not abs(have - want).max() <= _TOLERANCE * max(
            1.0, float(abs(want).max())
        ):
            raise ModelError(
                "the graph computes something else for two samples at once than for each, so it "
                "cannot be trained; choose another backbone"
            )


def _kept_float(graph: Any, *, attention: bool, asked: frozenset[str]) -> list[list[str]]:
    """Nodes with no integers before them, except what is computed with a layer that has."""
    maker = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    varying = _varying(graph)
    kept = []
    for node in graph.node:
        if node.op_type in (_QUANTIZE, _DEQUANTIZE, *_MOVERS):
            continue
        makers = [maker[name] for name in node.input if name in varying and name in maker]
        if not varying.intersection(node.output) or any(m.op_type == _DEQUANTIZE for m in makers):
            continue
        if node.op_type in _FUSED and any(m.op_type in _PRODUCTS for m in makers):
            continue
        kept.append([node.name, node.op_type, _reason(node, attention=attention, asked=asked)])
    return kept


def _varying(graph: Any) -> set[str]:
    """Tensors that depend on an input."""
    varying = {value.name for value in graph.input}
    for node in graph.node:
        if varying.intersection(node.input):
            varying.update(name for name in node.output if name)
    return varying


def _reason(node: Any, *, attention: bool, asked: frozenset[str]) -> str:
    if node.name in asked:
        return "asked for"
    if node.op_type in _PRODUCTS:
        return "the target computes this one faster in floating point"
    if attention:
        return "between the products of a transformer integers cost accuracy and gain no time"
    return f"the target has no integers for {node.op_type} here"
