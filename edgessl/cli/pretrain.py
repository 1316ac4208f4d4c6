"""``edgessl pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["pretrain"]


def pretrain(
    data: Annotated[str, typer.Option(help="Unlabelled samples: folder, tar shards, .npz, …")],
    out: Annotated[Path, typer.Option(help="Run directory to create.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings by name.")
    ] = None,
    method: Annotated[str, typer.Option(help="simclr, byol or mae.")] = "simclr",
    backbone: Annotated[str, typer.Option(help="A timm model name.")] = "resnet18",
    recipe: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run exactly.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run.")] = False,
    init_from: Annotated[Path | None, typer.Option(help="Run to take weights from.")] = None,
    monitor: Annotated[
        str | None, typer.Option(help="Labelled samples for an online kNN accuracy.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a backbone on samples without labels."""
    from edgessl.cli import terminal
    from edgessl.config import parse_overrides, read_toml
    from edgessl.pretraining import pretrain as run_pretrain

    overrides = {**(read_toml(recipe) if recipe else {}), **parse_overrides(settings or [])}
    with terminal.progress() as progress:
        run = run_pretrain(
            data,
            method=method,
            backbone=backbone,
            out=out,
            overrides=overrides,
            resume=resume,
            overwrite=overwrite,
            init_from=init_from,
            monitor=monitor,
            progress=progress,
        )
    terminal.print_run(run, as_json=as_json)
