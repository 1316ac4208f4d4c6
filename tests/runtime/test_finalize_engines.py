"""What each engine's strategy does before measuring: TensorRT, OpenVINO's devices, Qualcomm."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgessl
from contracts.cuda_double import Cuda
from contracts.tensorrt_double import MARK, TensorRT, layer
from contracts.tiny_bundle import expected, samples, write_model
from contracts.variant_bundle import write_variants
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import EngineSpec, Requirements, StandIn
from edgessl.errors import GateError, ModelError, UnavailableError, UsageError
from edgessl.files import cache_directory, sha256_file
from edgessl.progress import silent
from edgessl.runtime import finalize, verify
from edgessl.runtime.engines.openvino import OpenVINOOptions, the_core
from edgessl.runtime.finalize import intel, qualcomm
from edgessl.runtime.finalize.builds import FinalizeOptions, Job, Prepared, builds_of
from edgessl.runtime.tensorrt.recipe import Recipe
from edgessl.targets.host import NvidiaGpu, detect

RECIPE = Recipe(precision="fp32", remainder="fp32", expected={"conv1": "fp32"})
HOST = StandIn(kind="host", engine=EngineSpec(name="onnxruntime", version=""), model="model.onnx")
Install = Callable[..., TensorRT]


@pytest.fixture
def jetson(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """This machine with a GPU and TensorRT, both doubles."""

    def gpus() -> tuple[NvidiaGpu, ...]:
        return (NvidiaGpu(name="Orin", compute_capability="8.7", driver="540.4.0"),)

    def put(version: str, **facts: Any) -> TensorRT:
        double = TensorRT(version, **facts)
        monkeypatch.setitem(sys.modules, "tensorrt", double)
        return double

    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Cuda())
    seen = replace(detect(), ask_gpus=gpus)
    monkeypatch.setattr("edgessl.targets.detect", lambda: seen)
    monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
    return put


def bundle(path: Path, recipe: Recipe = RECIPE, **fields: Any) -> Path:
    builds = {"tensorrt-fp32": {"engine": "tensorrt", "stand_ins": (HOST,), **fields}}
    return write_variants(path, builds, files={"recipe.json": recipe.to_json().encode()})


def test_tensorrt_becomes_an_engine_that_runs(tmp_path: Path, jetson: Install) -> None:
    jetson("10.3.0")
    path, out = bundle(tmp_path / "m.edge"), tmp_path / "native.edge"
    report = finalize(path, out, rounds=2)
    assert (report.engine, report.engine_version) == ("tensorrt", "10.3.0")
    assert report.native.versions["cuda_driver"] == "12.6"
    assert any("1 layers: 1 fp32" in remark for remark in report.remarks)
    with open_bundle(out) as opened:
        manifest = opened.manifest
        assert opened.read(manifest.model).startswith(MARK)
    assert manifest.model == "engine.plan"
    needs = manifest.requirements
    assert (needs.engine_version, needs.compute_capability) == ("10.3.0", "8.7")
    with edgessl.load(out) as model:
        np.testing.assert_allclose(model(samples(3)), expected(samples(3)), rtol=1e-4, atol=1e-6)
    # The graph is small, so a CPU can go on checking what the device computes.
    assert verify(out, on="host").passed


def test_a_second_build_finds_the_kernels_timed(tmp_path: Path, jetson: Install) -> None:
    trt = jetson("10.3.0")
    path, out = bundle(tmp_path / "m.edge"), tmp_path / "native.edge"

    def press() -> None:
        raise KeyboardInterrupt

    trt.step = press
    before = sha256_file(path)
    with pytest.raises(KeyboardInterrupt):
        finalize(path, out)
    assert sha256_file(path) == before
    assert not out.exists()
    (kept,) = cache_directory("tensorrt").iterdir()
    assert kept.name == "10.3.0-Orin-8-7.timing"
    trt.step = lambda: None
    finalize(path, out, rounds=1)
    assert "kernel4" in kept.read_text()


def test_a_native_bundle_is_built_again_for_a_new_tensorrt(tmp_path: Path, jetson: Install) -> None:
    jetson("10.3.0")
    path = bundle(tmp_path / "m.edge")
    finalize(path, rounds=1)
    jetson("11.4.1")
    with pytest.raises(UnavailableError, match=r"built with tensorrt 10\.3\.0"):
        edgessl.load(path)
    assert finalize(path, rounds=1).engine_version == "11.4.1"
    edgessl.load(path).close()


def test_other_precisions_than_asked_stop_it(tmp_path: Path, jetson: Install) -> None:
    jetson("10.3.0").layers = [layer("conv1", "Half")]
    path = bundle(tmp_path / "m.edge")
    before = sha256_file(path)
    with pytest.raises(GateError, match="conv1: fp16 instead of fp32"):
        finalize(path)
    assert sha256_file(path) == before


def test_the_users_word_goes_above_the_recipe(tmp_path: Path, jetson: Install) -> None:
    trt = jetson("10.3.0", dla_cores=2)
    trt.layers = [layer("conv1", "Half", kind="DLA")]
    on_dla = Recipe(precision="fp16", remainder="fp16", dla_core=0, expected={"conv1": "fp16"})
    path = bundle(tmp_path / "m.edge", on_dla, precision="fp16", options={"dla_core": 0})
    report = finalize(path, rounds=1, dla_core=1, workspace_mib=256)
    assert trt.recorded("DLA_core") == [1]
    assert trt.recorded("workspace") == [256 * 2**20]
    assert report.chosen.options == {"dla_core": 1}
    assert set(trt.recorded("load")) == {1}


def test_a_build_for_the_gpu_takes_no_dla(tmp_path: Path, jetson: Install) -> None:
    jetson("10.3.0", dla_cores=2)
    with pytest.raises(UsageError, match="leave --dla-core out"):
        finalize(bundle(tmp_path / "m.edge"), dla_core=0)


def test_an_engine_without_its_graph_is_measured_as_it_is(tmp_path: Path, jetson: Install) -> None:
    jetson("10.3.0")
    path = bundle(tmp_path / "m.edge", stand_ins=())
    finalize(path, rounds=1)
    report = finalize(path, rounds=1)
    assert any("measured as it is" in remark for remark in report.remarks)


def test_no_gpu_is_said(tmp_path: Path, jetson: Install) -> None:
    jetson("10.3.0")
    sys.modules["cuda.bindings.runtime"].failing = "cudaGetDeviceProperties"  # type: ignore[attr-defined]
    with pytest.raises(UnavailableError, match="looking at the GPU"):
        finalize(bundle(tmp_path / "m.edge"))


def job(folder: Path, path: Path) -> Job:
    with open_bundle(path) as opened:
        opened.extract(folder)
        (build,) = builds_of(opened.manifest)
    return Job(build, folder, FinalizeOptions(), silent, path.name)


def test_openvino_serializes_what_it_compiled(tmp_path: Path) -> None:
    """With the CPU, which compiles here; a GPU and an NPU go the same way."""
    source = write_model(tmp_path / "m.onnx")
    blob = intel.compile_blob(source, OpenVINOOptions())
    # Without the hint OpenVINO would import it in bfloat16 where the CPU has that.
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = the_core().import_model(blob, "CPU", hint)
    found = compiled(samples(1))[compiled.output(0)]
    np.testing.assert_allclose(found, expected(samples(1)), rtol=1e-4, atol=1e-6)


def test_openvino_refusing_a_device_is_one_line(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="does not compile it for this NPU") as caught:
        intel.compile_blob(source, OpenVINOOptions(device="NPU"))
    assert "\n" not in str(caught.value)


def test_on_an_npu_the_blob_takes_the_graphs_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = {"openvino-int8": {"engine": "openvino", "options": {"device": "NPU"}}}
    path = write_variants(tmp_path / "m.edge", builds)
    monkeypatch.setattr(intel, "compile_blob", lambda source, options: b"blob")
    prepared = intel.finish(job(tmp_path / "x", path))
    assert prepared.model == "model.blob"
    assert {name: file.read_bytes() for name, file in prepared.members.items()} == {
        "model.blob": b"blob"
    }
    assert prepared.requirements.engine_version == prepared.version


QDQ = StandIn(
    kind="host", engine=EngineSpec(name="onnxruntime", version=""), model="quantized.onnx"
)


@pytest.mark.parametrize("here", ["2.51.0", "2.60.1"])
def test_qualcomms_context_is_compiled_again_for_another_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    builds = {
        "qnn-a16w8": {
            "engine": "qnn",
            "stand_ins": (QDQ,),
            "requirements": Requirements(qairt="2.51.0"),
        }
    }
    path = write_variants(tmp_path / "m.edge", builds, files={"quantized.onnx": b"q/dq"})

    def compile_here(source: Path, place: Path, options: Any) -> None:
        place.write_bytes(b"compiled from " + source.read_bytes())

    monkeypatch.setattr(qualcomm, "installed_qairt", lambda: here)
    monkeypatch.setattr(qualcomm, "_compile", compile_here)
    monkeypatch.setattr(Job, "preflight", lambda self, **changes: None)
    prepared: Prepared = qualcomm.finish(job(tmp_path / "x", path))
    assert prepared.versions == {"qairt": here}
    if here == "2.51.0":
        assert (prepared.model, prepared.remarks) == ("model.onnx", ())
    else:
        assert prepared.members[prepared.model].read_bytes() == b"compiled from q/dq"
        assert "model.onnx" not in prepared.members
        assert prepared.requirements.qairt == here
    assert prepared.stand_ins == (QDQ,)
