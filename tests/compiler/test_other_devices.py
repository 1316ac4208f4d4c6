"""Compiling for a device that this machine is not: stand-ins judge, nothing is timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.compiling import compile_quietly
from edgessl.bundle.archive import open_bundle
from edgessl.errors import BundleError, TargetError, UnavailableError
from edgessl.runtime import load, verify
from edgessl.targets import detect

Inputs = NDArray[np.float32]

pytestmark = pytest.mark.skipif(detect().arch == "aarch64", reason="cpu-arm64 is this machine")


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for a Raspberry Pi, made here."""
    from contracts.onnx_models import cnn_inputs, write_cnn

    folder = tmp_path_factory.mktemp("arm")
    model = write_cnn(folder / "cnn.onnx")
    compile_quietly(model, "cpu-arm64", cnn_inputs(60), report=folder / "report.json")
    return folder


def test_the_first_of_the_list_that_passes_is_chosen(arm: Path) -> None:
    report = json.loads((arm / "report.json").read_text())
    assert not report["measured"]
    assert report["chosen"] == "onnxruntime-int8-s8s8"
    first, second = report["candidates"]
    assert "not here to measure" in first["reason"]
    assert "finalize measures both" in second["reason"]
    assert all(c["latency_p50_ms"] is None for c in report["candidates"])
    assert all(c["fidelity"]["cosine_mean"] > 0.99 for c in report["candidates"])


def test_what_else_passes_travels_along(arm: Path) -> None:
    with open_bundle(arm / "model.edge") as bundle:
        manifest = bundle.manifest
        (variant,) = manifest.variants
        assert (manifest.kind, manifest.precision, variant.precision) == (
            "portable",
            "int8",
            "fp32",
        )
        assert bundle.read(variant.model) != bundle.read(manifest.model)
        assert variant.canaries is not None
        assert manifest.canaries is not None
        assert variant.canaries.inputs == manifest.canaries.inputs
        assert bundle.read(variant.canaries.outputs) != bundle.read(manifest.canaries.outputs)
        assert manifest.requirements.arch == "aarch64"


def test_it_is_verified_here_with_another_engine(arm: Path) -> None:
    report = verify(arm / "model.edge", on="host")
    assert report.passed
    assert report.canaries is not None
    assert report.canaries.min_cosine > 0.9999
    assert any("not on the device" in remark for remark in report.remarks)
    plain = verify(arm / "model.edge")
    assert plain.canaries is None
    assert any("--on host" in remark for remark in plain.remarks)


def test_it_does_not_run_here_as_if_this_were_the_device(arm: Path) -> None:
    with pytest.raises(BundleError, match="finalize"):
        load(arm / "model.edge")
    with pytest.raises(UnavailableError, match="stand-ins are host"):
        verify(arm / "model.edge", on="emulator")


def test_a_precision_that_the_device_lacks_is_refused_with_the_reason(
    model: Path, inputs: Inputs
) -> None:
    with pytest.raises(TargetError, match=r"no precision 'a16w8': .*int8"):
        compile_quietly(model, "npu-qualcomm-qcs6490", inputs, overrides={"precision": "a16w8"})
