"""Arms whose behaviour is known; worker processes import them by name."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgessl.benchmarking import ArmFacts, ArmSpec, BenchmarkOptions, GateOptions
from edgessl.bundle.manifest import TensorSpec
from edgessl.errors import ModelError
from edgessl.runtime.session import Array

__all__ = [
    "QUICK",
    "SleepingArm",
    "arm",
    "bound_arm",
    "dying_arm",
    "later_dying_arm",
    "later_hanging_arm",
    "longer_arm",
    "nan_arm",
    "raising_arm",
    "sleeping",
    "sleeping_arm",
    "tiring_arm",
]


QUICK = BenchmarkOptions(
    restarts=1,
    blocks=2,
    block_seconds=0.02,
    warm_up_seconds=0.05,
    cold_starts=1,
    gate=GateOptions(metrics=()),
)


def arm(name: str, factory: str, *, threads: int = 1, **arguments: float | str) -> ArmSpec:
    """An arm of this module; ``tests`` must be on the path of its process."""
    where = f"contracts.benchmark_arms:{factory}"
    return ArmSpec(name=name, factory=where, arguments=dict(arguments), threads=threads)


def sleeping(name: str, milliseconds: float = 1, *, threads: int = 1) -> ArmSpec:
    """An arm that takes as long as it is told, and a little more."""
    return arm(name, "sleeping_arm", threads=threads, milliseconds=milliseconds)


class SleepingArm:
    """Sleeps, prints to stdout, and gives back its input or NaN."""

    def __init__(self, milliseconds: float, *, threads: int, factor: float = 1.0) -> None:
        self._seconds = milliseconds / 1e3
        self._factor = factor
        self._threads = threads

    def load(self) -> ArmFacts:
        assert os.environ["OMP_NUM_THREADS"] == str(self._threads)
        return ArmFacts(
            engine="sleep",
            precision="fp32",
            inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 3)),),
        )

    def samples(self) -> Mapping[str, Array] | None:
        return None

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        print("engines print what they like")
        time.sleep(self._seconds)
        return {"y": feeds["x"] * np.float32(self._factor)}

    def close(self) -> None:
        pass


class DyingArm(SleepingArm):
    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        os._exit(7)


class LaterDyingArm(SleepingArm):
    """Lives in the first processes and dies in its first query in the next."""

    def __init__(self, marks: str, lives: int, *, threads: int) -> None:
        super().__init__(1, threads=threads)
        self._marks, self._lives = Path(marks), lives

    def load(self) -> ArmFacts:
        with self._marks.open("a") as file:
            file.write("x")
        return super().load()

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if self._marks.stat().st_size > self._lives:
            self.die()
        return super().run(feeds)

    def die(self) -> None:
        os._exit(7)


class LaterHangingArm(LaterDyingArm):
    def die(self) -> None:
        time.sleep(3600)


class LongerArm(SleepingArm):
    """Gives back more numbers than it was given."""

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"y": np.concatenate([feeds["x"], feeds["x"]], axis=1)}


class RaisingArm(SleepingArm):
    def load(self) -> ArmFacts:
        raise ModelError("the weights are missing; download them")


class TiringArm(SleepingArm):
    """Sleeps longer from run to run."""

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        self._began = getattr(self, "_began", time.monotonic())
        self._seconds = 1e-3 * math.exp((time.monotonic() - self._began) / 0.7)
        return super().run(feeds)


class BoundArm(SleepingArm):
    def __init__(self, cpu: int, *, threads: int) -> None:
        super().__init__(1, threads=threads)
        self._cpu = cpu

    def load(self) -> ArmFacts:
        assert os.sched_getaffinity(0) == {self._cpu}
        return super().load()


def sleeping_arm(*, milliseconds: float, threads: int) -> SleepingArm:
    return SleepingArm(milliseconds, threads=threads)


def nan_arm(*, threads: int) -> SleepingArm:
    return SleepingArm(1, threads=threads, factor=float("nan"))


def dying_arm(*, threads: int) -> SleepingArm:
    return DyingArm(1, threads=threads)


def raising_arm(*, threads: int) -> SleepingArm:
    return RaisingArm(1, threads=threads)


def tiring_arm(*, threads: int) -> SleepingArm:
    return TiringArm(1, threads=threads)


def bound_arm(*, cpu: int, threads: int) -> SleepingArm:
    return BoundArm(cpu, threads=threads)


def later_dying_arm(*, marks: str, lives: int, threads: int) -> SleepingArm:
    return LaterDyingArm(marks, lives, threads=threads)


def later_hanging_arm(*, marks: str, lives: int, threads: int) -> SleepingArm:
    return LaterHangingArm(marks, lives, threads=threads)


def longer_arm(*, threads: int) -> SleepingArm:
    return LongerArm(1, threads=threads)
