"""The float graph that quantizers of ONNX files start from, and the names of its nodes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.rewrites.opset import MIN_OPSET, raise_opset
from edgessl.errors import ModelError, UsageError, nearest
from edgessl.optional import require

__all__ = ["FloatGraph", "check_quantized", "prepare_float", "quiet", "sort_nodes", "trace_names"]

# onnxruntime's optimizer calls so what it makes of a matrix product and a sum.
_FUSION = "/MatMulAddFusion"
_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class FloatGraph:
    """A graph with constants folded, batch normalization in the weights, and all nodes named.

    Attributes:
        path: The ``.onnx``; equal graphs give equal bytes.
        names: Names of its nodes.
        renamed: Name of a node of the user's graph that is not here any more → name of the node
            that computes its output, or the output of what follows it, where it was fused.
    """

    path: Path
    names: frozenset[str]
    renamed: dict[str, str]

    def resolve(self, names: Iterable[str]) -> list[str]:
        """Names of nodes of the user's graph or of this one → names of nodes of this one.

        Raises:
            UsageError: Neither has such a node.
        """
        resolved = []
        for name in names:
            here = name if name in self.names else self.renamed.get(name)
            if here is None and name.removesuffix(_FUSION) in self.names:
                here = name.removesuffix(_FUSION)
            if here is None:
                raise UsageError(
                    f"the graph has no node '{name}' to keep in floating point; "
                    f"{nearest(name, self.names | set(self.renamed))}"
                )
            resolved.append(here)
        return sorted(set(resolved))


def prepare_float(graph: GraphInfo, folder: Path, *, fuse: bool = True) -> FloatGraph:
    """Fold, fuse and name; see `FloatGraph`.

    Args:
        graph: The float graph.
        folder: Where ``float.onnx`` goes.
        fuse: False leaves the nodes as they are.

    Raises:
        ModelError: The graph's opset cannot be raised to what integers need.
    """
    onnx = require("onnx", extra="compile")
    shape_inference = require("onnxruntime.quantization.shape_inference", extra="compile")
    original = onnx.load(graph.path)
    _name_nodes(original)
    raised = _raise_opset(onnx, original, graph)
    source, out = folder / "named.onnx", folder / "float.onnx"
    onnx.save(raised, source)
    # Shapes are fixed except in sequence models; symbolic inference needs sympy for no gain.
    with quiet():
        shape_inference.quant_pre_process(
            source, out, skip_symbolic_shape=True, skip_optimization=not fuse
        )
    source.unlink()
    prepared = onnx.load(out)
    _hold_constants(onnx, prepared.graph)
    _flatten_biases(onnx, prepared.graph)
    _name_nodes(prepared)
    _tidy(onnx, prepared)
    onnx.save(prepared, out)
    names = frozenset(node.name for node in prepared.graph.node)
    return FloatGraph(out, names, trace_names(original.graph, prepared.graph))


def check_quantized(model: Any, *, what: str) -> None:
    """Make sure that some node of the main graph computes with integers.

    Raises:
        ModelError: None does.
    """
    pairs = ("QuantizeLinear", "DequantizeLinear")
    made = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    readers = [node for node in model.graph.node if node.op_type not in pairs]
    if not any(made.intersection(node.input) for node in readers):
        kinds = sorted({node.op_type for node in readers})
        raise ModelError(
            f"nothing of the graph can be quantized as {what}: its nodes are "
            f"{', '.join(kinds[:8])}, and branches and loops stay in floating point; "
            "choose a floating-point precision"
        )


def _name_nodes(model: Any) -> None:
    """Give every node of the main graph a name of its own."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}#{number}"
        while name in taken:
            name = f"{name}#{number}"
        taken.add(name)
        node.name = name


def _raise_opset(onnx: Any, model: Any, graph: GraphInfo) -> Any:
    """What the rewrites may have left undone; a quantizer cannot do without."""
    names = {tuple(node.output): node.name for node in model.graph.node}
    try:
        raised = raise_opset(model)
    except (onnx.version_converter.ConvertError, RuntimeError) as error:
        text = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{Path(graph.path).name}: opset {graph.opset} cannot be raised to {MIN_OPSET}, "
            f"which integers need ({text}); export the model again with a newer opset"
        ) from error
    if raised is None:
        return model
    for node in raised.graph.node:
        node.name = names.get(tuple(node.output), node.name)
    return raised


def _hold_constants(onnx: Any, graph: Any) -> None:
    """Turn constant nodes into initializers, which quantizers know for weights."""
    outputs = {value.name for value in graph.output}
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if value is None or node.output[0] in outputs:
            continue
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _flatten_biases(onnx: Any, graph: Any) -> None:
    """Give a matrix product's bias of shape (1, N) the shape (N,), which means the same.

    onnxruntime's quantizer takes the first dimension for the channels.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        bias = tensors.get(node.input[2]) if node.op_type == "Gemm" and node.input[2:] else None
        if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1:
            flat = onnx.TensorProto()
            flat.CopyFrom(bias)
            flat.name = f"{node.name}/bias"
            del flat.dims[0]
            graph.initializer.append(flat)
            node.input[2] = flat.name


def _tidy(onnx: Any, model: Any) -> None:
    """Drop what onnxruntime's optimizer adds: operator sets that no node uses."""
    used = {node.domain for node in _all_nodes(model.graph)} | set(_STANDARD)
    kept = [imported for imported in model.opset_import if imported.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    # onnxruntime's tools for QNN fail on a file that has properties already.
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "edgessl", ""


def _all_nodes(graph: Any) -> Iterable[Any]:
    for node in graph.node:
        yield node
        yield from _inner_nodes(node)


def trace_names(original: Any, prepared: Any) -> dict[str, str]:
    """Nodes that an optimizer removed → the node that computes their output, or what follows.

    Args:
        original: The graph before.
        prepared: The graph after.
    """
    producers = {name: node.name for node in prepared.node for name in node.output}
    here = {node.name for node in prepared.node}
    consumers: dict[str, list[Any]] = {}
    for node in original.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    renamed: dict[str, str] = {}
    # Backwards, so that what follows a node is known.
    for node in reversed(original.node):
        if node.name in here:
            continue
        found = next((producers[name] for name in node.output if name in producers), None)
        if found is None:
            following = [c.name for name in node.output for c in consumers.get(name, [])]
            targets = {name if name in here else renamed.get(name) for name in following}
            found = targets.pop() if len(targets) == 1 else None
        if found is not None:
            renamed[node.name] = found
    return renamed


def sort_nodes(graph: Any) -> None:
    """Put producers before consumers; those of what branches and loops read, too."""
    made = {name for node in graph.node for name in node.output}
    waiting = list(graph.node)
    needs = [
        {n for inner in (node, *_inner_nodes(node)) for n in inner.input} & made for node in waiting
    ]
    done: set[str] = set()
    order: list[int] = []
    left = list(range(len(waiting)))
    while left:
        held = []
        for k in left:
            if needs[k] <= done:
                order.append(k)
                done.update(waiting[k].output)
            else:
                held.append(k)
        if len(held) == len(left):
            raise ModelError("the graph has a cycle; export it again")
        left = held
    ordered = [waiting[k] for k in order]
    copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def _inner_nodes(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs]:
            yield from _all_nodes(inner)


@contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime's tools say through the root logger what they leave alone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
