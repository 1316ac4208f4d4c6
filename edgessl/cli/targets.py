"""``edgessl targets``."""

from __future__ import annotations

from typing import Annotated

import typer

from edgessl.cli import terminal

__all__ = ["targets"]


def targets(
    action: Annotated[str, typer.Argument(help="list or show.")] = "list",
    name: Annotated[str | None, typer.Argument(help="For show: a name or a .toml file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the devices that edgessl compiles for, or show one: what is tried, and what runs here.

    An own target is a TOML file; give its path wherever a target's name is asked for.
    """
    from edgessl.errors import UsageError, nearest
    from edgessl.targets import describe, summaries

    if action == "list" and name is None:
        found = summaries()
        if json:
            terminal.print_json({"targets": [s._asdict() for s in found]})
        else:
            headers = ["family", "target", "arch", "engines", "here", "description"]
            terminal.table(headers, [s.row() for s in found])
    elif action == "show" and name is not None:
        facts = describe(name)
        if json:
            terminal.print_json(facts.model_dump(mode="json"))
        else:
            terminal.table(["key", "value"], facts.rows())
    elif action == "show":
        raise UsageError("which target? name one: edgessl targets show NAME")
    else:
        raise UsageError(f"unknown action '{action}'; {nearest(action, ['list', 'show'])}")
