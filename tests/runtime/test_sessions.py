"""Both engines keep the contract, and what is particular to each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino
import pytest

from contracts.session_contract import SessionContract
from contracts.tiny_bundle import samples, write_model
from edgessl.bundle.manifest import OptionValue
from edgessl.errors import UnavailableError, UsageError
from edgessl.runtime import threads
from edgessl.runtime.session import open_session
from edgessl.targets import detect


class TestOnnxRuntime(SessionContract):
    engine = "onnxruntime"
    exact_options: Mapping[str, OptionValue] = {"intra_op_spinning": False}

    def convert(self, onnx_file: Path) -> Path:
        return onnx_file

    def test_a_build_without_the_provider_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("onnxruntime.get_available_providers", list)
        with pytest.raises(UnavailableError, match="CPUExecutionProvider"):
            self.open(tmp_path)


class TestOpenVINO(SessionContract):
    engine = "openvino"
    exact_options: Mapping[str, OptionValue] = {"inference_precision": "f32"}

    def convert(self, onnx_file: Path) -> Path:
        model = openvino.Core().read_model(str(onnx_file))
        openvino.save_model(model, onnx_file.with_suffix(".xml"), compress_to_fp16=False)
        return onnx_file.with_suffix(".xml")


class TestOpenVINOFromOnnx(TestOpenVINO):
    def convert(self, onnx_file: Path) -> Path:
        return onnx_file


def test_bf16_is_bf16_and_float32_the_default(tmp_path: Path) -> None:
    if not detect().has_bf16:
        pytest.skip("this CPU has no bfloat16 products")
    model = write_model(tmp_path / "model.onnx")
    feeds = {"image": samples(1)}
    results = []
    for options in ({}, {"inference_precision": "f32"}, {"inference_precision": "bf16"}):
        with open_session("openvino", model, options) as session:
            results.append(session.run(feeds)["embedding"])
    np.testing.assert_array_equal(results[0], results[1])
    # bfloat16 keeps 8 bits: different from float32, and by less than a few per cent.
    assert np.abs(results[2] - results[1]).max() > 1e-5
    np.testing.assert_allclose(results[2], results[1], rtol=0.05, atol=0.02)


def test_bf16_without_the_instructions_is_no_silent_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OldCore:
        available_devices = ("CPU",)

        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr("edgessl.runtime.engines.openvino.the_core", OldCore)
    with pytest.raises(UnavailableError, match="f32"):
        open_session("openvino", tmp_path / "model.onnx", {"inference_precision": "bf16"})


def test_an_unknown_engine_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="openvino"):
        open_session("openvin", tmp_path / "model.onnx")


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 1), ("300000 100000", 3)])
def test_the_cgroups_quota_limits_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int
) -> None:
    limit = tmp_path / "cpu.max"
    limit.write_text(text)
    monkeypatch.setattr(threads, "_CGROUP_LIMIT", limit)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 16 if logical else 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    assert threads.physical_cores() == cores
    limit.write_text("max 100000")
    assert threads.physical_cores() == 8
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert threads.physical_cores() == 2
