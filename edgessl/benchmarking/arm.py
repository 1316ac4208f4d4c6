"""One thing whose speed is measured: how a worker makes it, and what it must be able to do."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast, runtime_checkable

from pydantic import Field

from edgessl.benchmarking.result import OperatorTime, Phases, Workload
from edgessl.bundle.manifest import OptionValue, TensorSpec
from edgessl.config import Options
from edgessl.errors import UsageError
from edgessl.runtime.session import Array

__all__ = ["Arm", "ArmFacts", "ArmSpec", "TellsOperators", "TellsPhases", "make_arm"]


class ArmSpec(Options):
    """How a worker process makes an arm.

    Attributes:
        name: What tables call it.
        factory: ``"module:function"``; the worker imports it and calls it with ``arguments``.
        arguments: JSON values.
        threads: Threads that the arm may use; the worker sets ``OMP_NUM_THREADS`` and the like
            before anything is imported.
        python: Interpreter of another environment that runs the worker, for engines that do not
            install beside each other. It needs edgessl on its path, and numpy, pydantic, psutil and
            pillow; None takes this one.
        workload: What one run has to compute, where the caller knows and the arm does not.
    """

    name: str
    factory: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, OptionValue] = Field(default_factory=dict)
    threads: int = Field(ge=1, le=1024)
    python: str | None = None
    workload: Workload | None = None


class ArmFacts(Options):
    """What an arm says about itself once it is loaded.

    Attributes:
        provider: Execution provider, plugin or device within the engine.
        inputs: What one run takes; the first axis holds the samples.
        versions: Package → version of what computes.
        options: Engine options, as set.
        file: Path of the artifact; None if there is none.
        size_bytes: Size of the artifact with all its parts; None if there is no file.
        target: Target that it was compiled for.
        fidelity: Mean cosine to the float model; None if nobody measured it.
        workload: What one run has to compute; None if nobody counted.
    """

    engine: str
    provider: str = "CPU"
    precision: str
    inputs: tuple[TensorSpec, ...]
    versions: dict[str, str] = Field(default_factory=dict)
    options: dict[str, OptionValue] = Field(default_factory=dict)
    file: str | None = None
    size_bytes: int | None = None
    target: str | None = None
    fidelity: float | None = None
    workload: Workload | None = None


class Arm(Protocol):
    """What a factory returns. All calls come from one thread of the worker process.

    The factory imports what computes, and opens nothing: importing and loading are timed apart.
    """

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


@runtime_checkable
class TellsOperators(Protocol):
    """An arm whose engine has a profiler."""

    def operators(self, feeds: Mapping[str, Array], runs: int) -> tuple[OperatorTime, ...]:
        """Median time of each operator, the slowest first.

        Raises:
            UnavailableError: The engine cannot tell, and why.
        """
        ...


@runtime_checkable
class TellsPhases(Protocol):
    """An arm whose engine times transfers and computation apart."""

    def phases(self, feeds: Mapping[str, Array]) -> Phases | None:
        """Parts of one run; None if the engine cannot tell."""
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
