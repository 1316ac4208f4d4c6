"""``edgessl infer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgessl.cli import terminal

__all__ = ["infer"]


def infer(
    bundle: Annotated[Path, typer.Argument(help="The .edge file.")],
    inputs: Annotated[
        list[Path], typer.Argument(help="Images, folders of images, .npy or .npz arrays.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the embeddings here as .npy, (N, D) float32.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Engine threads instead of the bundle's; 0: all cores.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="With --out too: print one JSON object.")
    ] = False,
) -> None:
    """Embed images and arrays; without --out the embeddings are printed as JSON.

    A file that cannot be read is named and left out; the others are embedded and written, and
    the exit code is 2.
    """
    from edgessl.runtime import infer as embed
    from edgessl.runtime import write_embeddings

    with terminal.progress() as progress:
        result = embed(bundle, inputs, threads=threads, progress=progress)
    if out is not None:
        write_embeddings(out, result.values)
    if out is None or json:
        terminal.print_json(result.to_json(out))
    else:
        rows, dim = result.values.shape
        terminal.table(["rows", "dim", "file"], [[rows, dim, out]])
    for _, reason in result.corrupt:
        terminal.note(f"skipped: {reason}")
    result.require_complete()
