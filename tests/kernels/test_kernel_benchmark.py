"""The benchmark for GPUs runs here, at tiny sizes, and judges its goals rightly."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def scripts(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = root / "benchmarks" / "kernels"
    monkeypatch.syspath_prepend(str(folder))
    return folder


def run(script: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def rehearsal(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("rehearsal") / "small.json"
    script = root / "benchmarks" / "kernels" / "gpu.py"
    done = run(
        script, "--small", "--seconds", "0", "--out", str(out), "--without", "lightly float32"
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def test_the_rehearsal_measures_every_loss(rehearsal: dict[str, Any]) -> None:
    rows = {(row["case"]["loss"], row["rival"]): row for row in rehearsal["results"]}
    for loss in ("nt_xent", "clip", "siglip"):
        for rival in ("edgessl triton", "edgessl chunked", "PyTorch float32"):
            row = rows[loss, rival]
            assert row.get("exact"), row
            assert set(row["passes"]) == {"forward", "backward", "both"}
            both = row["passes"]["both"]
            assert 0 < both["p20_ms"] <= both["p50_ms"] <= both["p80_ms"]
            assert set(row["errors"]) == {"measured", "ragged", "sharp"}
    assert rehearsal["ceilings"][0]["flops"] > 0


def test_every_rival_is_a_row_with_figures_or_a_reason(rehearsal: dict[str, Any]) -> None:
    for row in rehearsal["results"]:
        assert ("why" in row) != ("passes" in row), row
    names = {row["rival"] for row in rehearsal["results"]}
    assert {"Inf-CL", "siglip-kernel", "open_clip float32", "linear_cross_entropy"} <= names
    left_out = next(row for row in rehearsal["results"] if row["rival"] == "lightly float32")
    assert left_out["why"] == "left out with --without"


def test_rounded_logits_show_at_a_low_temperature(rehearsal: dict[str, Any]) -> None:
    rows = {(row["case"]["loss"], row["rival"]): row for row in rehearsal["results"]}
    whole, rounded = (
        rows["nt_xent", f"PyTorch {dtype}"]["errors"]["sharp"]["gradient"]
        for dtype in ("float32", "bfloat16")
    )
    assert rounded > 3 * whole


def test_it_never_rehearses_over_figures(scripts: Path) -> None:
    done = run(scripts / "gpu.py", "--small")
    assert done.returncode == 2
    assert "--out" in done.stderr


def test_without_a_gpu_it_says_so_and_keeps_what_was_measured(
    scripts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    done = run(scripts / "gpu.py", "--out", str(out), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["results"] == []
    assert "no CUDA GPU" in found["why"]
    measured = '{"results": [{"rival": "one"}]}'
    out.write_text(measured, encoding="utf-8")
    run(scripts / "gpu.py", "--out", str(out), CUDA_VISIBLE_DEVICES="")
    assert out.read_text(encoding="utf-8") == measured


def test_the_stored_result_is_empty_with_a_reason_or_has_a_card(root: Path) -> None:
    path = root / "benchmarks" / "results" / "kernels_gpu.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    if not found["results"]:
        assert "no CUDA GPU" in found["why"]
        return
    assert found["conditions_before"]["cards"]
    assert found["goals"]


@pytest.mark.parametrize("loss", ["nt_xent", "clip", "siglip"])
@pytest.mark.parametrize("rows", [20, 1030])
def test_the_float64_loss_is_that_of_autograd(scripts: Path, loss: str, rows: int) -> None:
    """1030 rows take more than one chunk, and not all rows are sampled."""
    cases = importlib.import_module("cases")
    case = cases.Case(loss, rows, 7, 0.2)
    inputs = cases.make_inputs(case, torch.float64, "cpu", 3)
    found = cases.exact(case, inputs)
    matrices = inputs[:1] if loss == "nt_xent" else inputs[:2]
    units = [F.normalize(matrix, dim=1) for matrix in matrices]
    logits = units[0] @ units[-1].T * 5
    own = torch.arange(rows)
    if loss == "nt_xent":
        logits = logits.masked_fill(torch.eye(rows, dtype=torch.bool), -torch.inf)
        expected = F.cross_entropy(logits, (own + rows // 2) % rows)
    elif loss == "clip":
        expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    else:
        targets = torch.eye(rows, dtype=torch.float64)
        losses = F.binary_cross_entropy_with_logits(logits - 10, targets, reduction="none")
        expected = losses.sum() / rows
    gradients = torch.autograd.grad(expected, matrices)
    errors = found.errors(expected.detach(), gradients)
    assert errors["loss"] < 1e-6  # the scale of the towers is a float32
    assert errors["gradient"] < 1e-6
    wrong = found.errors(expected.detach() * 1.01, tuple(g * float("nan") for g in gradients))
    assert wrong["loss"] == pytest.approx(0.01, rel=1e-3)
    assert wrong["gradient"] != wrong["gradient"]


def row(rival: str, milliseconds: float | None, **changes: Any) -> dict[str, Any]:
    case = {
        "name": "a case",
        "loss": "nt_xent",
        "rows": 65536,
        "dimensions": 256,
        "temperature": 0.1,
        "unit_flop": 65536.0**2 * 256,
        "input_rows": 65536,
        "element_bytes": 2,
    }
    passes = {} if milliseconds is None else {"passes": {"both": {"p50_ms": milliseconds}}}
    return {"case": case, "rival": rival, "ours": False, "exact": True, **passes, **changes}


def test_goals_are_judged_against_the_fastest_exact_rival(scripts: Path) -> None:
    judge = importlib.import_module("goals").judge
    unit = 65536.0**2 * 256
    ours = row("us", 10.0, ours=True, peak_extra_bytes=75_000_000)
    rivals = [
        row("wrong", 1.0, exact=False),
        row("slow", 50.0),
        row("fast", 21.0),
        row("absent", None, why="not installed", exact=None),
        row("also us", 2.0, ours=True),
    ]
    found = {g["goal"]: g for g in judge([ours, *rivals], 5 * unit / 0.008, "us")}
    share = found["share of the ceiling"]
    assert share["found"] == pytest.approx(0.8)
    assert share["met"]
    faster = found["times faster than the fastest exact rival"]
    assert (faster["fastest_exact_rival"], faster["met"]) == ("fast", True)
    assert faster["found"] == pytest.approx(2.1)
    memory = found["peak extra bytes"]
    assert memory["at_most"] == pytest.approx(1.1 * (2 * 65536 * 256 * 2 + 16 * 65536))
    assert not memory["met"]  # 75.0 MB of 75.0 MB and a little
    assert found["milliseconds, about"]["met"]


def test_what_was_not_measured_is_neither_met_nor_missed(scripts: Path) -> None:
    judge = importlib.import_module("goals").judge
    found = judge([row("us", None, ours=True, why="out of memory")], 1.0, "us")
    assert found
    assert {goal["met"] for goal in found} == {None}


def test_quantiles_are_of_rounds_in_which_each_takes_its_turn(scripts: Path) -> None:
    timing = importlib.import_module("timing")
    turns: list[str] = []

    def measure(name: str, value: float) -> float:
        turns.append(name)
        return value

    def short_of_memory() -> float:
        raise torch.OutOfMemoryError("too large")

    found = timing.in_turns(
        {"a": lambda: measure("a", 1.0), "b": lambda: measure("b", 2.0), "c": short_of_memory},
        seconds=0,
        least=4,
        seed=0,
    )
    assert found["a"] == {"p20_ms": 1.0, "p50_ms": 1.0, "p80_ms": 1.0, "count": 4}
    assert found["c"] == {"why": "OutOfMemoryError: too large"}
    assert [set(pair) for pair in zip(turns[::2], turns[1::2], strict=True)] == [{"a", "b"}] * 5


def test_the_sanitizer_says_why_it_checked_nothing(scripts: Path, tmp_path: Path) -> None:
    done = run(scripts / "sanitize.py", PATH=str(tmp_path))
    assert done.returncode == 4
    assert "nothing was checked" in done.stderr


def test_the_sanitizer_runs_all_losses(scripts: Path) -> None:
    done = run(scripts / "sanitize.py", "--child", "tiny")
    assert done.returncode == 0, done.stderr
    words = {line.split()[0] for line in done.stdout.splitlines()}
    assert words == {"nt_xent", "dcl", "supcon", "clip_loss", "siglip_loss", "info_nce_queue"}


@pytest.mark.parametrize(("code", "expected"), [(0, "no errors"), (99, "errors were found")])
def test_the_sanitizer_reports_what_the_tool_found(
    scripts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    expected: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\necho "$@" "$PYTORCH_NO_CUDA_MEMORY_CACHING"\nexit {code}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert shutil.which("compute-sanitizer") == str(tool)
    sanitize = importlib.import_module("sanitize")
    assert sanitize.under("memcheck") == code
    said = capfd.readouterr().out
    assert "--tool=memcheck --error-exitcode=99" in said
    assert f"memcheck: {expected}" in said
