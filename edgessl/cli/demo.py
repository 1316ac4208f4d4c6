"""``edgessl demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]

_NEXT = (
    "next, on your own folder of images:\n"
    "  edgessl pretrain --data FOLDER --method simclr --backbone resnet18 --out runs/teacher"
)


def demo(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="Settings, as for edgessl run."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("demo-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Pretrain, distil, quantize and measure on handwritten digits, in a few minutes."""
    from edgessl.cli import terminal
    from edgessl.config import parse_overrides
    from edgessl.demo import run_demo

    with terminal.progress() as progress:
        report = run_demo(out, overrides=parse_overrides(settings or []), progress=progress)
    if as_json:
        terminal.print_json(report.model_dump(mode="json"))
        return
    rows = [(s.name, f"{100 * s.accuracy:.1f}", f"{100 * s.deviation:.1f}") for s in report.scores]
    terminal.table(["features", "5 labels per class, %", "± over draws"], rows)
    engines = [
        (
            e.name,
            f"{e.size_bytes / 1e6:.2f}",
            f"{e.latency_p50_ms:.3f}",
            f"{e.latency_p90_ms:.3f}",
            f"{100 * e.accuracy:.1f}",
            e.runs,
        )
        for e in report.engines
    ]
    headers = ["student in", "MB", "p50 ms", "p90 ms", "accuracy, %", "runs"]
    title = f"\nbatch 1, {report.engines[0].threads} thread(s), {report.cpu}"
    terminal.table(headers, engines, title=title)
    for name, value in (
        ("chosen for this CPU", report.chosen),
        ("bundle", report.bundle),
        ("picture", report.picture),
    ):
        print(f"{name}: {value}")
    terminal.note(_NEXT)
