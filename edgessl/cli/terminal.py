"""What a person sees: results to stdout, progress bars and remarks to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgessl.errors import printable
from edgessl.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    import rich.progress
    import rich.table

    from edgessl.run_directory import RunDirectory

__all__ = ["note", "plain_progress", "print_json", "print_run", "progress", "table"]

_PLAIN_INTERVAL_S = 10.0


def note(text: str) -> None:
    """Write a remark to stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Write one JSON object to stdout; NaN and infinity become null, as JSON has neither."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False), flush=True)


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None
) -> None:
    """Write a table and an empty line to stdout: numbers to the right, no wrapping."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    right = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        )
        return "  ".join(aligned).rstrip()

    lines = [line(headers), "  ".join("-" * width for width in widths), *map(line, cells)]
    print("\n".join([title, *lines] if title else lines), end="\n\n", flush=True)


def print_run(run: RunDirectory, *, as_json: bool) -> None:
    """Write where a finished run is and the last figure of each kind that it logged.

    A student that was trained for a target's integers has a second phase, with figures of its own.
    """
    phases = [("float", run)]
    if run.student_path.is_file():
        phases.append(("integers", type(run)(run.integers_path)))
    figures = {name: _last_figures(phase) for name, phase in phases}
    if as_json:
        places = {"run": str(run.path), "encoder": str(run.encoder_path)}
        if len(phases) > 1:
            places["student"] = str(run.student_path)
        second = {"integer_metrics": figures["integers"]} if len(phases) > 1 else {}
        print_json({**places, "metrics": figures["float"], **second})
        return
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    rows = [
        (name, *(_figure(values.get(name, "")) for values in figures.values())) for name in names
    ]
    paths = [("run", str(run.path)), ("student", str(run.student_path))][: len(phases)]
    header = ["finished", *(["value"] if len(phases) == 1 else figures)]
    table(header, [(name, place, *[""] * (len(phases) - 1)) for name, place in paths] + rows)


def _last_figures(run: RunDirectory) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for entry in run.metrics():
        last.update(entry)
    return last


@contextmanager
def progress() -> Iterator[Progress]:
    """Give a progress callback: bars on a terminal, else a plain line every ten seconds."""
    if not sys.stderr.isatty():
        yield plain_progress(note)
        return
    from rich.console import Console, Group
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    class BarsAndTable(Bars):
        """Bars with the table of the last event above them."""

        rows: tuple[tuple[str, ...], ...] = ()

        def get_renderable(self) -> Group:
            parts = [_rich_table(self.rows)] if self.rows else []
            return Group(*parts, *self.get_renderables())

    bars = BarsAndTable(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[metrics]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
    with bars:
        show = _bar_progress(bars)

        def show_with_table(event: ProgressEvent) -> None:
            bars.rows = event.table or bars.rows
            show(event)

        yield show_with_table
        bars.rows = ()  # the result comes as a table of its own


def _bar_progress(bars: rich.progress.Progress) -> Progress:
    tasks: dict[str, rich.progress.TaskID] = {}

    def show(event: ProgressEvent) -> None:
        if event.message is not None:
            bars.console.print(_remark(event), markup=False, highlight=False)
            return
        if event.stage not in tasks:
            tasks[event.stage] = bars.add_task(event.stage, total=event.total, unit="", metrics="")
        task = tasks[event.stage]
        if event.completed < bars.tasks[bars.task_ids.index(task)].completed:
            bars.reset(task, total=event.total)  # the same stage runs again
        bars.update(
            task,
            completed=event.completed,
            total=event.total,
            unit=event.unit,
            metrics=_figures(event.metrics),
        )

    return show


def _rich_table(rows: tuple[tuple[str, ...], ...]) -> rich.table.Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))
    return table


def plain_progress(
    write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Progress:
    """A callback that writes a line when a stage ends, and every ten seconds before.

    Args:
        write: Takes one line.
        clock: Seconds, monotonic.
    """
    written: dict[str, float] = {}
    ended: set[str] = set()

    def show(event: ProgressEvent) -> None:
        if event.message is not None:
            write(_remark(event))
            return
        now = clock()
        since = now - written.setdefault(event.stage, now)
        done = event.total is not None and event.completed >= event.total
        due = event.stage not in ended if done else since >= _PLAIN_INTERVAL_S
        if not done:
            ended.discard(event.stage)
        if not due:
            return
        if done:
            ended.add(event.stage)
        written[event.stage] = now
        of = "" if event.total is None else f"/{event.total}"
        figures = _figures(event.metrics)
        write(f"{event.stage}: {event.completed}{of} {event.unit} {figures}".rstrip())

    return show


def _remark(event: ProgressEvent) -> str:
    return f"{'warning: ' if event.warning else ''}{event.stage}: {event.message}"


def _figures(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name} {_figure(value)}" for name, value in metrics.items())


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return not text or text.lstrip("+-±×−").lstrip()[:1].isdigit()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0.0:
        return None
    return value
