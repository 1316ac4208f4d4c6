"""Which layers suffer most from integers, without labels.

Each layer is quantized alone, and what that does to the model's outputs is its error. All layers
are tried in one session: the graph holds both forms of every layer, and a switch per layer chooses
between them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.compiler.backends import BuildRequest
from edgessl.compiler.quantizers import QUANTIZERS, QuantizationJob
from edgessl.compiler.samples import Samples
from edgessl.config import Options
from edgessl.errors import TargetError
from edgessl.optional import require

__all__ = ["LayerError", "compare_layers", "rank_layers", "ranked_scheme"]

# NNCF writes no ONNX file; the layers that suffer are nearly the same with our own integers.
_PROXIES = {"nncf": "u8s8"}
# They only move values, so integers change nothing there.
_MOVERS = frozenset({"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad"})
_MOVERS |= {"Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"}
_MOVERS |= {"Unsqueeze"}
_SAMPLES = 4
# In place of infinity, which JSON has not.
_RUINED = 1e30


class LayerError(Options):
    """One layer and what its integers do.

    Attributes:
        node: ONNX name, as ``keep_float`` takes it.
        error: Noise that quantizing this layer alone brings to the outputs, divided by their
            power; the mean over the outputs. 0.01 is 20 dB.
    """

    node: str
    error: float


def rank_layers(request: BuildRequest, *, samples: int = _SAMPLES) -> list[LayerError]:
    """Rank the layers of a candidate, the most harmful first.

    Args:
        request: What builds the candidate; its folder takes two graphs. Layers that it keeps in
            floating point already are not ranked.
        samples: Calibration samples to run, evenly spaced.

    Raises:
        TargetError: The candidate quantizes no activations.
        ModelError: The graph cannot be quantized.
    """
    job = request.job()
    if job.scheme == "weight-only":
        raise TargetError("weight-only candidates have no layers to rank; choose int8 or a16w8")
    proxy = ranked_scheme(job.scheme)
    job = replace(job, scheme=proxy, rough=True)
    quantized, _ = QUANTIZERS.get(proxy).quantize(job)
    return compare_layers(_float_graph(job), quantized, job.samples, count=samples)


def ranked_scheme(scheme: str) -> str:
    """The scheme whose integers are ranked in place of a scheme's own."""
    return _PROXIES.get(scheme, scheme)


def compare_layers(
    float_graph: Path, quantized: Path, samples: Samples, *, count: int = _SAMPLES
) -> list[LayerError]:
    """Rank the layers of a QDQ graph against the float graph that it was made from.

    Args:
        float_graph: The ``.onnx`` before; its nodes have the same names.
        quantized: The ``.onnx`` after.
        samples: Inputs.
        count: How many of them to run, evenly spaced.
    """
    onnx = require("onnx", extra="compile")
    switched = _Switched(onnx, onnx.load(float_graph), onnx.load(quantized))
    calls = np.linspace(0, samples.calls - 1, min(count, samples.calls)).round().astype(int)
    noise = np.zeros((len(switched.nodes), 0))
    for call in np.unique(calls):
        noise = np.concatenate([noise, switched.noise(samples.feeds(int(call)))], axis=1)
    errors = noise.mean(axis=1) if noise.size else np.zeros(len(switched.nodes))
    # Stable: of equals the one that comes first in the graph comes first.
    order = np.argsort(-errors, kind="stable")
    return [LayerError(node=switched.nodes[k], error=float(errors[k])) for k in order]


def _float_graph(job: QuantizationJob) -> Path:
    """What the quantizer started from; QNN's tools fuse further."""
    fused = job.folder / "fused.onnx"
    return fused if fused.is_file() else job.folder / "float.onnx"


