"""Arms with real work of about a millisecond, one of them made slower by a known share."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from edgessl.benchmarking.arm import ArmFacts, ArmSpec
from edgessl.bundle.manifest import TensorSpec
from edgessl.runtime.session import Array

__all__ = ["working", "working_arm"]

_BATCH, _WIDTH, _LAYERS = 16, 384, 8


class _WorkingArm:
    """A small network in numpy; after each run it spins for a share of what the run took."""

    def __init__(self, slowdown: float) -> None:
        self._slowdown = slowdown

    def load(self) -> ArmFacts:
        rng = np.random.default_rng(0)
        size = (_LAYERS, _WIDTH, _WIDTH)
        self._layers = (rng.standard_normal(size) / np.sqrt(_WIDTH)).astype(np.float32)
        return ArmFacts(
            engine="numpy",
            precision="fp32",
            inputs=(TensorSpec(name="x", dtype="float32", shape=(_BATCH, _WIDTH)),),
            versions={"numpy": np.__version__},
        )

    def samples(self) -> Mapping[str, Array] | None:
        return None

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        start = time.perf_counter_ns()
        y = feeds["x"]
        for layer in self._layers:
            y = np.tanh(y @ layer)
        done = time.perf_counter_ns()
        until = done + self._slowdown * (done - start)
        while time.perf_counter_ns() < until:
            pass
        return {"y": y}

    def close(self) -> None:
        pass


def working_arm(*, slowdown: float, threads: int) -> _WorkingArm:
    """Where a worker process finds it."""
    assert threads == 1
    return _WorkingArm(slowdown)


def working(name: str, *, slowdown: float = 0.0) -> ArmSpec:
    """A slowdown of 0.1 makes it take 1.1 times as long."""
    return ArmSpec(
        name=name,
        factory="contracts.gate_arms:working_arm",
        arguments={"slowdown": slowdown},
        threads=1,
    )
