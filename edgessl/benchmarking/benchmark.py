"""Measure arms side by side and judge the differences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edgessl import __version__
from edgessl.benchmarking.arm import ArmSpec
from edgessl.benchmarking.arms import CONTROL
from edgessl.benchmarking.conditions import Watch, problems_of_run, wait_until_cool
from edgessl.benchmarking.environment import Environment, StealMeter, env_hash, fingerprint
from edgessl.benchmarking.gate import Judgement, control_problems, decided, judge, overall
from edgessl.benchmarking.mlperf import LoadgenSummary
from edgessl.benchmarking.options import BenchmarkOptions, ScenarioOptions
from edgessl.benchmarking.passes import Passes, harness_overhead_us, loadgen_logs
from edgessl.benchmarking.protocol import Bench, Turns
from edgessl.benchmarking.recording import Recording, save_recording
from edgessl.benchmarking.result import (
    BenchmarkResult,
    Comparison,
    Harness,
    ProtocolFacts,
    Workload,
)
from edgessl.benchmarking.summary import (
    Extras,
    arm_result,
    comparison_problem,
    least_cosine,
    remarks,
)
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import OptionValue
from edgessl.errors import EdgeSSLError, UsageError
from edgessl.files import sha256_file, write_json
from edgessl.optional import is_available
from edgessl.progress import Progress, silent
from edgessl.runtime.threads import resolve_threads

__all__ = ["Measurement", "benchmark", "measure", "mlperf_logs", "specs_for"]

_MODEL_ENGINES = ("onnxruntime", "openvino")
_LARGEST_DROPPED_SHARE = 0.25
_ENDED_EARLY = "the run ended early"

WorkloadOf = Callable[[Path], Workload | None]
Checkpoint = Callable[["Measurement"], None]


@dataclass(frozen=True)
class Measurement:
    """What was found, and every timed query behind it."""

    result: BenchmarkResult
    recording: Recording

    def ended_early(self, reason: str) -> Measurement:
        """What a checkpoint knew, as the result of a run that ended for this reason."""
        result = self.result
        others = [p for p in result.harness.problems if not p.startswith(_ENDED_EARLY)]
        harness = result.harness.model_copy(
            update={"problems": (*others, f"{_ENDED_EARLY}: {reason}")}
        )
        changes = {"failure": reason, "harness": harness}
        return Measurement(result.model_copy(update=changes), self.recording)

    def write(self, path: str | Path) -> BenchmarkResult:
        """Write the result as JSON and the queries as ``<stem>.samples.json.gz`` beside it.

        Returns:
            The result with the name and hash of the samples.

        Raises:
            OutputError: The folder cannot be written or the disk is full.
        """
        path = Path(path)
        samples = save_recording(self.recording, path.with_name(f"{path.stem}.samples.json.gz"))
        result = self.result.model_copy(update={"samples": samples})
        write_json(path, result.model_dump(mode="json"))
        return result


def benchmark(
    paths: Sequence[str | Path],
    *,
    against: Sequence[str | Path] = (),
    options: BenchmarkOptions | None = None,
    workload_of: WorkloadOf | None = None,
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
) -> Measurement:
    """Measure bundles and model files.

    Args:
        paths: ``.edge`` bundles; ``.onnx`` files, which run in each installed engine; and run
            directories, which run in PyTorch.
        against: The same kinds; every arm of ``paths`` is compared with each of these.
        options: How to measure.
        workload_of: Counts the operations of an ``.onnx`` file; bundles bring their count.
        progress: Told after each block.
        checkpoint: As for `measure`.

    Raises:
        BundleError: A bundle is damaged or not native.
        UsageError: No path, or a file of another kind.
    """
    options = options or BenchmarkOptions()
    first, second = (
        [spec for path in side for spec in specs_for(path, options.threads, workload_of)]
        for side in (paths, against)
    )
    return measure(first, against=second, options=options, progress=progress, checkpoint=checkpoint)


def mlperf_logs(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    options: BenchmarkOptions | None = None,
    seconds: float = 10.0,
    progress: Progress = silent,
) -> dict[str, LoadgenSummary]:
    """Have MLPerf's load generator query every arm, and keep its logs.

    Args:
        paths: As `benchmark` takes them.
        out: Each arm's logs go into a folder of the arm's name in here.
        options: Threads, affinity, and the scenario: ``SingleStream`` or ``Offline``.
        seconds: Least duration that the load generator is told.
        progress: Told after each arm.

    Returns:
        Arm → what the logs say.

    Raises:
        UsageError: A scenario that the load generator is not asked for.
        UnavailableError: ``mlcommons-loadgen`` is not installed.
    """
    options = options or BenchmarkOptions()
    if options.scenario not in ("SingleStream", "Offline"):
        raise UsageError(
            f"MLPerf logs are written for SingleStream and Offline, not for {options.scenario}"
        )
    specs = _distinct([spec for path in paths for spec in specs_for(path, options.threads)])
    with tempfile.TemporaryDirectory(prefix="edgessl-", ignore_cleanup_errors=True) as scratch:
        bench = Bench(specs, options, Path(scratch))
        return loadgen_logs(bench, Path(out).absolute(), seconds=seconds, progress=progress)


def specs_for(
    path: str | Path, threads: int | None, workload_of: WorkloadOf | None = None
) -> list[ArmSpec]:
    """The arms of one file."""
    path = Path(path)
    arguments: dict[str, OptionValue] = {"path": str(path)}
    if path.suffix == ".edge":
        with open_bundle(path, verify=False) as bundle:
            own = bundle.manifest.engine.options.get("threads", 0)
        count = resolve_threads(int(own) if threads is None else threads)
        factory = "edgessl.benchmarking.arms:bundle_arm"
        return [ArmSpec(name=path.name, factory=factory, arguments=arguments, threads=count)]
    if path.suffix in (".onnx", ".xml"):
        engines = [e for e in _MODEL_ENGINES if path.suffix == ".onnx" or e == "openvino"]
        counted = workload_of(path) if workload_of and path.suffix == ".onnx" else None
        return [
            ArmSpec(
                name=f"{path.name} {engine}",
                factory="edgessl.benchmarking.arms:model_arm",
                arguments={**arguments, "engine": engine},
                threads=resolve_threads(threads or 0),
                workload=counted,
            )
            for engine in engines
            if is_available(engine)
        ]
    if path.suffix == ".safetensors" or path.is_dir():
        return [
            ArmSpec(
                name=f"{path.name} pytorch",
                factory="edgessl.models.arm:encoder_arm",
                arguments=arguments,
                threads=resolve_threads(threads or 0),
            )
        ]
    raise UsageError(
        f"{path}: is neither a bundle (.edge), a model (.onnx, .xml) nor a run directory"
    )


def measure(
    arms: Sequence[ArmSpec],
    *,
    against: Sequence[ArmSpec] = (),
    options: BenchmarkOptions | None = None,
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
) -> Measurement:
    """Measure any arms; the factories of `ArmSpec` may live in other packages.

    Each restart runs every arm in a fresh process. All see the inputs of the first arm that has
    real ones, where they fit. After a warm-up, each round gives every arm one block of queries, in
    a random order that puts every arm equally often at every place. With a base to compare with,
    the data is judged after each look, and measuring stops as soon as all is decided.

    An arm that crashes, fails or hangs ends the run. What was measured by then is returned with the
    reason as the result's ``failure``, and no verdict but INVALID.

    Args:
        arms: What is measured.
        against: Bases; every arm is compared with each of them.
        options: How to measure.
        progress: Told after each block.
        checkpoint: Given what is known after each restart, as if the run had ended there.

    Raises:
        EdgeSSLError: An arm failed before there was anything to keep.
        UsageError: No arm, or CPUs that are not here.
        UnavailableError: The machine throttled all the time.
    """
    options = options or BenchmarkOptions()
    specs = _distinct([*arms, *against])
    if options.start_temperature_c is not None:
        wait_until_cool(options.start_temperature_c, progress=progress)
    with ExitStack() as stack:
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="edgessl-", ignore_cleanup_errors=True)
        )
        watch = stack.enter_context(Watch(cpus=options.affinity))
        begun = datetime.now(timezone.utc), fingerprint(), StealMeter()
        bench = Bench(specs, options, Path(scratch))
        control = stack.enter_context(bench.start_control())
        turns = Turns(bench, control, watch, progress)
        run = _Run(specs, len(against), bench, turns, *begun)
        try:
            run.take_turns(checkpoint)
            overhead_us = harness_overhead_us(bench, turns.logs[0].facts)
            passes = Passes(bench, progress)
            extras = [passes.extras(index, log) for index, log in enumerate(turns.logs)]
        except EdgeSSLError as error:
            if not turns.measured:
                raise
            return run.measurement(failure=str(error))
        return run.measurement(extras=extras, overhead_us=overhead_us)


@dataclass(frozen=True)
class _Run:
    """One call of `measure`.

    Attributes:
        bases: How many of the last arms are bases.
        created: When it began.
        before: The machine at the beginning.
    """

    specs: Sequence[ArmSpec]
    bases: int
    bench: Bench
    turns: Turns
    created: datetime
    before: Environment
    steal: StealMeter

    def take_turns(self, checkpoint: Checkpoint | None) -> None:
        """Restart until the gate has decided, or as often as asked for; then start cold."""
        turns, options = self.turns, self.bench.options
        pairs, gate = self._pairs, options.gate
        looks = gate.looks if pairs and gate.metrics else (options.restarts,)
        for look in looks:
            while len(turns.control_ms) < look:
                turns.restart(planned=look)
                if checkpoint is not None and turns.measured:
                    checkpoint(self.measurement(failure="the run did not come to its end"))
            if look != looks[-1] and decided(judge(turns.recording, pairs, gate)):
                break
        for _ in range(options.cold_starts - len(turns.control_ms)):
            turns.cold_start()

    def measurement(
        self,
        *,
        extras: Sequence[Extras] | None = None,
        overhead_us: tuple[float, float] | None = None,
        failure: str | None = None,
    ) -> Measurement:
        """What is known; without ``extras`` and ``overhead_us`` because of the failure."""
        turns, options = self.turns, self.bench.options
        environment = self.before.model_copy(update={"steal_percent": self.steal.percent()})
        control_ratio, problems = control_problems(turns.control_ms, options.gate)
        problems += problems_of_run(self.before, fingerprint())
        problems += _dropped_too_many(turns)
        if failure is not None:
            problems.append(f"{_ENDED_EARLY}: {failure}")
        extras = extras or [Extras.missing(failure or "")] * len(turns.logs)
        results = [arm_result(log, extra) for log, extra in zip(turns.logs, extras, strict=True)]
        comparisons = tuple(
            self._comparison(found, invalid=bool(problems))
            for found in judge(turns.recording, self._pairs, options.gate)
        )
        null_p50_us, null_p90_us = overhead_us or (None, None)
        result = BenchmarkResult(
            edgessl_version=__version__,
            created_utc=self.created.isoformat(timespec="seconds"),
            environment=environment,
            env_hash=env_hash(environment),
            protocol=self._protocol(),
            harness=Harness(
                null_p50_us=null_p50_us,
                null_p90_us=null_p90_us,
                control=CONTROL,
                control_p50_ms=tuple(turns.control_ms),
                control_ratio=control_ratio,
                problems=tuple(problems),
            ),
            arms=tuple(results),
            comparisons=comparisons,
            verdict=overall(c.verdict for c in comparisons),
            failure=failure,
            remarks=tuple(remarks(results)),
        )
        return Measurement(result, turns.recording)

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        first_base = len(self.specs) - self.bases
        heads, bases = self.specs[:first_base], self.specs[first_base:]
        return [(head.name, base.name) for base in bases for head in heads]

    def _protocol(self) -> ProtocolFacts:
        turns, options = self.turns, self.bench.options
        scenario = options.model_dump(include=set(ScenarioOptions.model_fields))
        return ProtocolFacts(
            scenario=ScenarioOptions.model_validate(scenario),
            seed=options.seed,
            restarts=len(turns.control_ms),
            blocks=options.blocks,
            block_seconds=options.block_seconds,
            orders=tuple(turns.orders),
            affinity=options.affinity,
            inputs_sha256=sha256_file(self.bench.inputs),
            gate=options.gate,
            dropped=tuple(turns.dropped),
        )

    def _comparison(self, found: Judgement, *, invalid: bool) -> Comparison:
        logs = {log.spec.name: log for log in self.turns.logs}
        arm, base = logs[found.arm], logs[found.against]
        problem, instead = comparison_problem(arm, base) or (None, None)
        verdict = found.verdict
        if verdict is not None:
            verdict = overall([verdict, instead, "INVALID" if invalid else None])
        return Comparison(
            arm=found.arm,
            against=found.against,
            metrics=found.metrics,
            confidence=found.confidence,
            min_cosine=least_cosine(arm, base),
            problem=problem,
            verdict=verdict,
        )


def _dropped_too_many(turns: Turns) -> list[str]:
    blocks = sum(len(r.blocks) for log in turns.logs for r in log.restarts)
    if len(turns.dropped) <= _LARGEST_DROPPED_SHARE * blocks:
        return []
    return [f"{len(turns.dropped)} of {blocks} blocks were dropped, the first: {turns.dropped[0]}"]


def _distinct(specs: Sequence[ArmSpec]) -> list[ArmSpec]:
    if not specs:
        raise UsageError("nothing to measure; name a bundle or a model")
    names = [spec.name for spec in specs]
    return [
        spec.model_copy(update={"name": f"{spec.name} #{index + 1}"})
        if names.count(spec.name) > 1
        else spec
        for index, spec in enumerate(specs)
    ]
