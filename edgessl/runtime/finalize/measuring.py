"""Measure settings of several builds in turns; the fastest that gives right results wins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgessl.bundle.manifest import OptionValue
from edgessl.config import Options
from edgessl.errors import EdgeSSLError
from edgessl.progress import Progress, ProgressEvent
from edgessl.runtime.canaries import CanaryResult
from edgessl.runtime.finalize.builds import Prepared
from edgessl.runtime.model import Model
from edgessl.runtime.session import Array, open_session

__all__ = ["Contender", "Setting", "choose", "measure"]

_RUNS = 30
_WARM_UP = 5
_BLOCK_SECONDS = 2.0
_NEGLIGIBLE = 0.03
"""A setting with more threads must be this much faster, as a share, to be worth its power."""

Check = Callable[[Prepared, Model], CanaryResult]


class Setting(Options):
    """One set of engine options and its latency on this device, batch as the graph has it.

    Attributes:
        build: Name of the build; empty where the bundle has only one.
        options: Engine options.
        runs: Engine calls that were timed.
    """

    build: str = ""
    options: dict[str, OptionValue]
    latency_p50_ms: float
    latency_p90_ms: float
    runs: int

    @property
    def name(self) -> str:
        """``threads=2 intra_op_spinning=true``, after the build's name where there are several."""
        options = " ".join(f"{k}={str(v).lower()}" for k, v in sorted(self.options.items()))
        return ": ".join(part for part in (self.build, options) if part)


@dataclass
class Contender:
    """A build with one set of options, while it is measured.

    Attributes:
        prepared: The build.
        options: Engine options.
        times: Milliseconds of each call.
        canaries: How its results compare; None before the first turn.
        failure: Why it is out; None while it is in.
    """

    prepared: Prepared
    options: dict[str, OptionValue]
    times: list[float] = field(default_factory=list)
    canaries: CanaryResult | None = None
    failure: Exception | None = None

    @property
    def usable(self) -> bool:
        """True if it runs and reproduces the canaries."""
        return self.failure is None and self.canaries is not None and self.canaries.passed

    def setting(self, build: str) -> Setting:
        """What was measured."""
        return Setting(
            build=build,
            options=self.options,
            latency_p50_ms=float(np.quantile(self.times, 0.5)),
            latency_p90_ms=float(np.quantile(self.times, 0.9)),
            runs=len(self.times),
        )


def measure(
    prepared: Sequence[Prepared],
    folder: Path,
    inputs: Mapping[str, Array],
    check: Check,
    *,
    rounds: int,
    progress: Progress,
) -> list[Contender]:
    """Measure every setting of every build, one open at a time, in rounds.

    In the first round each runs its canaries; one that fails or gives other results is out.

    Args:
        prepared: The builds.
        folder: Where the bundle was extracted.
        inputs: Canary inputs; the first engine call's worth is timed.
        check: Compares a model's results with the build's references.
        rounds: Turns that every setting gets.
        progress: Told after each turn.
    """
    contenders = [Contender(p, dict(options)) for p in prepared for options in p.grid]
    size = prepared[0].build.manifest.batch_size or 1 if prepared else 1
    feeds = {name: array[:size] for name, array in inputs.items()}
    total = rounds * len(contenders)
    for turn in range(rounds):
        # Every other turn runs backwards: no setting always follows the same neighbour.
        order = contenders if turn % 2 == 0 else contenders[::-1]
        for done, contender in enumerate(order):
            if contender.failure is None and (turn == 0 or contender.usable):
                _take_turn(contender, folder, feeds, check)
            progress(ProgressEvent("finalize", turn * len(order) + done + 1, total, unit="blocks"))
    return contenders


def _take_turn(
    contender: Contender, folder: Path, feeds: Mapping[str, Array], check: Check
) -> None:
    prepared = contender.prepared
    manifest = prepared.build.manifest
    file = folder / prepared.model
    try:
        session = open_session(manifest.engine.name, file, contender.options)
        with Model(manifest, session, name=file.name) as model:
            if contender.canaries is None:
                contender.canaries = check(prepared, model)
            if contender.usable:
                contender.times += _block(model, feeds)
    except EdgeSSLError as error:
        contender.failure = error


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


def choose(settings: Sequence[Setting]) -> Setting:
    """The fastest; within 3 % of it the one with the fewest threads, then the earliest build."""
    best = min(setting.latency_p50_ms for setting in settings)
    near = [s for s in settings if s.latency_p50_ms <= best * (1 + _NEGLIGIBLE)]
    order = list(dict.fromkeys(s.build for s in settings))
    return min(
        near, key=lambda s: (s.options.get("threads", 0), order.index(s.build), s.latency_p50_ms)
    )
