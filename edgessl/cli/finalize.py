"""``edgessl finalize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgessl.cli import terminal

if TYPE_CHECKING:
    from edgessl.runtime import FinalizeReport

__all__ = ["finalize"]


def finalize(
    bundle: Annotated[Path, typer.Argument(help="The .edge file.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the native bundle goes; default: in place.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="A thread count to try on a CPU; repeat for more.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns that every setting gets.")] = 5,
    workspace: Annotated[
        int | None, typer.Option(help="TensorRT: most scratch memory of a layer, in MiB.")
    ] = None,
    dla_core: Annotated[
        int | None, typer.Option(help="TensorRT: the deep-learning accelerator to build for.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """On the device: finish every build, keep the fastest that reproduces its canaries, write.

    Exit code 1: this device does not reproduce the canaries, or an engine computes in another
    precision than asked; 4: this machine is not what the bundle needs. Nothing is written then.
    """
    from edgessl.runtime import finalize as finish

    with terminal.progress() as progress:
        report = finish(
            bundle,
            out,
            threads=threads,
            rounds=rounds,
            workspace_mib=workspace,
            dla_core=dla_core,
            progress=progress,
        )
    if json:
        terminal.print_json(report.model_dump(mode="json"))
    else:
        _show(report)


def _show(report: FinalizeReport) -> None:
    if len(report.builds) > 1:
        builds = [[b.name, b.status, b.reason] for b in report.builds]
        terminal.table(["build", "here", "reason"], builds)
    rows = [
        [s.name, f"{s.latency_p50_ms:.3g}", f"{s.latency_p90_ms:.3g}", s.runs, mark]
        for s in report.settings
        for mark in ["chosen" if s == report.chosen else ""]
    ]
    terminal.table([report.engine, "p50 ms", "p90 ms", "runs", ""], rows)
    for remark in report.remarks:
        terminal.note(remark)
    terminal.note(f"{report.out}: {report.canaries.describe()}")
