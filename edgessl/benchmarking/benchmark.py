"""Measure arms side by side: own processes, blocks in turns, paired ratios."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from edgessl.benchmarking.arm import ArmFacts, ArmSpec
from edgessl.benchmarking.environment import fingerprint
from edgessl.benchmarking.process import WorkerProcess
from edgessl.benchmarking.result import (
    ArmResult,
    BenchmarkResult,
    Comparison,
    InputSource,
    ProtocolFacts,
)
from edgessl.benchmarking.statistics import balanced_orders, paired_ratio
from edgessl.bundle.archive import open_bundle
from edgessl.bundle.arrays import load_arrays
from edgessl.bundle.manifest import OptionValue
from edgessl.config import Options
from edgessl.errors import UsageError
from edgessl.optional import is_available
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.runtime.canaries import output_cosines
from edgessl.runtime.session import Array
from edgessl.runtime.threads import resolve_threads

__all__ = ["BenchmarkOptions", "benchmark", "measure", "specs_for"]

_MODEL_ENGINES = ("onnxruntime", "openvino")
_CONFIDENCE = 0.95


class BenchmarkOptions(Options):
    """How to measure.

    Attributes:
        threads: Threads of every arm; None leaves a bundle its own setting and gives a model
            file all physical cores.
        rounds: Blocks of each arm. More rounds narrow the intervals.
        block_seconds: Length of one block.
        seed: Of the order of blocks and of synthetic inputs.
    """

    threads: int | None = Field(default=None, ge=0, le=1024)
    rounds: int = Field(default=12, ge=1, le=10_000)
    block_seconds: float = Field(default=0.25, gt=0, le=600)
    seed: int = 0


def benchmark(
    paths: Sequence[str | Path],
    *,
    against: Sequence[str | Path] = (),
    options: BenchmarkOptions | None = None,
    progress: Progress = silent,
) -> BenchmarkResult:
    """Measure bundles and model files.

    Args:
        paths: ``.edge`` bundles; ``.onnx`` files, which run in each installed engine; and run
            directories, which run in PyTorch.
        against: The same kinds; every arm of ``paths`` is compared with each of these.
        options: How to measure.
        progress: Told after each block.

    Raises:
        BundleError: A bundle is damaged or not native.
        UsageError: No path, or a file of another kind.
    """
    options = options or BenchmarkOptions()
    first = [spec for path in paths for spec in specs_for(path, options.threads)]
    second = [spec for path in against for spec in specs_for(path, options.threads)]
    return measure(first, against=second, options=options, progress=progress)


def specs_for(path: str | Path, threads: int | None) -> list[ArmSpec]:
    """The arms of one file."""
    path = Path(path)
    arguments: dict[str, OptionValue] = {"path": str(path)}
    if path.suffix == ".edge":
        with open_bundle(path, verify=False) as bundle:
            own = bundle.manifest.engine.options.get("threads", 0)
        count = resolve_threads(int(own) if threads is None else threads)
        factory = "edgessl.benchmarking.arm:bundle_arm"
        return [ArmSpec(name=path.name, factory=factory, arguments=arguments, threads=count)]
    if path.suffix in (".onnx", ".xml"):
        engines = [e for e in _MODEL_ENGINES if path.suffix == ".onnx" or e == "openvino"]
        return [
            ArmSpec(
                name=f"{path.name} {engine}",
                factory="edgessl.benchmarking.arm:model_arm",
                arguments={**arguments, "engine": engine},
                threads=resolve_threads(threads or 0),
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
) -> BenchmarkResult:
    """Measure any arms; the factories of `ArmSpec` may live in other packages.

    Each arm runs in a process of its own. All see the inputs of the first arm that has real
    ones, where they fit. After a warm-up, each round gives every arm one block of runs, in a
    random order that puts every arm equally often at every place.

    Raises:
        UsageError: No arm, or two arms of one name.
    """
    options = options or BenchmarkOptions()
    specs = _distinct([*arms, *against])
    environment = fingerprint()
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgessl-")))
        workers = [
            stack.enter_context(WorkerProcess(spec, seed=options.seed, folder=folder))
            for spec in specs
        ]
        loaded = [worker.call("load") for worker in workers]
        sources, common = _share_inputs(workers, loaded, folder / "inputs.npz")
        warm = [worker.call("warm_up") for worker in workers]
        blocks = _run_blocks(workers, options, progress)
        finals: list[dict[str, Any]] = []
        outputs: list[dict[str, Array]] = []
        for index, worker in enumerate(workers):
            place = folder / f"outputs-{index}.npz"
            finals.append(worker.call("outputs", path=str(place)))
            outputs.append(load_arrays(place.read_bytes(), where=worker.spec.name))
            worker.call("close")
    results = [
        _arm_result(*facts)
        for facts in zip(specs, loaded, sources, warm, blocks, finals, strict=True)
    ]
    return BenchmarkResult(
        created_utc=created,
        environment=environment,
        protocol=ProtocolFacts(
            rounds=options.rounds, block_seconds=options.block_seconds, seed=options.seed
        ),
        arms=tuple(results),
        comparisons=tuple(
            _comparisons(
                results,
                [o if c else None for o, c in zip(outputs, common, strict=True)],
                len(against),
            )
        ),
        remarks=tuple(_remarks(results)),
    )


def _distinct(specs: Sequence[ArmSpec]) -> list[ArmSpec]:
    if not specs:
        raise UsageError("nothing to measure; name a bundle or a model")
    names = [spec.name for spec in specs]
    if len(set(names)) == len(names):
        return list(specs)
    return [
        spec.model_copy(update={"name": f"{spec.name} #{index + 1}"})
        if names.count(spec.name) > 1
        else spec
        for index, spec in enumerate(specs)
    ]


def _share_inputs(
    workers: Sequence[WorkerProcess], loaded: Sequence[dict[str, Any]], place: Path
) -> tuple[list[InputSource], list[bool]]:
    """Give every arm the inputs of the first that has real ones; else of the first arm.

    Returns:
        Where each arm's inputs come from, and whether they are the common ones.
    """
    giver = next((i for i, facts in enumerate(loaded) if facts["has_samples"]), 0)
    workers[giver].call("write_samples", path=str(place))
    sources: list[InputSource] = []
    common: list[bool] = []
    for index, (worker, facts) in enumerate(zip(workers, loaded, strict=True)):
        taken = index != giver and worker.call("take_samples", path=str(place))["taken"]
        own: InputSource = "canaries" if facts["has_samples"] else "synthetic"
        sources.append("shared" if taken else own)
        common.append(taken or index == giver)
    return sources, common


def _run_blocks(
    workers: Sequence[WorkerProcess], options: BenchmarkOptions, progress: Progress
) -> list[list[list[float]]]:
    """Milliseconds per arm, round and run."""
    times: list[list[list[float]]] = [[] for _ in workers]
    total = options.rounds * len(workers)
    orders = balanced_orders(len(workers), options.rounds, seed=options.seed)
    for done, index in enumerate(orders.reshape(-1).tolist()):
        answer = workers[index].call("block", seconds=options.block_seconds)
        times[index].append(answer["times_ms"])
        progress(ProgressEvent("benchmark", done + 1, total, unit="blocks"))
    return times


def _arm_result(
    spec: ArmSpec,
    loaded: dict[str, Any],
    source: InputSource,
    warm: dict[str, Any],
    blocks: Sequence[Sequence[float]],
    final: dict[str, Any],
) -> ArmResult:
    facts = ArmFacts.model_validate(loaded["facts"])
    times = np.concatenate([np.asarray(block, np.float64) for block in blocks])
    mean = float(times.mean())
    return ArmResult(
        name=spec.name,
        engine=facts.engine,
        precision=facts.precision,
        versions=facts.versions,
        threads=spec.threads,
        size_bytes=facts.size_bytes,
        samples_per_run=warm["samples_per_run"],
        load_ms=loaded["load_ms"],
        peak_memory_bytes=final["peak_memory_bytes"],
        warm_up_runs=warm["runs"],
        warm_up_s=warm["seconds"],
        no_steady_state=not warm["settled"],
        runs=len(times),
        latency_p50_ms=float(np.quantile(times, 0.5)),
        latency_p90_ms=float(np.quantile(times, 0.9)),
        latency_min_ms=float(times.min()),
        latency_mean_ms=mean,
        throughput_per_s=1e3 * warm["samples_per_run"] / mean,
        block_p50_ms=tuple(float(np.median(block)) for block in blocks),
        input=source,
        outputs_finite=final["finite"],
    )


def _comparisons(
    results: Sequence[ArmResult], outputs: Sequence[dict[str, Array] | None], bases: int
) -> list[Comparison]:
    """Each arm against each of the last ``bases`` arms; outputs are None off the common inputs."""
    first_base = len(results) - bases
    pairs = [(a, b) for b in range(first_base, len(results)) for a in range(first_base)]
    return [_comparison(results[a], results[b], outputs[a], outputs[b]) for a, b in pairs]


def _comparison(
    arm: ArmResult,
    base: ArmResult,
    outputs: dict[str, Array] | None,
    base_outputs: dict[str, Array] | None,
) -> Comparison:
    ratio, low, high = paired_ratio(arm.block_p50_ms, base.block_p50_ms, confidence=_CONFIDENCE)
    return Comparison(
        arm=arm.name,
        against=base.name,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high if math.isfinite(high) else None,
        confidence=_CONFIDENCE,
        rounds=len(arm.block_p50_ms),
        min_cosine=_least_cosine(outputs, base_outputs),
    )


def _least_cosine(a: dict[str, Array] | None, b: dict[str, Array] | None) -> float | None:
    """Over the first outputs; other engines may call them differently."""
    if not a or not b:
        return None
    x, y = next(iter(a.values())), next(iter(b.values()))
    if x.shape != y.shape or x.ndim == 0 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    return float(output_cosines(x, y).min(initial=1.0))


def _remarks(results: Sequence[ArmResult]) -> list[str]:
    remarks = [
        f"{r.name}: medians had not settled after {r.warm_up_s:.1f} s of warm-up; "
        "something else is running here"
        for r in results
        if r.no_steady_state
    ]
    remarks += [f"{r.name}: outputs hold NaN or infinity" for r in results if not r.outputs_finite]
    if len({r.threads for r in results}) > 1:
        remarks.append("arms use different numbers of threads")
    return remarks
