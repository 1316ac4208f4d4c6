"""``edgessl compare``: one result judged again, two side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.benchmark_results import environment, result
from contracts.stored_results import stored, write_result
from edgessl.benchmarking.result import BenchmarkResult
from edgessl.cli.main import main


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        ([], 1, "error: FAIL: head.edge against base.edge"),
        (["--fail-above", "1.2", "--pass-below", "1.3"], 0, ""),
        (["--fail-above", "1.0999", "--pass-below", "1.1001"], 3, "error: INCONCLUSIVE"),
        (["--gate", "none"], 0, ""),
        (["--gate", "size, memory"], 0, ""),
        (["--gate", "speed"], 2, "error: compare: metrics.0"),
        (["--gate", "none", "--fail-above", "1.01"], 2, "margins without metrics judge nothing"),
        (["--fail-above", "1.2"], 2, "fail_above must be less than pass_below"),
    ],
)
def test_one_file_is_judged_again(
    options: list[str],
    code: int,
    word: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare", str(write_result(tmp_path)), *options]) == code
    said = capsys.readouterr()
    assert word in said.err
    assert said.err.count("error:") == (code != 0)
    if code != 2:
        assert "p50" in said.out


def test_an_invalid_run_ends_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = edited(write_result(tmp_path), lambda v: v["harness"].update(problems=["it throttled"]))
    assert main(["compare", str(path)]) == 4
    assert "INVALID: it throttled" in capsys.readouterr().err


def test_json_is_the_judged_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--json", "--fail-above", "1.2", "--pass-below", "1.3"]
    assert main(["compare", str(write_result(tmp_path)), *options]) == 0
    value = BenchmarkResult.model_validate_json(capsys.readouterr().out)
    assert value.verdict == "PASS"
    assert value.protocol.gate.fail_above == 1.2


def test_two_files_are_shown_without_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_result(tmp_path)
    second = write_result(tmp_path, result((1.0, 1.0), seed=2), "old.json")
    for sidecar in tmp_path.glob("*.gz"):
        sidecar.unlink()  # they are not needed here
    assert main(["compare", str(first), str(second)]) == 0
    said = capsys.readouterr()
    assert "no verdict: between sessions" in said.err
    assert "PASS" not in said.out + said.err
    assert "FAIL" not in said.out + said.err
    assert main(["compare", str(first), str(second), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["pairs"][0]["metrics"][0]["ratio"] == pytest.approx(1.1, rel=0.01)
    assert main(["compare", str(first), str(second), "--fail-above", "1.01"]) == 2
    assert "get no verdict" in capsys.readouterr().err


def test_two_files_of_other_machines_end_with_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_result(tmp_path)
    made = stored(result(), environment=environment(governor="powersave"))
    second = write_result(tmp_path, made, "old.json")
    assert main(["compare", str(first), str(second)]) == 4
    assert "governor: 'performance' and 'powersave'" in capsys.readouterr().err
