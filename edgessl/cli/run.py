"""``edgessl run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["run"]


def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a .toml file.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[key=value]...", help="For all stages that know the key, or stage.key=value."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the outputs [default: runs/NAME].")
    ] = None,
    force: Annotated[
        list[str] | None, typer.Option(help="A stage to run even if nothing changed; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a recipe; stages whose inputs did not change come from the cache."""
    from edgessl.cli import terminal
    from edgessl.config import parse_overrides
    from edgessl.pipeline import run_recipe

    with terminal.progress() as progress:
        report = run_recipe(
            recipe,
            out=out or Path("runs") / recipe.stem,
            overrides=parse_overrides(settings or []),
            force=force or (),
            progress=progress,
        )
    if as_json:
        terminal.print_json(report.model_dump(mode="json"))
        return
    rows = [
        (s.name, s.verb, s.status, f"{s.seconds:.1f}", s.reason, s.output) for s in report.stages
    ]
    terminal.table(["stage", "verb", "status", "seconds", "why", "output"], rows)
