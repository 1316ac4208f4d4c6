"""One thing whose speed is measured, and the arms for bundles and ONNX files."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from pydantic import Field

from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import OptionValue, TensorSpec
from edgessl.config import Options
from edgessl.errors import UsageError
from edgessl.runtime.canaries import canary_inputs
from edgessl.runtime.model import open_engine
from edgessl.runtime.session import ENGINES, Array, Session, open_session
from edgessl.runtime.threads import resolve_threads

__all__ = ["Arm", "ArmFacts", "ArmSpec", "bundle_arm", "make_arm", "model_arm", "synthetic_samples"]


class ArmSpec(Options):
    """How a worker process makes an arm.

    Attributes:
        name: What tables call it.
        factory: ``"module:function"``; the worker imports it and calls it with ``arguments``.
        arguments: JSON values.
        threads: Threads that the arm may use; the worker sets ``OMP_NUM_THREADS`` and the like
            before anything is imported.
    """

    name: str
    factory: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, OptionValue] = Field(default_factory=dict)
    threads: int = Field(ge=1, le=1024)


class ArmFacts(Options):
    """What an arm says about itself once it is loaded.

    Attributes:
        inputs: What one run takes; the first axis holds the samples.
        versions: Package → version of what computes.
        size_bytes: Size of the artifact; None if there is no file.
    """

    engine: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    versions: dict[str, str] = Field(default_factory=dict)
    size_bytes: int | None = None


class Arm(Protocol):
    """What a factory returns. All calls come from one thread of the worker process."""

    def load(self) -> ArmFacts:
        """Make it ready to run; the time this takes is reported as load time."""
        ...

    def samples(self) -> Mapping[str, Array] | None:
        """Real inputs, samples first; None leaves it to the benchmark to make some."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute once. On return the outputs are complete: device clocks are synchronised."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


def make_arm(spec: ArmSpec) -> Arm:
    """Import the factory and call it.

    Raises:
        UsageError: The module or the function does not exist.
    """
    module, _, function = spec.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{spec.name}: {spec.factory} cannot be imported ({error})") from error
    return cast(Arm, factory(threads=spec.threads, **spec.arguments))


class _SessionArm:
    """A session of the runtime; `Model` adds copies that the engine's time must not contain."""

    _session: Session

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._session.run(feeds)

    def close(self) -> None:
        self._session.close()


class _BundleArm(_SessionArm):
    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._threads = threads
        self._samples: Mapping[str, Array] | None = None

    def load(self) -> ArmFacts:
        with open_bundle(self._path, verify=False) as bundle:
            manifest = bundle.manifest
            self._session = open_engine(bundle, threads=self._threads)
            self._samples = canary_inputs(bundle)
        return ArmFacts(
            engine=manifest.engine.name,
            precision=manifest.precision,
            inputs=self._session.inputs,
            versions={manifest.engine.name: ENGINES.get(manifest.engine.name).version()},
            size_bytes=self._path.stat().st_size,
        )

    def samples(self) -> Mapping[str, Array] | None:
        return self._samples


class _ModelArm(_SessionArm):
    def __init__(self, path: Path, engine: str, threads: int) -> None:
        self._path = path
        self._engine = engine
        self._threads = threads

    def load(self) -> ArmFacts:
        self._session = open_session(self._engine, self._path, {"threads": self._threads})
        weights = self._path.with_suffix(".bin") if self._path.suffix == ".xml" else None
        return ArmFacts(
            engine=self._engine,
            precision="as in the file",
            inputs=self._session.inputs,
            versions={self._engine: ENGINES.get(self._engine).version()},
            size_bytes=sum(p.stat().st_size for p in (self._path, weights) if p and p.exists()),
        )

    def samples(self) -> Mapping[str, Array] | None:
        return None


def bundle_arm(*, path: str, threads: int) -> Arm:
    """A native bundle in its engine."""
    return _BundleArm(Path(path), resolve_threads(threads))


def model_arm(*, path: str, engine: str, threads: int) -> Arm:
    """A model file (``.onnx``, ``.xml``) in a named engine, float32 unless it is quantized."""
    return _ModelArm(Path(path), engine, resolve_threads(threads))


def synthetic_samples(inputs: tuple[TensorSpec, ...], *, seed: int, count: int) -> dict[str, Array]:
    """Seeded standard-normal floats, small integers; every free dimension is 1.

    Returns:
        One array per input: ``count`` samples if the first axis is free or 1, else as declared.
    """
    rng = np.random.default_rng(seed)
    result: dict[str, Array] = {}
    for spec in inputs:
        shape = [d if isinstance(d, int) else 1 for d in spec.shape]
        if shape and shape[0] == 1:
            shape[0] = count
        result[spec.name] = _fill(rng, np.dtype(spec.dtype), shape)
    return result


def _fill(rng: np.random.Generator, dtype: np.dtype[Any], shape: list[int]) -> Array:
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "u" and dtype.itemsize == 1:
        return rng.integers(0, 256, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
