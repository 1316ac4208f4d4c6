"""``edgessl verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgessl.cli import terminal

if TYPE_CHECKING:
    from edgessl.runtime.model import Place

__all__ = ["verify"]


def verify(
    bundle: Annotated[Path, typer.Argument(help="The .edge file.")],
    threads: Annotated[
        int | None, typer.Option(help="Engine threads instead of the bundle's; 0: all cores.")
    ] = None,
    on: Annotated[
        str, typer.Option(help="Where canaries run: device, emulator, or host (another engine).")
    ] = "device",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a bundle's structure and hashes, and run its canaries on this machine.

    Exit code 0: whole and correct; 1: the canaries differ; 2: damaged or unsafe; 4: the engine
    is not installed here.
    """
    from edgessl.errors import UsageError, nearest
    from edgessl.runtime import verify as check

    if on not in ("device", "emulator", "host"):
        raise UsageError(f"--on {on}: {nearest(on, ['device', 'emulator', 'host'])}")
    report = check(bundle, threads=threads, on=cast("Place", on))
    if json:
        terminal.print_json({**report.model_dump(mode="json"), "passed": report.passed})
    else:
        canaries = report.canaries.describe() if report.canaries else "not run"
        rows = [
            ["bundle", f"{report.bundle} ({report.kind}, {report.size_bytes} bytes)"],
            ["hashes", f"{report.files} files match"],
            ["engine", f"{report.engine} {report.engine_version}"],
            ["ran by", f"{report.ran_by} {report.engine_version_here}" if report.ran_by else "-"],
            ["canaries", canaries],
        ]
        terminal.table(["check", "result"], rows)
    for remark in report.remarks:
        terminal.note(remark)
    report.require_passed()
