from __future__ import annotations

import json

import pytest

from edgessl.cli import terminal
from edgessl.progress import ProgressEvent


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_tables_align_words_left_and_numbers_right(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(["name", "ms"], [("a", 1.5), ("long", 22)], title="latency")
    assert capsys.readouterr().out.splitlines() == [
        *("latency", "name   ms", "----  ---", "a     1.5", "long   22", "")
    ]


def test_a_table_may_have_no_rows_and_empty_cells(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(["name", "ms"], [])
    terminal.table(["name", "ms"], [("a", None)])
    assert capsys.readouterr().out == "name  ms\n----  --\n\nname  ms\n----  --\na\n\n"


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({"a": [float("nan"), 1.0], "b": (float("inf"), "x")})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.0], "b": [None, "x"]}


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.note("so far")
    assert capsys.readouterr() == ("", "so far\n")


def test_plain_lines_come_every_ten_seconds_and_at_the_end() -> None:
    lines: list[str] = []
    clock = Clock()
    show = terminal.plain_progress(lines.append, clock)
    for step in range(1, 31):
        clock.now = float(step)
        show(ProgressEvent("pretrain", step, 30, metrics={"loss": 1 / step}))
    show(ProgressEvent("pretrain", 30, 30))
    assert lines == [
        "pretrain: 11/30 steps loss 0.09091",
        "pretrain: 21/30 steps loss 0.04762",
        "pretrain: 30/30 steps loss 0.03333",
    ]


def test_a_stage_that_runs_twice_ends_twice() -> None:
    lines: list[str] = []
    show = terminal.plain_progress(lines.append, Clock())
    for completed in (0, 5, 0, 5):
        show(ProgressEvent("embed", completed, 5, "samples"))
    assert lines == ["embed: 5/5 samples"] * 2


def test_messages_are_written_at_once() -> None:
    lines: list[str] = []
    show = terminal.plain_progress(lines.append, Clock())
    show(ProgressEvent("decode", 0, 5, message="3 files are corrupt", warning=True))
    show(ProgressEvent("decode", message="done"))
    assert lines == ["warning: decode: 3 files are corrupt", "decode: done"]


def test_without_a_terminal_progress_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as progress:
        progress(ProgressEvent("export", 2, 2, "stages"))
    assert capsys.readouterr() == ("", "export: 2/2 stages\n")


def test_on_a_terminal_progress_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with terminal.progress() as progress:
        progress(ProgressEvent("pretrain", 0, 4))
        progress(ProgressEvent("pretrain", 4, 4, metrics={"loss": 0.5}))
        progress(ProgressEvent("pretrain", message="[started]"))
        progress(ProgressEvent("pretrain", 1, 4, metrics={"loss": 0.25}))
    said = capsys.readouterr()
    assert said.out == ""
    assert "[started]" in said.err
    assert "1/4" in said.err
    assert "loss 0.25" in said.err


def test_a_table_stands_above_the_bar_while_it_grows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    # Rich draws while it lives only on a terminal; here it draws as it would.
    monkeypatch.setenv("FORCE_COLOR", "1")
    rows = (("arm", "p50 ms"), ("[bold]head.edge", "1.25"))
    with terminal.progress() as progress:
        progress(ProgressEvent("benchmark", 1, 4, unit="blocks", table=rows))
        progress(ProgressEvent("benchmark", 2, 4, unit="blocks"))
    said = capsys.readouterr()
    assert said.out == ""
    table, _, bar = said.err.partition("[bold]head.edge")
    assert "p50 ms" in table
    assert "1.25" in bar
