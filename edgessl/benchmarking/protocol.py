"""Restarts of fresh processes, blocks in turns: the raw data of a benchmark."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.benchmarking.arm import ArmFacts, ArmSpec
from edgessl.benchmarking.arms import CONTROL
from edgessl.benchmarking.conditions import Watch
from edgessl.benchmarking.gpu import gpu_memory
from edgessl.benchmarking.options import BenchmarkOptions, ScenarioOptions
from edgessl.benchmarking.process import WorkerProcess
from edgessl.benchmarking.recording import ArmRecording, Recording, Restart
from edgessl.benchmarking.result import InputSource, Phases, Reading
from edgessl.benchmarking.statistics import balanced_orders
from edgessl.bundle.arrays import load_arrays
from edgessl.errors import UsageError
from edgessl.progress import Progress, ProgressEvent
from edgessl.runtime.session import Array

__all__ = ["ArmLog", "Bench", "ColdStartTimes", "StartedArm", "Turns"]

_LEAST_QUERIES = 64
"""Of a restart, which a 90th percentile takes."""
_CONTROL_SECONDS = 0.03
_NONE = np.zeros(0)
_SINGLE_STREAM = ScenarioOptions().model_dump(mode="json")


@dataclass(frozen=True)
class ColdStartTimes:
    """Of one fresh process, in milliseconds."""

    import_ms: float
    load_ms: float
    first_inference_ms: float


@dataclass(frozen=True)
class StartedArm:
    """A worker that has answered its first query.

    Attributes:
        shares_input: Whether it is fed what the others are.
        samples_per_run: Batch size of one engine call.
        samples_per_query: Samples of one query.
        input_bytes: Of one query.
    """

    worker: WorkerProcess
    facts: ArmFacts
    input: InputSource
    shares_input: bool
    samples_per_run: int
    samples_per_query: int
    input_bytes: int
    cold: ColdStartTimes


@dataclass
class ArmLog:
    """What was seen of one arm, restart by restart; what comes once is of the first."""

    spec: ArmSpec
    first: StartedArm
    outputs: Mapping[str, Array]
    outputs_finite: bool
    phases: Phases | None
    gpu_memory_bytes: Reading
    restarts: list[Restart] = field(default_factory=list)
    cold: list[ColdStartTimes] = field(default_factory=list)
    warm_up_runs: int = 0
    unsettled: int = 0
    late: int = 0

    @property
    def facts(self) -> ArmFacts:
        """What the arm says about itself."""
        return self.first.facts


@dataclass
class _Rounds:
    """Blocks of one restart: worker → round → milliseconds per query, and late queries."""

    blocks: list[list[NDArray[np.float64]]]
    late: list[int]

    @property
    def complete(self) -> int:
        """Rounds that every worker has completed."""
        return min(len(own) for own in self.blocks)


class Bench:
    """Starts arms, all fed alike.

    Args:
        specs: Arms of different names; the first that has real inputs gives them to all.
        options: How to measure.
        folder: For temporary files; the caller removes it.
    """

    def __init__(self, specs: Sequence[ArmSpec], options: BenchmarkOptions, folder: Path) -> None:
        self.specs = list(specs)
        self.options = options
        self.folder = folder
        self.inputs = folder / "inputs.npz"
        _check_affinity(options.affinity)
        self._scenario = options.model_dump(mode="json", include=set(ScenarioOptions.model_fields))
        self._giver = self._find_inputs()

    @contextmanager
    def start(self, index: int) -> Iterator[StartedArm]:
        """Run an arm in a fresh process as far as its first answer."""
        with self.process(self.specs[index]) as worker:
            loaded = worker.call("load")
            taken = worker.call("take_samples", path=str(self.inputs))["taken"]
            own: InputSource = "canaries" if loaded["has_samples"] else "synthetic"
            first = worker.call("first", scenario=self._scenario)
            yield StartedArm(
                worker=worker,
                facts=ArmFacts.model_validate(loaded["facts"]),
                input="shared" if taken and index != self._giver else own,
                shares_input=taken,
                samples_per_run=first["samples_per_run"],
                samples_per_query=first["samples_per_query"],
                input_bytes=first["input_bytes"],
                cold=ColdStartTimes(
                    worker.import_ms, loaded["load_ms"], first["first_inference_ms"]
                ),
            )
            worker.call("close")

    @contextmanager
    def start_control(self) -> Iterator[WorkerProcess]:
        """Run the control arm in a fresh process as far as its first answer."""
        spec = ArmSpec(name=CONTROL, factory="edgessl.benchmarking.arms:control_arm", threads=1)
        with self.process(spec) as worker:
            worker.call("load")
            worker.call("first", scenario=_SINGLE_STREAM)
            worker.call("warm_up", seconds=self.options.warm_up_seconds)
            yield worker
            worker.call("close")

    def process(self, spec: ArmSpec) -> WorkerProcess:
        """A fresh process, bound as all are."""
        return WorkerProcess(
            spec,
            seed=self.options.seed,
            folder=self.folder,
            affinity=self.options.affinity,
            timeout_s=self.options.timeout_s,
        )

    def _find_inputs(self) -> int:
        """Write the inputs of the first arm that has real ones, else of the first arm."""
        for index, spec in enumerate(self.specs):
            with self.process(spec) as worker:
                real = bool(worker.call("load")["has_samples"])
                if real or index == 0:
                    worker.call("write_samples", path=str(self.inputs))
                worker.call("close")
            if real:
                return index
        return 0


class Turns:
    """Measures arms in turns.

    Each restart starts all arms in processes of their own, in a random order, warms each up, and
    then gives every arm one block of queries per round, in random orders in which every arm stands
    equally often at every place. The control arm, which lives on, takes part in every round. If an
    arm fails, the rounds that all arms completed are kept.

    Args:
        bench: Starts the arms.
        control: The control arm.
        watch: Tells which blocks do not count.
        progress: Told after each block.

    Attributes:
        logs: One per arm, once there is a complete round.
        control_ms: Median of the control arm in each restart.
        orders: Restart, round, place: numbers of the arms, the control arm last.
        dropped: Why blocks do not count.
    """

    def __init__(
        self, bench: Bench, control: WorkerProcess, watch: Watch, progress: Progress
    ) -> None:
        self._bench = bench
        self._control = control
        self._watch = watch
        self._progress = progress
        self._rng = np.random.default_rng(bench.options.seed)
        self.logs: list[ArmLog] = []
        self.control_ms: list[float] = []
        self.orders: list[tuple[tuple[int, ...], ...]] = []
        self.dropped: list[str] = []

    @property
    def recording(self) -> Recording:
        """Everything so far."""
        return Recording(
            {log.spec.name: ArmRecording(log.restarts, log.facts.size_bytes) for log in self.logs}
        )

    @property
    def measured(self) -> bool:
        """Whether there is a block of every arm that counts."""
        return bool(self.logs) and all(
            any(block.size for restart in log.restarts for block in restart.blocks)
            for log in self.logs
        )

    def restart(self, *, planned: int) -> None:
        """Measure all arms once more in fresh processes.

        Args:
            planned: Restarts that are planned so far, for the progress.

        Raises:
            EdgeSSLError: What an arm raised; complete rounds are kept.
        """
        count, options = len(self._bench.specs), self._bench.options
        with ExitStack() as stack:
            # Whoever starts first finds the caches colder.
            begun = {
                int(index): stack.enter_context(self._bench.start(int(index)))
                for index in self._rng.permutation(count)
            }
            arms = [begun[index] for index in range(count)]
            specs = zip(self._bench.specs, arms, strict=True)
            seen = [self._look(spec, arm) for spec, arm in specs]
            warm = [arm.worker.call("warm_up", seconds=options.warm_up_seconds) for arm in arms]
            rounds = _Rounds([[] for _ in range(count + 1)], [0] * (count + 1))
            peaks: list[int | None] = [None] * count
            try:
                self._watch.begin_restart()
                self._run(rounds, [*(arm.worker for arm in arms), self._control], planned)
                peaks = [arm.worker.call("memory")["peak_memory_bytes"] for arm in arms]
            finally:
                if rounds.complete:
                    self._keep(rounds, arms, seen, warm, peaks)

    def cold_start(self) -> None:
        """Start, load and run every arm once more, for its cold-start times alone."""
        for index in self._rng.permutation(len(self._bench.specs)):
            with self._bench.start(int(index)) as arm:
                self.logs[index].cold.append(arm.cold)

    def _look(self, spec: ArmSpec, arm: StartedArm) -> ArmLog:
        """What can be seen of an arm before it is timed."""
        place = self._bench.folder / "outputs.npz"
        finite = arm.worker.call("outputs", path=str(place))["finite"]
        phases = arm.worker.call("phases")["phases"]
        return ArmLog(
            spec=spec,
            first=arm,
            outputs=load_arrays(place.read_bytes(), where=spec.name),
            outputs_finite=finite,
            phases=None if phases is None else Phases.model_validate(phases),
            gpu_memory_bytes=gpu_memory(arm.worker.pid),
        )

    def _run(self, rounds: _Rounds, workers: Sequence[WorkerProcess], planned: int) -> None:
        """Give every worker its blocks, the control arm being the last of them."""
        options = self._bench.options
        least = math.ceil(_LEAST_QUERIES / options.blocks)
        seed = int(self._rng.integers(1 << 31))
        orders = balanced_orders(len(workers), options.blocks, seed=seed)
        self.orders.append(tuple(tuple(row) for row in orders.tolist()))
        before = len(self.control_ms) * orders.size
        for number, index in enumerate(orders.flatten().tolist(), start=1):
            is_control = workers[index] is self._control
            seconds = options.block_seconds
            if is_control:
                seconds = min(seconds, _CONTROL_SECONDS)
            self._watch.begin()
            answer = workers[index].call(
                "block", seconds=seconds, minimum=1 if is_control else least
            )
            problem = self._watch.problem()
            times = np.asarray(answer["times_ms"], np.float64)
            if problem is not None and not is_control:
                where = f"restart {len(self.orders)}, round {len(rounds.blocks[index]) + 1}"
                self.dropped.append(f"{workers[index].spec.name}, {where}: {problem}")
                times = _NONE
            rounds.blocks[index].append(times)
            rounds.late[index] += answer["late"]
            event = ProgressEvent(
                "benchmark",
                before + number,
                planned * orders.size,
                unit="blocks",
                table=self._table(rounds.blocks),
            )
            self._progress(event)

    def _keep(
        self,
        rounds: _Rounds,
        arms: Sequence[StartedArm],
        seen: list[ArmLog],
        warm: Sequence[Mapping[str, Any]],
        peaks: Sequence[int | None],
    ) -> None:
        """Take over the complete rounds of a restart."""
        complete = rounds.complete
        problem = self._watch.restart_problem()
        self.logs = self.logs or seen
        for index, log in enumerate(self.logs):
            blocks = rounds.blocks[index][:complete]
            if problem is not None:
                blocks = [_NONE] * complete
                where = f"{log.spec.name}, restart {len(self.orders)}"
                self.dropped += [f"{where}: {problem}"] * complete
            log.restarts.append(Restart(blocks, peaks[index]))
            log.cold.append(arms[index].cold)
            log.outputs_finite &= seen[index].outputs_finite
            log.warm_up_runs += warm[index]["runs"]
            log.unsettled += not warm[index]["settled"]
            log.late += rounds.late[index]
        control = np.concatenate(rounds.blocks[-1][:complete])
        self.control_ms.append(float(np.median(control)))

    def _table(
        self, blocks: Sequence[Sequence[NDArray[np.float64]]]
    ) -> tuple[tuple[str, ...], ...]:
        """Arms with what is known of them so far."""
        rows: list[tuple[str, ...]] = [("arm", "p50 ms", "p90 ms", "queries")]
        for index, spec in enumerate(self._bench.specs):
            before = self.logs[index].restarts if self.logs else []
            times = np.concatenate([*(b for r in before for b in r.blocks), *blocks[index], _NONE])
            figures = (
                [f"{q:.4g}" for q in np.quantile(times, (0.5, 0.9))] if times.size else ["", ""]
            )
            rows.append((spec.name, *figures, str(times.size)))
        return tuple(rows)


def _check_affinity(affinity: Sequence[int]) -> None:
    if not affinity:
        return
    if not hasattr(os, "sched_getaffinity"):
        raise UsageError("this system binds no process to CPUs; leave --affinity out")
    here = os.sched_getaffinity(0)
    if not set(affinity) <= here:
        raise UsageError(
            f"affinity: CPUs {sorted(set(affinity) - here)} are not among those that this process "
            f"may use, {sorted(here)}"
        )
