"""The goals of the GPU benchmark, judged from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["judge"]

UNITS = 5.0
"""FLOP of NT-Xent, forward and backward, in u = M²·D."""
UTILISATION = 0.6
SPEEDUP = 2.0
SPEEDUP_FROM_ROWS = 65536
MEMORY_FACTOR = 1.1
LEAST_TEMPERATURE = 0.05
MILLISECONDS = {(65536, 256): 12.0, (131072, 512): 93.0, (8192, 128): 0.1}
"""What 60 % of an H200's usual ceiling comes to, (M, D) → forward and backward together."""


def judge(rows: Sequence[Mapping[str, Any]], ceiling: float, ours: str) -> list[dict[str, Any]]:
    """Each goal with what was measured, and whether it is met (None: it was not measured).

    Args:
        rows: One for each case and rival, as ``gpu.py`` writes them.
        ceiling: FLOP per second of the matmul.
        ours: Name of the rival that is judged.
    """
    cases: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        cases.setdefault(row["case"]["name"], []).append(row)
    found = []
    for name, of_case in cases.items():
        own = next((row for row in of_case if row["rival"] == ours), None)
        if own is None:
            continue
        for goal in _goals(own, of_case, ceiling):
            goal["case"] = name
            goal["met"] = _met(goal)
            found.append(goal)
    return found


def _goals(
    own: Mapping[str, Any], of_case: Sequence[Mapping[str, Any]], ceiling: float
) -> list[dict[str, Any]]:
    case, both = own["case"], _both(own)
    memory = own.get("peak_extra_bytes")
    limit = MEMORY_FACTOR * (
        2 * case["input_rows"] * case["dimensions"] * case["element_bytes"]
        + 16 * case["input_rows"]
    )
    goals = [{"goal": "peak extra bytes", "at_most": limit, "found": memory}]
    # Where tiles are skipped, a count of FLOP says nothing.
    if case["loss"] == "nt_xent" and case["temperature"] >= LEAST_TEMPERATURE:
        share = None if both is None else UNITS * case["unit_flop"] / (both * 1e-3) / ceiling
        goals.append({"goal": "share of the ceiling", "at_least": UTILISATION, "found": share})
        usual = MILLISECONDS.get((case["rows"], case["dimensions"]))
        if usual is not None:
            goals.append({"goal": "milliseconds, about", "at_most": usual, "found": both})
    if case["rows"] >= SPEEDUP_FROM_ROWS:
        goals.append(_speedup(both, of_case))
    return goals


def _speedup(both: float | None, of_case: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Against the fastest rival whose errors are those of the dtype."""
    times = {
        row["rival"]: time
        for row in of_case
        if not row["ours"] and row.get("exact") and (time := _both(row)) is not None
    }
    fastest = min(times, key=lambda name: times[name]) if times else None
    found = None if fastest is None or both is None else times[fastest] / both
    return {
        "goal": "times faster than the fastest exact rival",
        "at_least": SPEEDUP,
        "found": found,
        "fastest_exact_rival": fastest,
    }


def _both(row: Mapping[str, Any]) -> float | None:
    timed = row.get("passes", {}).get("both")
    return None if timed is None or "p50_ms" not in timed else float(timed["p50_ms"])


def _met(goal: Mapping[str, Any]) -> bool | None:
    if goal["found"] is None:
        return None
    if "at_most" in goal:
        return bool(goal["found"] <= goal["at_most"])
    return bool(goal["found"] >= goal["at_least"])
