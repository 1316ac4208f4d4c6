"""The page about students says what the measurements say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def page(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks" / "distillation"))
    return importlib.import_module("student_page")


def _cells(*runs: tuple[float, float, float]) -> dict[str, Any]:
    """One student; (float, post-training, trained) accuracy of each seed."""
    cells = {}
    for seed, accuracies in enumerate(runs):
        arms = ("float", "post-training/t", "trained/t")
        for arm, accuracy in zip(arms, accuracies, strict=True):
            scores = dict.fromkeys(("knn", "linear", "fewshot_5", "gallery"), accuracy)
            cells[f"d/s/{seed}/{arm}"] = {"scores": scores}
    return cells


def test_recovery_is_the_share_of_the_mean_loss(page: Any) -> None:
    row, *_ = page.summarise(_cells((0.9, 0.7, 0.88), (0.7, 0.3, 0.62)))
    # Lost 0.3 on average, won back 0.25.
    assert row["recovery"] == pytest.approx(0.25 / 0.3)
    assert row["seeds"] == 2
    assert row["not_below"]
    assert not row["collapsed"]


def test_a_loss_of_a_point_asks_for_no_recovery(page: Any) -> None:
    row, *_ = page.summarise(_cells((0.9, 0.891, 0.85)))
    assert row["recovery"] is None
    assert not row["not_below"]  # one seed has no deviation to excuse it


def test_below_within_the_deviation_is_not_below(page: Any) -> None:
    row, *_ = page.summarise(_cells((0.9, 0.80, 0.76), (0.9, 0.86, 0.84)))
    assert row["not_below"]


def test_a_collapse_is_below_half_of_float(page: Any) -> None:
    row, *_ = page.summarise(_cells((0.8, 0.39, 0.79)))
    assert row["collapsed"]


def test_seeds_without_all_three_arms_are_left_out(page: Any) -> None:
    cells = _cells((0.9, 0.7, 0.9), (0.5, 0.1, 0.5))
    del cells["d/s/1/trained/t"]
    row, *_ = page.summarise(cells)
    assert (row["seeds"], row["float"]) == (1, 0.9)


def test_the_page_is_that_of_the_results(page: Any, root: Path, tmp_path: Path) -> None:
    if not page.RESULTS.exists():
        pytest.skip("the benchmark has not been run yet")
    results = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    page.write_page(results, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page.PAGE.read_text(
        encoding="utf-8"
    )
