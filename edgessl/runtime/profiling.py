"""Where the time of a run goes: operators as an engine ran them, and transfers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from edgessl.bundle.manifest import OptionValue
from edgessl.config import Options
from edgessl.errors import UnavailableError, UsageError
from edgessl.runtime.session import ENGINES, Array

__all__ = [
    "PROFILE_WARM_UP_RUNS",
    "OperatorTime",
    "Phases",
    "TellsOperatorTimes",
    "profile_operators",
]

PROFILE_WARM_UP_RUNS = 3
"""Runs before those that are profiled: the first one allocates memory and packs weights."""


class Phases(Options):
    """Medians of the parts of a run, as the engine's own clock says, in milliseconds."""

    host_to_device_ms: float
    compute_ms: float
    device_to_host_ms: float


class OperatorTime(Options):
    """One operator as the engine ran it.

    Attributes:
        name: Name in the engine, which fuses nodes.
        kind: ``"Conv"``.
        time_ms: Median over profiled runs.
        device: Where it ran, as the engine says.
    """

    name: str
    kind: str
    time_ms: float
    device: str


@runtime_checkable
class TellsOperatorTimes(Protocol):
    """An `edgessl.runtime.session.Engine` that has a profiler."""

    @staticmethod
    def profile(
        model: Path,
        options: Mapping[str, OptionValue],
        feeds: Sequence[Mapping[str, Array]],
        runs: int,
    ) -> Sequence[Sequence[OperatorTime]]:
        """Profile a model in a session of its own, after `PROFILE_WARM_UP_RUNS` runs.

        Args:
            model: As `edgessl.runtime.session.Engine.open` takes it.
            options: The same.
            feeds: Inputs that are fed in turn; at least one.
            runs: How many runs to profile.

        Returns:
            One list of operators for every run; an engine that gives only means over runs gives
            one list for every such mean.

        Raises:
            UnavailableError: Its profiler does not work here, and why.
        """
        ...


def profile_operators(
    engine: str,
    model_path: Path,
    options: Mapping[str, OptionValue],
    feeds: Sequence[Mapping[str, Array]],
    *,
    runs: int,
) -> tuple[OperatorTime, ...]:
    """Time each operator of a model.

    A profiler costs time itself, some microseconds an operator, so the sum of all operators is
    near the latency of a run, not equal to it; and where operators run side by side it is more.

    Args:
        engine: Name in the registry of engines.
        model_path: The model file, as `edgessl.runtime.session.open_session` takes it.
        options: Engine options.
        feeds: Inputs that are fed in turn: one array per input name each.
        runs: How many runs to profile, after a warm-up.

    Returns:
        Median over the runs of each operator, slowest first. Operators of equal names are
        numbered: ``"Reorder"``, ``"Reorder #2"``.

    Raises:
        UnavailableError: The engine cannot tell, and why.
        UsageError: No inputs, or less than one run.
    """
    if not feeds or runs < 1:
        raise UsageError(
            f"a profile takes inputs and at least one run, found {len(feeds)} and {runs}; "
            "give one mapping of input names to arrays, and runs=20"
        )
    found = ENGINES.get(engine)
    if not isinstance(found, TellsOperatorTimes):
        raise UnavailableError(
            f"{engine}: this engine has no profiler of operators; leave their times out"
        )
    return _medians(found.profile(Path(model_path), options, feeds, runs))


def _medians(profiles: Sequence[Sequence[OperatorTime]]) -> tuple[OperatorTime, ...]:
    times: dict[tuple[str, str, str], list[float]] = {}
    for index, profile in enumerate(profiles):
        seen: Counter[str] = Counter()
        for operator in profile:
            seen[operator.name] += 1
            count = seen[operator.name]
            name = operator.name if count == 1 else f"{operator.name} #{count}"
            key = (name, operator.kind, operator.device)
            # A branch that a run does not take costs that run nothing.
            times.setdefault(key, [0.0] * len(profiles))[index] += operator.time_ms
    medians = [
        OperatorTime(name=name, kind=kind, time_ms=float(np.median(values)), device=device)
        for (name, kind, device), values in times.items()
    ]
    return tuple(sorted(medians, key=lambda operator: -operator.time_ms))
