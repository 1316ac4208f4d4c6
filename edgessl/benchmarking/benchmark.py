"""Measure arms side by side and judge the differences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edgessl import __version__
from edgessl.benchmarking.arm import ArmSpec
from edgessl.benchmarking.arms import CONTROL
from edgessl.benchmarking.conditions import Watch, problems_of_run, wait_until_cool
from edgessl.benchmarking.environment import StealMeter, env_hash, fingerprint
from edgessl.benchmarking.gate import Judgement, control_problems, decided, judge, overall
from edgessl.benchmarking.mlperf import LoadgenSummary
from edgessl.benchmarking.options import BenchmarkOptions, GateOptions, ScenarioOptions
from edgessl.benchmarking.passes import Passes, harness_overhead_us, loadgen_logs
from edgessl.benchmarking.protocol import Bench, Turns
from edgessl.benchmarking.recording import Recording, save_recording
from edgessl.benchmarking.result import (
    BenchmarkResult,
    Comparison,
    Harness,
    ProtocolFacts,
    Verdict,
    Workload,
)
from edgessl.benchmarking.summary import arm_result, least_cosine, remarks
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.manifest import OptionValue
from edgessl.errors import UsageError
from edgessl.files import sha256_file, write_json
from edgessl.optional import is_available
from edgessl.progress import Progress, silent
from edgessl.runtime.threads import resolve_threads

__all__ = ["Measurement", "benchmark", "measure", "mlperf_logs", "specs_for"]

_MODEL_ENGINES = ("onnxruntime", "openvino")
_LARGEST_DROPPED_SHARE = 0.25

WorkloadOf = Callable[[Path], Workload | None]


@dataclass(frozen=True)
class Measurement:
    """What was found, and every timed query behind it."""

    result: BenchmarkResult
    recording: Recording

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
) -> Measurement:
    """Measure bundles and model files.

    Args:
        paths: ``.edge`` bundles; ``.onnx`` files, which run in each installed engine; and run
            directories, which run in PyTorch.
        against: The same kinds; every arm of ``paths`` is compared with each of these.
        options: How to measure.
        workload_of: Counts the operations of an ``.onnx`` file; bundles bring their count.
        progress: Told after each block.

    Raises:
        BundleError: A bundle is damaged or not native.
        UsageError: No path, or a file of another kind.
    """
    options = options or BenchmarkOptions()
    first, second = (
        [spec for path in side for spec in specs_for(path, options.threads, workload_of)]
        for side in (paths, against)
    )
    return measure(first, against=second, options=options, progress=progress)


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
) -> Measurement:
    """Measure any arms; the factories of `ArmSpec` may live in other packages.

    Each restart runs every arm in a fresh process. All see the inputs of the first arm that has
    real ones, where they fit. After a warm-up, each round gives every arm one block of queries, in
    a random order that puts every arm equally often at every place. With a base to compare with,
    the data is judged after each look, and measuring stops as soon as all is decided.

    Args:
        arms: What is measured.
        against: Bases; every arm is compared with each of them.
        options: How to measure.
        progress: Told after each block.

    Raises:
        UsageError: No arm, or CPUs that are not here.
        UnavailableError: A worker process ended, or the machine throttled all the time.
    """
    options = options or BenchmarkOptions()
    specs = _distinct([*arms, *against])
    if options.start_temperature_c is not None:
        wait_until_cool(options.start_temperature_c, progress=progress)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    before, steal = fingerprint(), StealMeter()
    pairs = [(a.name, b.name) for b in specs[len(arms) :] for a in specs[: len(arms)]]
    with (
        tempfile.TemporaryDirectory(prefix="edgessl-", ignore_cleanup_errors=True) as scratch,
        Watch(cpus=options.affinity) as watch,
    ):
        bench = Bench(specs, options, Path(scratch))
        turns = Turns(bench, watch, progress)
        _take_turns(turns, pairs, options)
        for _ in range(options.cold_starts - len(turns.control_ms)):
            turns.cold_start()
        null_p50_us, null_p90_us = harness_overhead_us(bench, turns.logs[0].facts)
        passes = Passes(bench, progress)
        results = [
            arm_result(log, passes.extras(index, log)) for index, log in enumerate(turns.logs)
        ]
        inputs_sha256 = sha256_file(bench.inputs)
    environment = before.model_copy(update={"steal_percent": steal.percent()})
    control_ratio, problems = control_problems(turns.control_ms, options.gate)
    problems += problems_of_run(before, fingerprint())
    problems += _dropped_too_many(turns)
    comparisons = _comparisons(turns, pairs, options.gate, invalid=bool(problems))
    result = BenchmarkResult(
        edgessl_version=__version__,
        created_utc=created,
        environment=environment,
        env_hash=env_hash(environment),
        protocol=ProtocolFacts(
            scenario=ScenarioOptions.model_validate(
                options.model_dump(include=set(ScenarioOptions.model_fields))
            ),
            seed=options.seed,
            restarts=len(turns.control_ms),
            blocks=options.blocks,
            block_seconds=options.block_seconds,
            orders=tuple(turns.orders),
            affinity=options.affinity,
            inputs_sha256=inputs_sha256,
            gate=options.gate,
            dropped=tuple(turns.dropped),
        ),
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
        remarks=tuple(remarks(results)),
    )
    return Measurement(result, turns.recording)


def _take_turns(turns: Turns, pairs: Sequence[tuple[str, str]], options: BenchmarkOptions) -> None:
    """Restart until the gate has decided; without one, as often as asked for."""
    gate = options.gate
    looks = gate.looks if pairs and gate.metrics else (options.restarts,)
    for look in looks:
        while len(turns.control_ms) < look:
            turns.restart(planned=look)
        if look != looks[-1] and decided(judge(turns.recording, pairs, gate)):
            return


def _comparisons(
    turns: Turns, pairs: Sequence[tuple[str, str]], gate: GateOptions, *, invalid: bool
) -> tuple[Comparison, ...]:
    logs = {log.spec.name: log for log in turns.logs}

    def comparison(found: Judgement) -> Comparison:
        arm, base = logs[found.arm], logs[found.against]
        gated = found.verdict is not None
        verdict: Verdict | None = "INVALID" if invalid and gated else found.verdict
        return Comparison(
            arm=found.arm,
            against=found.against,
            metrics=found.metrics,
            confidence=found.confidence,
            min_cosine=least_cosine(arm, base),
            verdict=verdict,
        )

    return tuple(comparison(found) for found in judge(turns.recording, pairs, gate))


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
