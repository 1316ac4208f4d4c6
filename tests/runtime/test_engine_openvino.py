"""OpenVINO's devices and precisions: asked for and got, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.tiny_bundle import expected, samples, write_model
from edgessl.errors import ModelError, UnavailableError, UsageError
from edgessl.runtime.engines.openvino import the_core
from edgessl.runtime.session import open_session


@pytest.mark.parametrize(("device", "driver"), [("GPU", "GPU driver"), ("NPU", "linux-npu-driver")])
def test_a_device_that_is_not_here_is_no_silent_fallback(
    tmp_path: Path, device: str, driver: str
) -> None:
    if any(name.startswith(device) for name in the_core().available_devices):
        pytest.skip(f"this machine has a {device}")
    with pytest.raises(UnavailableError, match=rf"no {device} device.*CPU.*{driver}"):
        open_session("openvino", write_model(tmp_path / "model.onnx"), {"device": device})


@pytest.mark.parametrize("options", [{"device": "TPU"}, {"npu_platform": "40"}, {"num_streams": 0}])
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        open_session("openvino", tmp_path / "model.onnx", options)


def test_streams_and_throughput_compute_the_same(tmp_path: Path) -> None:
    model, batch = write_model(tmp_path / "model.onnx"), samples(1)
    options = {"num_streams": 2, "performance_hint": "throughput", "threads": 2}
    with open_session("openvino", model, options) as session:
        found = session.run({"image": batch})["embedding"]
    np.testing.assert_allclose(found, expected(batch), rtol=1e-4, atol=1e-6)


def test_a_compiled_blob_opens_without_the_model(tmp_path: Path) -> None:
    model, batch = write_model(tmp_path / "model.onnx"), samples(1)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    core = the_core()
    compiled = core.compile_model(core.read_model(str(model)), "CPU", settings)
    blob = tmp_path / "model.blob"
    blob.write_bytes(compiled.export_model().getvalue())
    model.unlink()
    with open_session("openvino", blob) as session:
        assert [s.shape for s in session.inputs] == [(1, 3, 8, 8)]
        found = session.run({"image": batch})["embedding"]
    np.testing.assert_allclose(found, expected(batch), rtol=1e-4, atol=1e-6)
    blob.write_bytes(blob.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model\.blob"):
        open_session("openvino", blob)


class FakeCore:
    """A machine with all devices; it notes what it is told."""

    available_devices = ("CPU", "GPU.0", "NPU")
    told: tuple[str, dict[str, Any]] = ("", {})
    gives = "f32"

    def get_property(self, device: str, name: str) -> list[str]:
        return ["FP32", "INT8"]

    def read_model(self, path: str) -> str:
        return path

    def compile_model(self, model: str, device: str, settings: dict[str, Any]) -> FakeCompiled:
        FakeCore.told = (device, settings)
        return FakeCompiled()


class FakeCompiled:
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()

    def get_property(self, name: str) -> FakeCompiled:
        return self

    def to_string(self) -> str:
        return FakeCore.gives

    def create_infer_request(self) -> None:
        return None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeCore]:
    monkeypatch.setattr("edgessl.runtime.engines.openvino.the_core", FakeCore)
    monkeypatch.setattr(FakeCore, "gives", "f32")
    return FakeCore


def test_float32_is_asked_for_everywhere_but_on_the_npu(
    fake: type[FakeCore], tmp_path: Path
) -> None:
    for device in ("CPU", "GPU"):
        open_session("openvino", tmp_path / "model.xml", {"device": device})
        assert fake.told[0] == device
        assert fake.told[1]["INFERENCE_PRECISION_HINT"] == "f32"
    options = {"device": "NPU", "npu_platform": "4000"}
    open_session("openvino", tmp_path / "model.xml", options)
    assert fake.told[1]["NPU_PLATFORM"] == "4000"
    assert "INFERENCE_PRECISION_HINT" not in fake.told[1]


def test_what_a_gpu_or_npu_compiled_is_kept(
    fake: type[FakeCore], tmp_path: Path, cache: Path
) -> None:
    for device, kept in (("CPU", False), ("GPU", True), ("NPU", True)):
        open_session("openvino", tmp_path / "model.xml", {"device": device})
        assert (fake.told[1].get("CACHE_DIR") == str(cache / "openvino")) is kept
    open_session("openvino", tmp_path / "model.xml", {"device": "GPU", "cache": False})
    assert "CACHE_DIR" not in fake.told[1]


def test_another_precision_than_asked_for_is_an_error(
    fake: type[FakeCore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An f16 hint reports bf16 on CPUs without float16 arithmetic."""
    with pytest.raises(UnavailableError, match="no f16 instructions"):
        open_session("openvino", tmp_path / "model.xml", {"inference_precision": "f16"})
    monkeypatch.setattr(FakeCore, "get_property", lambda self, device, name: ["FP16", "BF16"])
    monkeypatch.setattr(FakeCore, "gives", "bf16")
    with pytest.raises(UnavailableError, match="bf16 although f16"):
        open_session("openvino", tmp_path / "model.xml", {"inference_precision": "f16"})


def test_an_npu_computes_in_16_bits_only(fake: type[FakeCore], tmp_path: Path) -> None:
    options = {"device": "NPU", "inference_precision": "f32"}
    with pytest.raises(UnavailableError, match="f16 and integers"):
        open_session("openvino", tmp_path / "model.xml", options)
