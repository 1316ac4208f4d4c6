"""``edgessl finalize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgessl.cli import terminal

__all__ = ["finalize"]


def finalize(
    bundle: Annotated[Path, typer.Argument(help="The .edge file.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the native bundle goes; default: in place.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="A thread count to try; repeat for more.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns that every setting gets.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """On the device: measure engine settings, keep the fastest, check the canaries, write.

    Exit code 1: this device does not reproduce the canaries; nothing is written.
    """
    from edgessl.runtime import finalize as finish

    with terminal.progress() as progress:
        report = finish(bundle, out, threads=threads, rounds=rounds, progress=progress)
    if json:
        terminal.print_json(report.model_dump(mode="json"))
        return
    rows = [
        [s.name, f"{s.latency_p50_ms:.3g}", f"{s.latency_p90_ms:.3g}", s.runs, mark]
        for s in report.settings
        for mark in ["chosen" if s == report.chosen else ""]
    ]
    terminal.table([report.engine, "p50 ms", "p90 ms", "runs", ""], rows)
    terminal.note(f"{report.out}: {report.canaries.describe()}")
