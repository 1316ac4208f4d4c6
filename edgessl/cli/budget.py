"""``edgessl budget``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["budget"]


def budget(
    family: Annotated[
        str, typer.Argument(help="A family, models with commas between them, or a .toml file.")
    ],
    budgets: Annotated[
        list[str], typer.Argument(metavar="BUDGET…", help="5ms@TARGET, 1MB, 200MFLOPs, …")
    ],
    data: Annotated[str, typer.Option(help="The training data; it calibrates.")],
    image_size: Annotated[int | None, typer.Option(help="Largest side in pixels.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Compile for this one [default: the target's integers].")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Measure there: ssh://user@host[:port].", metavar="DEVICE")
    ] = None,
    on_python: Annotated[
        str, typer.Option(help="The device's Python, like venv/bin/python.", metavar="PATH")
    ] = "python3",
    remeasure: Annotated[bool, typer.Option("--remeasure", help="Measure all anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the largest student that fits a budget, by compiling and measuring candidates."""
    from edgessl.cli import terminal
    from edgessl.distillation.budget import HEADERS, NothingFitsError, choose_student, rows

    try:
        with terminal.progress() as progress:
            choice = choose_student(
                family,
                budgets,
                data,
                image_size=image_size,
                precision=precision,
                on=on,
                python=on_python,
                remeasure=remeasure,
                progress=progress,
            )
    except NothingFitsError as error:
        if as_json:
            tried = [entry.model_dump(mode="json") for entry in error.tried]
            terminal.print_json({"student": None, "tried": tried})
        elif error.tried:
            terminal.table(HEADERS, rows(error.tried))
        raise
    if as_json:
        terminal.print_json(choice.model_dump(mode="json"))
        return
    terminal.table(HEADERS, rows(choice.tried))
    for remark in choice.remarks:
        terminal.note(remark)
    height, width = choice.image_size
    size = height if height == width else f"[{height}, {width}]"
    terminal.note(f"train it with --student {choice.student} image_size={size}")
