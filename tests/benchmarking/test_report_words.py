"""The verdict in words, against results whose verdict is known."""

from __future__ import annotations

import re
from typing import Any

import pytest

from contracts.benchmark_results import result
from edgessl.benchmarking.report.words import aligned, change, headline, number


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("FAIL", r"median latency \+\d+\.\d % \(at least \+\d+\.\d %\), .*; \+2\.0 % is allowed"),
        ("INCONCLUSIVE", r"median latency \+\d+\.\d % \(interval \+\d+\.\d % … \+\d+\.\d %\)"),
        ("PASS", r"median latency \+\d+\.\d %, .*all surely under \+5\.0 %"),
        (None, r"median latency \+\d+\.\d % \(interval"),
    ],
)
def test_the_verdict_in_words(verdict: Any, said: str) -> None:
    shown = result(verdict=verdict)
    words = headline(shown)
    assert words.verdict == (verdict or "NOT GATED")
    assert re.search(said, " ".join(words.sentences))


def test_an_invalid_run_names_its_problems() -> None:
    shown = result(verdict="INVALID")
    harness = shown.harness.model_copy(update={"problems": ("the control arm moved by 40 %",)})
    words = headline(shown.model_copy(update={"harness": harness}))
    assert words.sentences == ("the control arm moved by 40 %.",)
    assert "says nothing about the arms" in words.title


def test_a_metric_that_could_not_be_taken_is_named() -> None:
    shown = result(verdict="INVALID")
    comparison = shown.comparisons[0]
    lost = comparison.metrics[0].model_copy(
        update={"ratio": None, "ratio_low": None, "ratio_high": None, "reason": "the arm crashed"}
    )
    changed = comparison.model_copy(update={"metrics": (lost, *comparison.metrics[1:])})
    shown = shown.model_copy(update={"comparisons": (changed,)})
    (sentence,) = headline(shown).sentences
    assert "median latency was not compared (the arm crashed)" in sentence


def test_the_comparison_that_decides_comes_first() -> None:
    shown = result((1.0, 1.1, 1.0))
    passed = shown.comparisons[0].model_copy(update={"verdict": "PASS"})
    words = headline(shown.model_copy(update={"comparisons": (passed, shown.comparisons[1])}))
    assert [s.split()[0] for s in words.sentences] == ["head-2.edge", "head.edge"]


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(1.1, "+10.0 %"), (0.969, "−3.1 %"), (1.0, "±0.0 %"), (12.0, "×12"), (None, "unbounded")],
)
def test_a_ratio_as_a_change(ratio: float | None, said: str) -> None:
    assert change(ratio) == said


@pytest.mark.parametrize(
    ("value", "plain", "in_column"),
    [
        (1.0, "1", "1.000"),
        (0.99944, "0.9994", "0.9994"),
        (415.12, "415.1", "415.1"),
        (12345.6, "12350", "12350"),
        (0.0, "0", "0"),
        (None, "–", "–"),
        (3e-9, "3.000e-09", "3.000e-09"),
    ],
)
def test_figures_keep_four_digits(value: float | None, plain: str, in_column: str) -> None:
    assert (number(value), aligned(value)) == (plain, in_column)
