"""``edgessl compile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgessl.bundle.manifest import Candidate
    from edgessl.compiler import CompileReport

__all__ = ["compile_"]


def compile_(
    model: Annotated[Path, typer.Argument(help="The .onnx file.")],
    target: Annotated[str, typer.Option(help="A target's name or .toml file.")],
    calibration: Annotated[
        Path, typer.Option(help="Data source, or .npz/.npy of model inputs; 500 samples are good.")
    ],
    out: Annotated[Path, typer.Option(help="The .edge file to write.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="samples, held_out, seed, threads, …"),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto, or only fp32, bf16, fp16, int8, a16w8, w8, w4.")
    ] = "auto",
    engine: Annotated[str | None, typer.Option(help="Only this engine.")] = None,
    min_fidelity: Annotated[
        float | None, typer.Option(help="Least mean cosine to float32 [default: the target's].")
    ] = None,
    batch: Annotated[int, typer.Option(help="Samples per engine call.")] = 1,
    preprocess: Annotated[
        str | None,
        typer.Option(
            help="How images or sounds become the input: size=240x320,mean=127,std=128,"
            "range=0-255,layout=nchw,order=bgr or rate=16000,samples=576 "
            "[default: the model's metadata]."
        ),
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
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON here.")] = None,
    remeasure: Annotated[bool, typer.Option("--remeasure", help="Measure latency anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compile a model for a target: try the candidates, keep the fastest that stays faithful."""
    from edgessl.cli import terminal
    from edgessl.compiler import FidelityGateError, compile_model
    from edgessl.compiler.calibration import parse_constants
    from edgessl.compiler.shapes import parse_shapes
    from edgessl.config import parse_overrides
    from edgessl.data.calibration import open_media

    named: dict[str, Any] = {
        "precision": precision,
        "engine": engine,
        "min_fidelity": min_fidelity,
        "batch_size": batch,
        "remeasure": remeasure,
        "preprocess": preprocess,
        "constants": parse_constants(constant or []),
        "freeze": parse_constants(freeze or [], option="--freeze"),
        "shapes": parse_shapes(shape or []),
    }
    try:
        with terminal.progress() as progress:
            result = compile_model(
                model,
                target=target,
                calibration=calibration,
                out=out,
                overrides={**named, **parse_overrides(settings or [])},
                open_data=open_media,
                report=report,
                progress=progress,
            )
    except FidelityGateError as error:
        _show(error.report, as_json=as_json)
        raise
    _show(result, as_json=as_json)


def _show(report: CompileReport, *, as_json: bool) -> None:
    from edgessl.cli import terminal

    if as_json:
        terminal.print_json(report.model_dump(mode="json"))
        return
    figures = ["cosine", "p1", "centred", "neighbours"] if report.gate.encoder else ["SQNR dB"]
    rows = []
    for c in report.candidates:
        size = "" if c.size_bytes is None else f"{c.size_bytes / 1e6:.2f}"
        latency = [_ms(c.latency_p50_ms), _ms(c.latency_p90_ms)] if report.measured else []
        rows.append([c.name, c.status, *latency, size, *_figures(c, len(figures)), c.reason])
    times = ["p50 ms", "p90 ms"] if report.measured else []
    terminal.table(["candidate", "status", *times, "MB", *figures, "why"], rows)
    if report.bundle is not None:
        kind = report.manifest.kind if report.manifest else ""
        terminal.note(f"wrote {report.bundle} ({(report.size_bytes or 0) / 1e6:.2f} MB, {kind})")
    if report.bundle is not None and not report.measured:
        terminal.note("this machine is no such device: nothing was timed, see the reasons")


def _figures(candidate: Candidate, count: int) -> list[str]:
    f = candidate.fidelity
    if f is None or not f.finite:
        return [""] * count
    if count == 1:
        return ["exact" if f.sqnr_db is None else f"{f.sqnr_db:.1f}"]
    figures = (f.cosine_mean, f.cosine_p1, f.centred_cosine_mean, f.neighbour_agreement)
    return [f"{x:.4f}" for x in figures]


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
