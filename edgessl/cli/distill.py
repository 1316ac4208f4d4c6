"""``edgessl distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["distill"]


def distill(
    teacher: Annotated[str, typer.Option(help="A run, or timm:NAME with published weights.")],
    student: Annotated[str, typer.Option(help="A timm model name.")],
    data: Annotated[str, typer.Option(help="Unlabelled samples: folder, tar shards, .npz, …")],
    out: Annotated[Path, typer.Option(help="Run directory to create.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings by name.")
    ] = None,
    teacher_weights: Annotated[
        Path | None, typer.Option(help="Weights of a named teacher, .safetensors.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run exactly.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run.")] = False,
    monitor: Annotated[
        str | None, typer.Option(help="Labelled samples for an online kNN accuracy.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Teach a compact student what a frozen teacher sees, without labels."""
    from edgessl.cli import terminal
    from edgessl.config import parse_overrides, read_toml
    from edgessl.distillation import distill as run_distill

    overrides = {**(read_toml(recipe) if recipe else {}), **parse_overrides(settings or [])}
    with terminal.progress() as progress:
        run = run_distill(
            teacher,
            student,
            data,
            out=out,
            overrides=overrides,
            teacher_weights=teacher_weights,
            resume=resume,
            overwrite=overwrite,
            monitor=monitor,
            progress=progress,
        )
    terminal.print_run(run, as_json=as_json)
