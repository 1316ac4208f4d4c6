"""Context binaries for Qualcomm NPUs: the contract, refusals, each trap of the compiler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contracts.backend_contract import BackendContract, Bench, Builds
from contracts.compiling import target_of
from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler.backends import BuildRequest, Built
from edgessl.compiler.backends.qnn import ContextFacts, check_context, read_context
from edgessl.compiler.calibration import ArrayCalibration, store
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.process import WorkerFailure, ask
from edgessl.errors import ModelError, TargetError
from edgessl.progress import silent
from edgessl.targets import CandidateSpec
from edgessl.targets.qualcomm import SOCS

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")

INT8 = CandidateSpec(engine="qnn", precision="int8", scheme="qnn")
A16W8 = CandidateSpec(engine="qnn", precision="a16w8", scheme="qnn")


def chip(soc: str) -> dict[str, Any]:
    return {"family": "npu-qualcomm", "arch": "aarch64", "qualcomm": {"soc": soc}}


class TestQnn(BackendContract):
    engine = "qnn"
    candidates: ClassVar = {INT8: 0.99, A16W8: 0.9995}
    unsupported = CandidateSpec(engine="qnn", precision="fp16")
    target: ClassVar = chip("SM8750")
    here = False

    def test_binary_and_manifest_say_the_chip_and_the_versions(self, builds: Builds) -> None:
        for built, folder in builds.values():
            facts = read_context(folder / built.model)
            assert (facts.htp_arch, facts.soc_model) == (79, 69)
            assert built.requirements.soc == "SM8750"
            assert built.requirements.htp_arch == 79
            assert built.requirements.qairt == facts.qairt
            assert built.toolchain["qairt"].startswith(f"{facts.qairt}.")
            assert {"onnxruntime", "onnxruntime-qnn"} <= set(built.toolchain)

    def test_the_file_is_one_and_the_integer_graph_travels_with_it(self, builds: Builds) -> None:
        for built, folder in builds.values():
            assert built.files == ("ctx.onnx", "quantized.onnx")
            model = onnx.load(folder / "ctx.onnx")
            assert [node.op_type for node in model.graph.node] == ["EPContext"]
            assert [s.kind for s in built.stand_ins] == ["emulator", "host"]
            assert built.stand_ins[0].engine.options == {"emulate": True}
            assert built.kind == "native"
            assert "emulate" not in built.options

    def test_the_host_computes_what_the_emulator_does(self, bench: Bench, builds: Builds) -> None:
        for built, folder in builds.values():
            emulated = bench.run(built, folder, "qnn")
            only_host = built.model_copy(update={"stand_ins": built.stand_ins[1:]})
            elsewhere = folder.parent / f"host-{folder.name}"
            elsewhere.mkdir()
            (elsewhere / "quantized.onnx").write_bytes((folder / "quantized.onnx").read_bytes())
            host = bench.run(only_host, elsewhere, "onnxruntime")
            assert _least_cosine(emulated, host) > 0.999


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Built]:
    """Build a graph of 16-pixel images in a worker."""

    def run(model: Path, spec: CandidateSpec, soc: str = "SM8650", **changes: Any) -> Built:
        folder = tmp_path / "build"
        folder.mkdir()
        graph = prepare_graph(model, tmp_path / "prepared.onnx", batch_size=1)
        images = {graph.inputs[0].name: cnn_inputs(8)}
        samples = store(
            ArrayCalibration(images), np.arange(8), graph, tmp_path / "samples", progress=silent
        )
        request = BuildRequest(
            graph=graph,
            candidate=spec,
            target=target_of(spec, **{**chip(soc), **changes}),
            here=False,
            calibration=str(samples.folder),
            folder=str(folder),
            threads=1,
            reduce_range=False,
        )
        answer = ask(folder, "build", request=request.model_dump(mode="json"), timeout_s=300)
        return Built.model_validate(answer)

    return run


def test_16_bit_activations_are_refused_on_v68(tmp_path: Path, build: Callable[..., Built]) -> None:
    with pytest.raises(TargetError, match=r"QCS6490.*Hexagon v68.*int8 only"):
        build(write_cnn(tmp_path / "cnn.onnx"), A16W8, "QCS6490")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_floating_point_is_refused(
    tmp_path: Path, build: Callable[..., Built], precision: str
) -> None:
    spec = CandidateSpec.model_validate({"engine": "qnn", "precision": precision})
    with pytest.raises(TargetError, match=r"QCS6490.*fast in integers.*choose int8"):
        build(write_cnn(tmp_path / "cnn.onnx"), spec, "QCS6490")


def test_a_chip_that_is_not_in_the_table_is_refused(
    tmp_path: Path, build: Callable[..., Built]
) -> None:
    with pytest.raises(TargetError, match="SM8650"):
        build(write_cnn(tmp_path / "cnn.onnx"), INT8, "SM8651")


@pytest.mark.parametrize("option", [{"htp_arch": 99}, {"soc_model": 57}, {"emulate": True}])
def test_options_of_a_target_cannot_name_another_chip(
    tmp_path: Path, build: Callable[..., Built], option: dict[str, Any]
) -> None:
    changes = {"engine_options": {"qnn": option}}
    with pytest.raises(TargetError, match=next(iter(option))):
        build(write_cnn(tmp_path / "cnn.onnx"), INT8, **changes)


# Straight to the compiler, past the table and the options' limits, in a process of its own.
TRAPS = """
import sys
from pathlib import Path
from edgessl.compiler.backends.qnn import compile_context, read_context
from edgessl.errors import ModelError
from edgessl.runtime.engines.qnn import QnnOptions

