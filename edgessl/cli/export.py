"""``edgessl export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings by name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a run's encoder as one ONNX file, checked against PyTorch."""
    from edgessl.cli import terminal
    from edgessl.config import parse_overrides
    from edgessl.exporting import export as run_export

    with terminal.progress() as progress:
        report = run_export(
            run, out=out, overrides=parse_overrides(settings or []), progress=progress
        )
    if as_json:
        terminal.print_json(report.model_dump(mode="json"))
        return
    terminal.table(
        ["exported", "value"],
        [
            ("file", report.path),
            ("size", f"{report.size_bytes / 1e6:.2f} MB"),
            ("embedding_dim", report.embedding_dim),
            ("opset", report.opset),
            ("max abs difference to PyTorch", f"{report.max_abs_difference:.1e}"),
            ("min cosine to PyTorch", f"{report.min_cosine:.7f}"),
        ],
    )
