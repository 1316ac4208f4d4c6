"""Run a graph piece by piece over a few samples, so that each node runs once.

What is corrected in one piece is what the next one sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgessl.optional import require

__all__ = ["Segments", "open_graph", "topological"]

Values = dict[str, NDArray[Any]]


class Segments:
    """A graph and, for every sample, the tensors that its remaining nodes still need.

    Attributes:
        values: One dictionary per sample, tensor name → array; it may be changed.
    """

    def __init__(self, onnx: Any, model: Any, feeds: Sequence[Mapping[str, Any]]) -> None:
        self.values: list[Values] = [dict(feed) for feed in feeds]
        self._onnx = onnx
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes: list[Any] = []
        # Weights behind DequantizeLinear are made anew where they are needed: they are large.
        self._made_of_constants: dict[str, Any] = {}
        for node in topological(model.graph):
            fixed = {*self._constants, *self._made_of_constants, ""}
            if fixed.issuperset(node.input):
                self._made_of_constants.update(dict.fromkeys(node.output, node))
            else:
                self._nodes.append(node)
        self._done = 0
        self._last_use: dict[str, int] = {}
        for position, node in enumerate(self._nodes):
            self._last_use.update(dict.fromkeys(node.input, position))

    def order(self, names: Sequence[str]) -> list[str]:
        """Names of nodes in the order in which they run."""
        wanted = set(names)
        return [node.name for node in self._nodes if node.name in wanted]

    def run_to(self, name: str) -> None:
        """Run up to a node, itself included; its output is among the values afterwards."""
        end = next(k for k, node in enumerate(self._nodes) if node.name == name) + 1
        nodes = self._nodes[self._done : end]
        last = nodes[-1].output[0]
        made = [output for node in nodes for output in node.output if output]
        kept = [t for t in made if t == last or self._last_use.get(t, -1) >= end]
        run = open_graph(self._onnx, self._part(nodes, set(made)), kept)
        for values in self.values:
            values.update(run(values))
            for tensor in [t for t in values if t != last and self._last_use.get(t, -1) < end]:
                del values[tensor]
        self._done = end

    def _part(self, nodes: Sequence[Any], made: set[str]) -> Any:
        nodes = [*self._sources(nodes), *nodes]
        made = made.union(*(node.output for node in nodes))
        needed = {name for node in nodes for name in node.input if name} - made
        helper = self._onnx.helper
        inputs = []
        for name in sorted(needed - set(self._constants)):
            array = self.values[0][name]
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
        constants = [self._constants[name] for name in sorted(needed & set(self._constants))]
        graph = helper.make_graph(nodes, "part", inputs, [], constants)
        return helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )

    def _sources(self, nodes: Sequence[Any]) -> list[Any]:
        """The nodes that make what these read of constants alone, each after what it reads."""
        found: set[str] = set()
        pending = [name for node in nodes for name in node.input]
        while pending:
            node = self._made_of_constants.get(pending.pop())
            if node is not None and node.output[0] not in found:
                found.add(node.output[0])
                pending.extend(node.input)
        return [node for name, node in self._made_of_constants.items() if name in found]


def topological(graph: Any) -> list[Any]:
    """The nodes of an ``onnx.GraphProto``, each after what it reads; else in the file's order."""
    made = {name for node in graph.node for name in node.output if name}
    waiting: dict[str, list[int]] = {}
    missing = []
    for position, node in enumerate(graph.node):
        sources = {name for name in node.input if name in made}
        missing.append(len(sources))
        for name in sources:
            waiting.setdefault(name, []).append(position)
    ready = [position for position, count in enumerate(missing) if count == 0][::-1]
    ordered = []
    while ready:
        node = graph.node[ready.pop()]
        ordered.append(node)
        for name in node.output:
            for position in reversed(waiting.get(name, [])):
                missing[position] -= 1
                if missing[position] == 0:
                    ready.append(position)
    return ordered


def open_graph(onnx: Any, model: Any, names: Sequence[str]) -> Any:
    """Run a graph for some of its tensors, unfused, so that each is what its node computes.

    Args:
        onnx: The package.
        model: ``onnx.ModelProto``; its outputs are replaced.
        names: The tensors, inputs of the graph among them.

    Returns:
        A function from feeds (more than the graph takes are left out) to arrays by name.
    """
    ort = require("onnxruntime", extra="compile")
    given = [value.name for value in model.graph.input]
    computed = [name for name in names if name not in given]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in computed)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    # Many short-lived sessions: an arena each would keep what only one of them needs.
    settings.enable_cpu_mem_arena = False
    session = (
        ort.InferenceSession(
            model.SerializeToString(), sess_options=settings, providers=["CPUExecutionProvider"]
        )
        if computed
        else None
    )

    def run(feeds: Mapping[str, Any]) -> Values:
        values: Values = {name: feeds[name] for name in names if name in given}
        if session is not None:
            taken = {name: feeds[name] for name in given}
            values.update(zip(computed, session.run(computed, taken), strict=True))
        return values

    return run
