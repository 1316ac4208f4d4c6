"""Graphs that nobody here exported: without metadata, with states, with several outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from contracts.compiling import (
    ONNX_FP32,
    OPENVINO_FP32,
    compile_quietly,
    target_of,
)
from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler import CompileReport
from edgessl.targets import CandidateSpec

Inputs = NDArray[np.float32]


class TestThirdPartyModels:
    def _path(self, shared: Path, name: str) -> Path:
        path = shared / "models" / name
        if not path.is_file():
            pytest.skip(f"{name} is not on this machine")
        return path

    def _check(self, path: Path, feeds: Any, out: Path, *specs: CandidateSpec) -> CompileReport:
        report = compile_quietly(path, target_of(*specs), feeds, out=out)
        assert all(c.status in ("chosen", "passed") for c in report.candidates), report.candidates
        return report

    def test_ultraface(self, shared: Path, tmp_path: Path) -> None:
        path = self._path(shared, "ultraface/version-RFB-320.onnx")
        feeds = np.random.default_rng(0).standard_normal((16, 3, 240, 320)).astype(np.float32)
        report = self._check(path, feeds, tmp_path / "m.edge", ONNX_FP32, OPENVINO_FP32)
        assert report.manifest is not None
        assert report.manifest.embedding_dim is None

    def test_magika(self, shared: Path, tmp_path: Path) -> None:
        path = self._path(shared, "magika/magika_standard_v3_3.onnx")
        feeds = np.random.default_rng(0).integers(0, 257, (16, 2048), dtype=np.int32)
        self._check(path, feeds, tmp_path / "m.edge", ONNX_FP32)

    def test_silero(self, shared: Path, tmp_path: Path) -> None:
        path = self._path(shared, "silero-vad/silero_vad_op18_ifless.onnx")
        rng = np.random.default_rng(0)
        feeds = {
            "input": (0.1 * rng.standard_normal((16, 1, 576)))[:, 0].astype(np.float32),
            "state": (0.1 * rng.standard_normal((16, 2, 1, 128))).astype(np.float32),
            "sr": np.full(16, 16_000, np.int64),
        }
        report = self._check(path, feeds, tmp_path / "m.edge", ONNX_FP32)
        manifest = report.manifest
        assert manifest is not None
        assert manifest.canaries is not None
        assert (manifest.batch_size, manifest.canaries.samples) == (None, 1)

    def test_a_model_of_several_outputs_keeps_its_canaries(self, tmp_path: Path) -> None:
        path = write_cnn(tmp_path / "two.onnx")
        loaded = onnx.load(path)
        loaded.graph.output.append(onnx.helper.make_tensor_value_info("f", 1, ["batch", 32]))
        onnx.save(loaded, path)
        report = compile_quietly(path, target_of(ONNX_FP32), cnn_inputs(20))
        assert report.manifest is not None
        assert [o.name for o in report.manifest.outputs] == ["embeddings", "f"]
        assert report.manifest.embedding_dim is None
