"""OpenVINO for devices that are not here: what travels, what stands in, what is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import openvino
import pytest

from contracts.backend_contract import BackendContract, Builds
from contracts.compiling import target_of
from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler.backends import BuildRequest, Built
from edgessl.compiler.backends.npu_compiler import LOADER, compile_blob
from edgessl.compiler.backends.onnxruntime import OnnxRuntimeBackend
from edgessl.compiler.backends.openvino import OpenVINOBackend
from edgessl.compiler.calibration import ArrayCalibration, store
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.graph_info import GraphInfo
from edgessl.errors import ModelError, TargetError, UnavailableError
from edgessl.progress import silent
from edgessl.runtime.engines.openvino import the_core
from edgessl.targets import CandidateSpec

FP32 = CandidateSpec(engine="openvino", precision="fp32")
BF16 = CandidateSpec(engine="openvino", precision="bf16", requires=("bf16_math",))
FP16 = CandidateSpec(engine="openvino", precision="fp16")
NNCF_FP16 = CandidateSpec(engine="openvino", precision="int8", scheme="nncf", remainder="fp16")
QDQ = CandidateSpec(engine="openvino", precision="int8", scheme="s8s8")
NPU: dict[str, Any] = {
    "family": "npu-intel",
    "arch": "x86_64",
    "intel_npu": {"platform": "4000"},
    "engine_options": {"openvino": {"device": "NPU", "npu_platform": "4000"}},
    "shapes": {"static": True},
}
GPU: dict[str, Any] = {
    "family": "gpu-intel",
    "arch": "x86_64",
    "engine_options": {"openvino": {"device": "GPU"}},
}


class TestNpu(BackendContract):
    engine = "openvino"
    candidates: ClassVar = {NNCF_FP16: 0.97, FP16: 0.9999}
    unsupported = FP32
    target: ClassVar = NPU
    here = False

    def test_it_is_portable_and_the_cpu_stands_in(self, builds: Builds) -> None:
        for built, folder in builds.values():
            assert built.kind == "portable"
            assert built.files == ("model.xml", "model.bin")
            assert built.requirements.npu_platform == "4000"
            assert built.options["device"] == "NPU"
            assert built.options["inference_precision"] == "f16"
            (stand_in,) = built.stand_ins
            assert (stand_in.kind, stand_in.engine.name) == ("host", "openvino")
            assert "device" not in stand_in.engine.options
            assert the_core().read_model(folder / "model.xml").is_dynamic() is False

    def test_fp16_stores_half_the_bytes(self, builds: Builds) -> None:
        _, folder = builds[FP16]
        weights = 4 * (16 * 27 + 32 * 144 + 8 * 32)
        assert (folder / "model.bin").stat().st_size < 0.6 * weights


class TestGpu(BackendContract):
    engine = "openvino"
    candidates: ClassVar = {FP16: 0.9999}
    unsupported = CandidateSpec(engine="openvino", precision="bf16")
    target: ClassVar = GPU
    here = False


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[GraphInfo, Path]:
    folder = tmp_path_factory.mktemp("graph")
    prepared = prepare_graph(write_cnn(folder / "cnn.onnx"), folder / "prepared.onnx", batch_size=1)
    samples = store(
        ArrayCalibration({"images": cnn_inputs(8)}),
        np.arange(8),
        prepared,
        folder / "samples",
        progress=silent,
    )
    return prepared, samples.folder


@pytest.fixture
def build(tmp_path: Path, graph: tuple[GraphInfo, Path]) -> Any:
    def run(spec: CandidateSpec, backend: Any = OpenVINOBackend, **changes: Any) -> Built:
        here = changes.pop("here", False)
        settings = changes.pop("settings", {})
        reduce_range = changes.pop("reduce_range", False)
        prepared = graph[0].model_copy(update=changes.pop("graph", {}))
        folder = tmp_path / "build"
        folder.mkdir()
        request = BuildRequest(
            graph=prepared,
            candidate=spec,
            target=target_of(spec, **changes),
            here=here,
            calibration=str(graph[1]),
            folder=str(folder),
            threads=1,
            reduce_range=reduce_range,
            settings=settings,
        )
        built: Built = backend.build(request)
        return built

    return run


def test_fp16_on_a_cpu_is_refused_with_the_reason(build: Any) -> None:
    with pytest.raises(TargetError, match="bfloat16"):
        build(FP16)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [(QDQ, "f32"), (QDQ.model_copy(update={"remainder": "bf16"}), "bf16"), (BF16, "bf16")],
)
def test_the_hint_is_set_for_what_stays_in_floating_point(
    build: Any, spec: CandidateSpec, hint: str
) -> None:
    built = build(spec, arch="x86_64", requires=("avx2",))
    assert built.options["inference_precision"] == hint
    assert built.stand_ins[0].engine.options == built.options


def test_a_remainder_that_the_device_lacks_is_refused(build: Any) -> None:
    with pytest.raises(TargetError, match="remainder 'fp16' on a CPU"):
        build(NNCF_FP16)


def test_requirements_of_a_cpu(build: Any) -> None:
    """Without 8-bit dot products, 8-bit weights saturate and give other numbers."""
    built = build(BF16, arch="x86_64", requires=("avx2",))
    assert built.kind == "portable"
    assert built.requirements.arch == "x86_64"
    assert built.requirements.cpu_features == ("avx2", "bf16_math")


@pytest.mark.parametrize(
    ("reduce_range", "features"), [(False, ("avx2", "vnni")), (True, ("avx2",))]
)
def test_full_range_integers_need_vnni(
    build: Any, reduce_range: bool, features: tuple[str, ...]
) -> None:
    spec = CandidateSpec(engine="onnxruntime", precision="int8", scheme="u8s8")
    changes = {"arch": "x86_64", "requires": ("avx2",), "reduce_range": reduce_range}
    built = build(spec, OnnxRuntimeBackend, **changes)
    assert built.requirements.cpu_features == features


def test_an_arm_bundle_travels_with_the_host_as_stand_in(build: Any) -> None:
    spec = CandidateSpec(engine="onnxruntime", precision="int8", scheme="s8s8")
    built = build(spec, OnnxRuntimeBackend, arch="aarch64", requires=("asimddp",))
    assert built.kind == "portable"
    assert built.requirements.arch == "aarch64"
    assert built.requirements.cpu_features == ("asimddp",)
    assert [s.kind for s in built.stand_ins] == ["host"]
    assert built.stand_ins[0].model == built.model


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_onnxruntime_refuses_what_gains_nothing(build: Any, precision: str) -> None:
    spec = CandidateSpec.model_construct(
        engine="onnxruntime", precision=precision, scheme=None, remainder=None, requires=()
    )
    with pytest.raises(TargetError, match=r"choose fp32 or int8"):
        build(spec, OnnxRuntimeBackend)


def test_free_sizes_are_refused_for_an_npu(build: Any, tmp_path: Path) -> None:
    model = onnx.load(write_cnn(tmp_path / "cnn.onnx", batch=1))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(ModelError, match=r"images.*--shape"):
        build(FP16, graph={"path": str(tmp_path / "free.onnx")}, **NPU)


def test_a_missing_npu_compiler_is_named_with_the_ways_to_get_it(build: Any) -> None:
    with pytest.raises(UnavailableError, match=LOADER) as caught:
        build(FP16, settings={"npu_compiler": "/nowhere"}, **NPU)
    for way in ("archive of the same version", "edgessl finalize on the device"):
        assert way in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_wheel_looks_for_the_compiler_beside_its_plugin(tmp_path: Path) -> None:
    """The trap: asked to compile for an NPU, the Linux wheel misses a library."""
    core = the_core()
    model = core.read_model(str(write_cnn(tmp_path / "cnn.onnx", batch=1)))
    if (Path(openvino.__file__).parent / "libs" / LOADER).exists():
        pytest.skip("this wheel has the NPU compiler")
    with pytest.raises(RuntimeError, match=LOADER):
        core.compile_model(model, "NPU", {"NPU_PLATFORM": "4000", "NPU_COMPILER_TYPE": "PLUGIN"})


def test_a_compiler_from_elsewhere_is_the_one_that_is_loaded(tmp_path: Path) -> None:
    """A library of that name without the compiler's functions: OpenVINO misses the first one."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    folder = tmp_path / "archive"
    folder.mkdir()
    source = folder / "empty.c"
    source.write_text("int edgessl_nothing(void) { return 0; }\n")
    command = [compiler, "-shared", "-fPIC", str(source), "-o", str(folder / LOADER)]
    subprocess.run(command, check=True)
    model = tmp_path / "model.xml"
    openvino.save_model(
        the_core().read_model(str(write_cnn(tmp_path / "cnn.onnx", batch=1))), model
    )
    with pytest.raises(UnavailableError, match=r"does not work with openvino .*vclGetVersion"):
        compile_blob(model, platform="4000", compiler=folder / LOADER)
    assert not model.with_suffix(".blob").exists()
