"""A target's integers, placed in a float model whose batch stays open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from contracts.compiling import ONNX_FP32, ONNX_INT8, compile_quietly, target_of
from contracts.onnx_models import cnn_inputs, write_cnn
from contracts.quantizing import write_model
from edgessl import onnx_metadata
from edgessl.bundle.archive import open_bundle
from edgessl.compiler.integers import IntegerGraph, choose_integers, integer_graph
from edgessl.compiler.open_batch import open_batch
from edgessl.compiler.stored_integers import fingerprint_integers
from edgessl.errors import ModelError, TargetError, UsageError
from edgessl.onnx_metadata import IntegerFacts, ModelFacts
from edgessl.preprocessing import ImageInput
from edgessl.targets import CandidateSpec, load_target

NNCF = CandidateSpec(engine="openvino", precision="int8", scheme="nncf")
SPEC = ImageInput(channels=3, height=16, width=16, mean=(0.5,) * 3, std=(0.5,) * 3)
FACTS = ModelFacts(SPEC, 8, {"encoder": "abc"}, "0.1.0")

# A token beside the patches, three projections in one, two heads: all of it for one sample.
TRANSFORMER = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 3, 8, 8] x) => (float[1, 8] y)
    {
        c = Conv <strides = [4, 4]> (x, kernel)
        r = Reshape (c, rows)
        t = Transpose <perm = [0, 2, 1]> (r)
        k = Concat <axis = 1> (token, t)
        p = Add (k, place)
        n = LayerNormalization (p, gain, shift)
        m = MatMul (n, w)
        h = Reshape (m, heads)
        s = Transpose <perm = [2, 0, 3, 1, 4]> (h)
        q = Gather <axis = 0> (s, zero)
        v = Gather <axis = 0> (s, two)
        o = Transpose <perm = [0, 1, 3, 2]> (q)
        a = MatMul (q, o)
        f = Softmax (a)
        u = MatMul (f, v)
        z = Transpose <perm = [0, 2, 1, 3]> (u)
        b = Reshape (z, joined)
        d = Add (b, p)
        y = ReduceMean <axes = [1], keepdims = 0> (d)
    }
"""
NUMBERS = {"rows": [1, 8, 4], "heads": [1, 5, 3, 2, 4], "joined": [1, 5, 8], "zero": 0, "two": 2}


def write_transformer(path: Path) -> Path:
    numbers = {name: (1,) for name in NUMBERS}
    weights = {"kernel": (8, 3, 4, 4), "token": (1, 1, 8), "place": (1, 5, 8), "w": (8, 24)}
    write_model(path, TRANSFORMER, weights | numbers | {"gain": (8,), "shift": (8,)})
    return set_numbers(path, NUMBERS)


