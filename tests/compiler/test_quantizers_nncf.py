"""INT8 and compressed weights for OpenVINO, and compressed weights for onnxruntime."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from contracts.onnx_models import cnn_inputs, write_cnn
from contracts.quantizing import Workshop, sqnr_db, write_model
from edgessl.errors import ModelError, TargetError

openvino: Any = pytest.importorskip("openvino")

PERCEPTRON = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 64] x) => (float[batch, 64] y)
    {
        a = MatMul (x, w)
        b = Add (a, bias)
        c = Relu (b)
        y = MatMul (c, v)
    }
"""


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("cnn")
    return Workshop.of(write_cnn(folder / "cnn.onnx"), {"images": cnn_inputs(16)}, folder)


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("perceptron")
    weights = {"w": (64, 64), "bias": (64,), "v": (64, 64)}
    path = write_model(folder / "m.onnx", PERCEPTRON, weights)
    x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    return Workshop.of(path, {"x": x}, folder / "w")


def _operations(path: Path) -> Counter[str]:
    model = openvino.Core().read_model(path)
    return Counter(operation.get_type_name() for operation in model.get_ops())


def _fidelity_db(workshop: Workshop, path: Path) -> float:
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", hints)
    calls = range(workshop.samples.calls)
    actual = [np.ravel(model(workshop.samples.feeds(k))[0]) for k in calls]
    expected = workshop.run(Path(workshop.graph.path))
    return sqnr_db(expected, np.concatenate(actual).astype(np.float64))


def _quantized_layers(path: Path) -> set[str]:
    """Friendly names of the layers whose weights are integers."""
    names = set()
    for operation in openvino.Core().read_model(path).get_ops():
        if operation.get_type_name() in ("Convolution", "MatMul"):
            pending, kinds = [operation.input(1).get_source_output().get_node()], set()
            while pending:
                node = pending.pop()
                kinds.add(node.get_output_element_type(0).get_type_name())
                pending += [value.get_source_output().get_node() for value in node.inputs()]
            if kinds & {"i8", "u8", "i4", "u4"}:
                names.add(operation.get_friendly_name())
    return names


class TestInt8:
    def test_usage_reports_are_off(self, cnn: Workshop) -> None:
        cnn.quantize("nncf")
        assert os.environ["NNCF_CI"]

    @pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
    def test_close_to_float(self, cnn: Workshop, method: str) -> None:
        assert _fidelity_db(cnn, cnn.quantize("nncf", method=method)) > 10

    def test_entropy_is_refused(self, cnn: Workshop) -> None:
        with pytest.raises(TargetError, match="nncf has no 'entropy' ranges; choose"):
            cnn.quantize("nncf", method="entropy")

    @pytest.mark.parametrize("kept", ["conv1", "conv2", "head"])
    def test_keep_float_takes_names_of_onnx(self, cnn: Workshop, kept: str) -> None:
        every = _quantized_layers(cnn.quantize("nncf"))
        rest = _quantized_layers(cnn.quantize("nncf", keep_float=(kept,)))
        assert len(every) == 3
        assert len(rest) == 2
        assert rest < every

    def test_keep_float_takes_names_that_our_ranking_gives(self, perceptron: Workshop) -> None:
        # onnxruntime's optimizer fuses MatMul and Add, and names the result after the first.
        fused = "MatMul_0/MatMulAddFusion"
        quantized = perceptron.quantize("nncf", keep_float=(fused,))
        assert len(_quantized_layers(quantized)) == 1

    def test_transformers_get_smooth_quant_and_asymmetric_activations(self, tmp_path: Path) -> None:
        text = """
            <ir_version: 8, opset_import: ["" : 17]>
            g (float[batch, 8, 32] x) => (float[batch, 8, 32] y)
            {
                n = LayerNormalization (x, gain)
                q = MatMul (n, wq)
                k = MatMul (n, wk)
                t = Transpose <perm = [0, 2, 1]> (k)
                s = MatMul (q, t)
                p = Softmax (s)
                v = MatMul (p, n)
                y = MatMul (v, wo)
            }
        """
        weights = {"gain": (32,), "wq": (32, 32), "wk": (32, 32), "wo": (32, 32)}
        path = write_model(tmp_path / "m.onnx", text, weights)
        rng = np.random.default_rng(0)
        outliers = np.where(np.arange(32) == 3, 40.0, 1.0)
        x = (rng.standard_normal((16, 8, 32)) * outliers + 1).astype(np.float32)
        workshop = Workshop.of(path, {"x": x}, tmp_path / "w")
        quantized = workshop.quantize("nncf")
        assert _fidelity_db(workshop, quantized) > 5
        model = openvino.Core().read_model(quantized)
        lows = [
            op.input(1).get_source_output().get_node().get_data().min()
            / op.input(2).get_source_output().get_node().get_data().max()
            for op in model.get_ops()
            if op.get_type_name() == "FakeQuantize"
        ]
        # A symmetric range of 256 levels reaches 128/127 as far down.
        assert any(abs(ratio + 128 / 127) > 0.01 for ratio in lows)
        smoothing = [op for op in model.get_ops() if "smooth_quant" in op.get_friendly_name()]
        assert smoothing

    def test_a_graph_that_openvino_cannot_read(self, shared: Path, tmp_path: Path) -> None:
        path = shared / "models" / "silero-vad" / "silero_vad.onnx"
        if not path.is_file():
            pytest.skip("silero-vad is not on this machine")
        feeds = {
            "input": np.zeros((2, 576), np.float32),
            "state": np.zeros((2, 2, 1, 128), np.float32),
            "sr": np.full(2, 16_000),
        }
        workshop = Workshop.of(path, feeds, tmp_path / "w")
        with pytest.raises(ModelError, match="OpenVINO cannot read the graph"):
            workshop.quantize("nncf")


class TestWeightOnly:
    @pytest.mark.parametrize(("precision", "least"), [("w8", 35), ("w4", 15)])
    @pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
    def test_weights_shrink_and_outputs_stay_close(
        self, perceptron: Workshop, engine: str, precision: str, least: float
    ) -> None:
        path = perceptron.quantize("weight-only", engine=engine, precision=precision)
        if engine == "openvino":
            assert len(_quantized_layers(path)) == 2
            assert _operations(path)["FakeQuantize"] == 0
            assert _fidelity_db(perceptron, path) > least
        else:
            kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
            assert (kinds["MatMulNBits"], kinds["MatMul"]) == (2, 0)
            assert perceptron.fidelity_db(path) > least

    @pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
    def test_keep_float(self, perceptron: Workshop, engine: str) -> None:
        path = perceptron.quantize(
            "weight-only", engine=engine, precision="w8", keep_float=("MatMul_3",)
        )
        if engine == "openvino":
            assert len(_quantized_layers(path)) == 1
        else:
            kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
            assert (kinds["MatMulNBits"], kinds["MatMul"]) == (1, 1)

    def test_an_engine_without_it(self, perceptron: Workshop) -> None:
        with pytest.raises(TargetError, match="tensorrt has no weight-only w4; choose"):
            perceptron.quantize("weight-only", engine="tensorrt", precision="w4")

    def test_a_graph_without_matrix_products(self, cnn: Workshop) -> None:
        with pytest.raises(ModelError, match="has none with constant weights"):
            cnn.quantize("weight-only", engine="onnxruntime", precision="w4")
