"""``edgessl distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["distill"]


def distill(
    student: Annotated[
        str, typer.Option(help="A timm model, like resnet18@0.25; with --budget, a family.")
    ],
    data: Annotated[str, typer.Option(help="Unlabelled samples: folder, tar shards, .npz, …")],
    out: Annotated[Path, typer.Option(help="Run directory to create.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings by name.")
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="A run, .onnx, timm:NAME, hf:NAME or folder of it; several: repeat."),
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
    for_target: Annotated[
        str | None, typer.Option(help="Train the student with this device's integers.")
    ] = None,
    float_run: Annotated[
        Path | None, typer.Option(help="A finished run whose float phase is not repeated.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="The student may cost: 5ms@TARGET, 1MB, 200MFLOPs; repeat for more."),
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Measure that there: ssh://user@host.", metavar="DEVICE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Teach a compact student what a frozen teacher sees, without labels."""
    from edgessl.cli import terminal
    from edgessl.config import nest_tables, parse_overrides, read_toml
    from edgessl.distillation import distill as run_distill

    given = nest_tables(parse_overrides(settings or []))
    overrides = {**(read_toml(recipe) if recipe else {}), **given}
    with terminal.progress() as progress:
        run = run_distill(
            teacher or None,
            student,
            data,
            out=out,
            overrides=overrides,
            teacher_weights=teacher_weights,
            resume=resume,
            overwrite=overwrite,
            monitor=monitor,
            for_target=for_target,
            float_run=float_run,
            budget=budget or (),
            on=on,
            progress=progress,
        )
    terminal.print_run(run, as_json=as_json)
