"""Arms whose behaviour is known; worker processes import them by name."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping

import numpy as np

from edgessl.benchmarking import ArmFacts
from edgessl.bundle.manifest import TensorSpec
from edgessl.errors import ModelError
from edgessl.runtime.session import Array

__all__ = [
    "SleepingArm",
    "bound_arm",
    "dying_arm",
    "nan_arm",
    "raising_arm",
    "sleeping_arm",
    "tiring_arm",
]


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
