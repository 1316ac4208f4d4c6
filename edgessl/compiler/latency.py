"""Which of several built candidates is fastest here: measured pairwise on the real engine.

Only two engines are loaded at a time, which bounds memory, and their runs alternate in short
blocks, so that drift of the machine hits both alike. A measurement is an input of the choice: it
is remembered, so that compiling again gives the same bundle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydantic

from edgessl.bundle.manifest import OptionValue
from edgessl.compiler.process import Worker, WorkerFailure, memory_limit
from edgessl.config import Options
from edgessl.errors import EdgeSSLError, OutputError
from edgessl.files import cache_directory, sha256_json, write_json
from edgessl.progress import Progress, ProgressEvent
from edgessl.targets import detect

__all__ = ["Contender", "Latency", "Ranking", "rank"]

_MIN_GAIN = 0.02
_BLOCKS = 10
_BLOCK_MS = 50.0
_WARM_UP_RUNS = 10
_WARM_UP_MS = 200.0
_SLOW_MS = 200.0
_TIMEOUT_S = 900.0


class Latency(Options):
    """Time of one engine call, back to back."""

    p50_ms: float
    p90_ms: float
    runs: int


class Ranking(Options):
    """What the measurement says.

    Attributes:
        winner: Name of the fastest eligible contender.
        latencies: Name → latency; without those that failed while running.
    """

    winner: str
    latencies: dict[str, Latency]


@dataclass(frozen=True)
class Contender:
    """One built candidate.

    Attributes:
        name: Name of the candidate.
        engine: Engine that runs it.
        version: That engine's version.
        model: The file that the engine opens.
        options: Engine options.
        digest: Hash of its files.
        eligible: False if it is measured for the table only, because the gate rejected it.
    """

    name: str
    engine: str
    version: str
    model: Path
    options: dict[str, OptionValue]
    digest: str
    eligible: bool


def rank(
    contenders: Sequence[Contender],
    *,
    samples: Path,
    folder: Path,
    remeasure: bool,
    progress: Progress,
) -> Ranking:
    """Measure the contenders, or recall an earlier measurement of the very same ones.

    A later contender wins only if it is at least 2 % faster: of two equals the earlier one, which
    the caller puts first because it is more precise, is kept.

    Args:
        contenders: In order of preference, at least one of them eligible.
        samples: Folder of `Samples`; the first call's feeds are timed.
        folder: Work folder.
        remeasure: Measure even if there is a remembered result.
        progress: Told what is measured.
    """
    place = cache_directory("measurements", f"{_key(contenders)}.json")
    known = None if remeasure else _recall(place, progress)
    if known is not None:
        return known
    ranking = _measure(contenders, samples, folder, progress)
    try:
        write_json(place, ranking.model_dump(mode="json"))
    except OutputError as error:
        _warn(progress, f"the measurement is not remembered: {error}")
    return ranking


def _key(contenders: Sequence[Contender]) -> str:
    host = detect()
    described = [
        [c.name, c.engine, c.version, c.digest, dict(sorted(c.options.items())), c.eligible]
        for c in contenders
    ]
    return sha256_json([host.arch, host.cpu, sorted(host.features), described])


def _recall(place: Path, progress: Progress) -> Ranking | None:
    try:
        return Ranking.model_validate(json.loads(place.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pydantic.ValidationError) as error:
        _warn(progress, f"{place} cannot be read ({type(error).__name__}); measuring again")
        return None


def _measure(
    contenders: Sequence[Contender], samples: Path, folder: Path, progress: Progress
) -> Ranking:
    latencies: dict[str, Latency] = {}
    # Eligible ones first: the winner is among them, and the others are then compared with it.
    order = sorted(contenders, key=lambda c: not c.eligible)
    with ExitStack() as stack:
        best, best_worker = order[0], stack.enter_context(_worker(folder))
        _open(best_worker, best, samples)
        _warm_up(best_worker)
        for done, challenger in enumerate(order[1:], start=1):
            progress(ProgressEvent("measure", done, len(order) - 1, unit="pairs"))
            worker = _worker(folder)
            try:
                _open(worker, challenger, samples)
                _warm_up(worker)
                ours, theirs, ratio = _match(best_worker, worker)
            except (WorkerFailure, EdgeSSLError) as error:
                worker.close()
                _warn(progress, f"{challenger.name} fails while it is measured: {error}")
                continue
            except BaseException:
                worker.close()
                raise
            latencies[best.name], latencies[challenger.name] = ours, theirs
            if challenger.eligible and ratio < 1.0 - _MIN_GAIN:
                best_worker.close()
                best, best_worker = challenger, stack.enter_context(worker)
            else:
                worker.close()
    return Ranking(winner=best.name, latencies=latencies)


def _worker(folder: Path) -> Worker:
    return Worker(folder, timeout_s=_TIMEOUT_S, memory_bytes=memory_limit())


def _open(worker: Worker, contender: Contender, samples: Path) -> None:
    worker.request(
        "open_model",
        engine=contender.engine,
        model=str(contender.model),
        options=contender.options,
        samples=str(samples),
    )


def _warm_up(worker: Worker) -> None:
    runs, total = 0, 0.0
    while total < _WARM_UP_MS or (runs < _WARM_UP_RUNS and total < 10 * _WARM_UP_MS):
        durations = worker.request("time_runs", runs=1 if runs < 3 else 5)
        runs, total = runs + len(durations), total + sum(durations)


def _match(first: Worker, second: Worker) -> tuple[Latency, Latency, float]:
    """Alternate blocks; the ratio is the median over blocks of second over first."""
    workers = (first, second)
    typical = [float(np.median(w.request("time_runs", runs=3))) for w in workers]
    sizes = [1 if t > _SLOW_MS else int(np.clip(round(_BLOCK_MS / t), 3, 500)) for t in typical]
    durations: tuple[list[float], list[float]] = ([], [])
    ratios = []
    for block in range(_BLOCKS):
        medians = [0.0, 0.0]
        for side in (0, 1) if block % 2 == 0 else (1, 0):
            times = workers[side].request("time_runs", runs=sizes[side] + 1)[1:]
            durations[side].extend(times)
            medians[side] = float(np.median(times))
        ratios.append(medians[1] / medians[0])
    return _latency(durations[0]), _latency(durations[1]), float(np.median(ratios))


def _latency(durations: list[float]) -> Latency:
    p50, p90 = np.percentile(durations, [50, 90])
    return Latency(p50_ms=round(float(p50), 4), p90_ms=round(float(p90), 4), runs=len(durations))


def _warn(progress: Progress, message: str) -> None:
    progress(ProgressEvent("measure", message=message, warning=True))
