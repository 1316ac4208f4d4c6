"""Rounding that cancels errors, bias correction and headroom, against oracles in float."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler.calibration import ArrayCalibration, store
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.quantizers import QuantizationJob
from edgessl.compiler.quantizers import qnn as qnn_quantizer
from edgessl.compiler.quantizers.bias_correction import correct_biases
from edgessl.compiler.quantizers.headroom import RangesWithHeadroom, bounded_tensors
from edgessl.compiler.quantizers.layers import columns, find_layers
from edgessl.compiler.quantizers.rounding import round_weights, rounded
from edgessl.compiler.quantizers.segments import Segments, open_graph, topological
from edgessl.compiler.ranges import Ranges, collect_ranges
from edgessl.compiler.samples import Samples
from edgessl.progress import silent

Quantized = tuple[Path, Path, Samples]


def _loss(error: NDArray[Any], covariance: NDArray[Any]) -> float:
    return float(np.einsum("goi,gij,goj->", error, covariance, error))


def test_rounding_is_near_the_best_of_all_integers() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((4, 4))
    covariance = (mixing @ mixing.T)[None]
    weights = rng.uniform(-1, 1, (1, 3, 4))
    scales, zeros = np.full((1, 3), 0.3), np.full((1, 3), 8.0)
    integers = rounded(weights, scales, zeros, covariance, limits=(0, 15))
    steps = np.array(list(itertools.product(range(-1, 3), repeat=4)))
    floor = np.floor(weights / scales[..., None])
    best = 0.0
    for output in range(3):
        errors = (floor[0, output] + steps) * 0.3 - weights[0, output]
        best += float(np.einsum("ni,ij,nj->n", errors, covariance[0], errors).min())
    found = _loss((integers - 8) * 0.3 - weights, covariance)
    nearest = _loss(np.rint(weights / 0.3) * 0.3 - weights, covariance)
    assert best <= found <= min(3 * best, nearest)


@pytest.mark.parametrize("inputs", [9, 100, 150])
def test_rounding_loses_less_than_the_nearest_integers(inputs: int) -> None:
    """Also across the blocks in which columns are treated."""
    rng = np.random.default_rng(inputs)
    samples = rng.standard_normal((2, 400, inputs)).cumsum(axis=2)
    covariance = samples.transpose(0, 2, 1) @ samples / 400
    weights = rng.standard_normal((2, 5, inputs))
    scales = np.abs(weights).max(axis=2) / 7
    zeros = np.zeros((2, 5))
    integers = rounded(weights, scales, zeros, covariance, limits=(-8, 7))
    assert integers.min() >= -8
    assert integers.max() <= 7
    found = _loss(integers * scales[..., None] - weights, covariance)
    nearest = np.rint(weights / scales[..., None]) * scales[..., None]
    assert found < 0.5 * _loss(nearest - weights, covariance)


def test_inputs_that_never_vary_leave_nearest_rounding() -> None:
    weights = np.array([[[0.26, -0.26, 0.74]]])
    integers = rounded(
        weights, np.ones((1, 1)) / 2, np.zeros((1, 1)), np.zeros((1, 3, 3)), limits=(-8, 7)
    )
    np.testing.assert_array_equal(integers, np.rint(weights * 2))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[GraphInfo, Samples]:
    folder = tmp_path_factory.mktemp("rounding")
    model = onnx.load(write_cnn(folder / "cnn.onnx"))
    rng = np.random.default_rng(2)
    sizes = {"conv1": 16, "conv2": 32, "head": 8}
    for node in model.graph.node:
        if node.name in sizes:
            bias = rng.standard_normal(sizes[node.name]).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(bias, f"{node.name}_bias"))
            node.input.append(f"{node.name}_bias")
    onnx.save(model, folder / "biased.onnx")
    prepared = prepare_graph(folder / "biased.onnx", folder / "prepared.onnx", batch_size=1)
    samples = store(
        ArrayCalibration({"images": cnn_inputs(12)}),
        np.arange(12),
        prepared,
        folder / "samples",
        progress=silent,
    )
    return prepared, samples


@pytest.fixture
def quantized(
    tmp_path: Path, graph: tuple[GraphInfo, Samples], monkeypatch: pytest.MonkeyPatch
) -> Quantized:
    """The integer graph as it is before rounding and correction, the float graph, the samples."""
    for step in ("round_weights", "correct_biases"):
        monkeypatch.setattr(qnn_quantizer, step, lambda *arguments: 0)
    job = QuantizationJob(
        graph=graph[0],
        samples=graph[1],
        folder=tmp_path,
        scheme="qnn",
        precision="a16w8",
        remainder=None,
        per_channel=True,
        reduce_range=False,
        method="minmax",
        keep_float=(),
    )
    out, _ = qnn_quantizer.Qnn.quantize(job)
    fused = tmp_path / "fused.onnx"
    return out, fused if fused.exists() else tmp_path / "float.onnx", graph[1]


def _outputs(path: Path, samples: Samples) -> NDArray[Any]:
    model = onnx.load(path)
    name = model.graph.output[0].name
    run = open_graph(onnx, model, [name])
    return np.concatenate([run(samples.feeds(k))[name] for k in range(samples.calls)])


def test_each_step_brings_the_outputs_nearer(quantized: Quantized) -> None:
    out, original, samples = quantized
    wanted = _outputs(original, samples)

    def error() -> float:
        return float(np.linalg.norm(_outputs(out, samples) - wanted))

    plain = error()
    assert correct_biases(out, original, samples) == 3
    corrected = error()
    assert corrected < plain
    assert round_weights(out, original, samples) == 3
    assert correct_biases(out, original, samples) == 3
    assert error() < 0.7 * corrected


def test_layers_without_a_bias_keep_their_mean(quantized: Quantized) -> None:
    out, original, samples = quantized
    for path in (out, original):
        model = onnx.load(path)
        for node in model.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                del node.input[2:]
        onnx.save(model, path)
    wanted = _outputs(original, samples)
    plain = np.linalg.norm(_outputs(out, samples) - wanted)
    round_weights(out, original, samples)
    assert correct_biases(out, original, samples) == 0
    assert np.linalg.norm(_outputs(out, samples) - wanted) < 0.7 * plain


def test_weights_keep_their_grid(quantized: Quantized) -> None:
    out, original, samples = quantized
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    round_weights(out, original, samples)
    after = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert {before[name].dtype for name in changed} == {np.dtype(np.uint8)}
    assert all(before[name].ndim >= 2 for name in changed)


def test_the_mean_error_goes(quantized: Quantized) -> None:
    out, original, samples = quantized
    correct_biases(out, original, samples)
    # The last layer's error is what remains of all of them: less than a step of its bias.
    shift = (_outputs(out, samples) - _outputs(original, samples)).mean(axis=0)
    spread = _outputs(original, samples).std()
    assert np.abs(shift).max() < 1e-4 * spread


def test_columns_are_what_a_convolution_sums(tmp_path: Path) -> None:
    """Strides, pads, dilations and groups, against onnxruntime."""
    info = onnx.helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 3, 2)).astype(np.float32)
    attributes = {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="c", **attributes)]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("x", 1, [1, 6, 9, 8])],
        [info("y", 1, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    reference = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    integer = onnx.ModelProto()
    integer.CopyFrom(reference)
    integer.graph.node[0].input[1] = "wd"
    nodes = [onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["wd"], axis=0)]
    integer.graph.node.insert(0, nodes[0])
    integer.graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros(weight.shape, np.uint8), "q"),
            numpy_helper.from_array(np.ones(4, np.float32), "s"),
            numpy_helper.from_array(np.full(4, 128, np.uint8), "z"),
        ]
    )
    (layer,) = find_layers(onnx, integer, reference)
    x = rng.standard_normal((1, 6, 9, 8)).astype(np.float32)
    wanted = open_graph(onnx, reference, ["y"])({"x": x})["y"]
    found = columns(x, layer, rng, limit=10**6) @ layer.weights.transpose(0, 2, 1)
    found = found.transpose(0, 2, 1).reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_pieces_of_a_graph_compute_what_the_whole_does(quantized: Quantized) -> None:
    out, _, samples = quantized
    model = onnx.load(out)
    names = [n.name for n in topological(model.graph) if n.op_type in ("Conv", "Gemm")]
    tensors = {n.name: n.output[0] for n in model.graph.node}
    feeds = [samples.feeds(0), samples.feeds(1)]
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    run = open_graph(onnx, whole, [tensors[name] for name in names])
    wanted = [run(feed) for feed in feeds]
    segments = Segments(onnx, model, feeds)
    for name in segments.order(names):
        segments.run_to(name)
        for values, expected in zip(segments.values, wanted, strict=True):
            np.testing.assert_array_equal(values[tensors[name]], expected[tensors[name]])
            assert len(values) <= 3


def test_headroom_doubles_ranges_that_no_operator_bounds(
    tmp_path: Path, graph: tuple[GraphInfo, Samples]
) -> None:
    model = onnx.load(graph[0].path)
    relu = next(n for n in model.graph.node if n.name == "relu1")
    relu.op_type = "Clip"
    relu.input.extend(["low", "high"])
    for name, value in (("low", 0.0), ("high", 0.5)):
        constant = numpy_helper.from_array(np.array(value, np.float32), name)
        model.graph.initializer.append(constant)
    onnx.save(model, tmp_path / "clipped.onnx")
    ranges = collect_ranges(tmp_path / "clipped.onnx", graph[1])
    wide = RangesWithHeadroom(ranges.histograms, bounded_tensors(model))
    clipped = relu.output[0]
    rectified = next(n for n in model.graph.node if n.name == "relu2").output[0]

    def limits(of: Ranges, tensor: str) -> tuple[float, float]:
        return of.range_of(tensor, "minmax", levels=65536, symmetric=False)

    assert limits(wide, clipped) == limits(ranges, clipped)
    assert limits(wide, clipped)[1] == pytest.approx(0.5)
    low, high = limits(ranges, rectified)
    assert low == 0
    assert limits(wide, rectified) == (0, 2 * high)
    low, high = limits(ranges, "images")
    assert limits(wide, "images") == (2 * low, 2 * high)
