"""From an ONNX file to a verified bundle for a target."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgessl.compiler.calibration import (
    CalibrationInput,
    OpenData,
    open_calibration,
    split_indices,
    store,
)
from edgessl.compiler.fidelity import Gate
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.packing import finish
from edgessl.compiler.process import Worker, WorkerFailure
from edgessl.compiler.report import CompileReport
from edgessl.compiler.samples import Samples
from edgessl.compiler.search import Search, select_candidates
from edgessl.config import Options, build_options
from edgessl.errors import ModelError, UnavailableError
from edgessl.files import output_errors
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.targets import Target, detect, load_target

__all__ = ["CompileOptions", "compile_model"]


class CompileOptions(Options):
    """What a caller may choose.

    Attributes:
        precision: Only candidates of this precision; ``"auto"`` tries all.
        engine: Only candidates of this engine; None tries all.
        min_fidelity: Least mean cosine to the float32 model; None takes the target's.
        samples: Calibration samples; None takes the target's number.
        held_out: Samples that the fidelity gate judges by.
        seed: Draws the samples.
        threads: Engine threads; 0 is all physical cores.
        batch_size: Samples per engine call.
        max_corrupt: Share of unreadable calibration samples that is tolerated.
        remeasure: Measure latency anew even if the same candidates were measured here before.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "a16w8"] = "auto"
    engine: str | None = None
    min_fidelity: Annotated[float, Field(gt=0, le=1)] | None = None
    samples: Annotated[int, Field(ge=8, le=100_000)] | None = None
    held_out: Annotated[int, Field(ge=8, le=10_000)] = 200
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    max_corrupt: Annotated[float, Field(ge=0, le=1)] = 0.01
    remeasure: bool = False


def compile_model(
    model: str | Path,
    *,
    target: str | Path | Target,
    calibration: CalibrationInput,
    out: str | Path,
    overrides: Mapping[str, Any] | None = None,
    open_data: OpenData | None = None,
    report: str | Path | None = None,
    progress: Progress = silent,
) -> CompileReport:
    """Compile and quantize a model, check it without labels, keep the fastest that passes.

    Args:
        model: The ``.onnx`` file.
        target: Name of a target, path of a target file, or a loaded target.
        calibration: Inputs of the model, see `open_calibration`; 500 samples are a good number.
        out: The ``.edge`` file; replaced only when all has gone well.
        overrides: Fields of `CompileOptions`: what is tried and how it is judged.
        open_data: Decodes a data source, see `open_calibration`.
        report: Where the report goes as JSON as well; also written if the gate says no.
        progress: Told of each candidate.

    Returns:
        The candidates and the manifest.

    Raises:
        UsageError: An unknown override, or a value out of range.
        ModelError: The model cannot be used, or no candidate runs.
        DataError: The calibration input does not fit the model.
        TargetError: Unknown target, or it has no such candidate.
        FidelityGateError: Candidates run, but none passes the gate; nothing is written.
        UnavailableError: This machine cannot run the target, or the engine is not installed.
        OutputError: The bundle cannot be written.
    """
    options = build_options(CompileOptions, overrides or {}, where="compile")
    device = target if isinstance(target, Target) else load_target(target)
    candidates = select_candidates(device, precision=options.precision, engine=options.engine)
    host = detect()
    obstacle = device.runs_here(host)
    if obstacle is not None:
        raise UnavailableError(
            f"{obstacle}; fidelity and latency are measured on the real engine, so compile there"
        )
    _check_writable(Path(out))
    with (
        output_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="edgessl-compile-") as name,
    ):
        folder = Path(name)
        with Worker(folder) as worker:
            graph = _inspect(worker, Path(model), folder, options)
            parts = _split(calibration, graph, folder, device, options, open_data, progress)
            reference = _reference(worker, graph, parts[1], folder, options)
            # Last, because a crash of the simplifier takes the worker with it.
            simplified, remark = _simplify(worker, graph, parts[1], folder)
        search = Search(
            target=device,
            host=host,
            graph=simplified,
            calibration=parts[0],
            held_out=parts[1],
            reference=reference,
            gate=Gate.of(
                options.min_fidelity or device.min_fidelity,
                neighbour_agreement=device.min_neighbour_agreement,
            ),
            folder=folder,
            threads=options.threads,
            seed=options.seed,
            progress=progress,
        )
        trials = search.run(candidates, remeasure=options.remeasure)
        result = finish(search, trials, remark, Path(out), report)
    return result


def _check_writable(out: Path) -> None:
    """Fail before minutes of work, not after."""
    with output_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass


def _inspect(worker: Worker, model: Path, folder: Path, options: CompileOptions) -> GraphInfo:
    values = _ask_model(
        worker,
        model,
        "inspect",
        model=str(model.absolute()),
        out=str(folder / "original.onnx"),
        batch_size=options.batch_size,
    )
    return GraphInfo.model_validate(values)


def _split(
    calibration: CalibrationInput,
    graph: GraphInfo,
    folder: Path,
    target: Target,
    options: CompileOptions,
    open_data: OpenData | None,
    progress: Progress,
) -> tuple[Samples, Samples]:
    source = open_calibration(calibration, graph, open_data=open_data)
    quantizing, held_out = split_indices(
        len(source),
        samples=options.samples or target.quantization.calibration_samples,
        held_out=options.held_out,
        seed=options.seed,
    )
    progress(
        ProgressEvent(
            "calibration",
            message=f"{len(quantizing)} samples to calibrate, {len(held_out)} held out to check",
        )
    )
    allowed = options.max_corrupt
    return (
        store(
            source,
            quantizing,
            graph,
            folder / "calibration",
            max_corrupt=allowed,
            progress=progress,
        ),
        store(source, held_out, graph, folder / "held_out", max_corrupt=allowed, progress=progress),
    )


def _reference(
    worker: Worker, graph: GraphInfo, held_out: Samples, folder: Path, options: CompileOptions
) -> Samples:
    out = folder / "reference"
    _ask_model(
        worker,
        Path(graph.path),
        "embed",
        engine="onnxruntime",
        model=graph.path,
        options={"threads": options.threads},
        samples=str(held_out.folder),
        out=str(out),
    )
    return Samples(out)


def _simplify(
    worker: Worker, graph: GraphInfo, samples: Samples, folder: Path
) -> tuple[GraphInfo, str]:
    out = folder / "simplified.onnx"
    try:
        answer = worker.request(
            "simplify",
            graph=graph.model_dump(mode="json"),
            out=str(out),
            samples=str(samples.folder),
        )
    except WorkerFailure as failure:
        return graph, f"kept as it is: onnxslim {failure.summary}"
    kept = graph.model_copy(update={"path": str(out)}) if answer["written"] else graph
    return kept, answer["remark"]


def _ask_model(worker: Worker, file: Path, operation: str, /, **arguments: Any) -> Any:
    try:
        return worker.request(operation, **arguments)
    except WorkerFailure as failure:
        raise ModelError(
            f"{file.name}: {failure}; the file may be damaged, export it again"
        ) from failure
