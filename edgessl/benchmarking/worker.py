"""The process of one arm: reads commands, one JSON object per line, and answers each with one.

Run as ``python -m edgessl.benchmarking.worker``; the parent has set the thread counts in the
environment, which libraries read when they are imported.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from edgessl.benchmarking.arm import (
    Arm,
    ArmFacts,
    ArmSpec,
    TellsOperators,
    TellsPhases,
    make_arm,
)
from edgessl.benchmarking.environment import peak_memory_bytes
from edgessl.benchmarking.inputs import Queries, fits, queries, synthetic_samples
from edgessl.benchmarking.options import ScenarioOptions
from edgessl.benchmarking.process import STARTED_VARIABLE
from edgessl.bundle.arrays import load_arrays, save_arrays
from edgessl.errors import DataError, EdgeSSLError, UnavailableError
from edgessl.runtime.session import Array

__all__ = ["main"]

_WARM_UP_RUNS = 10
_WARM_UP_LIMIT = 6
_SETTLED = 0.01
_BLOCK_LIMIT_SECONDS = 3.0
_LEAST_RUNS = 3
_SYNTHETIC_COUNT = 4
_UNTIMED_RUNS = 2
"""Queries at the start of a block that are not counted: the other arms have used the caches."""
_SUSTAINED_WINDOW_S = 60.0
_PHASE_RUNS = 20


class Worker:
    """One arm and its inputs; each public method is a command."""

    def __init__(self, spec: ArmSpec, seed: int) -> None:
        self._spec = spec
        self._seed = seed
        self._arm: Arm = make_arm(spec)
        self._facts: ArmFacts | None = None
        self._samples: dict[str, Array] = {}
        self._scenario = ScenarioOptions()
        self._queries = Queries([], 0, 0, 0)

    def load(self) -> dict[str, Any]:
        """Load the arm and time it."""
        start = time.perf_counter_ns()
        self._facts = self._arm.load()
        load_ms = (time.perf_counter_ns() - start) / 1e6
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
        inputs = self._loaded().inputs
        if len(inputs) == len(offered) == 1:
            offered = {inputs[0].name: next(iter(offered.values()))}
        taken = len(offered) == len(inputs) and all(
            s.name in offered and fits(offered[s.name], s) for s in inputs
        )
        if taken:
            self._samples = offered
        return {"taken": taken}

    def first(self, scenario: Mapping[str, Any]) -> dict[str, Any]:
        """Cut the inputs into queries and time the first one."""
        self._scenario = ScenarioOptions.model_validate(scenario)
        self._queries = queries(
            self._samples, self._loaded().inputs, query_size=self._scenario.query_size
        )
        start = time.perf_counter_ns()
        self._query(0)
        return {
            "first_inference_ms": (time.perf_counter_ns() - start) / 1e6,
            "samples_per_run": self._queries.samples_per_run,
            "samples_per_query": self._queries.samples_per_query,
            "input_bytes": self._queries.input_bytes,
        }

    def warm_up(self, seconds: float) -> dict[str, Any]:
        """Run until the medians of two successive windows agree within 1 %."""
        # A collection in the middle of a block would be the arm's only by accident.
        gc.collect()
        gc.freeze()
        gc.disable()
        start = time.perf_counter()
        before: float | None = None
        runs, settled = 0, False
        while not settled:
            times, _ = self._timed(seconds / 2, minimum=_WARM_UP_RUNS // 2)
            runs += len(times)
            median = statistics.median(times)
            elapsed = time.perf_counter() - start
            enough = runs >= _WARM_UP_RUNS and elapsed >= seconds
            settled = enough and before is not None and abs(median / before - 1) <= _SETTLED
            before = median
            if elapsed > _WARM_UP_LIMIT * seconds:
                break
        return {"runs": runs, "settled": settled}

    def block(self, seconds: float, minimum: int) -> dict[str, Any]:
        """Time queries for some seconds, at least so many unless they are very slow."""
        for index in range(_UNTIMED_RUNS):
            self._query(index)
        times, late = self._timed(seconds, minimum=minimum)
        return {"times_ms": times, "late": late}

    def sustain(self, seconds: float) -> dict[str, Any]:
        """Run for long and compare the last minute with the first."""
        window = min(_SUSTAINED_WINDOW_S, seconds / 2)
        first: list[float] = []
        last: list[tuple[float, float]] = []
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            times, _ = self._timed(min(1.0, window), minimum=1)
            if now < window:
                first += times
            last += [(now, t) for t in times]
            last = [pair for pair in last if pair[0] >= now - window]
        ratio = statistics.median(t for _, t in last) / statistics.median(first)
        return {"ratio": ratio, "window_s": window}

    def outputs(self, path: str) -> dict[str, Any]:
        """Run every input once and write the outputs."""
        results = [self._arm.run(feeds) for query in self._queries.feeds for feeds in query]
        joined = {
            name: np.concatenate([np.atleast_1d(r[name]) for r in results]) for name in results[0]
        }
        Path(path).write_bytes(save_arrays(joined))
        finite = all(np.isfinite(a).all() for a in joined.values() if a.dtype.kind == "f")
        return {"finite": bool(finite)}

    def memory(self) -> dict[str, Any]:
        """Largest resident memory so far."""
        return {"peak_memory_bytes": peak_memory_bytes()}

    def phases(self) -> dict[str, Any]:
        """Medians of transfers and computation, if the engine times them."""
        if not isinstance(self._arm, TellsPhases):
            return {"phases": None}
        feeds = self._queries.feeds[0][0]
        runs = [self._arm.phases(feeds) for _ in range(_PHASE_RUNS)]
        found = [phases.model_dump() for phases in runs if phases is not None]
        if not found:
            return {"phases": None}
        return {"phases": {key: statistics.median(p[key] for p in found) for key in found[0]}}

    def operators(self, runs: int) -> dict[str, Any]:
        """Time of each operator."""
        if not isinstance(self._arm, TellsOperators):
            raise UnavailableError(f"{self._spec.name}: this arm has no profiler of operators")
        found = self._arm.operators(self._queries.feeds[0][0], runs)
        return {"operators": [operator.model_dump(mode="json") for operator in found]}

    def loadgen(self, folder: str, seconds: float, scenario: str) -> dict[str, Any]:
        """Have MLPerf's load generator send the queries and write its logs."""
        from edgessl.benchmarking.mlperf import run_loadgen

        feeds = [run for query in self._queries.feeds for run in query]

        def query(indices: Sequence[int]) -> None:
            for index in indices:
                self._arm.run(feeds[index])

        summary = run_loadgen(
            query,
            scenario="Offline" if scenario == "Offline" else "SingleStream",
            sample_count=len(feeds),
            folder=Path(folder),
            seconds=seconds,
            seed=self._seed,
        )
        return summary.model_dump(mode="json")

    def close(self) -> dict[str, Any]:
        """Give the arm's resources back."""
        self._arm.close()
        return {}

    def _loaded(self) -> ArmFacts:
        if self._facts is None:
            raise DataError(f"{self._spec.name}: is not loaded")
        return self._facts

    def _synthetic(self) -> dict[str, Array]:
        return synthetic_samples(self._loaded().inputs, seed=self._seed, count=_SYNTHETIC_COUNT)

    def _query(self, index: int) -> None:
        for feeds in self._queries.feeds[index % len(self._queries.feeds)]:
            self._arm.run(feeds)

    def _timed(self, seconds: float, *, minimum: int) -> tuple[list[float], int]:
        """Milliseconds per query, and how many of a paced scenario began late."""
        period = self._scenario.period_ms * 1e6 if self._scenario.scenario == "paced" else 0.0
        times: list[float] = []
        late = 0
        begin = time.perf_counter_ns()
        due = float(begin)
        while True:
            if period:
                wait = due - time.perf_counter_ns()
                if wait > 0:
                    time.sleep(wait / 1e9)
                elif times:
                    late += 1
                    due -= wait  # do not run after the clock: later queries keep their distance
                due += period
            feeds = self._queries.feeds[len(times) % len(self._queries.feeds)]
            start = time.perf_counter_ns()
            for run in feeds:
                self._arm.run(run)
            stop = time.perf_counter_ns()
            times.append((stop - start) / 1e6)
            elapsed = (stop - begin) / 1e9
            if elapsed >= seconds and len(times) >= minimum:
                return times, late
            if elapsed >= max(seconds, _BLOCK_LIMIT_SECONDS) and len(times) >= _LEAST_RUNS:
                return times, late


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
                if command["affinity"]:
                    os.sched_setaffinity(0, command["affinity"])
                worker = Worker(ArmSpec.model_validate(command["spec"]), command["seed"])
                started = int(os.environ[STARTED_VARIABLE])
                _answer(answers, {"import_ms": (time.monotonic_ns() - started) / 1e6})
            else:
                _answer(answers, getattr(worker, name)(**command))
        except EdgeSSLError as error:
            _answer(answers, {"error": type(error).__name__, "message": str(error)})


def _answer(stream: TextIO, value: Mapping[str, Any]) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
