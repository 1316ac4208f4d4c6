"""INT8 for onnxruntime, and what all schemes for ONNX files have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from contracts.onnx_models import cnn_inputs, write_cnn
from contracts.quantizing import Workshop, pairs, readers, write_model, write_residual
from edgessl.compiler.ranges import Ranges
from edgessl.errors import ModelError, TargetError, UsageError

SCHEMES = ("u8s8", "s8s8", "tensorrt", "tensorrt-dla", "qnn")


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("cnn")
    return Workshop.of(write_cnn(folder / "cnn.onnx"), {"images": cnn_inputs(16)}, folder)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("residual")
    return Workshop.of(write_residual(folder / "m.onnx"), {"images": cnn_inputs(16)}, folder)


def _types(path: Path) -> tuple[set[int], set[int]]:
    """Element types of the zero points of activations, and of stored weights."""
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor.data_type for tensor in graph.initializer}
    quantize = [n for n in graph.node if n.op_type == "QuantizeLinear"]
    dequantize = [n for n in graph.node if n.op_type == "DequantizeLinear"]
    activations = {tensors[n.input[2]] for n in quantize if n.input[0] not in tensors}
    weights = {tensors[n.input[0]] for n in dequantize if n.input[0] in tensors}
    return activations, weights - {TensorProto.INT32}


class TestSchemes:
    @pytest.mark.parametrize(
        ("scheme", "activations"), [("u8s8", TensorProto.UINT8), ("s8s8", TensorProto.INT8)]
    )
    def test_types_are_those_of_the_scheme_not_the_default_of_the_api(
        self, cnn: Workshop, scheme: str, activations: int
    ) -> None:
        assert _types(cnn.quantize(scheme)) == ({activations}, {TensorProto.INT8})

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_close_to_float(self, residual: Workshop, scheme: str) -> None:
        assert residual.fidelity_db(residual.quantize(scheme)) > 25

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_same_job_gives_same_bytes_and_names_no_place(self, cnn: Workshop, scheme: str) -> None:
        first, second = cnn.quantize(scheme), cnn.quantize(scheme)
        assert first.read_bytes() == second.read_bytes()
        assert str(cnn.folder).encode() not in first.read_bytes()

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("node", ["conv_b", "wide"])
    def test_keep_float(self, residual: Workshop, scheme: str, node: str) -> None:
        before = pairs(onnx.load(residual.quantize(scheme)).graph)
        after = pairs(onnx.load(residual.quantize(scheme, keep_float=(node,))).graph)
        assert (node, 1) in before
        assert (node, 1) not in after
        assert ("conv_a", 1) in after

    @pytest.mark.parametrize("scheme", [*SCHEMES, "nncf"])
    def test_keep_float_of_an_unknown_node(self, cnn: Workshop, scheme: str) -> None:
        with pytest.raises(UsageError, match=r"no node 'convolution1'.*did you mean conv1"):
            cnn.quantize(scheme, keep_float=("convolution1",))

    @pytest.mark.parametrize("scheme", [*SCHEMES, "nncf", "weight-only"])
    def test_a_precision_it_does_not_have(self, cnn: Workshop, scheme: str) -> None:
        with pytest.raises(TargetError, match="choose"):
            cnn.quantize(scheme, precision="fp8")

    @pytest.mark.parametrize("reduce_range", [False, True])
    def test_reduced_range_only_where_told(self, cnn: Workshop, reduce_range: bool) -> None:
        graph = onnx.load(cnn.quantize("u8s8", reduce_range=reduce_range)).graph
        greatest = max(
            int(np.abs(numpy_helper.to_array(t).astype(int)).max())
            for t in graph.initializer
            if t.data_type == TensorProto.INT8 and len(t.dims) > 1
        )
        assert greatest == (64 if reduce_range else 127)

    def test_methods_differ_in_scales(self, cnn: Workshop) -> None:
        # onnxruntime's own minmax and entropy give byte-identical files.
        files = {
            method: cnn.quantize("u8s8", method=method).read_bytes()
            for method in ("minmax", "percentile", "mse", "entropy")
        }
        assert len(set(files.values())) == 4

    def test_ranges_are_ours(self, cnn: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Ranges, "range_of", lambda *_, **__: (-2.0, 3.1))
        graph = onnx.load(cnn.quantize("u8s8")).graph
        scales = {
            t.name: float(numpy_helper.to_array(t))
            for t in graph.initializer
            if t.name.startswith(("images", "embeddings")) and t.name.endswith("_scale")
        }
        # Inputs have half a step more.
        wanted = {"images_scale": 5.1 / 255 * (1 + 0.5 / 255), "embeddings_scale": 5.1 / 255}
        assert scales == pytest.approx(wanted)

    def test_pixels_and_sigmoids_lie_beside_halves(
        self, cnn: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Ranges, "range_of", lambda *_, **__: (-1.0, 1.0))
        graph = onnx.load(cnn.quantize("u8s8")).graph
        values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        pixels = np.arange(256) / 127.5 - 1.0
        steps = pixels / float(values["images_scale"]) + float(values["images_zero_point"])
        from_half = np.abs(steps - np.floor(steps) - 0.5)
        assert from_half.min() > 5e-4

    def test_transformers_keep_floats_between_their_products(self, tmp_path: Path) -> None:
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
                y = Add (v, x)
            }
        """
        weights = {"gain": (32,), "wq": (32, 32), "wk": (32, 32)}
        x = np.random.default_rng(0).standard_normal((8, 8, 32)).astype(np.float32)
        path = write_model(tmp_path / "m.onnx", text, weights)
        workshop = Workshop.of(path, {"x": x}, tmp_path / "w")
        assert workshop.graph.attention
        quantized = workshop.quantize("u8s8")
        graph = onnx.load(quantized).graph
        assert len(readers(graph, "MatMul")) == 4
        assert not readers(graph, "LayerNormalization", "Softmax", "Add")
        assert workshop.fidelity_db(quantized) > 25


