"""``edgessl check``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgessl.compiler.check import CheckReport

__all__ = ["check"]

_SHOWN = 12


def check(
    model: Annotated[Path, typer.Argument(help="The .onnx file.")],
    target: Annotated[str, typer.Option(help="A target's name or .toml file.")],
    shape: Annotated[
        list[str] | None, typer.Option(help="Fix an input: input=1x3x320x320; may be repeated.")
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="Put a number in place of an input: sr=16000.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per engine call.")] = 1,
    max_fallback: Annotated[
        int | None, typer.Option(min=0, help="Exit 1 if more nodes than this run elsewhere.")
    ] = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Ask about the graph without the compiler's rewrites.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="List all nodes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say node by node what of a model a target takes, before any long work.

    Exit code 0: the target runs it; 1: it does not, or more than --max-fallback nodes run
    elsewhere than on its accelerator; 2: the model or a shape cannot be used.
    """
    from edgessl.cli import terminal
    from edgessl.compiler.calibration import parse_constants
    from edgessl.compiler.check import CheckGateError, check_model
    from edgessl.compiler.shapes import parse_shapes

    try:
        with terminal.progress() as progress:
            report = check_model(
                model,
                target=target,
                shapes=parse_shapes(shape or []),
                frozen=parse_constants(freeze or [], option="--freeze"),
                batch_size=batch,
                max_fallback=max_fallback,
                as_is=as_is,
                progress=progress,
            )
    except CheckGateError as error:
        _show(error.report, every=every, as_json=as_json)
        raise
    _show(report, every=every, as_json=as_json)


def _show(report: CheckReport, *, every: bool, as_json: bool) -> None:
    from edgessl.cli import terminal

    if as_json:
        terminal.print_json(report.model_dump(mode="json") | {"summary": report.describe()})
        return
    rows: list[list[object]] = []
    for engine in report.engines:
        kinds = Counter((n.op_type, n.placed_on, ", ".join(n.precisions)) for n in engine.nodes)
        rows += [
            [engine.engine, kind, count, place or "nowhere", precisions]
            for (kind, place, precisions), count in sorted(kinds.items())
        ]
    if rows:
        terminal.table(["engine", "operator", "nodes", "runs on", "precisions"], rows)
    nodes = [
        [engine.engine, n.name, n.op_type, n.placed_on or "nowhere", n.problem]
        for engine in report.engines
        for n in engine.nodes
        if every or n.problem
    ]
    shown = nodes if every else nodes[:_SHOWN]
    if shown:
        terminal.table(["engine", "node", "operator", "runs on", "problem"], shown)
    if len(nodes) > len(shown):
        terminal.note(f"{len(nodes) - len(shown)} more nodes have problems; --all lists them")
    for line in _remarks(report):
        terminal.note(line)
    if report.verdict != "refused":
        print(report.describe(), flush=True)


def _remarks(report: CheckReport) -> list[str]:
    lines = [f"rewrite {remark.describe()}" for remark in report.rewrites]
    for engine in report.engines:
        lines.append(f"{engine.engine}: {engine.evidence}")
        lines += [f"{engine.engine}: {line}" for line in (*engine.problems, *engine.remarks)]
    activations = report.activations_bytes
    size = f"weights {report.weights_bytes / 1e6:.2f} MB"
    lines.append(
        size + ("" if activations is None else f", activations {activations / 1e6:.2f} MB")
    )
    return [*lines, *report.problems]
