"""The page about peers and native tools says what the measurements say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def page(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for folder in ("compile", "latency"):
        monkeypatch.syspath_prepend(str(root / "benchmarks" / folder))
    return importlib.import_module("peer_page")


def _row(ratio: float, cosine: float, **changes: object) -> dict[str, Any]:
    arms = {"edgessl": 2.0, "peer": 2.0 / ratio}
    return {
        "created_utc": "2026-01-02T03:04:05+00:00",
        "chosen": "engine int8",
        "p50_ms": arms,
        "ratios_to_peers": {"peer": {"ratio": ratio, "low": ratio / 2, "high": ratio * 2}},
        "cosine_mean": {"edgessl": 1.0, "peer": cosine},
        "size_bytes": {"edgessl": 3_000_000, "peer": None},
        "peak_memory_bytes": dict.fromkeys(arms, 50_000_000),
        "missing": {},
        "problems": [],
        **changes,
    }


def _result(rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "rows": rows,
        "least_cosine": 0.99,
        "versions": {"edgessl's": {"torch": "1"}, "litert": {"ai-edge-litert": "2"}},
        "image_size": 224,
        "options": {"restarts": 3, "blocks": 5},
        "calibration_samples": 180,
        "held_out_samples": 120,
        "environment": {"cpu": "a CPU"},
        "cpus": 2,
    }


def test_ratios_are_turned_round_and_averaged_geometrically(page: Any, tmp_path: Path) -> None:
    rows = {"a 1": _row(0.5, 1.0), "b 1": _row(0.125, 0.9), "b 2": _row(2.0, 1.0)}
    page.write_page(_result(rows), tmp_path / "none.json", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    one, two = text.split("## 2 thread(s)")
    # Of the faithful model, 2; of both, the square root of 2 x 8.
    assert "| peer | 2.00 | 1 | 4.00 | 2.00 to 8.00 | 2 |" in one
    assert "| peer | 0.50 | 1 | 0.50 | 0.50 to 0.50 | 1 |" in two
    assert "| peer | 4.00 | 2.00 (1.00 to 4.00) | 1.0000 |  | 50.0 |" in one
    assert "| peer † | 16.00 | 8.00 (4.00 to 16.00) | 0.9000 |  | 50.0 |" in one
    assert "| **edgessl: engine int8** | 2.00 | 1 | 1.0000 | 3.0 | 50.0 |" in one


def test_what_is_missing_or_unsound_is_said(page: Any, tmp_path: Path) -> None:
    row = _row(1.0, 1.0, missing={"other": "no such operator"}, problems=["the clock changed"])
    page.write_page(_result({"a 1": row}), tmp_path / "none.json", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "`other` is missing: no such operator" in text
    assert "not sound: the clock changed" in text


def test_the_disagreement_is_taken_within_each_repetition(page: Any) -> None:
    native = importlib.import_module("native_tools")
    ours = (1.0, 2.0, 4.0)
    theirs = (1.1, 2.1, 4.0)
    found = [
        {("edgessl", "openvino"): o, ("benchmark_app", "openvino"): t}
        for o, t in zip(ours, theirs, strict=True)
    ]
    (row,) = native._rows("model", found)
    assert row["median_percent"] == pytest.approx(5.0)
    assert (row["low_percent"], row["high_percent"]) == pytest.approx((0.0, 10.0))
    assert row["own_spread_percent"] == pytest.approx(300.0)


def test_the_page_is_that_of_the_results(page: Any, root: Path, tmp_path: Path) -> None:
    results = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    page.write_page(results, page.NATIVE, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page.PAGE.read_text(
        encoding="utf-8"
    )