def _others(tmp_path: Path) -> dict[str, Callable[[], Workshop]]:
    rng = np.random.default_rng(0)

    def several() -> Workshop:
        text = """
            <ir_version: 8, opset_import: ["" : 16]>
            g (float[batch, 4] x, int64[batch, 2] tokens, float[1, 6] state, int32 rate)
              => (float[batch, 6] y, int64[batch, 2] next, float[1, 6] after)
            {
                e = Gather (table, tokens)
                axes = Constant <value = int64[1] {1}> ()
                m = ReduceMean <axes = [1], keepdims = 0> (e)
                h = Gemm (x, w, b)
                s = Add (h, m)
                rate_f = Cast <to = 1> (rate)
                scaled = Mul (s, rate_f)
                y = Add (scaled, state)
                one = Constant <value = int64 {1}> ()
                next = Add (tokens, one)
                after = Identity (y)
            }
        """
        path = tmp_path / "several.onnx"
        write_model(path, text, {"table": (10, 6), "w": (4, 6), "b": (1, 6)})
        feeds = {
            "x": rng.standard_normal((8, 4)).astype(np.float32),
            "tokens": rng.integers(0, 10, (8, 2)),
            "state": rng.standard_normal((8, 1, 6)).astype(np.float32),
            "rate": np.full(8, 2, np.int32),
        }
        return Workshop.of(path, feeds, tmp_path / "several")

    def old() -> Workshop:
        path = write_cnn(tmp_path / "old.onnx")
        model = onnx.load(path)
        model.opset_import[0].version = 9
        for node in model.graph.node:
            node.name = ""
        model.graph.node[-1].input.append("bias")
        model.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "bias"))
        onnx.save(model, path)
        return Workshop.of(path, {"images": cnn_inputs(8)}, tmp_path / "old")

    def branches() -> Workshop:
        text = """
            <ir_version: 8, opset_import: ["" : 16]>
            g (float[batch, 32] x, bool flag) => (float[batch, 32] y)
            {
                h = MatMul (x, w)
                z = If (flag) <
                    then_branch = t () => (float[n, 32] a) { a = MatMul (h, v) },
                    else_branch = e () => (float[n, 32] b) { b = Identity (h) }>
                y = MatMul (z, u)
            }
        """
        path = tmp_path / "branches.onnx"
        write_model(path, text, {"w": (32, 32), "v": (32, 32), "u": (32, 32)})
        feeds = {
            "x": rng.standard_normal((8, 32)).astype(np.float32),
            "flag": np.arange(8) % 2 == 0,
        }
        return Workshop.of(path, feeds, tmp_path / "branches")

    return {"several": several, "old": old, "branches": branches}


