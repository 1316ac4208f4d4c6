"""What keeping a layer in float does to a QDQ graph, and what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from contracts.onnx_models import cnn_inputs, write_cnn
from contracts.quantizing import Workshop, pairs, sqnr_db, write_residual
from edgessl.compiler.layer_cost import counted_costs
from edgessl.compiler.layer_timing import time_layers, without_integers
from edgessl.compiler.layer_work import LayerWork, count_layers
from edgessl.compiler.sensitivity import LayerTrials
from edgessl.compiler.switches import SwitchedGraph


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("float")
    images = np.random.default_rng(0).standard_normal((12, 3, 16, 16)).astype(np.float32)
    return Workshop.of(write_residual(folder / "m.onnx"), {"images": images}, folder)


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8", "tensorrt", "qnn"])
def test_all_switches_on_compute_what_the_integer_graph_does(
    workshop: Workshop, scheme: str
) -> None:
    quantized = workshop.quantize(scheme)
    fused = quantized.with_name("fused.onnx")
    source = fused if fused.is_file() else quantized.with_name("float.onnx")
    graph = SwitchedGraph(source, quantized, threads=1)
    trials = LayerTrials(graph, workshop.samples, count=12)
    together = trials.loss(range(len(graph.layers)))
    assert together.sqnr_db is not None
    assert together.sqnr_db == pytest.approx(workshop.fidelity_db(quantized), abs=1.5)
    nothing = trials.loss(())
    assert (nothing.noise, nothing.sqnr_db) == (0.0, None)


@pytest.mark.parametrize("node", ["conv_a", "few_channels", "wide"])
def test_a_layer_kept_in_float_is_as_good_as_its_switch_says(workshop: Workshop, node: str) -> None:
    quantized = workshop.quantize("u8s8")
    graph = SwitchedGraph(quantized.with_name("float.onnx"), quantized, threads=1)
    names = [name for name, _ in graph.layers]
    trials = LayerTrials(graph, workshop.samples, count=12)
    expected = trials.loss([k for k, name in enumerate(names) if name != node]).sqnr_db
    kept = workshop.quantize("u8s8", keep_float=(node, *graph.companions.get(node, ())))
    assert expected is not None
    assert workshop.fidelity_db(kept) == pytest.approx(expected, abs=1.5)
    assert not [1 for name, _ in pairs(onnx.load(kept).graph) if name == node]
    onnx.checker.check_model(onnx.load(kept))


def test_a_relu_that_the_integers_did_comes_back(tmp_path: Path) -> None:
    """conv1's ReLU is no node of the integer graph; conv2 alone in float must still see it."""
    workshop = Workshop.of(write_cnn(tmp_path / "m.onnx"), {"images": cnn_inputs(12)}, tmp_path)
    quantized = workshop.quantize("u8s8")
    plain = quantized.with_name("float.onnx")
    assert "relu1" not in {node.name for node in onnx.load(quantized).graph.node}
    without_integers(plain, quantized, {"conv2"}, tmp_path / "variant.onnx")
    expected = workshop.run(Path(workshop.graph.path))
    before = sqnr_db(expected, workshop.run(quantized))
    assert sqnr_db(expected, workshop.run(tmp_path / "variant.onnx")) > before - 0.5


def test_nodes_without_integers_are_named(workshop: Workshop) -> None:
    quantized = workshop.quantize("tensorrt")
    graph = SwitchedGraph(quantized.with_name("float.onnx"), quantized, threads=1)
    assert ("shares", "Softmax") in graph.left_float
    assert not {name for name, _ in graph.layers} & {name for name, _ in graph.left_float}
    assert not {kind for _, kind in graph.left_float} & {"Concat", "Reshape", "Flatten"}


def test_layers_are_timed_beside_the_whole(workshop: Workshop, tmp_path: Path) -> None:
    quantized = workshop.quantize("u8s8")
    plain = quantized.with_name("float.onnx")
    names = ["conv_a", "wide"]
    options = {"threads": 1}
    added = time_layers("onnxruntime", options, plain, quantized, names, workshop.samples, tmp_path)
    assert len(added) == 2
    assert all(abs(ms) < 100.0 for ms in added)


def test_work_is_counted_as_by_hand(workshop: Workshop) -> None:
    quantized = workshop.quantize("u8s8")
    conv, wide = count_layers(quantized.with_name("float.onnx"), ["conv_a", "wide"])
    pixels = 16 * 16
    assert conv.operations == 2 * 16 * 16 * 9 * pixels
    assert (conv.weights, conv.activations) == (16 * 16 * 9 + 16, 2 * 16 * pixels)
    assert wide.operations == 2 * 16 * 256 * 32
    costs = counted_costs([conv, wide], why="elsewhere")
    assert (costs.basis, costs.why) == ("counted", "elsewhere")
    assert costs.costs[0] == conv.operations + 30 * (conv.weights + conv.activations)


def test_more_work_costs_more() -> None:
    work = [
        LayerWork(node=str(k), operations=o, weights=w, activations=a)
        for k, (o, w, a) in enumerate([(0, 0, 10), (0, 10, 10), (500, 10, 10)])
    ]
    costs = counted_costs(work, why="").costs
    assert list(costs) == sorted(costs)
    assert len(set(costs)) == 3
