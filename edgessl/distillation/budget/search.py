"""Look for the largest candidate that fits: cheap questions first, close calls asked twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from edgessl.config import Options
from edgessl.distillation.budget.bisection import largest_fitting
from edgessl.distillation.budget.families import Student
from edgessl.distillation.budget.figures import Figures, Latency, Workbench
from edgessl.distillation.budget.limits import Budget
from edgessl.errors import GateError, ModelError
from edgessl.progress import Progress, ProgressEvent, silent

__all__ = ["HEADERS", "Found", "NothingFitsError", "Tried", "rows", "search"]

_RESTARTS = 3
_NEAR = 0.05
"""A latency within this share of its limit is measured again, in more processes."""
_RESTARTS_NEAR = 9
_NOISE = 0.03
"""Candidates whose costs are nearer to each other than this are in no order."""

HEADERS = ("candidate", "MFLOPs", "MB", "p50 ms", "from–to", "p90 ms", "fits", "why")


class Tried(Options):
    """One candidate that was looked at.

    Attributes:
        figures: As far as it was looked at; the first budget that it does not fit ends that.
        why: Which budget it misses and by how much, or why it cannot be built; of a candidate
            that fits, how much of the tightest budget it takes.
    """

    student: Student
    figures: Figures
    fits: bool
    why: str


class NothingFitsError(GateError):
    """No candidate fits; `tried` has what was looked at."""

    def __init__(self, message: str, tried: Sequence[Tried]) -> None:
        super().__init__(message)
        self.tried = tuple(tried)


class Found(Options):
    """What `search` gives.

    Attributes:
        student: The largest that fits.
        tried: Smallest first.
        remarks: Where the order by operations is not the order by cost, and what fits only within
            the noise.
    """

    student: Student
    tried: tuple[Tried, ...]
    remarks: tuple[str, ...] = ()


def search(
    students: Sequence[Student],
    budgets: Sequence[Budget],
    bench: Workbench,
    *,
    progress: Progress = silent,
) -> Found:
    """Pick the largest student that fits every budget.

    Args:
        students: Smallest first.
        budgets: All must hold.
        bench: Answers what a candidate costs.
        progress: Told of each candidate.

    Raises:
        NothingFitsError: None fits; the nearest miss is named.
        EdgeSSLError: What the bench raised, but for candidates that cannot be built.
    """
    tried: dict[int, Tried] = {}

    def fits(index: int) -> bool:
        entry = tried[index] = _look_at(students[index], budgets, bench)
        table = (HEADERS, *map(tuple, rows([tried[i] for i in sorted(tried)])))
        progress(ProgressEvent("budget", len(tried), unit="candidates", table=table))
        verdict = "fits" if entry.fits else "does not fit"
        progress(ProgressEvent("budget", message=f"{entry.student} {verdict}: {entry.why}"))
        return entry.fits

    best = largest_fitting(len(students), fits)
    entries = tuple(tried[index] for index in sorted(tried))
    if best is None:
        raise NothingFitsError(_nearest_miss(entries, budgets, len(students)), entries)
    remarks = [*_violations(entries, budgets), *_close_calls(tried[best], budgets)]
    return Found(student=students[best], tried=entries, remarks=tuple(remarks))


def rows(tried: Sequence[Tried]) -> list[list[str]]:
    """The table of what was tried, under `HEADERS`."""
    return [_row(entry) for entry in tried]


def _look_at(student: Student, budgets: Sequence[Budget], bench: Workbench) -> Tried:
    """Ask for operations, then for the size, then for the latency, until one does not fit."""
    figures = Figures()
    try:
        for kind in ("flops", "size", "latency"):
            wanted = [budget for budget in budgets if budget.kind == kind]
            if not wanted:
                continue
            figures = figures.model_copy(update=_ask(student, wanted, bench))
            problem = _problem(figures, wanted)
            if problem is not None:
                return Tried(student=student, figures=figures, fits=False, why=problem)
    except (ModelError, GateError) as error:
        return Tried(student=student, figures=figures, fits=False, why=str(error))
    excess, tightest = max((b.excess(figures) or 0.0, b.text) for b in budgets)
    why = f"{100 * excess:.0f} % of {tightest}"
    return Tried(student=student, figures=figures, fits=True, why=why)


def _ask(student: Student, wanted: Sequence[Budget], bench: Workbench) -> Mapping[str, Any]:
    if wanted[0].kind == "flops":
        return {"flops": bench.flops(student)}
    size, build = bench.size(student)
    compiled = {"size_bytes": size, "build": build}
    if wanted[0].kind == "size":
        return compiled
    latency = bench.latency(student, _RESTARTS)
    if latency.restarts < _RESTARTS_NEAR and any(_near(budget, latency) for budget in wanted):
        latency = bench.latency(student, _RESTARTS_NEAR)
    return {**compiled, "latency": latency}


def _near(budget: Budget, latency: Latency) -> bool:
    excess = budget.excess(Figures(latency=latency))
    return excess is None or abs(excess - 1.0) < _NEAR


def _problem(figures: Figures, wanted: Sequence[Budget]) -> str | None:
    for budget in wanted:
        figure = budget.figure(figures)
        if figure is None:
            return f"too few queries for {budget.text}"
        excess = figure / budget.limit
        if excess > 1.0:
            share = f"{excess:.1f} times" if excess >= 2 else f"{100 * (excess - 1):.1f} % over"
            return f"{budget.show(figure)}, {share} {budget.text}"
    return None


def _nearest_miss(tried: Sequence[Tried], budgets: Sequence[Budget], count: int) -> str:
    asked = ", ".join(budget.text for budget in budgets)
    known = [(max(x), t) for t in tried if (x := _excesses(t, budgets))]
    if not known:
        why = tried[0].why if tried else "the family is empty"
        return f"none of {count} candidates could be looked at for {asked}: {why}"
    _, nearest = min(known, key=lambda entry: entry[0])
    return (
        f"no student fits {asked}; of {count} candidates {len(tried)} were tried, the nearest is "
        f"{nearest.student}: {nearest.why}; allow more, or name smaller students"
    )


def _excesses(tried: Tried, budgets: Sequence[Budget]) -> list[float]:
    return [x for budget in budgets if (x := budget.excess(tried.figures)) is not None]


def _violations(tried: Sequence[Tried], budgets: Sequence[Budget]) -> list[str]:
    found = []
    for budget in budgets:
        costs = [(t.student, f) for t in tried if (f := budget.figure(t.figures)) is not None]
        for (first, dear), (second, cheap) in pairwise(costs):
            if dear > cheap * (1 + _NOISE):
                found.append(
                    f"{second} computes more than {first} but costs less: {budget.show(cheap)} "
                    f"against {budget.show(dear)}"
                )
    return found


def _close_calls(chosen: Tried, budgets: Sequence[Budget]) -> list[str]:
    latency = chosen.figures.latency
    return [
        f"{chosen.student} fits {budget.text} within the noise only: the median of its slowest "
        f"process was {latency.high_ms:.3f} ms"
        for budget in budgets
        if budget.kind == "latency" and budget.percentile == "p50"
        if latency is not None and latency.high_ms > budget.limit
    ]


def _row(entry: Tried) -> list[str]:
    figures, latency = entry.figures, entry.figures.latency
    times = ["", "", ""]
    if latency is not None:
        between = f"{latency.low_ms:.3f}–{latency.high_ms:.3f}"
        times = [f"{latency.p50_ms:.3f}", between, f"{latency.p90_ms:.3f}"]
    return [
        str(entry.student),
        "" if figures.flops is None else f"{figures.flops / 1e6:.1f}",
        "" if figures.size_bytes is None else f"{figures.size_bytes / 1e6:.3f}",
        *times,
        "yes" if entry.fits else "no",
        entry.why,
    ]
