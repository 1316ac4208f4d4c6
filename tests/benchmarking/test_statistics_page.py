"""The page about the statistics shows what the simulation found and what the gate does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgessl.benchmarking.gate import interval_confidence
from edgessl.benchmarking.options import GateOptions, Metric


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "benchmark-statistics.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_simulation(root: Path, page: str) -> None:
    found = json.loads((root / "benchmarks" / "results" / "gate_simulation.json").read_text())
    rows: dict[tuple[str, str], list[str]] = {}
    for case in found["cases"]:
        row = rows.setdefault((", ".join(case["gated"]), f"{case['ratio']:.2f}"), [])
        row += [f"{case[f'{v}_percent']:.1f}" for v in ("PASS", "INCONCLUSIVE", "FAIL")]
    shown = [f"| {' | '.join([*key, *cells])} |" for key, cells in rows.items()]
    assert page.split("gate_simulation.json -->\n")[1].splitlines()[2 : 2 + len(shown)] == shown
    assert f"{found['trials']:,} gates" in page


@pytest.mark.parametrize(
    ("metrics", "percent"), [(("p50", "p90", "size", "memory"), "99.89 %"), (("p50",), "99.67 %")]
)
def test_the_confidence_is_that_of_the_gate(
    page: str, metrics: tuple[Metric, ...], percent: str
) -> None:
    assert f"{100 * interval_confidence(GateOptions(metrics=metrics), 1):.2f} %" == percent
    assert percent in page


def test_the_margins_are_the_defaults(page: str) -> None:
    gate = GateOptions()
    assert f"lower limit > `fail_above`, {gate.fail_above:g}" in page
    assert f"upper limit < `pass_below`, {gate.pass_below:g}" in page
    assert f"after {', '.join(map(str, gate.looks[:-1]))} and {gate.looks[-1]} restarts" in page
    assert f"alpha {gate.alpha:g}" in page
