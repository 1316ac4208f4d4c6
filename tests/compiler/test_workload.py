"""Counted operations against published figures and against sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contracts.onnx_models import write_cnn
from contracts.small_graphs import node, write_graph
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import Workload
from edgessl.compiler import compile_model
from edgessl.compiler.workload import count_workload, workload_of


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def count(path: Path) -> Workload | None:
    return count_workload(onnx.shape_inference.infer_shapes(onnx.load(path)))


def macs(tmp_path: Path, nodes: list[onnx.NodeProto], **arguments: Any) -> float:
    found = count(write_graph(tmp_path / "g.onnx", nodes, **arguments))
    assert found is not None
    return found.flops / 2


# Source: torchvision, metadata of the weights (`_ops`, in G multiplications with additions).
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "published_gmacs", "settings"),
    [
        # Zeros of a fresh model would be stored once for several layers.
        ("resnet18", 1.814, {"zero_init_last": False}),
        ("mobilenetv3_small_100", 0.057, {}),
    ],
)
def test_published_figures(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    published_gmacs: float,
    settings: dict[str, Any],
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    import timm
    import torch

    model = timm.create_model(name, **settings).eval()
    place = tmp_path / "m.onnx"
    torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), str(place), dynamo=False)
    found = workload_of(place)
    assert found is not None
    assert found.flops / 2e9 == pytest.approx(published_gmacs, rel=0.01)
    # Batch normalization is folded into the convolutions, which takes away its variances.
    weights = sum(p.numel() for p in model.parameters()) * 4
    assert found.weight_bytes == pytest.approx(weights, rel=0.01)
    assert found.bytes - found.weight_bytes == (3 * 224 * 224 + 1000) * 4


class TestByHand:
    def test_a_convolution_with_groups_and_strides(self, tmp_path: Path) -> None:
        # 3 x 3 kernels on 2 of 4 channels each, 6 outputs of 4 x 4.
        conv = node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])
        assert macs(tmp_path, [conv], constants={"w": floats(6, 2, 3, 3)}) == 6 * 4 * 4 * 2 * 9

    def test_a_transposed_convolution(self, tmp_path: Path) -> None:
        # Each of 4 x 8 x 8 inputs goes through a 2 x 2 kernel to 3 outputs.
        conv = node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
        assert macs(tmp_path, [conv], constants={"w": floats(4, 3, 2, 2)}) == 4 * 64 * 3 * 4

    @pytest.mark.parametrize("transposed", [0, 1])
    def test_gemm(self, tmp_path: Path, transposed: int) -> None:
        shape = (7, 5) if transposed else (5, 7)
        gemm = node("Gemm", ["x", "w", "b"], ["y"], transA=transposed)
        weights = {"w": floats(7, 3), "b": floats(3)}
        assert macs(tmp_path, [gemm], shape=shape, constants=weights) == 5 * 7 * 3

    def test_a_batched_matrix_product_and_its_bytes(self, tmp_path: Path) -> None:
        product = node("MatMul", ["x", "w"], ["y"])
        weights = {"w": floats(6, 9), "unused": floats(1000)}
        place = write_graph(tmp_path / "g.onnx", [product], shape=(2, 3, 5, 6), constants=weights)
        assert count(place) == Workload(
            flops=2 * 2 * 3 * 5 * 6 * 9,
            bytes=4 * (54 + 2 * 3 * 5 * 6 + 2 * 3 * 5 * 9),
            weight_bytes=4 * 54,
        )

    def test_integers_are_counted_like_floats_and_stored_as_bytes(self, tmp_path: Path) -> None:
        scale, zero = floats(), np.uint8(0)
        names = ["x", "s", "z", "w", "s", "z", "s", "z"]
        conv = node("QLinearConv", names, ["y"])
        weights = {"s": scale, "z": zero, "w": np.ones((5, 4, 3, 3), np.uint8)}
        place = write_graph(tmp_path / "g.onnx", [conv], constants=weights, dtype=TensorProto.UINT8)
        found = count(place)
        assert found is not None
        assert found.flops == 2 * 5 * 6 * 6 * 4 * 9
        assert found.weight_bytes == 5 * 4 * 9 + 4 + 1
        assert found.bytes - found.weight_bytes == 4 * 64 + 5 * 36

    def test_a_recurrent_layer(self, tmp_path: Path) -> None:
        # 10 steps, batch 2, 4 gates of 8 units, both directions.
        layer = node("LSTM", ["x", "w", "r"], ["y"], hidden_size=8, direction="bidirectional")
        weights = {"w": floats(2, 32, 6), "r": floats(2, 32, 8)}
        found = macs(tmp_path, [layer], shape=(10, 2, 6), constants=weights)
        assert found == 10 * 2 * 2 * 4 * 8 * (6 + 8)

    def test_attention(self, tmp_path: Path) -> None:
        # 5 queries on 7 keys, 3 heads of 4, values of 6.
        layer = node("Attention", ["x", "k", "v"], ["y"], q_num_heads=3, kv_num_heads=3)
        weights = {"k": floats(2, 7, 12), "v": floats(2, 7, 18)}
        place = write_graph(
            tmp_path / "g.onnx", [layer], shape=(2, 5, 12), constants=weights, opset=23
        )
        found = count(place)
        assert found is not None
        assert found.flops / 2 == 2 * 3 * 5 * 7 * (4 + 6)

    def test_attention_written_out_is_the_same(self, tmp_path: Path) -> None:
        nodes = [
            node("Einsum", ["x", "k"], ["s"], equation="bhid,bhjd->bhij"),
            node("Softmax", ["s"], ["p"]),
            node("MatMul", ["p", "v"], ["y"]),
        ]
        weights = {"k": floats(2, 3, 7, 4), "v": floats(2, 3, 7, 6)}
        found = macs(tmp_path, nodes, shape=(2, 3, 5, 4), constants=weights)
        assert found == 2 * 3 * 5 * 7 * (4 + 6)

    def test_of_a_table_only_the_rows_that_are_taken(self, tmp_path: Path) -> None:
        lookup = node("Gather", ["table", "x"], ["y"])
        found = count(
            write_graph(
                tmp_path / "g.onnx",
                [lookup],
                shape=(1, 3),
                constants={"table": floats(30_000, 8)},
                dtype=TensorProto.INT64,
                out_dtype=TensorProto.FLOAT,
            )
        )
        assert found == Workload(flops=0, bytes=96 + 24 + 96, weight_bytes=96)

    def test_nibbles_are_packed(self) -> None:
        graph = helper.make_graph(
            [node("DequantizeLinear", ["w", "s"], ["d"]), node("MatMul", ["x", "d"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
            [
                helper.make_tensor("w", TensorProto.INT4, [6, 5], [1] * 30),
                numpy_helper.from_array(floats(), "s"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
        found = count_workload(onnx.shape_inference.infer_shapes(model))
        assert found is not None
        assert (found.flops, found.weight_bytes) == (2 * 30, 15 + 4)


class TestNotKnown:
    def test_an_open_dimension(self, tmp_path: Path) -> None:
        product = node("MatMul", ["x", "w"], ["y"])
        place = write_graph(
            tmp_path / "g.onnx", [product], shape=(1, "length", 6), constants={"w": floats(6, 9)}
        )
        assert workload_of(place) is None

    def test_an_operator_of_another_domain(self, tmp_path: Path) -> None:
        place = write_graph(
            tmp_path / "g.onnx",
            [node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft")],
            shape=(4, 4),
            out_shape=(4, 4),
            domains=["com.microsoft"],
        )
        assert count(place) is None

    @pytest.mark.parametrize(("op_type", "known"), [("MatMul", False), ("Add", True)])
    def test_a_product_in_a_branch(self, tmp_path: Path, op_type: str, known: bool) -> None:
        value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 4])
        bodies = [
            helper.make_graph([node(op_type, ["x", "x"], ["z"])], name, [], [value])
            for name in ("a", "b")
        ]
        nodes = [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
            node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1]),
        ]
        place = write_graph(tmp_path / "g.onnx", nodes, shape=(4, 4), out_shape=(4, 4))
        assert (count(place) is not None) == known

    def test_a_file_that_is_no_model(self, tmp_path: Path) -> None:
        place = tmp_path / "m.onnx"
        place.write_bytes(b"no model")
        assert workload_of(place) is None


# Of `write_cnn`, per sample.
CNN_MACS = 16 * 16 * 16 * 3 * 9 + 32 * 8 * 8 * 16 * 9 + 8 * 32


@pytest.mark.parametrize(("batch", "samples"), [("batch", 1), (1, 1), (4, 4)])
def test_a_files_own_batch(tmp_path: Path, batch: int | str, samples: int) -> None:
    found = workload_of(write_cnn(tmp_path / "m.onnx", batch=batch))
    assert found is not None
    assert found.flops == 2 * samples * CNN_MACS


def test_a_bundle_holds_that_of_the_float_graph_with_its_batch(
    tmp_path: Path, model: Path, inputs: np.ndarray[Any, Any]
) -> None:
    out = tmp_path / "m.edge"
    compile_model(
        model,
        target="cpu-x86-64",
        calibration=inputs,
        out=out,
        overrides={
            "precision": "int8",
            "engine": "onnxruntime",
            "batch_size": 2,
            "samples": 16,
            "held_out": 16,
            "min_fidelity": 0.1,
        },
    )
    with open_bundle(out) as bundle:
        found = bundle.manifest.workload
    assert found is not None
    assert found.flops == 2 * 2 * CNN_MACS
    assert found.weight_bytes == 4 * (16 * 27 + 32 * 144 + 8 * 32)


def test_weights_of_fewer_bits() -> None:
    found = Workload(flops=8, bytes=1000, weight_bytes=800)
    assert found.stored_as("int8") == Workload(flops=8, bytes=400, weight_bytes=200)
    assert found.stored_as("w4") == Workload(flops=8, bytes=300, weight_bytes=100)
    assert found.stored_as("fp32") == found.stored_as("as in the file") == found
