"""A8W8 and A16W8 for Qualcomm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from contracts.quantizing import Workshop, pairs, write_model

TEXT = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 16, 8, 8] x) => (float[batch, 64, 16] y)
    {
        c = Conv <pads = [1, 1, 1, 1]> (x, kernel)
        r = Relu (c)
        m = Reshape (r, rows)
        t = Transpose <perm = [0, 2, 1]> (m)
        n = LayerNormalization (t, gain, shift)
        p = MatMul (n, w)
        s = Softmax (p)
        y = Tanh (s)
    }
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("qnn")
    weights = {"kernel": (16, 16, 3, 3), "gain": (16,), "shift": (16,), "w": (16, 16)}
    path = write_model(folder / "m.onnx", TEXT, weights | {"rows": (3,)})
    model = onnx.load(path)
    (rows,) = (t for t in model.graph.initializer if t.name == "rows")
    rows.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 16, 64]), "rows"))
    # onnxruntime's preprocessing for QNN fails on a file that has properties.
    onnx.helper.set_model_props(model, {"made": "by a test"})
    onnx.save(model, path)
    x = np.random.default_rng(0).standard_normal((8, 16, 8, 8)).astype(np.float32)
    return Workshop.of(path, {"x": x}, folder / "w")


def _stored(graph: Any, name: str) -> Any:
    return next(t for t in graph.initializer if t.name == name)


class TestTypes:
    @pytest.mark.parametrize(
        ("precision", "activations"),
        [("int8", TensorProto.UINT8), ("a16w8", TensorProto.UINT16)],
    )
    def test_activations(self, workshop: Workshop, precision: str, activations: int) -> None:
        graph = onnx.load(workshop.quantize("qnn", precision=precision)).graph
        for node in graph.node:
            if node.op_type == "QuantizeLinear":
                assert _stored(graph, node.input[2]).data_type == activations
        assert workshop.fidelity_db(workshop.quantize("qnn", precision=precision)) > 25

    @pytest.mark.parametrize("precision", ["int8", "a16w8"])
    @pytest.mark.parametrize("per_channel", [False, True])
    def test_weights_are_unsigned_as_layer_normalization_needs(
        self, workshop: Workshop, precision: str, per_channel: bool
    ) -> None:
        # With signed weights: backendValidateOpConfig() failed … 3110.
        path = workshop.quantize("qnn", precision=precision, per_channel=per_channel)
        graph = onnx.load(path).graph
        placed, stored = pairs(graph), {t.name: t for t in graph.initializer}
        names = {node.name: node.op_type for node in graph.node}
        weights = [
            stored[dequantize.input[0]].data_type
            for (name, index), dequantize in placed.items()
            if index == 1 and dequantize.input[0] in stored and names[name] != "Reshape"
        ]
        assert len(weights) == 3
        assert set(weights) == {TensorProto.UINT8}

    @pytest.mark.parametrize("precision", ["int8", "a16w8"])
    def test_matmul_never_has_scales_per_channel(self, workshop: Workshop, precision: str) -> None:
        graph = onnx.load(workshop.quantize("qnn", precision=precision, per_channel=True)).graph
        kinds = {node.name: node.op_type for node in graph.node}
        sizes = {
            kinds[name]: int(np.prod(_stored(graph, dequantize.input[1]).dims))
            for (name, index), dequantize in pairs(graph).items()
            if index == 1
        }
        assert sizes["MatMul"] == 1
        assert sizes["Conv"] == 16

    def test_sixteen_bits_are_closer(self, workshop: Workshop) -> None:
        eight, sixteen = (
            workshop.fidelity_db(workshop.quantize("qnn", precision=p)) for p in ("int8", "a16w8")
        )
        assert sixteen > eight


class TestFusedGraphs:
    def test_new_tensors_get_ranges(self, tmp_path: Path) -> None:
        text = """
            <ir_version: 8, opset_import: ["" : 17]>
            g (float[batch, 32] x) => (float[batch, 32] y)
            {
                h = MatMul (x, w)
                root = Constant <value = float {1.4142135}> ()
                one = Constant <value = float {1.0}> ()
                half = Constant <value = float {0.5}> ()
                d = Div (h, root)
                e = Erf (d)
                a = Add (e, one)
                m = Mul (h, a)
                g = Mul (m, half)
                y = MatMul (g, v)
            }
        """
        path = write_model(tmp_path / "m.onnx", text, {"w": (32, 32), "v": (32, 32)})
        x = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
        workshop = Workshop.of(path, {"x": x}, tmp_path / "w")
        quantized = workshop.quantize("qnn", precision="a16w8")
        assert workshop.fidelity_db(quantized) > 25
        kept = workshop.quantize("qnn", precision="a16w8", keep_float=("MatMul_9",))
        assert ("MatMul_9", 1) in pairs(onnx.load(quantized).graph)
        assert ("MatMul_9", 1) not in pairs(onnx.load(kept).graph)
