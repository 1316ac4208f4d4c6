"""What every compiler backend must do; a test class per backend inherits it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler.backends import BACKENDS, BuildRequest, Built
from edgessl.compiler.calibration import ArrayCalibration, store
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.process import ask
from edgessl.errors import TargetError
from edgessl.files import sha256_file
from edgessl.progress import silent
from edgessl.runtime.session import Array, Session, open_session
from edgessl.targets import CandidateSpec

__all__ = ["BackendContract"]

_SAMPLES = 16


class BackendContract:
    """Builds run in a worker, as they do in `compile_model`.

    Attributes:
        engine: Name of the backend and of the engine that runs what it builds.
        candidates: Candidates it must build, each with the least mean cosine to float32.
        unsupported: A candidate that it must refuse; None if it takes any.
    """

    engine: ClassVar[str]
    candidates: ClassVar[dict[CandidateSpec, float]]
    unsupported: ClassVar[CandidateSpec | None] = None

    @pytest.fixture
    def request_of(self, tmp_path: Path) -> _Requests:
        return _Requests(tmp_path)

    def test_builds_what_its_engine_opens(self, request_of: _Requests) -> None:
        inputs = cnn_inputs(_SAMPLES)
        with open_session("onnxruntime", request_of.model, {"threads": 1}) as session:
            expected = np.concatenate([_embed(session, x) for x in inputs])
        for spec, least in self.candidates.items():
            built, folder = request_of.build(spec, "one")
            assert built.model in built.files
            with open_session(self.engine, folder / built.model, built.options) as session:
                assert [s.name for s in session.inputs] == ["images"]
                actual = np.concatenate([_embed(session, x) for x in inputs])
            norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
            cosine = (expected * actual).sum(axis=1) / norms
            assert cosine.mean() > least, f"{spec.name}: {cosine.mean():.4f}"

    def test_same_request_gives_same_bytes(self, request_of: _Requests) -> None:
        for spec in self.candidates:
            hashes = []
            for name in ("first", "second-with-a-longer-name"):
                built, folder = request_of.build(spec, name)
                hashes.append({file: sha256_file(folder / file) for file in built.files})
            assert hashes[0] == hashes[1], spec.name

    def test_files_name_no_place_of_this_machine(self, request_of: _Requests) -> None:
        for spec in self.candidates:
            built, folder = request_of.build(spec, "one")
            for file in built.files:
                assert Path(file).name == file
                assert str(request_of.folder).encode() not in (folder / file).read_bytes()

    def test_integers_are_smaller(self, request_of: _Requests) -> None:
        weights = (16 * 3 * 9 + 32 * 16 * 9) * 4
        for spec in self.candidates:
            built, folder = request_of.build(spec, "one")
            binary = folder / built.files[-1]
            if spec.precision == "int8" and binary.suffix == ".bin":
                assert binary.stat().st_size < weights / 2

    def test_toolchain_holds_versions(self, request_of: _Requests) -> None:
        for spec in self.candidates:
            built, _ = request_of.build(spec, "one")
            assert all(version[:1].isdigit() for version in built.toolchain.values())

    def test_refuses_a_precision_it_does_not_have(self, request_of: _Requests) -> None:
        if self.unsupported is None:
            pytest.skip(f"{self.engine} takes any candidate")
        with pytest.raises(TargetError, match="choose"):
            request_of.build(self.unsupported, "one")

    def test_is_found_by_the_name_of_its_engine(self) -> None:
        assert self.engine in BACKENDS.names()


class _Requests:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "prepared.onnx"
        self._graph = prepare_graph(write_cnn(folder / "cnn.onnx"), self.model, batch_size=1)
        self._samples = store(
            ArrayCalibration({"images": cnn_inputs(_SAMPLES)}),
            np.arange(_SAMPLES),
            self._graph,
            folder / "samples",
            progress=silent,
        )

    def build(self, spec: CandidateSpec, name: str) -> tuple[Built, Path]:
        folder = self.folder / f"{name}-{spec.name}"
        folder.mkdir()
        request = BuildRequest(
            graph=self._graph,
            candidate=spec,
            calibration=str(self._samples.folder),
            folder=str(folder),
            threads=1,
            per_channel=True,
            reduce_range=False,
            seed=0,
        )
        answer = ask(folder, "build", request=request.model_dump(mode="json"))
        return Built.model_validate(answer), folder


def _embed(session: Session, image: Array) -> Array:
    return session.run({"images": image[None]})["embeddings"]