class TestOrdinaryCases:
    @pytest.mark.parametrize("scheme", ["u8s8", "s8s8", "tensorrt-dla", "qnn"])
    @pytest.mark.parametrize("case", ["several", "old", "branches"])
    def test_states_integer_inputs_old_opsets_and_branches(
        self, tmp_path: Path, case: str, scheme: str
    ) -> None:
        workshop = _others(tmp_path)[case]()
        quantized = workshop.quantize(scheme)
        model = onnx.load(quantized)
        onnx.checker.check_model(model)
        assert [s.name for s in workshop.graph.inputs] == [v.name for v in model.graph.input]
        kinds = {TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        types = {
            v.name: v.type.tensor_type.elem_type for v in [*inferred.input, *inferred.value_info]
        }
        for node in model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert types.get(node.input[0], TensorProto.FLOAT) in kinds
        assert workshop.fidelity_db(quantized) > 25
        inner = [a.g for n in model.graph.node if n.op_type == "If" for a in n.attribute]
        assert not any("Linear" in node.op_type for graph in inner for node in graph.node)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_nothing_to_quantize(self, tmp_path: Path, scheme: str) -> None:
        text = """
            <ir_version: 8, opset_import: ["" : 16]>
            g (int64[batch, 4] x) => (int64[batch, 4] y) { y = Add (x, x) }
        """
        path = write_model(tmp_path / "m.onnx", text, {})
        workshop = Workshop.of(path, {"x": np.arange(32).reshape(8, 4)}, tmp_path / "w")
        with pytest.raises(ModelError, match=r"nothing of the graph can be quantized.*Add"):
            workshop.quantize(scheme)

    @pytest.mark.parametrize("scheme", ["u8s8", "tensorrt"])
    @pytest.mark.parametrize(
        ("name", "dtype", "shape"),
        [
            ("ultraface/version-RFB-320.onnx", np.float32, (3, 240, 320)),
            ("magika/magika_standard_v3_3.onnx", np.int32, (2048,)),
        ],
    )
    def test_third_party_models(
        self,
        shared: Path,
        tmp_path: Path,
        scheme: str,
        name: str,
        dtype: type[Any],
        shape: tuple[int, ...],
    ) -> None:
        path = shared / "models" / name
        if not path.is_file():
            pytest.skip(f"{name} is not on this machine")
        rng = np.random.default_rng(0)
        model = onnx.load(path)
        names = {t.name for t in model.graph.initializer}
        (entry,) = (v.name for v in model.graph.input if v.name not in names)
        values = rng.integers(0, 257, (2, *shape)) if dtype is np.int32 else None
        feeds = values if values is not None else rng.standard_normal((2, *shape))
        workshop = Workshop.of(path, {entry: feeds.astype(dtype)}, tmp_path / "w")
        quantized = workshop.quantize(scheme)
        assert workshop.fidelity_db(quantized) > 20

    def test_silero_has_nothing_outside_its_branches(self, shared: Path, tmp_path: Path) -> None:
        path = shared / "models" / "silero-vad" / "silero_vad_op18_ifless.onnx"
        if not path.is_file():
            pytest.skip("silero-vad is not on this machine")
        rng = np.random.default_rng(0)
        feeds = {
            "input": rng.standard_normal((2, 576)).astype(np.float32),
            "state": rng.standard_normal((2, 2, 1, 128)).astype(np.float32),
            "sr": np.full(2, 16_000),
        }
        workshop = Workshop.of(path, feeds, tmp_path / "w")
        with pytest.raises(ModelError, match="branches and loops stay in floating point"):
            workshop.quantize("u8s8")
