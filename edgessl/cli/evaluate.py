"""``edgessl evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["evaluate"]


def evaluate(
    subject: Annotated[
        str,
        typer.Argument(help="A run, model.onnx, model.edge, random:BACKBONE or pixels."),
    ],
    data: Annotated[str, typer.Option(help="Labelled samples: folder per class, .npz, …")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings by name.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="Any of knn, linear, fewshot, separated by commas.")
    ] = "knn,linear,fewshot",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge an embedding with few labels: kNN, linear probe, few-shot."""
    from edgessl.cli import terminal
    from edgessl.config import parse_overrides
    from edgessl.evaluation import evaluate as run_evaluate

    with terminal.progress() as progress:
        report = run_evaluate(
            subject,
            data,
            protocols=[name.strip() for name in protocol.split(",")],
            overrides=parse_overrides(settings or []),
            progress=progress,
        )
    if report.split == "drawn":
        terminal.note(f"the data declare no test part: split drawn by class, seed {report.seed}")
    if as_json:
        terminal.print_json(report.to_json())
        return
    rows = [
        (name, f"{100 * value:.1f} %", f"± {100 * report.scores[f'{name}_std']:.1f}")
        for name, value in report.scores.items()
        if not name.endswith("_std")
    ]
    title = f"{report.subject}: {report.train_samples} train, {report.test_samples} test samples"
    terminal.table(["score", "mean", "deviation"], rows, title=title)
    terminal.table(
        ["label-free", "value"],
        [
            ("embedding_dim", report.embedding_dim),
            ("effective_rank", f"{report.effective_rank:.1f}"),
            ("uniformity", f"{report.uniformity:.2f}"),
        ],
    )
