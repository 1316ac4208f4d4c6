"""The page of the losses says what the measurements say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgessl import kernels


@pytest.fixture
def page(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks" / "kernels"))
    return importlib.import_module("losses_page")


def test_the_pages_figures_are_the_stored_ones(page: Any) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    for path, figures in ((page.CPU, page.cpu_figures), (page.GPU, page.gpu_figures)):
        stored = json.loads(path.read_text(encoding="utf-8"))
        renewed = page.with_figures(text, path.name, figures(stored))
        assert renewed == text, "run benchmarks/kernels/losses_page.py"


def test_every_loss_is_on_the_page(page: Any) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    names = [name for name in kernels.__all__ if name != "gather_rows"]
    assert [name for name in names if f"`{name}" not in text and f" {name}" not in text] == []


def test_figures_of_a_cpu(page: Any) -> None:
    times = {"median_seconds": 0.5, "peak_extra_bytes": 12_000_000}
    result = {
        "rows": 8192,
        "width": 128,
        "cpu": "a CPU",
        "threads": 2,
        "repeats": 15,
        "created_utc": "2026-01-02T03:04:05+00:00",
        "versions": {"torch": "1"},
        "goals": {"as fast as eager": True, "at most 1/20 of its memory": False},
        "results": [
            {
                "loss": "nt_xent",
                "speed_ratio": {"median": 2.0, "low": 1.5, "high": 2.5},
                "memory_ratio": 19.0,
                "edgessl chunked": times,
                "eager PyTorch": {"median_seconds": 1.0, "peak_extra_bytes": 228_000_000},
            }
        ],
    }
    text = page.cpu_figures(result)
    assert "| NT-Xent | 500 | 1000 | 2.00 [1.50, 2.50] | 12.0 | 228.0 | 1/19.0 |" in text
    assert "as fast as eager: reached; at most 1/20 of its memory: **missed**." in text


def test_figures_of_a_gpu(page: Any) -> None:
    case = {"name": "nt_xent 8x4"}
    passes = {name: {"p50_ms": 1.5} for name in ("forward", "backward", "both")}
    result = {
        "dtype": "bfloat16",
        "created_utc": "2026-01-02T03:04:05+00:00",
        "ceilings": [{"flops": 6e14}, {"flops": 7e14}],
        "conditions_before": {
            "cards": [{"name": "a card", "driver_version": "9"}],
            "versions": {"torch": "1", "triton": "2"},
        },
        "results": [
            {
                "case": case,
                "rival": "us",
                "passes": passes,
                "peak_extra_bytes": 3e6,
                "exact": True,
            },
            {"case": case, "rival": "other", "why": "not installed"},
        ],
        "goals": [
            {"goal": "speed", "case": "c", "found": 1.0, "at_least": 2.0, "met": False},
            {"goal": "bytes", "case": "c", "found": None, "at_most": 2.0, "met": None},
        ],
    }
    text = page.gpu_figures(result)
    assert "reach 700 TFLOP/s" in text
    assert "| nt_xent 8x4 | us | 1.5 | 1.5 | 1.5 | 3 | yes |" in text
    assert "| nt_xent 8x4 | other | not installed | | | | |" in text
    assert "| speed | c | 1 | ≥ 2 | **missed** |" in text
    assert "| bytes | c |  | ≤ 2 | not measured |" in text
    assert "Nothing has been run" in page.gpu_figures({"results": [], "why": "no GPU"})
