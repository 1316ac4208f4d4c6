"""The arms of this package: bundles, model files, one that does nothing, one that never changes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgessl.benchmarking.arm import Arm, ArmFacts, TellsPhases
from edgessl.benchmarking.result import OperatorTime, Phases
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import OptionValue, TensorSpec
from edgessl.errors import UnavailableError
from edgessl.runtime.canaries import canary_inputs
from edgessl.runtime.model import open_engine
from edgessl.runtime.profiling import profile_operators
from edgessl.runtime.session import ENGINES, Array, Session, open_session
from edgessl.runtime.threads import resolve_threads

__all__ = ["CONTROL", "bundle_arm", "control_arm", "model_arm", "null_arm"]

CONTROL = "control-1"
"""Name of the control arm; what it computes may only change together with this name."""

_CONTROL_SIZE = 192
_CONTROL_FLOATS = 1 << 18
_CONTROL_PASSES = 4


class _SessionArm:
    """A session of the runtime; `Model` adds copies that the engine's time must not contain."""

    _session: Session

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._session.run(feeds)

    def phases(self, feeds: Mapping[str, Array]) -> Phases | None:
        return self._session.phases(feeds) if isinstance(self._session, TellsPhases) else None

    def close(self) -> None:
        self._session.close()


class _BundleArm(_SessionArm):
    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._threads = threads
        self._samples: Mapping[str, Array] | None = None
        with open_bundle(path, verify=False) as bundle:
            self._version = ENGINES.get(bundle.manifest.engine.name).version()

    def load(self) -> ArmFacts:
        with open_bundle(self._path, verify=False) as bundle:
            manifest = bundle.manifest
            self._session = open_engine(bundle, threads=self._threads)
            self._samples = canary_inputs(bundle)
        return ArmFacts(
            engine=manifest.engine.name,
            provider=_provider(manifest.engine.name, manifest.engine.options),
            precision=manifest.precision,
            inputs=self._session.inputs,
            versions={manifest.engine.name: self._version},
            options={**manifest.engine.options, "threads": self._threads},
            file=str(self._path),
            size_bytes=self._path.stat().st_size,
            target=manifest.target,
            fidelity=manifest.fidelity.cosine_mean if manifest.fidelity else None,
            workload=manifest.workload and manifest.workload.stored_as(manifest.precision),
        )

    def samples(self) -> Mapping[str, Array] | None:
        return self._samples

    def operators(self, feeds: Mapping[str, Array], runs: int) -> tuple[OperatorTime, ...]:
        with (
            open_bundle(self._path, verify=False) as bundle,
            tempfile.TemporaryDirectory(prefix="edgessl-", ignore_cleanup_errors=True) as folder,
        ):
            engine = bundle.manifest.engine
            options = {**engine.options, "threads": self._threads}
            model = bundle.extract(Path(folder))
            return profile_operators(engine.name, model, options, [feeds], runs=runs)


class _ModelArm(_SessionArm):
    def __init__(self, path: Path, engine: str, threads: int) -> None:
        self._path = path
        self._engine = engine
        self._options: dict[str, OptionValue] = {"threads": threads}
        self._version = ENGINES.get(engine).version()

    def load(self) -> ArmFacts:
        self._session = open_session(self._engine, self._path, self._options)
        weights = self._path.with_suffix(".bin") if self._path.suffix == ".xml" else None
        return ArmFacts(
            engine=self._engine,
            provider=_provider(self._engine, self._options),
            precision="as in the file",
            inputs=self._session.inputs,
            versions={self._engine: self._version},
            options=self._options,
            file=str(self._path),
            size_bytes=sum(p.stat().st_size for p in (self._path, weights) if p and p.exists()),
        )

    def samples(self) -> Mapping[str, Array] | None:
        return None

    def operators(self, feeds: Mapping[str, Array], runs: int) -> tuple[OperatorTime, ...]:
        return profile_operators(self._engine, self._path, self._options, [feeds], runs=runs)


class _NullArm:
    """Gives its inputs back: what is left is the cost of measuring."""

    def __init__(self, inputs: tuple[TensorSpec, ...]) -> None:
        self._inputs = inputs

    def load(self) -> ArmFacts:
        return ArmFacts(engine="none", precision="none", inputs=self._inputs)

    def samples(self) -> Mapping[str, Array] | None:
        return None

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return feeds

    def close(self) -> None:
        pass


class _ControlArm:
    """A matrix product and passes over memory, about as long as a small model takes."""

    def load(self) -> ArmFacts:
        rng = np.random.default_rng(0)
        self._matrix = rng.standard_normal((_CONTROL_SIZE, _CONTROL_SIZE)).astype(np.float32)
        self._vector = rng.standard_normal(_CONTROL_FLOATS).astype(np.float32)
        return ArmFacts(
            engine="numpy",
            precision="fp32",
            inputs=(TensorSpec(name="x", dtype="float32", shape=(1,)),),
            versions={"numpy": np.__version__},
        )

    def samples(self) -> Mapping[str, Array] | None:
        return None

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        total = float((self._matrix @ self._matrix)[0, 0])
        for _ in range(_CONTROL_PASSES):
            total += float((self._vector * self._vector).sum())
        return {"y": feeds["x"] * np.float32(total)}

    def close(self) -> None:
        pass


def bundle_arm(*, path: str, threads: int) -> Arm:
    """A native bundle in its engine."""
    return _BundleArm(Path(path), resolve_threads(threads))


def model_arm(*, path: str, engine: str, threads: int) -> Arm:
    """A model file (``.onnx``, ``.xml``) in a named engine, float32 unless it is quantized."""
    return _ModelArm(Path(path), engine, resolve_threads(threads))


def null_arm(*, inputs: str, threads: int) -> Arm:
    """An arm that does nothing.

    Args:
        inputs: JSON list of the inputs that it pretends to take.
        threads: Not used.
    """
    del threads
    return _NullArm(tuple(TensorSpec.model_validate(spec) for spec in json.loads(inputs)))


def control_arm(*, threads: int) -> Arm:
    """The arm that never changes.

    Raises:
        UnavailableError: It is asked to use more than one thread.
    """
    if threads != 1:
        raise UnavailableError(f"the control arm runs on one thread, not on {threads}")
    return _ControlArm()


def _provider(engine: str, options: Mapping[str, OptionValue]) -> str:
    """What computes within the engine."""
    if engine == "onnxruntime":
        return "CPUExecutionProvider"
    if engine == "qnn":
        return "HTP emulator" if options.get("emulate") else "HTP"
    if engine == "tensorrt":
        return "GPU" if options.get("dla_core") is None else "DLA"
    return str(options.get("device", "CPU"))
