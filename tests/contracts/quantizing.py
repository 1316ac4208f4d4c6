"""Quantize small graphs without a worker, and look at what came out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.quantizers import QUANTIZERS, QuantizationJob
from edgessl.compiler.samples import Samples, SampleWriter, Stream

__all__ = ["Workshop", "pairs", "readers", "sqnr_db", "write_model", "write_residual"]

_COUNT = itertools.count()


@dataclass
class Workshop:
    """A prepared graph with calibration samples.

    Attributes:
        folder: Work folder.
        graph: The graph.
        samples: Calibration samples.
    """

    folder: Path
    graph: GraphInfo
    samples: Samples

    @classmethod
    def of(cls, model: Path, feeds: dict[str, NDArray[Any]], folder: Path) -> Workshop:
        """Prepare a model; ``feeds`` has the samples of each input along the first dimension."""
        folder.mkdir(exist_ok=True)
        graph = prepare_graph(model, folder / "prepared.onnx", batch_size=1)
        streams = tuple(
            Stream(
                name=spec.name,
                dtype=spec.dtype,
                shape=feeds[spec.name].shape[1:],
                batched=spec.name in graph.batched_inputs,
            )
            for spec in graph.inputs
        )
        with SampleWriter(folder / "samples", streams, batch_size=1) as writer:
            writer.append(feeds)
        return cls(folder, graph, Samples(folder / "samples"))

    def job(self, scheme: str, **changes: Any) -> QuantizationJob:
        """A job in a folder of its own."""
        folder = self.folder / f"job-{next(_COUNT)}"
        folder.mkdir()
        values: dict[str, Any] = {
            "precision": "int8",
            "remainder": None,
            "per_channel": True,
            "reduce_range": False,
            "method": "minmax",
            "keep_float": (),
        }
        return QuantizationJob(
            graph=self.graph,
            samples=self.samples,
            folder=folder,
            scheme=scheme,
            **{**values, **changes},
        )

    def quantize(self, scheme: str, **changes: Any) -> Path:
        """The file that a scheme gives."""
        path, versions = QUANTIZERS.get(scheme).quantize(self.job(scheme, **changes))
        assert all(version[:1].isdigit() for version in versions.values())
        return path

    def run(self, path: Path) -> NDArray[np.float64]:
        """All floating-point outputs for all samples, in a row; the float graph has its own."""
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        runs = [session.run(None, self.samples.feeds(k)) for k in range(self.samples.calls)]
        flat = [value.ravel() for run in runs for value in run if value.dtype.kind == "f"]
        return np.concatenate(flat).astype(np.float64)

    def fidelity_db(self, path: Path) -> float:
        """Signal-to-quantization-noise ratio of a quantized file."""
        return sqnr_db(self.run(Path(self.graph.path)), self.run(path))


def sqnr_db(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    """Signal-to-quantization-noise ratio in decibels."""
    noise = np.sum((expected - actual) ** 2)
    return float(10 * np.log10(np.sum(expected**2) / max(noise, 1e-30)))


def pairs(graph: Any) -> dict[tuple[str, int], Any]:
    """(Node, index of an input) → the DequantizeLinear before it."""
    made = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    return {
        (node.name, index): made[name]
        for node in graph.node
        for index, name in enumerate(node.input)
        if name in made
    }


def readers(graph: Any, *kinds: str) -> set[str]:
    """Names of nodes of these types with an input behind a pair."""
    types = {node.name: node.op_type for node in graph.node}
    return {name for name, _ in pairs(graph) if types[name] in kinds}


def write_model(
    path: Path, text: str, weights: dict[str, tuple[int, ...]], *, seed: int = 0
) -> Path:
    """Write a graph in ONNX's text form with random weights of these shapes.

    Nodes are called after their type and number: ``MatMul_0``.
    """
    model = onnx.parser.parse_model(text)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    rng = np.random.default_rng(seed)
    for name, shape in weights.items():
        fan_in = int(np.prod(shape[1:])) or 1
        values = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_residual(path: Path) -> Path:
    """``images (1, 3, 16, 16)``: convolutions with a residual sum, pooling and matrix products."""
    node = helper.make_node
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        scale = np.sqrt(2 / int(np.prod(shape[1:])))
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype("f4"), name)

    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["images", "w_stem"], ["stem"], "stem", **same),
        node("Relu", ["stem"], ["stem_relu"], "stem_relu"),
        node("Conv", ["stem_relu", "w_a", "b_a"], ["a"], "conv_a", **same),
        node("Relu", ["a"], ["a_relu"], "relu_a"),
        node("Conv", ["a_relu", "w_b"], ["b"], "conv_b", **same),
        node("Add", ["stem_relu", "b"], ["sum"], "residual"),
        node("Relu", ["sum"], ["sum_relu"], "sum_relu"),
        node("Conv", ["sum_relu", "w_few"], ["few"], "few_channels", pads=[1, 0, 1, 0]),
        node("Concat", ["sum_relu", "few"], ["both"], "both", axis=1),
        node("MaxPool", ["sum_relu"], ["pooled"], "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        node(
            "ConvTranspose", ["pooled", "w_up"], ["up"], "up", kernel_shape=[2, 2], strides=[2, 2]
        ),
        node("Concat", ["both", "up"], ["all"], "all", axis=1),
        node("GlobalAveragePool", ["all"], ["mean"], "mean"),
        node("Flatten", ["mean"], ["flat"], "flat"),
        node("Gemm", ["flat", "w_head"], ["head"], "one_row", transB=1),
        node("Reshape", ["sum_relu", "matrix"], ["rows"], "rows"),
        node("MatMul", ["rows", "w_wide"], ["wide"], "wide"),
        node("MatMul", ["wide", "w_narrow"], ["narrow"], "narrow"),
        node("Softmax", ["narrow"], ["shares"], "shares"),
        node("ReduceMean", ["shares", "first"], ["share"], "share", keepdims=1),
        node("Add", ["head", "share"], ["embeddings"], "join"),
    ]
    weights = [
        weight("w_stem", 16, 3, 3, 3),
        weight("w_a", 16, 16, 3, 3),
        weight("b_a", 16),
        weight("w_b", 16, 16, 3, 3),
        weight("w_few", 3, 16, 3, 1),
        weight("w_up", 16, 24, 2, 2),
        weight("w_head", 8, 43),
        weight("w_wide", 256, 32),
        weight("w_narrow", 32, 8),
        numpy_helper.from_array(np.array([16, 256]), "matrix"),
        numpy_helper.from_array(np.array([0]), "first"),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", 8])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
