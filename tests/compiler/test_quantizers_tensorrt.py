"""TensorRT's placement rules, asserted on the graph; the field notes list them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from contracts.onnx_models import cnn_inputs
from contracts.quantizing import Workshop, pairs, readers, write_model, write_residual
from edgessl.compiler.quantizers.tensorrt import activation_scales
from edgessl.errors import ModelError


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("residual")
    return Workshop.of(write_residual(folder / "m.onnx"), {"images": cnn_inputs(16)}, folder)


@pytest.fixture(scope="module")
def gpu(residual: Workshop) -> Any:
    return onnx.load(residual.quantize("tensorrt")).graph


@pytest.fixture(scope="module")
def dla(residual: Workshop) -> Any:
    return onnx.load(residual.quantize("tensorrt-dla")).graph


def _value(graph: Any, name: str) -> Any:
    return next(numpy_helper.to_array(t) for t in graph.initializer if t.name == name)


def _placed(graph: Any) -> set[tuple[str, int]]:
    return set(pairs(graph))


class TestEveryPair:
    @pytest.mark.parametrize("kind", ["gpu", "dla"])
    def test_symmetric_int8_with_zero_point_0(
        self, kind: str, request: pytest.FixtureRequest
    ) -> None:
        graph = request.getfixturevalue(kind)
        for node in graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                zero = _value(graph, node.input[2])
                assert zero.dtype == np.int8
                assert not zero.any()

    @pytest.mark.parametrize("kind", ["gpu", "dla"])
    def test_belongs_to_one_node(self, kind: str, request: pytest.FixtureRequest) -> None:
        graph = request.getfixturevalue(kind)
        read = [name for node in graph.node for name in node.input]
        for node in graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                final = node.output[0] in {output.name for output in graph.output}
                assert read.count(node.output[0]) == (0 if final else 1)

    def test_opset_knows_scales_per_channel(self, residual: Workshop) -> None:
        model = onnx.load(residual.quantize("tensorrt"))
        assert [(o.domain, o.version >= 13) for o in model.opset_import] == [("", True)]
        onnx.checker.check_model(model, full_check=True)


class TestWeights:
    def test_stay_float_behind_a_pair(self, gpu: Any) -> None:
        stored = {t.name: t.data_type for t in gpu.initializer}
        makers = {n.output[0]: n for n in gpu.node}
        for (_, index), dequantize in pairs(gpu).items():
            quantize = makers[dequantize.input[0]]
            assert quantize.op_type == "QuantizeLinear"
            if index == 1 and quantize.input[0] in stored:
                assert stored[quantize.input[0]] == TensorProto.FLOAT

    @pytest.mark.parametrize(
        ("node", "axis", "channels"),
        [("conv_a", 0, 16), ("up", 1, 24), ("wide", 1, 32)],
    )
    def test_scales_per_output_channel(self, gpu: Any, node: str, axis: int, channels: int) -> None:
        dequantize = pairs(gpu)[(node, 1)]
        scale = _value(gpu, dequantize.input[1])
        (found,) = (a.i for a in dequantize.attribute if a.name == "axis")
        if node == "up":
            assert _value(gpu, "w_up").shape[1] == channels
        assert (found, scale.shape) == (axis, (channels,))

    def test_scale_is_the_greatest_weight_over_127(self, gpu: Any) -> None:
        scale = _value(gpu, pairs(gpu)[("conv_a", 1)].input[1])
        expected = np.abs(_value(gpu, "w_a")).max(axis=(1, 2, 3)) / 127
        np.testing.assert_allclose(scale, expected, rtol=1e-6)

    def test_one_scale_where_channels_are_not_wanted(self, residual: Workshop) -> None:
        graph = onnx.load(residual.quantize("tensorrt", per_channel=False)).graph
        assert _value(graph, pairs(graph)[("conv_a", 1)].input[1]).shape == ()

    def test_bias_stays_float(self, gpu: Any) -> None:
        conv = next(node for node in gpu.node if node.name == "conv_a")
        assert conv.input[2] == "b_a"
        assert _value(gpu, "b_a").dtype == np.float32


class TestActivations:
    def test_exactly_these_inputs(self, gpu: Any) -> None:
        weighted = {"stem", "conv_a", "conv_b", "up", "wide"}
        expected = {(name, index) for name in weighted for index in (0, 1)}
        expected |= {("residual", 0), ("pooled", 0)}
        assert _placed(gpu) == expected

    def test_the_residual_branch_of_a_sum_and_not_the_fused_one(self, gpu: Any) -> None:
        makers = {n.output[0]: n for n in gpu.node}
        add = next(node for node in gpu.node if node.name == "residual")
        assert makers[makers[add.input[0]].input[0]].input[0] == "stem_relu"
        assert makers[add.input[1]].op_type == "Conv"

    def test_none_on_relu_softmax_and_concat(self, gpu: Any) -> None:
        assert not readers(gpu, "Relu", "Softmax", "Concat")

    def test_matrix_vector_products_stay_float(self, gpu: Any) -> None:
        assert ("one_row", 0) not in pairs(gpu)

    def test_narrow_matrices_stay_float(self, gpu: Any) -> None:
        assert ("narrow", 0) not in pairs(gpu)

    def test_convolutions_with_few_channels_stay_float(self, gpu: Any) -> None:
        assert ("few_channels", 0) not in pairs(gpu)

    def test_products_of_two_activations_stay_float(self, tmp_path: Path) -> None:
        text = """
            <ir_version: 8, opset_import: ["" : 17]>
            g (float[batch, 32, 32] x) => (float[batch, 32, 32] y)
            {
                q = MatMul (x, w)
                s = MatMul (q, x)
                p = Softmax (s)
                y = MatMul (p, x)
            }
        """
        path = write_model(tmp_path / "m.onnx", text, {"w": (32, 32)})
        x = np.random.default_rng(0).standard_normal((4, 32, 32)).astype(np.float32)
        workshop = Workshop.of(path, {"x": x}, tmp_path / "w")
        graph = onnx.load(workshop.quantize("tensorrt")).graph
        assert _placed(graph) == {("MatMul_0", 0), ("MatMul_0", 1)}

    @pytest.mark.parametrize(
        ("shape", "group", "quantized"),
        [
            ((16, 16, 3, 3), 1, True),
            ((32, 1, 3, 3), 32, True),
            ((32, 1, 1, 1), 32, False),
            ((36, 1, 3, 3), 36, False),
            ((4, 32, 3, 3), 1, True),
            ((3, 30, 3, 3), 1, False),
            ((8, 8, 3, 3), 1, False),
            ((4, 32, 3, 1), 1, False),
        ],
    )
    def test_channel_rules(
        self, tmp_path: Path, shape: tuple[int, ...], group: int, quantized: bool
    ) -> None:
        inputs = shape[1] * group
        pads = [k // 2 for k in shape[2:]] * 2
        text = f"""
            <ir_version: 8, opset_import: ["" : 17]>
            g (float[batch, {inputs}, 8, 8] x) => (float[batch, {shape[0]}, 8, 8] y)
            {{
                r = Relu (x)
                c = Conv <group = {group}, pads = {pads}> (r, w)
                d = Conv <pads = [1, 1, 1, 1]> (x, big)
                total = ReduceSum <keepdims = 1> (d)
                y = Add (c, total)
            }}
        """
        weights = {"w": shape, "big": (16, inputs, 3, 3)}
        path = write_model(tmp_path / "m.onnx", text, weights)
        x = np.random.default_rng(0).standard_normal((2, inputs, 8, 8)).astype(np.float32)
        workshop = Workshop.of(path, {"x": x}, tmp_path / "w")
        graph = onnx.load(workshop.quantize("tensorrt")).graph
        assert (("Conv_1", 0) in pairs(graph)) == quantized

    def test_scale_comes_from_the_chosen_range(self, residual: Workshop, gpu: Any) -> None:
        images = cnn_inputs(16)
        scale = _value(gpu, pairs(gpu)[("stem", 0)].input[1])
        assert scale == pytest.approx(np.abs(images).max() / 127, rel=1e-6)
        clipped = onnx.load(residual.quantize("tensorrt", method="percentile")).graph
        assert _value(clipped, pairs(clipped)[("stem", 0)].input[1]) < scale


class TestAccelerator:
    def test_every_float_tensor_has_a_scale(self, dla: Any) -> None:
        model = onnx.helper.make_model(dla, opset_imports=[onnx.helper.make_opsetid("", 18)])
        computed = {
            name
            for node in dla.node
            if "QuantizeLinear" != node.op_type != "DequantizeLinear"
            for name in node.output
        }
        expected = {name.removesuffix("/float") for name in computed} | {"images"}
        assert set(activation_scales(model)) == expected

    def test_every_reader_sees_integers(self, dla: Any) -> None:
        placed = pairs(dla)
        stored = {t.name for t in dla.initializer}
        for node in dla.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                for index, name in enumerate(node.input):
                    assert name in stored or (node.name, index) in placed

    def test_the_output_keeps_its_name(self, dla: Any) -> None:
        (last,) = (node for node in dla.node if "embeddings" in node.output)
        assert last.op_type == "DequantizeLinear"

    def test_kept_nodes_give_no_scale(self, residual: Workshop) -> None:
        graph = onnx.load(residual.quantize("tensorrt-dla", keep_float=("join",))).graph
        assert not {index for name, index in pairs(graph) if name == "join"}
        (last,) = (node for node in graph.node if "embeddings" in node.output)
        assert last.name == "join"


class TestRefusals:
    def test_an_operator_of_onnxruntime(self, tmp_path: Path) -> None:
        text = """
            <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
            g (float[batch, 32] x) => (float[batch, 32] y)
            {
                h = MatMul (x, w)
                y = com.microsoft.FastGelu (h)
            }
        """
        path = write_model(tmp_path / "m.onnx", text, {"w": (32, 32)})
        x = np.ones((2, 32), np.float32)
        workshop = Workshop.of(path, {"x": x}, tmp_path / "w")
        with pytest.raises(ModelError, match=r"com\.microsoft\.FastGelu.*TensorRT does not"):
            workshop.quantize("tensorrt")

    def test_a_model_in_half_precision(self, tmp_path: Path) -> None:
        text = """
            <ir_version: 8, opset_import: ["" : 17]>
            g (float16[batch, 4] x) => (float16[batch, 4] y) { y = MatMul (x, w) }
        """
        model = onnx.parser.parse_model(text)
        weight = numpy_helper.from_array(np.ones((4, 4), np.float16), "w")
        model.graph.initializer.append(weight)
        onnx.save(model, tmp_path / "m.onnx")
        feeds = {"x": np.ones((2, 4), np.float16)}
        workshop = Workshop.of(tmp_path / "m.onnx", feeds, tmp_path / "w")
        with pytest.raises(ModelError, match="start from a float32 model"):
            workshop.quantize("tensorrt")