model, out = Path(sys.argv[1]), Path(sys.argv[2])
options = QnnOptions.model_construct(**{**QnnOptions().model_dump(), "htp_arch": 99})
compile_context(model, out, options)
print("RESULT", read_context(out).htp_arch)
options = QnnOptions.model_construct(**{**QnnOptions().model_dump(), "soc_model": 9999})
try:
    compile_context(model, out, options)
except ModelError as error:
    print("RESULT", error)
compile_context(Path(sys.argv[3]), out, QnnOptions(htp_arch=68))
print("RESULT", read_context(out).htp_arch)
"""


def test_the_compiler_takes_an_unknown_architecture_and_blames_nodes_for_a_wrong_chip(
    tmp_path: Path, build: Callable[..., Built]
) -> None:
    build(write_cnn(tmp_path / "cnn.onnx"), INT8)
    model, floats = tmp_path / "build" / "quantized.onnx", tmp_path / "prepared.onnx"
    done = subprocess.run(
        [sys.executable, "-c", TRAPS, *map(str, (model, tmp_path / "ctx.onnx", floats))],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    # The unknown architecture gives a binary for none, which the read-back notices.
    assert lines[0] == "0"
    facts = ContextFacts(qairt="2.51.0", sdk_build="", htp_arch=0, soc_model=0)
    with pytest.raises(TargetError, match=r"v0 .*v75 .*asked for"):
        check_context(facts, "SM8650", SOCS["SM8650"])
    assert "takes no node at all" in lines[1]
    # Floating point compiles for v68, which has none: the backend must refuse it.
    assert lines[2] == "68"


def test_the_read_back_must_fit_the_chip() -> None:
    soc = SOCS["SM8550"] if "SM8550" in SOCS else SOCS["QCS8550"]
    good = ContextFacts(
        qairt="2.51.0", sdk_build="2.51.0.2609", htp_arch=73, soc_model=soc.soc_model or 0
    )
    check_context(good, "chip", soc)
    for wrong in ({"htp_arch": 75}, {"soc_model": 1}, {"sdk_build": "2.40.0.1"}):
        with pytest.raises(TargetError):
            check_context(good.model_copy(update=wrong), "chip", soc)


def test_a_file_without_the_providers_facts_is_no_context(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing"):
        read_context(write_cnn(tmp_path / "cnn.onnx"))


def test_free_sizes_are_refused_with_the_way_to_fix_them(
    tmp_path: Path, build: Callable[..., Built]
) -> None:
    model = onnx.load(write_cnn(tmp_path / "cnn.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(ModelError, match=r"images.*--shape images=") as caught:
        build(tmp_path / "free.onnx", INT8)
    assert "fixed sizes" in str(caught.value)


def test_an_as_strided_gather_ends_the_worker_and_not_the_caller(
    tmp_path: Path, build: Callable[..., Built]
) -> None:
    """Graph preparation rewrites it; here the compiler meets it."""
    model = _with_gather(onnx.load(write_cnn(tmp_path / "cnn.onnx", batch=1)))
    onnx.save(model, tmp_path / "gather.onnx")
    with pytest.raises(WorkerFailure, match=r"crashed \(SIGABRT\).*'context binary'"):
        build(tmp_path / "gather.onnx", INT8)
    assert (tmp_path / "build" / "worker.log").stat().st_size > 0


@pytest.mark.parametrize("spec", [INT8, A16W8], ids=lambda spec: spec.precision)
def test_layer_normalization_compiles(
    tmp_path: Path, build: Callable[..., Built], spec: CandidateSpec
) -> None:
    """With signed weights the compiler refuses it (3110)."""
    built = build(_write_layer_norm(tmp_path / "norm.onnx"), spec)
    weights = onnx.load(tmp_path / "build" / "quantized.onnx").graph.initializer
    assert TensorProto.INT8 not in {tensor.data_type for tensor in weights}
    assert built.model == "ctx.onnx"


def test_a_node_that_the_npu_does_not_take_is_named(
    tmp_path: Path, build: Callable[..., Built]
) -> None:
    model = onnx.load(write_cnn(tmp_path / "cnn.onnx", batch=1))
    head = model.graph.node[-1]
    head.output[0] = "before"
    model.graph.node.append(helper.make_node("Det", ["square"], ["ignored"], name="determinant"))
    model.graph.node.insert(
        len(model.graph.node) - 1,
        helper.make_node("MatMul", ["column", "before"], ["square"], name="square"),
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 1), np.float32), "column"))
    model.graph.node.append(
        helper.make_node("Add", ["before", "ignored"], ["embeddings"], name="sum")
    )
    onnx.save(model, tmp_path / "det.onnx")
    with pytest.raises(ModelError, match=r"determinant \(Det\)"):
        build(tmp_path / "det.onnx", INT8)


def _with_gather(model: Any) -> Any:
    """Flatten and gather by a table of positions, as torch's exporter writes ``as_strided``."""
    nodes = {node.name: node for node in model.graph.node}
    nodes["flatten"].input[0] = "convolved"
    pointwise = np.random.default_rng(0).standard_normal((32, 32, 1, 1)) / 6
    weight = numpy_helper.from_array(pointwise.astype(np.float32), "pointwise")
    model.graph.initializer.append(weight)
    table = np.arange(32).reshape(1, 32, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "flat_shape"))
    at = list(model.graph.node).index(nodes["flatten"])
    convolution = helper.make_node("Conv", ["strided", "pointwise"], ["convolved"], name="last")
    model.graph.node.insert(at, convolution)
    model.graph.node.insert(at, helper.make_node("Gather", ["flat", "table"], ["strided"]))
    model.graph.node.insert(at, helper.make_node("Reshape", ["e", "flat_shape"], ["flat"]))
    return model


def _write_layer_norm(path: Path) -> Path:
    rng = np.random.default_rng(0)
    constants = {
        "scale": 1 + 0.1 * rng.standard_normal(48),
        "shift": 0.1 * rng.standard_normal(48),
        "weight": rng.standard_normal((48, 8)) / 7,
    }
    nodes = [
        helper.make_node("Reshape", ["images", "rows"], ["a"], name="rows"),
        helper.make_node("LayerNormalization", ["a", "scale", "shift"], ["b"], name="norm"),
        helper.make_node("MatMul", ["b", "weight"], ["c"], name="product"),
        helper.make_node("ReduceMean", ["c", "axis"], ["embeddings"], name="mean", keepdims=0),
    ]
    initializers = [
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in constants.items()
    ]
    initializers.append(numpy_helper.from_array(np.array([1, 16, 48]), "rows"))
    initializers.append(numpy_helper.from_array(np.array([1]), "axis"))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "norm",
        [info("images", TensorProto.FLOAT, [1, 3, 16, 16])],
        [info("embeddings", TensorProto.FLOAT, [1, 8])],
        initializers,
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    return path


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())
