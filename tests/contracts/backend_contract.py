"""What every compiler backend must do; a test class per backend inherits it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from contracts.compiling import target_of
from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler.backends import BACKENDS, BuildRequest, Built
from edgessl.compiler.calibration import ArrayCalibration, store
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.process import ask
from edgessl.compiler.samples import Samples
from edgessl.errors import TargetError
from edgessl.files import sha256_file
from edgessl.progress import silent
from edgessl.runtime.session import Array, Session, open_session
from edgessl.targets import CandidateSpec

__all__ = ["BackendContract"]

_SAMPLES = 16
Builds = dict[CandidateSpec, tuple[Built, Path]]


class BackendContract:
    """Builds run in a worker, as they do in `compile_model`.

    Attributes:
        engine: Name of the backend and of the engine that runs what it builds.
        candidates: Candidates it must build, each with the least mean cosine to float32.
        unsupported: A candidate that it must refuse; None if it takes any.
        target: Fields of the target, besides the candidate.
        here: Whether this machine is the device; if not, the first stand-in runs what is built.
    """

    engine: ClassVar[str]
    candidates: ClassVar[dict[CandidateSpec, float]]
    unsupported: ClassVar[CandidateSpec | None] = None
    target: ClassVar[dict[str, Any]] = {}
    here: ClassVar[bool] = True

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, tmp_path_factory: pytest.TempPathFactory) -> Bench:
        """A prepared graph with calibration samples."""
        return Bench(tmp_path_factory.mktemp(cls.engine), cls.target, here=cls.here)

    @pytest.fixture(scope="class")
    @classmethod
    def builds(cls, bench: Bench) -> Builds:
        """Every candidate, built once."""
        return {spec: bench.build(spec, "first") for spec in cls.candidates}

    def test_builds_what_its_engine_opens(self, bench: Bench, builds: Builds) -> None:
        inputs = cnn_inputs(_SAMPLES)
        with open_session("onnxruntime", bench.model, {"threads": 1}) as session:
            expected = np.concatenate([_embed(session, x) for x in inputs])
        for spec, (built, folder) in builds.items():
            assert built.model in built.files
            actual = bench.run(built, folder, self.engine)
            norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
            cosine = (expected * actual).sum(axis=1) / norms
            assert cosine.mean() > self.candidates[spec], f"{spec.name}: {cosine.mean():.4f}"

    def test_same_request_gives_same_bytes(self, bench: Bench, builds: Builds) -> None:
        for spec, (built, folder) in builds.items():
            again, elsewhere = bench.build(spec, "second-with-a-longer-name")
            assert again == built
            for file in built.files:
                assert sha256_file(elsewhere / file) == sha256_file(folder / file), spec.name

    def test_files_name_no_place_of_this_machine(self, bench: Bench, builds: Builds) -> None:
        for built, folder in builds.values():
            for file in built.files:
                assert Path(file).name == file
                assert str(bench.folder).encode() not in (folder / file).read_bytes()

    def test_toolchain_holds_versions(self, builds: Builds) -> None:
        for built, _ in builds.values():
            assert all(version[:1].isdigit() for version in built.toolchain.values())

    def test_refuses_a_precision_it_does_not_have(self, bench: Bench) -> None:
        if self.unsupported is None:
            pytest.skip(f"{self.engine} takes any candidate")
        with pytest.raises(TargetError, match="choose"):
            bench.build(self.unsupported, "refused")

    def test_is_found_by_the_name_of_its_engine(self) -> None:
        assert self.engine in BACKENDS.names()


class Bench:
    """A prepared graph with calibration samples, and a place to build candidates."""

    def __init__(self, folder: Path, target: dict[str, Any], *, here: bool) -> None:
        self.folder = folder
        self._target = target
        self._here = here
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
        """Build one candidate in a worker."""
        folder = self.folder / f"{name}-{spec.name}"
        folder.mkdir()
        request = BuildRequest(
            graph=self._graph,
            candidate=spec,
            target=target_of(spec, **self._target),
            here=self._here,
            calibration=str(self._samples.folder),
            folder=str(folder),
            threads=1,
            reduce_range=False,
        )
        answer = ask(folder, "build", request=request.model_dump(mode="json"))
        return Built.model_validate(answer), folder

    def run(self, built: Built, folder: Path, engine: str) -> Array:
        """Outputs for the samples, in a worker: emulators abort."""
        model, options = built.model, built.options
        if not self._here and built.stand_ins:
            stand_in = built.stand_ins[0]
            engine, model, options = stand_in.engine.name, stand_in.model, stand_in.engine.options
        out = Path(tempfile.mkdtemp(dir=folder)) / "results"
        ask(
            folder,
            "embed",
            engine=engine,
            model=str(folder / model),
            options=options,
            samples=str(self._samples.folder),
            out=str(out),
        )
        results = Samples(out)
        return results.read(0, results.count)["embeddings"]


def _embed(session: Session, image: Array) -> Array:
    return session.run({"images": image[None]})["embeddings"]