class _Switched:
    """The float graph with a switch per layer that turns its integers on.

    Attributes:
        nodes: Names of the layers, in the order of the graph.
    """

    def __init__(self, onnx: Any, plain: Any, quantized: Any) -> None:
        self._onnx = onnx
        self._plain, graph = plain, quantized.graph
        self._makers = {name: node for node in graph.node for name in node.output}
        self._integers = {tensor.name: tensor for tensor in graph.initializer}
        self._weights = {tensor.name: tensor for tensor in plain.graph.initializer}
        self.nodes: list[str] = []
        self._extend(plain.graph, {node.name: node for node in graph.node})
        domains = {imported.domain for imported in plain.opset_import}
        plain.opset_import.extend(i for i in quantized.opset_import if i.domain not in domains)
        self._session = self._open()

    def noise(self, feeds: dict[str, Any]) -> NDArray[np.float64]:
        """``(layers, 1)``: noise over power of the outputs, for one call's inputs."""
        off = {f"switch/{k}": np.array(False) for k in range(len(self.nodes))}
        expected = self._run({**feeds, **off})
        rows = []
        for k in range(len(self.nodes)):
            actual = self._run({**feeds, **off, f"switch/{k}": np.array(True)})
            pairs = list(zip(expected, actual, strict=True))
            ratios = [_ratio(want, have) for want, have in pairs]
            rows.append([float(np.mean(ratios)) if ratios else 0.0])
        return np.array(rows, np.float64).reshape(len(self.nodes), 1)

    def _run(self, feeds: dict[str, Any]) -> list[NDArray[Any]]:
        return [value for value in self._session.run(None, feeds) if value.dtype.kind == "f"]

    def _open(self) -> Any:
        onnxruntime = require("onnxruntime", extra="compile")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            self._plain.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _extend(self, graph: Any, twins: dict[str, Any]) -> None:
        nodes = []
        for node in graph.node:
            twin = twins.get(node.name)
            integers = [] if twin is None or node.op_type in _MOVERS else self._integer(node, twin)
            nodes.append(self._switch(graph, node, integers) if integers else node)
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)

    def _switch(self, graph: Any, node: Any, integers: list[Any]) -> Any:
        """A node that computes one form or the other, and spends no time on the one not chosen."""
        switch = f"switch/{len(self.nodes)}"
        self.nodes.append(node.name)
        boolean = self._onnx.TensorProto.BOOL
        graph.input.append(self._onnx.helper.make_tensor_value_info(switch, boolean, []))
        plain = type(node).FromString(node.SerializeToString())
        branches = {}
        for name, body in (("then_branch", integers), ("else_branch", [plain])):
            last = body[-1]
            last.output[:] = [
                f"{switch}/{name}/{k}" if o else "" for k, o in enumerate(last.output)
            ]
            outputs = [self._onnx.ValueInfoProto(name=output) for output in last.output if output]
            branches[name] = self._onnx.helper.make_graph(body, name, [], outputs)
        outputs = [output for output in node.output if output]
        return self._onnx.helper.make_node("If", [switch], outputs, node.name, **branches)

    def _integer(self, node: Any, twin: Any) -> list[Any]:
        """The node behind pairs, as its twin in the integer graph is; empty if that has none."""
        where = f"switch/{len(self.nodes)}"
        body: list[Any] = []
        changed = type(node).FromString(node.SerializeToString())
        for index, name in enumerate(node.input):
            maker = self._makers.get(twin.input[index]) if index < len(twin.input) else None
            if maker is None or maker.op_type != "DequantizeLinear":
                continue
            place = f"{where}/{index}"
            if name in self._weights:
                value = self._onnx.numpy_helper.from_array(self._weight(maker), f"{place}/weight")
                self._plain.graph.initializer.append(value)
                changed.input[index] = value.name
            else:
                body += self._pair(name, maker, place)
                changed.input[index] = body[-1].output[0]
        return [*body, changed] if changed != node else []

    def _pair(self, name: str, maker: Any, place: str) -> list[Any]:
        parameters: list[str] = []
        for source in maker.input[1:]:
            tensor = self._onnx.TensorProto()
            tensor.CopyFrom(self._integers[source])
            tensor.name = f"{place}/parameter_{len(parameters)}"
            self._plain.graph.initializer.append(tensor)
            parameters.append(tensor.name)
        integers, floats = f"{place}/quantized", f"{place}/dequantized"
        return [
            self._onnx.helper.make_node(kind, [source, *parameters], [result], domain=maker.domain)
            for kind, source, result in (
                ("QuantizeLinear", name, integers),
                ("DequantizeLinear", integers, floats),
            )
        ]

    def _weight(self, maker: Any) -> NDArray[Any]:
        """What a weight is after it went through integers."""
        array = self._onnx.numpy_helper.to_array
        scale = array(self._integers[maker.input[1]])
        zero = array(self._integers[maker.input[2]]) if maker.input[2:] else np.zeros(1, np.int8)
        axis = next((a.i for a in maker.attribute if a.name == "axis"), 1)
        source = maker.input[0]
        quantizer = self._makers.get(source)
        stored = array(self._integers[quantizer.input[0] if quantizer is not None else source])
        if scale.ndim == 1 and scale.size > 1:
            shape = [1] * stored.ndim
            shape[axis] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        integers = stored.astype(np.float64)
        if quantizer is not None:
            limits = np.iinfo(zero.dtype)
            integers = np.clip(np.round(integers / scale) + zero, limits.min, limits.max)
        return np.asarray((integers - zero) * scale, scale.dtype)


def _ratio(want: NDArray[Any], have: NDArray[Any]) -> float:
    reference, changed = want.astype(np.float64), have.astype(np.float64)
    if not np.isfinite(changed).all():
        return _RUINED
    power = float(np.sum(reference**2))
    noise = float(np.sum((changed - reference) ** 2))
    return noise / power if power > 0 else (0.0 if noise == 0 else _RUINED)
