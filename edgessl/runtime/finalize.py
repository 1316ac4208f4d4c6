"""On the device: choose threads and engine settings by measuring, and write a native bundle."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgessl.bundle.archive import Bundle, open_bundle, pack
from edgessl.bundle.manifest import Candidate, EngineSpec, Manifest, OptionValue
from edgessl.config import Options
from edgessl.errors import BundleError, GateError, UsageError
from edgessl.files import sha256_file
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.runtime.canaries import CanaryResult, canary_inputs, run_canaries
from edgessl.runtime.model import Model
from edgessl.runtime.session import ENGINES, Array, open_session
from edgessl.runtime.threads import physical_cores

__all__ = ["FinalizeReport", "Setting", "finalize"]

_ROUNDS = 5
_RUNS = 30
_WARM_UP = 5
_BLOCK_SECONDS = 2.0
_NEGLIGIBLE = 0.03
"""A setting with more threads must be this much faster, as a share, to be worth its power."""
_PREFIX = "finalize "


class Setting(Options):
    """One set of engine options and its latency on this device, batch as the graph has it."""

    options: dict[str, OptionValue]
    latency_p50_ms: float
    latency_p90_ms: float
    runs: int

    @property
    def name(self) -> str:
        """``threads=2 intra_op_spinning=true``."""
        return " ".join(f"{k}={str(v).lower()}" for k, v in sorted(self.options.items()))


class FinalizeReport(Options):
    """What `finalize` measured and chose."""

    bundle: str
    out: str
    engine: str
    engine_version: str
    chosen: Setting
    settings: tuple[Setting, ...]
    canaries: CanaryResult


def finalize(
    path: str | Path,
    out: str | Path | None = None,
    *,
    threads: Sequence[int] | None = None,
    rounds: int = _ROUNDS,
    progress: Progress = silent,
) -> FinalizeReport:
    """Measure engine settings on this device and write a native bundle with the fastest.

    Settings are measured in turns, in rounds, one open at a time, so that drift of the clock
    speed meets all alike; a setting's latency is the median over its runs. Among settings within
    3 % of the fastest, the one with the fewest threads is kept.

    Args:
        path: A portable or native bundle with canaries.
        out: Where the native bundle goes; in the place of ``path`` by default.
        threads: Thread counts to try; by default the powers of two up to the physical cores, and
            their number.
        rounds: Turns that every setting gets.
        progress: Told after each turn.

    Raises:
        BundleError: The bundle is damaged, or has no canaries to measure and check with.
        GateError: The chosen setting does not reproduce the canaries; nothing is written.
        UnavailableError: The engine is not installed here.
    """
    path, place = Path(path), Path(out) if out is not None else Path(path)
    if rounds < 1 or any(count < 1 for count in threads or ()):
        raise UsageError("rounds and threads must be at least 1")
    with (
        open_bundle(path, verify=False) as bundle,
        tempfile.TemporaryDirectory(prefix="edgessl-") as folder,
    ):
        inputs = canary_inputs(bundle)
        if inputs is None:
            raise BundleError(f"{path.name}: has no canaries to measure with; compile it again")
        engine = bundle.manifest.engine
        version = ENGINES.get(engine.name).version()
        model_file = bundle.extract(Path(folder))
        grid = _grid(engine, threads or _thread_counts(physical_cores()))
        settings = _measure(bundle.manifest, model_file, inputs, grid, rounds, progress)
        chosen = _choose(settings)
        canaries = _check(bundle, model_file, chosen)
        manifest = _finished(bundle.manifest, chosen, settings, version, sha256_file(path))
        members = {entry.path: Path(folder) / entry.path for entry in manifest.files}
        pack(place, manifest, members)
    return FinalizeReport(
        bundle=path.name,
        out=str(place),
        engine=engine.name,
        engine_version=version,
        chosen=chosen,
        settings=settings,
        canaries=canaries,
    )


def _thread_counts(cores: int) -> list[int]:
    powers = itertools.takewhile(lambda n: n < cores, (2**k for k in itertools.count()))
    return [*powers, cores]


def _grid(engine: EngineSpec, threads: Sequence[int]) -> list[dict[str, OptionValue]]:
    """Options to try. Waiting by spinning matters only where there are threads to wait for."""
    grid: list[dict[str, OptionValue]] = []
    for count in sorted(set(threads)):
        options = {**engine.options, "threads": count}
        if engine.name == "onnxruntime":
            spins = (True, False) if count > 1 else (False,)
            grid += [{**options, "intra_op_spinning": spin} for spin in spins]
        else:
            grid.append(options)
    return grid


def _measure(
    manifest: Manifest,
    model_file: Path,
    inputs: Mapping[str, Array],
    grid: Sequence[dict[str, OptionValue]],
    rounds: int,
    progress: Progress,
) -> tuple[Setting, ...]:
    times: list[list[float]] = [[] for _ in grid]
    size = manifest.batch_size or 1
    feeds = {name: array[:size] for name, array in inputs.items()}
    for turn in range(rounds):
        # Every other turn runs backwards: no setting always follows the same neighbour.
        order = range(len(grid)) if turn % 2 == 0 else range(len(grid) - 1, -1, -1)
        for done, index in enumerate(order):
            session = open_session(manifest.engine.name, model_file, grid[index])
            with Model(manifest, session, name=model_file.name) as model:
                times[index] += _block(model, feeds)
            completed = turn * len(grid) + done + 1
            progress(ProgressEvent("finalize", completed, rounds * len(grid), unit="blocks"))
    return tuple(
        Setting(
            options=options,
            latency_p50_ms=float(np.quantile(values, 0.5)),
            latency_p90_ms=float(np.quantile(values, 0.9)),
            runs=len(values),
        )
        for options, values in zip(grid, times, strict=True)
    )


def _block(model: Model, feeds: Mapping[str, Array]) -> list[float]:
    """Milliseconds of each run, after a warm-up; a slow model gets fewer runs."""
    end = time.perf_counter() + _BLOCK_SECONDS
    times: list[float] = []
    for run in range(_WARM_UP + _RUNS):
        start = time.perf_counter()
        model.run(feeds)
        stop = time.perf_counter()
        if run >= _WARM_UP or stop > end:
            times.append((stop - start) * 1e3)
        if stop > end:
            break
    return times


def _choose(settings: Sequence[Setting]) -> Setting:
    best = min(setting.latency_p50_ms for setting in settings)
    near = [s for s in settings if s.latency_p50_ms <= best * (1 + _NEGLIGIBLE)]
    return min(near, key=lambda s: (s.options["threads"], s.latency_p50_ms))


def _check(bundle: Bundle, model_file: Path, chosen: Setting) -> CanaryResult:
    session = open_session(bundle.manifest.engine.name, model_file, chosen.options)
    with Model(bundle.manifest, session, name=bundle.path.name) as model:
        result = run_canaries(bundle, model)
    if result is None or not result.passed:
        what = result.describe() if result else "no canaries"
        raise GateError(
            f"{bundle.path.name}: this device does not reproduce the canaries ({what}); "
            "nothing was written; compile for this target again"
        )
    return result


def _finished(
    manifest: Manifest,
    chosen: Setting,
    settings: Sequence[Setting],
    version: str,
    source_sha256: str,
) -> Manifest:
    """The manifest with the choice in it; an earlier choice goes."""
    tried = tuple(
        Candidate(
            name=_PREFIX + setting.name,
            engine=manifest.engine.name,
            precision=manifest.precision,
            status="chosen" if setting is chosen else "passed",
            reason="fastest here" if setting is chosen else _compare(setting, chosen),
            latency_p50_ms=setting.latency_p50_ms,
            latency_p90_ms=setting.latency_p90_ms,
        )
        for setting in settings
    )
    before = tuple(c for c in manifest.candidates if not c.name.startswith(_PREFIX))
    lineage = {**manifest.provenance.lineage, "finalized_from": source_sha256}
    engine = EngineSpec(name=manifest.engine.name, version=version, options=chosen.options)
    return manifest.model_copy(
        update={
            "kind": "native",
            "engine": engine,
            "candidates": before + tried,
            "provenance": manifest.provenance.model_copy(update={"lineage": lineage}),
        }
    )


def _compare(setting: Setting, chosen: Setting) -> str:
    ratio = setting.latency_p50_ms / chosen.latency_p50_ms
    if ratio <= 1:
        return "as fast with more threads"
    return f"slower: p50 {ratio:.2f} times the chosen"
