"""``edgessl benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgessl.cli import terminal

__all__ = ["benchmark"]


def benchmark(
    arms: Annotated[
        list[Path],
        typer.Argument(help="Bundles (.edge), models (.onnx, .xml), runs.", metavar="ARM…"),
    ],
    against: Annotated[
        list[Path] | None, typer.Option(help="Compare every arm with this one; repeat for more.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of every arm; 0: all physical cores.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Blocks of each arm.")] = 12,
    block_seconds: Annotated[float, typer.Option(help="Length of a block.")] = 0.25,
    seed: Annotated[int, typer.Option(help="Of the order and of synthetic inputs.")] = 0,
    json: Annotated[
        Path | None, typer.Option(help="Write everything here as JSON; - prints it instead.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables here.")] = None,
) -> None:
    """Measure latency, memory and size side by side: own processes, blocks in turns, batch 1."""
    from edgessl.benchmarking import BenchmarkOptions, tables
    from edgessl.benchmarking import benchmark as measure
    from edgessl.config import build_options
    from edgessl.files import write_json, write_text

    values = {"threads": threads, "rounds": rounds, "block_seconds": block_seconds, "seed": seed}
    options = build_options(BenchmarkOptions, values, where="benchmark")
    with terminal.progress() as progress:
        result = measure(arms, against=against or [], options=options, progress=progress)
    if markdown is not None:
        write_text(markdown, tables.to_markdown(result))
    if json is not None and str(json) == "-":
        terminal.print_json(result.model_dump(mode="json"))
        return
    if json is not None:
        write_json(json, result.model_dump(mode="json"))
    terminal.table(tables.ARM_HEADERS, tables.arm_rows(result))
    if result.comparisons:
        terminal.table(tables.COMPARISON_HEADERS, tables.comparison_rows(result))
    for remark in result.remarks:
        terminal.note(remark)