def set_numbers(path: Path, numbers: dict[str, Any]) -> Path:
    """Put whole numbers in place of random weights."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in numbers:
            value = np.array(numbers[tensor.name], np.int64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(model, path)
    return path


def run(model: Path | Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(output)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "cnn.onnx"
    return write_cnn(path, properties=onnx_metadata.encode(FACTS))


@pytest.fixture(scope="module")
def placed(cnn: Path) -> IntegerGraph:
    return place(cnn, ONNX_INT8, "u8s8")


def place(cnn: Path, spec: CandidateSpec, folder: str, **overrides: Any) -> IntegerGraph:
    return integer_graph(
        cnn,
        target=target_of(spec),
        calibration=cnn_inputs(40),
        folder=cnn.parent / folder,
        overrides=overrides,
    )


class TestOpenBatch:
    def test_samples_do_not_meet(self, tmp_path: Path) -> None:
        path = write_transformer(tmp_path / "t.onnx")
        images = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
        singles = np.concatenate([run(path, image[None]) for image in images])
        opened = open_batch(onnx.load(path), ("x",))
        onnx.checker.check_model(opened, full_check=True)
        np.testing.assert_allclose(run(opened, images), singles, rtol=1e-5, atol=1e-6)
        (output,) = opened.graph.output
        assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == [
            "batch",
            8,
        ]

    def test_what_computes_with_the_batch_is_named(self, tmp_path: Path) -> None:
        text = """
            <ir_version: 8, opset_import: ["" : 17]>
            g (float[1, 4] x) => (float[4] y) { y = Gather <axis = 0> (x, zero) }
        """
        path = set_numbers(write_model(tmp_path / "m.onnx", text, {"zero": (1,)}), {"zero": 0})
        with pytest.raises(ModelError, match=r"'Gather_0' \(Gather\) gathers along the batch"):
            open_batch(onnx.load(path), ("x",))


class TestIntegerGraph:
    def test_integers_are_those_that_compile_chooses(
        self, cnn: Path, placed: IntegerGraph, tmp_path: Path
    ) -> None:
        report = compile_quietly(
            cnn,
            target_of(ONNX_INT8),
            cnn_inputs(40),
            out=tmp_path / "m.edge",
            overrides={"min_fidelity": 0.1},
        )
        assert report.chosen == "onnxruntime-int8-u8s8"
        with open_bundle(tmp_path / "m.edge") as bundle:
            compiled = onnx.load_from_string(bundle.read("model.onnx"))
        trained = onnx.load(placed.model)
        assert fingerprint_integers(compiled) == fingerprint_integers(trained)
        assert fingerprint_integers(trained).total() > 10

    def test_batch_is_open(self, cnn: Path, placed: IntegerGraph) -> None:
        images = cnn_inputs(5)
        for path in (Path(placed.model), Path(placed.float_model)):
            singles = np.concatenate([run(path, image[None]) for image in images])
            np.testing.assert_allclose(run(path, images), singles, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            run(Path(placed.float_model), images), run(cnn, images), rtol=1e-4, atol=1e-5
        )

    def test_nodes_keep_their_names(self, placed: IntegerGraph) -> None:
        pairs = {"QuantizeLinear", "DequantizeLinear"}
        floats = {n.name: n.op_type for n in onnx.load(placed.float_model).graph.node}
        integers = onnx.load(placed.model).graph.node
        computing = {n.name: n.op_type for n in integers if n.op_type not in pairs}
        assert "conv1" in computing
        assert computing.items() <= floats.items()

    def test_file_says_whose_integers_it_has(self, placed: IntegerGraph) -> None:
        model = onnx.load(placed.model)
        said = {item.key: item.value for item in model.metadata_props}
        facts = onnx_metadata.decode(said, where="model")
        assert facts.integers == IntegerFacts("test", "u8s8", "int8")
        assert (facts.preprocessing, facts.embedding_dim) == (SPEC, 8)
        assert facts.lineage == {"encoder": "abc"}

    def test_same_inputs_give_the_same_bytes(self, cnn: Path, placed: IntegerGraph) -> None:
        again = place(cnn, ONNX_INT8, "again")
        assert Path(again.model).read_bytes() == Path(placed.model).read_bytes()

    def test_16_bit_activations(self, cnn: Path) -> None:
        spec = CandidateSpec(engine="qnn", precision="a16w8", scheme="qnn")
        graph = place(cnn, spec, "a16w8")
        images = cnn_inputs(5)
        singles = np.concatenate([run(Path(graph.model), image[None]) for image in images])
        np.testing.assert_allclose(run(Path(graph.model), images), singles, atol=1e-3)
        assert (graph.engine, graph.scheme, graph.precision) == ("qnn", "qnn", "a16w8")

    def test_what_stays_in_floating_point_is_named(self, tmp_path: Path) -> None:
        images = np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)
        graph = integer_graph(
            write_transformer(tmp_path / "t.onnx"),
            target=target_of(ONNX_INT8),
            calibration=images,
            folder=tmp_path / "out",
        )
        kept = {f.operator for f in graph.kept_float}
        assert {"Softmax", "LayerNormalization"} <= kept
        assert not kept & {"Conv", "MatMul", "Reshape", "Transpose"}
        assert all(f.node and f.reason for f in graph.kept_float)
        model = Path(graph.model)
        singles = np.concatenate([run(model, image[None]) for image in images[:3]])
        np.testing.assert_allclose(run(model, images[:3]), singles, rtol=1e-4, atol=1e-5)

    def test_a_node_can_be_kept(self, cnn: Path) -> None:
        target = target_of(ONNX_INT8)
        graph = integer_graph(
            cnn,
            target=target,
            calibration=cnn_inputs(40),
            folder=cnn.parent / "kept",
            keep_float=["conv1"],
        )
        reasons = {f.node: f.reason for f in graph.kept_float}
        assert reasons["conv1"] == "asked for"

    def test_an_unknown_node_is_an_error(self, cnn: Path) -> None:
        with pytest.raises(UsageError, match=r"no node .conv9..*conv1"):
            integer_graph(
                cnn,
                target=target_of(ONNX_INT8),
                calibration=cnn_inputs(40),
                folder=cnn.parent / "unknown",
                keep_float=["conv9"],
            )


class TestChoice:
    @pytest.mark.parametrize(
        ("target", "engine", "scheme", "precision"),
        [
            ("cpu-x86-64", "onnxruntime", "u8s8", "int8"),
            ("cpu-arm64", "onnxruntime", "s8s8", "int8"),
            ("npu-intel-4000", "openvino", "u8s8", "int8"),
            ("npu-qualcomm-8gen3", "qnn", "qnn", "int8"),
            ("jetson-orin-nano", "tensorrt", "tensorrt", "int8"),
        ],
    )
    def test_first_integers_of_a_target(
        self, target: str, engine: str, scheme: str, precision: str
    ) -> None:
        spec = choose_integers(load_target(target), precision="auto", engine=None)
        assert (spec.engine, spec.scheme, spec.precision) == (engine, scheme, precision)

    def test_a_target_without_integers(self) -> None:
        with pytest.raises(TargetError, match="test has no integer support, only fp32; choose"):
            choose_integers(target_of(ONNX_FP32), precision="auto", engine=None)

    def test_a_precision_that_a_target_has_not(self) -> None:
        with pytest.raises(TargetError, match="no integers by a16w8; choose openvino int8"):
            choose_integers(target_of(NNCF), precision="a16w8", engine=None)
