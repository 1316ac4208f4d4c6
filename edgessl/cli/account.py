"""``edgessl account``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgessl.distillation.account import Account

__all__ = ["account"]


def account(
    run: Annotated[Path, typer.Argument(help="A run of distill.")],
    data: Annotated[str, typer.Option(help="The samples that it was trained on.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings by name.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labelled samples: kNN, linear and 5-shot accuracy.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A compiled model to judge too: .edge or .onnx.")
    ] = None,
    teacher: Annotated[
        list[str] | None, typer.Option(help="Where its teacher is now; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; else RUN/account.")] = None,
    samples: Annotated[int, typer.Option(help="Samples of each part, at most.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a student kept of its teacher, and where it lost the rest; without labels."""
    from edgessl.cli import terminal
    from edgessl.config import parse_overrides
    from edgessl.distillation.account import account as run_account

    with terminal.progress() as progress:
        found = run_account(
            run,
            data,
            teachers=teacher or (),
            bundle=bundle,
            labels=labels,
            out=out,
            overrides={"samples": samples, **parse_overrides(settings or [])},
            progress=progress,
        )
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
        return
    _show(found)
    terminal.note(f"wrote {(out or run / 'account') / 'account.md'}")


def _show(found: Account) -> None:
    from edgessl.cli import terminal

    stages = ("capacity", "distillation", "quantization", "total")
    rows = []
    for loss in found.losses:
        intervals = [getattr(loss, stage) for stage in stages]
        rows.append([loss.role, *("" if i is None else f"{i.value:.3f}" for i in intervals)])
    if rows:
        terminal.table(["lost up to", *stages], rows)
    terminal.table(
        ["alike", "part", "similarity", "CKA", "neighbours"],
        [
            [
                f"{a.first} → {a.second}",
                a.part,
                *(f"{i.value:.3f}" for i in (a.similarity, a.cka, a.neighbours)),
            ]
            for a in found.agreements
        ],
    )
    terminal.table(["what to do"], [[sentence] for sentence in found.advice])
    for sentence in found.missing:
        terminal.note(f"not looked at: {sentence}")
