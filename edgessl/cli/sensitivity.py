"""``edgessl sensitivity``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgessl.compiler.layer_losses import SensitivityReport
    from edgessl.compiler.sensitivity import Loss

__all__ = ["sensitivity"]

_SHOWN = 20


def sensitivity(
    model: Annotated[Path, typer.Argument(help="The float .onnx file.")],
    target: Annotated[str, typer.Option(help="A target's name or .toml file.")],
    data: Annotated[Path, typer.Option(help="Data source, or .npz/.npy of model inputs.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="calibration_samples, seed, threads, …"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for sensitivity.json and sensitivity.png.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Held-out samples to judge by.")] = 32,
    precision: Annotated[str, typer.Option(help="auto, int8 or a16w8.")] = "auto",
    engine: Annotated[str | None, typer.Option(help="Only this engine's integers.")] = None,
    method: Annotated[
        str | None, typer.Option(help="Ranges: minmax, percentile, mse, entropy.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Samples per run.")] = 1,
    preprocess: Annotated[
        str | None, typer.Option(help="How images or sounds become the input, as for compile.")
    ] = None,
    constant: Annotated[
        list[str] | None, typer.Option(help="Fill an input that never changes: sr=16000,state=0.")
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="Put a number in place of an input: sr=16000.")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Fix an input of open size: input=1x3x320x320.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List all layers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell which layers lose most by a target's integers, without labels."""
    from edgessl.cli import terminal
    from edgessl.compiler import sensitivity_report
    from edgessl.compiler.calibration import parse_constants
    from edgessl.compiler.shapes import parse_shapes
    from edgessl.config import parse_overrides
    from edgessl.data.calibration import open_media

    named: dict[str, Any] = {
        "samples": samples,
        "precision": precision,
        "engine": engine,
        "method": method,
        "batch_size": batch,
        "preprocess": preprocess,
        "constants": parse_constants(constant or []),
        "freeze": parse_constants(freeze or [], option="--freeze"),
        "shapes": parse_shapes(shape or []),
    }
    with terminal.progress() as progress:
        report = sensitivity_report(
            model,
            target=target,
            data=data,
            out=out,
            overrides={**named, **parse_overrides(settings or [])},
            open_data=open_media,
            progress=progress,
        )
    if as_json:
        terminal.print_json(report.model_dump(mode="json"))
    else:
        _show(report, out, every=every)


def _show(report: SensitivityReport, out: Path | None, *, every: bool) -> None:
    from edgessl.cli import terminal

    figures = ["1 - cosine", "centred"] if report.encoder else ["SQNR dB"]
    shown = report.layers if every else report.layers[:_SHOWN]
    rows = [
        [x.node, x.operator, *_cells(report, x.alone), *_cells(report, x.left_without)]
        for x in shown
    ]
    whole = _cells(report, report.all_quantized)
    rows.append([f"all {len(report.layers)}", "", *whole, *whole])
    alone = [f"{name}, alone" for name in figures]
    without = [f"{name}, all but it" for name in figures]
    terminal.table(["layer", "operator", *alone, *without], rows)
    if len(shown) < len(report.layers):
        terminal.note(f"{len(report.layers) - len(shown)} layers lose less; --all lists them")
    for kind, count in sorted(Counter(x.operator for x in report.left_float).items()):
        names = ", ".join([x.node for x in report.left_float if x.operator == kind][:3])
        more = ", …" if count > 3 else ""
        terminal.note(
            f"{kind}: {report.target} has no integers for {count} of them here, they stay in "
            f"floating point: {names}{more}"
        )
    if out is not None:
        terminal.note(f"wrote {out}/sensitivity.json and sensitivity.png")


def _cells(report: SensitivityReport, loss: Loss) -> list[str]:
    if not loss.finite:
        return ["not finite"] * (2 if report.encoder else 1)
    if report.encoder:
        return [f"{loss.cosine_loss:.6f}", f"{loss.centred_cosine_loss:.6f}"]
    return ["exact" if loss.sqnr_db is None else f"{loss.sqnr_db:.1f}"]
