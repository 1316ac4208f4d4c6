"""The process of one arm: reads commands, one JSON object per line, and answers each with one.

Run as ``python -m edgessl.benchmarking.worker``; the parent has set the thread counts in the
environment, which libraries read when they are imported.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from edgessl.benchmarking.arm import Arm, ArmFacts, ArmSpec, make_arm, synthetic_samples
from edgessl.benchmarking.environment import peak_memory_bytes
from edgessl.bundle.arrays import load_arrays, save_arrays
from edgessl.bundle.manifest import TensorSpec
from edgessl.errors import DataError, EdgeSSLError
from edgessl.runtime.session import Array

__all__ = ["main"]

_WARM_UP_RUNS = 10
_WARM_UP_SECONDS = 0.5
_WARM_UP_LIMIT_SECONDS = 5.0
_SETTLED = 0.05
_SYNTHETIC_COUNT = 4
_UNTIMED_RUNS = 2
"""Runs at the start of a block that are not counted: the other arms have used the caches."""


class Worker:
    """One arm and its inputs; each public method is a command."""

    def __init__(self, spec: ArmSpec, seed: int) -> None:
        self._spec = spec
        self._seed = seed
        self._arm: Arm = make_arm(spec)
        self._facts: ArmFacts | None = None
        self._samples: dict[str, Array] = {}
        self._feeds: list[dict[str, Array]] = []

    def load(self) -> dict[str, Any]:
        """Load the arm and time it."""
        start = time.perf_counter()
        self._facts = self._arm.load()
        load_ms = (time.perf_counter() - start) * 1e3
        own = self._arm.samples()
        self._samples = dict(own) if own is not None else self._synthetic()
        return {
            "facts": self._facts.model_dump(mode="json"),
            "load_ms": load_ms,
            "has_samples": own is not None,
        }

    def write_samples(self, path: str) -> dict[str, Any]:
        """Write this arm's inputs for the others."""
        Path(path).write_bytes(save_arrays(self._samples))
        return {}

    def take_samples(self, path: str) -> dict[str, Any]:
        """Use another arm's inputs if they fit; a single input may have another name."""
        offered = load_arrays(Path(path).read_bytes(), where="shared inputs")
        inputs = self._inputs()
        if len(inputs) == len(offered) == 1:
            offered = {inputs[0].name: next(iter(offered.values()))}
        fits = all(s.name in offered and _fits(offered[s.name], s) for s in inputs)
        if fits and len(offered) == len(inputs):
            self._samples = offered
            return {"taken": True}
        return {"taken": False}

    def warm_up(self) -> dict[str, Any]:
        """Run until the medians of two successive windows agree within 5 %."""
        self._feeds = _split(self._samples, self._inputs())
        start = time.perf_counter()
        self._run_once(0)
        before: float | None = None
        runs, settled = 1, False
        while not settled:
            times = self._timed(_WARM_UP_SECONDS / 2, minimum=_WARM_UP_RUNS // 2)
            runs += len(times)
            median = statistics.median(times)
            elapsed = time.perf_counter() - start
            enough = runs >= _WARM_UP_RUNS and elapsed >= _WARM_UP_SECONDS
            settled = enough and before is not None and abs(median / before - 1) <= _SETTLED
            before = median
            if elapsed > _WARM_UP_LIMIT_SECONDS:
                break
        samples = next((len(a) for a in self._feeds[0].values() if a.ndim), 1)
        seconds = time.perf_counter() - start
        return {"runs": runs, "seconds": seconds, "settled": settled, "samples_per_run": samples}

    def block(self, seconds: float) -> dict[str, Any]:
        """Time runs back to back for some seconds, at least five."""
        for index in range(_UNTIMED_RUNS):
            self._run_once(index)
        return {"times_ms": self._timed(seconds, minimum=5)}

    def outputs(self, path: str) -> dict[str, Any]:
        """Run every input once and write the outputs."""
        results = [self._run_once(index) for index in range(len(self._feeds))]
        joined = {
            name: np.concatenate([np.atleast_1d(r[name]) for r in results]) for name in results[0]
        }
        Path(path).write_bytes(save_arrays(joined))
        finite = all(np.isfinite(a).all() for a in joined.values() if a.dtype.kind == "f")
        return {"finite": bool(finite), "peak_memory_bytes": peak_memory_bytes()}

    def close(self) -> dict[str, Any]:
        """Give the arm's resources back."""
        self._arm.close()
        return {}

    def _inputs(self) -> tuple[TensorSpec, ...]:
        if self._facts is None:
            raise DataError(f"{self._spec.name}: is not loaded")
        return self._facts.inputs

    def _synthetic(self) -> dict[str, Array]:
        return synthetic_samples(self._inputs(), seed=self._seed, count=_SYNTHETIC_COUNT)

    def _run_once(self, index: int) -> Mapping[str, Array]:
        return self._arm.run(self._feeds[index % len(self._feeds)])

    def _timed(self, seconds: float, *, minimum: int) -> list[float]:
        times: list[float] = []
        end = time.perf_counter_ns() + int(seconds * 1e9)
        stop = 0
        while len(times) < minimum or stop < end:
            feeds = self._feeds[len(times) % len(self._feeds)]
            start = time.perf_counter_ns()
            self._arm.run(feeds)
            stop = time.perf_counter_ns()
            times.append((stop - start) / 1e6)
        return times


def _fits(array: Array, spec: TensorSpec) -> bool:
    """Right dtype and sizes; the first axis holds samples, a whole number of runs of them."""
    if array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.shape) or not array.size:
        return False
    first, rest = spec.shape[:1], spec.shape[1:]
    if any(isinstance(w, int) and w != h for w, h in zip(rest, array.shape[1:], strict=True)):
        return False
    return not first or not isinstance(first[0], int) or len(array) >= first[0]


def _split(samples: Mapping[str, Array], inputs: tuple[TensorSpec, ...]) -> list[dict[str, Array]]:
    """One feed per run: as many samples as the graph fixes, else one."""
    pieces: dict[str, list[Array]] = {}
    for spec in inputs:
        array = samples[spec.name]
        size = spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else 1
        starts = range(0, len(array) - size + 1, size) if array.ndim else []
        pieces[spec.name] = [np.ascontiguousarray(array[s : s + size]) for s in starts] or [array]
    count = max(len(p) for p in pieces.values())
    return [{name: p[i % len(p)] for name, p in pieces.items()} for i in range(count)]


def main() -> None:
    """Serve commands until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process by closing stdin
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever an engine prints must not mix with the answers
    worker: Worker | None = None
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        try:
            if name == "start":
                worker = Worker(ArmSpec.model_validate(command["spec"]), command["seed"])
                _answer(answers, {})
            else:
                _answer(answers, getattr(worker, name)(**command))
        except EdgeSSLError as error:
            _answer(answers, {"error": type(error).__name__, "message": str(error)})


def _answer(stream: TextIO, value: Mapping[str, Any]) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
