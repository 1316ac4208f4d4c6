"""``edgessl verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgessl.cli import terminal

__all__ = ["verify"]


def verify(
    bundle: Annotated[Path, typer.Argument(help="The .edge file.")],
    threads: Annotated[
        int | None, typer.Option(help="Engine threads instead of the bundle's; 0: all cores.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a bundle's structure and hashes, and run its canaries on this machine.

    Exit code 0: whole and correct; 1: the canaries differ; 2: damaged or unsafe; 4: the engine
    is not installed here.
    """
    from edgessl.runtime import verify as check

    report = check(bundle, threads=threads)
    if json:
        terminal.print_json({**report.model_dump(mode="json"), "passed": report.passed})
    else:
        canaries = report.canaries.describe() if report.canaries else "not run"
        rows = [
            ["bundle", f"{report.bundle} ({report.kind}, {report.size_bytes} bytes)"],
            ["hashes", f"{report.files} files match"],
            ["engine", f"{report.engine} {report.engine_version_here or 'not asked'}"],
            ["canaries", canaries],
        ]
        terminal.table(["check", "result"], rows)
    for remark in report.remarks:
        terminal.note(remark)
    report.require_passed()
