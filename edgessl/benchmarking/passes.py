"""What is measured apart from the turns, because it would disturb them or takes long."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgessl.benchmarking.arm import ArmFacts, ArmSpec
from edgessl.benchmarking.energy import find_meter
from edgessl.benchmarking.mlperf import LoadgenSummary
from edgessl.benchmarking.options import ScenarioOptions
from edgessl.benchmarking.protocol import ArmLog, Bench, StartedArm
from edgessl.benchmarking.result import OperatorTime, Reading
from edgessl.benchmarking.roofline import Peaks, measure_peaks, roofline, target_peaks
from edgessl.benchmarking.summary import Extras, workload_of
from edgessl.bundle.manifest import TensorSpec
from edgessl.errors import UnavailableError
from edgessl.progress import Progress, ProgressEvent

__all__ = ["Passes", "harness_overhead_us", "loadgen_logs"]

_NULL_BLOCKS = 3
_NULL_SECONDS = 0.05
_OPERATOR_RUNS = 20
_NOT_SUSTAINED = Reading(reason="not asked for; --sustained 300 takes five minutes")
_NO_ENERGY = Reading(reason="not asked for; --energy 10 takes ten seconds")
_ON_THE_CPU = ("CPU", "CPUExecutionProvider")
_NO_OPERATORS = "not asked for; --operators or --report"


class Passes:
    """The passes of one run; what the machine can do at best is measured once per thread count."""

    def __init__(self, bench: Bench, progress: Progress) -> None:
        self._bench = bench
        self._progress = progress
        self._peaks: dict[int, Peaks] = {}

    def extras(self, index: int, log: ArmLog) -> Extras:
        """Run an arm once more for what was asked for and the turns do not tell."""
        options, count = self._bench.options, len(self._bench.specs)
        roofline = self._roofline(log)
        if not (options.sustained_seconds or options.energy_seconds or options.operators):
            return Extras(_NOT_SUSTAINED, _NO_ENERGY, roofline, (), _NO_OPERATORS)
        with self._bench.start(index) as arm:
            arm.worker.call("warm_up", seconds=options.warm_up_seconds)
            sustained, energy = self._sustained(arm), self._energy(arm)
            operators, reason = self._operators(arm)
        self._progress(ProgressEvent("other passes", index + 1, count, unit="arms"))
        return Extras(sustained, energy, roofline, operators, reason)

    def _sustained(self, arm: StartedArm) -> Reading:
        seconds = self._bench.options.sustained_seconds
        if not seconds:
            return _NOT_SUSTAINED
        answer = arm.worker.call("sustain", seconds=seconds)
        window = answer["window_s"]
        return Reading(
            value=answer["ratio"], source=f"{seconds:g} s, medians of {window:g} s windows"
        )

    def _energy(self, arm: StartedArm) -> Reading:
        seconds = self._bench.options.energy_seconds
        if not seconds:
            return _NO_ENERGY
        meter = find_meter(gpu=arm.facts.engine == "tensorrt")
        if isinstance(meter, Reading):
            return meter
        meter.start()
        answer = arm.worker.call("block", seconds=seconds, minimum=1)
        try:
            joules = meter.stop()
        except UnavailableError as error:
            return Reading(reason=str(error))
        samples = len(answer["times_ms"]) * arm.samples_per_query
        return Reading(value=joules / samples, source=meter.name)

    def _operators(self, arm: StartedArm) -> tuple[tuple[OperatorTime, ...], str | None]:
        if not self._bench.options.operators:
            return (), _NO_OPERATORS
        try:
            answer = arm.worker.call("operators", runs=_OPERATOR_RUNS)
        except UnavailableError as error:
            return (), str(error)
        return tuple(OperatorTime.model_validate(o) for o in answer["operators"]), None

    def _roofline(self, log: ArmLog) -> Reading:
        workload = workload_of(log)
        if workload is None:
            return Reading(reason="nobody counted the graph's operations; compile the model")
        try:
            peaks = self._peaks_of(log)
        except UnavailableError as error:
            return Reading(reason=str(error))
        if peaks is None:
            return Reading(reason="the target's description has no peak figures")
        if log.first.samples_per_run > 1 and all(_is_open(spec) for spec in log.facts.inputs):
            # Counted for one sample; the weights are read once all the same.
            flops = workload.flops * log.first.samples_per_run
            workload = workload.model_copy(update={"flops": flops})
        times = np.concatenate([b for r in log.restarts for b in r.blocks])
        runs = log.first.samples_per_query / log.first.samples_per_run
        return roofline(workload, float(np.median(times)) / 1e3 / runs, peaks)

    def _peaks_of(self, log: ArmLog) -> Peaks | None:
        facts, threads = log.facts, log.spec.threads
        if facts.target is not None:
            known = target_peaks(facts.target, facts.precision)
            if known is not None:
                return known
        if facts.provider not in _ON_THE_CPU:
            return None
        if threads not in self._peaks:
            self._peaks[threads] = measure_peaks(threads, self._bench.options.affinity)
        return self._peaks[threads]


def _is_open(spec: TensorSpec) -> bool:
    return bool(spec.shape) and isinstance(spec.shape[0], str)


def harness_overhead_us(bench: Bench, facts: ArmFacts) -> tuple[float, float]:
    """Median and 90th percentile of an arm that does nothing, in microseconds."""
    inputs = json.dumps([spec.model_dump(mode="json") for spec in facts.inputs])
    spec = ArmSpec(
        name="null",
        factory="edgessl.benchmarking.arms:null_arm",
        arguments={"inputs": inputs},
        threads=bench.specs[0].threads,
    )
    with bench.process(spec) as worker:
        worker.call("load")
        worker.call("first", scenario=ScenarioOptions().model_dump(mode="json"))
        times = [
            time
            for _ in range(_NULL_BLOCKS)
            for time in worker.call("block", seconds=_NULL_SECONDS, minimum=1)["times_ms"]
        ]
    p50, p90 = np.quantile(times, (0.5, 0.9)) * 1e3
    return float(p50), float(p90)


def loadgen_logs(
    bench: Bench, out: Path, *, seconds: float, progress: Progress
) -> dict[str, LoadgenSummary]:
    """See `edgessl.benchmarking.benchmark.mlperf_logs`."""
    found: dict[str, LoadgenSummary] = {}
    for index, spec in enumerate(bench.specs):
        with bench.start(index) as arm:
            arm.worker.call("warm_up", seconds=bench.options.warm_up_seconds)
            answer = arm.worker.call(
                "loadgen",
                folder=str(out / spec.name.replace("/", "_")),
                seconds=seconds,
                scenario=bench.options.scenario,
            )
        found[spec.name] = LoadgenSummary.model_validate(answer)
        progress(ProgressEvent("loadgen", index + 1, len(bench.specs), unit="arms"))
    return found
