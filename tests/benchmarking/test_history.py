"""The JSONL of runs: appended by many, cut short by a full disk, read strictly."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from contracts.benchmark_results import result
from edgessl.benchmarking import history
from edgessl.errors import DataError, OutputError, UsageError
from edgessl.progress import ProgressEvent


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """A disk that takes no more than this into one file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


APPENDER = """
import sys
from contracts.benchmark_results import result
from edgessl.benchmarking import history
made = result()
for index in range(20):
    history.append(made, sys.argv[1], label=f"{sys.argv[2]}{index}")
"""


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "h.jsonl"
    made = result()
    history.append(made, path, label="abc123")
    history.append(result((1.0, 1.0), verdict=None), path)
    first, second = history.read(path)
    assert first == history.entry(made, label="abc123")
    assert first.created_utc == made.created_utc
    assert first.env_hash == made.env_hash
    assert first.control_p50_ms == np.median(made.harness.control_p50_ms)
    assert [a.name for a in first.arms] == ["head.edge", "base.edge"]
    arm = first.arms[0]
    assert (arm.p50_ms, arm.p90_ms) == (made.arms[0].latency_p50_ms, made.arms[0].latency_p90_ms)
    assert (arm.size_bytes, arm.peak_memory_bytes) == (6_000_000, 100_000_000)
    assert arm.sha256 == "0" * 64
    assert (first.verdict, first.comparisons[0].verdict) == ("FAIL", "FAIL")
    assert first.comparisons[0].p50_ratio == made.comparisons[0].metric("p50").ratio
    assert (second.label, second.verdict) == ("", None)


def test_each_run_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    history.append(result(), path, label="two\nlines \u2028 and é")
    history.append(result(), path)
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(lines) == 3
    assert lines[-1] == ""
    assert [json.loads(line)["label"] for line in lines[:2]] == ["two\nlines \u2028 and é", ""]
    assert history.read(path)[0].label == "two\nlines \u2028 and é"


@pytest.mark.parametrize("kept", [1, 10, 60, -2])
def test_a_cut_line_is_said_and_skipped_and_the_next_begins_anew(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    for label in ("a", "b"):
        history.append(result(), path, label=label)
    text = path.read_text(encoding="utf-8")
    start = text.index("\n") + 1
    path.write_text(text[:start] + text[start:][:kept], encoding="utf-8")
    events: list[ProgressEvent] = []
    assert [e.label for e in history.read(path, progress=events.append)] == ["a"]
    assert [e.warning for e in events] == [True]
    assert "line 2: was cut short" in str(events[0].message)
    history.append(result(), path, label="c")
    assert [e.label for e in history.read(path)] == ["a", "c"]
    assert path.read_text(encoding="utf-8").startswith(text[:start] + text[start:][:kept] + "\n")


def test_a_missing_line_end_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    history.append(result(), path, label="a")
    path.write_text(path.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
    history.append(result(), path, label="b")
    assert [e.label for e in history.read(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"schema_version":1}', "line 2: created_utc"),
        ('{"schema_version":9,"created_utc":""}', "line 2: "),
        ("[]", "line 2: "),
        ("hello", "line 2: is not an entry"),
    ],
)
def test_what_is_no_entry_is_refused(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    history.append(result(), path)
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        history.read(path)


def test_nothing_is_appended_to_another_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text('{\n  "arms": []\n}\n', encoding="utf-8")
    with pytest.raises(DataError, match="is not a benchmark history"):
        history.append(result(), path)
    assert path.read_text(encoding="utf-8") == '{\n  "arms": []\n}\n'
    (tmp_path / "image").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError):
        history.append(result(), tmp_path / "image")


def test_unreadable_files_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        history.read(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        history.read(tmp_path / "b.jsonl")


def test_an_empty_file_is_an_empty_history(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.touch()
    assert history.read(path) == []
    history.append(result(), path)
    assert len(history.read(path)) == 1


def test_a_long_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="201 characters, 200 are allowed"):
        history.append(result(), tmp_path / "h.jsonl", label="x" * 201)
    assert not (tmp_path / "h.jsonl").exists()


def test_a_full_disk_leaves_the_history_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    history.append(result(), path, label="a")
    before = path.read_bytes()
    with largest_file(len(before) + 100), pytest.raises(OutputError, match=r"h\.jsonl"):
        history.append(result(), path, label="b")
    assert path.read_bytes() == before


def test_many_processes_append_whole_lines(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(path), name],
            env={**os.environ, "PYTHONPATH": str(root / "tests")},
        )
        for name in "abc"
    ]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    labels = [e.label for e in history.read(path)]
    assert sorted(labels) == sorted(f"{name}{i}" for name in "abc" for i in range(20))
