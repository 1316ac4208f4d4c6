"""Graphs that nobody here exported: without metadata, with states, with several outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgessl
from contracts.compiling import (
    ONNX_FP32,
    OPENVINO_FP32,
    compile_quietly,
    target_of,
)
from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler import CompileReport
from edgessl.data.calibration import open_media
from edgessl.errors import ModelError
from edgessl.preprocessing import ImageInput, SoundInput
from edgessl.runtime import infer
from edgessl.targets import CandidateSpec

FEW = {"samples": 8, "held_out": 8}


class TestThirdPartyModels:
    def _path(self, shared: Path, name: str) -> Path:
        path = shared / name
        if not path.exists():
            pytest.skip(f"{name} is not on this machine")
        return path

    def _check(
        self, path: Path, given: Any, out: Path, *specs: CandidateSpec, **overrides: Any
    ) -> CompileReport:
        report = compile_quietly(
            path,
            target_of(*specs),
            given,
            out=out,
            overrides={**FEW, **overrides},
            open_data=open_media,
        )
        assert all(c.status in ("chosen", "passed") for c in report.candidates), report.candidates
        return report

    def test_ultraface_with_photos(self, shared: Path, tmp_path: Path) -> None:
        path = self._path(shared, "models/ultraface/version-RFB-320.onnx")
        photos = self._path(shared, "data/trashnet-192")
        out = tmp_path / "m.edge"
        report = self._check(
            path,
            photos,
            out,
            ONNX_FP32,
            OPENVINO_FP32,
            preprocess="mean=127,std=128,range=0-255,resize=squash",
        )
        manifest = report.manifest
        assert manifest is not None
        assert manifest.embedding_dim is None
        spec = manifest.preprocessing
        assert isinstance(spec, ImageInput)
        assert (spec.height, spec.width, spec.layout) == (240, 320, "nchw")
        photo = min(photos.rglob("*.jpg"))
        with edgessl.load(out) as model:
            scores = model.embed([photo]).reshape(4420, 2)
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)  # a softmax over two classes

    def test_magika_with_the_bytes_of_texts(self, shared: Path, tmp_path: Path) -> None:
        path = self._path(shared, "models/magika/magika_standard_v3_3.onnx")
        data = self._path(shared, "data/tinyshakespeare/train.txt").read_bytes()
        rows = np.frombuffer(data[: 16 * 2048], np.uint8).reshape(16, 2048).astype(np.int32)
        np.savez(tmp_path / "texts.npz", bytes=rows)
        self._check(path, tmp_path / "texts.npz", tmp_path / "m.edge", ONNX_FP32)
        with edgessl.load(tmp_path / "m.edge") as model:
            found = model(rows[:3])
        assert found.shape == (3, 214)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-3)

    @pytest.mark.parametrize(
        ("name", "given"),
        [
            ("silero_vad_op18_ifless", {"constants": {"sr": 16_000, "state": 0}}),
            (
                "silero_vad",
                {
                    "freeze": {"sr": 16_000},
                    "constants": {"state": 0},
                    "shapes": {"input": (1, 576), "state": (2, 1, 128)},
                },
            ),
        ],
    )
    def test_silero_with_sounds_and_constants(
        self, shared: Path, tmp_path: Path, name: str, given: dict[str, Any]
    ) -> None:
        path = self._path(shared, f"models/silero-vad/{name}.onnx")
        digits = self._path(shared, "data/fsdd")
        out = tmp_path / "m.edge"
        report = self._check(
            path,
            digits,
            out,
            ONNX_FP32,
            preprocess="rate=16000,samples=576,hop=512",
            **given,
        )
        assert report.manifest is not None
        expected = SoundInput(sample_rate_hz=16_000, samples=576, hop=512)
        assert report.manifest.preprocessing == expected
        clip = min((digits / "test").rglob("*.wav"))
        assert infer(out, [clip]).values.max() > 0.5  # somebody speaks

    def test_silero_with_arrays_for_its_state(self, shared: Path, tmp_path: Path) -> None:
        path = self._path(shared, "models/silero-vad/silero_vad_op18_ifless.onnx")
        rng = np.random.default_rng(0)
        arrays = {
            "input": (0.1 * rng.standard_normal((16, 576))).astype(np.float32),
            "state": (0.1 * rng.standard_normal((16, 2, 1, 128))).astype(np.float32),
            "sr": np.full(16, 16_000, np.int64),
        }
        np.savez(tmp_path / "arrays.npz", **arrays)
        report = self._check(path, tmp_path / "arrays.npz", tmp_path / "m.edge", ONNX_FP32)
        manifest = report.manifest
        assert manifest is not None
        assert manifest.canaries is not None
        assert (manifest.batch_size, manifest.canaries.samples) == (None, 1)

    def test_superres_is_refused(self, shared: Path, tmp_path: Path) -> None:
        path = self._path(shared, "models/superres/superresolution_prepost_op18.onnx")
        images = np.zeros((16, 10), np.uint8)
        with pytest.raises(ModelError, match=r"DecodeImage.*com\.microsoft\.extensions"):
            self._check(path, images, tmp_path / "m.edge", ONNX_FP32)

    def test_a_model_of_several_outputs_keeps_its_canaries(self, tmp_path: Path) -> None:
        path = write_cnn(tmp_path / "two.onnx")
        loaded = onnx.load(path)
        loaded.graph.output.append(onnx.helper.make_tensor_value_info("f", 1, ["batch", 32]))
        onnx.save(loaded, path)
        report = compile_quietly(path, target_of(ONNX_FP32), cnn_inputs(20))
        assert report.manifest is not None
        assert [o.name for o in report.manifest.outputs] == ["embeddings", "f"]
        assert report.manifest.embedding_dim is None
