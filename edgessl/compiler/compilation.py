"""From an ONNX file to a verified bundle for a target."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgessl.compiler.agreement import accept_nearest, strict_gate
from edgessl.compiler.calibration import (
    Calibration,
    CalibrationInput,
    OpenData,
    describe_inputs,
    open_calibration,
    split_indices,
    store,
)
from edgessl.compiler.choice import choose
from edgessl.compiler.fidelity import Gate
from edgessl.compiler.graph_info import GraphInfo, StoredIntegers
from edgessl.compiler.identity import compilation_key
from edgessl.compiler.integer_candidates import LeftOut, check_saturation, select_for_integers
from edgessl.compiler.mixed import rescue
from edgessl.compiler.packing import embedding_dim, finish, reuse
from edgessl.compiler.process import Worker, WorkerFailure, memory_limit
from edgessl.compiler.report import CompileReport
from edgessl.compiler.rewrites import INTEGER_SEQUENCE, SEQUENCE, RewriteRemark
from edgessl.compiler.rewrites.pipeline import rewrite_in_workers
from edgessl.compiler.samples import Samples
from edgessl.compiler.search import Limits, Search, select_candidates
from edgessl.compiler.work import Done, Work, keep_finished, open_work, recall_finished
from edgessl.config import Options, build_options
from edgessl.errors import ModelError
from edgessl.files import atomic_path, output_errors
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.targets import CandidateSpec, Target, detect, load_target

__all__ = ["CompileOptions", "compile_model"]

Indices = NDArray[np.int64]
_TOOLCHAINS = ("npu_compiler", "tensorrt_profile")


class CompileOptions(Options):
    """What a caller may choose.

    Attributes:
        precision: Only candidates of this precision; ``"auto"`` tries all.
        engine: Only candidates of this engine; None tries all.
        min_fidelity: Least mean cosine to the float32 model; None takes the target's. Of a model
            that is quantized already: to what its own nodes say; None takes 0.999, or the
            target's where no engine reaches that.
        samples: Calibration samples; None takes the target's number.
        held_out: Samples that the fidelity gate judges by.
        seed: Draws the samples.
        threads: Engine threads; 0 is all physical cores.
        batch_size: Samples per engine call.
        preprocess: How images or sounds become the model's input, as ``--preprocess`` says it.
        constants: Input name → the value that fills an input that never changes.
        shapes: Input name → its shape with the batch, for inputs of open size.
        freeze: Input name → the number that takes its place for good.
        method: How activation ranges are chosen; None takes the target's way.
        max_float_layers: Most layers that mixed precision puts back into floating point where
            integers miss the gate narrowly.
        npu_compiler: Library (or its folder) with which OpenVINO compiles for an Intel NPU that is
            not here.
        tensorrt_profile: Least, usual and largest shape of an input of open size, as TensorRT
            takes it: ``input=1x3x320x320:4x3x320x320:8x3x320x320``.
        timeout_s: Longest time that one step of one candidate may take.
        max_corrupt: Share of unreadable calibration samples that is tolerated.
        remeasure: Measure latency anew even if the same candidates were measured here before.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "a16w8", "w8", "w4"] = "auto"
    engine: str | None = None
    min_fidelity: Annotated[float, Field(gt=0, le=1)] | None = None
    samples: Annotated[int, Field(ge=8, le=100_000)] | None = None
    held_out: Annotated[int, Field(ge=8, le=10_000)] = 200
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    preprocess: str | None = None
    constants: dict[str, int | float] = Field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    freeze: dict[str, int | float] = Field(default_factory=dict)
    method: Literal["minmax", "percentile", "mse", "entropy"] | None = None
    max_float_layers: Annotated[int, Field(ge=0, le=1000)] = 6
    npu_compiler: str | None = None
    tensorrt_profile: str | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
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

    Where this machine is such a device, candidates are measured on its engine. Elsewhere they are
    checked with an emulator or another engine that computes with the same integers, and what only
    the device can do is left to `edgessl.runtime.finalize`.

    The same inputs give the same bundle, from a cache; an interrupted compilation goes on at the
    step it had reached.

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
        UnavailableError: An engine is not installed here.
        OutputError: The bundle cannot be written.
    """
    options = build_options(CompileOptions, overrides or {}, where="compile")
    device = target if isinstance(target, Target) else load_target(target)
    if options.engine is not None or options.precision != "auto":
        select_candidates(device, precision=options.precision, engine=options.engine)
    _check_writable(Path(out))
    with (
        output_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="edgessl-compile-") as inbox,
    ):
        graph = _inspect(Path(model), Path(inbox), device, options)
        candidates, left_out = _candidates(device, graph.integers, options)
        source = open_calibration(calibration, graph, open_data=open_data)
        parts = split_indices(
            len(source),
            samples=options.samples or device.quantization.calibration_samples,
            held_out=options.held_out,
            seed=options.seed,
        )
        key = compilation_key(graph, source, parts, device, options)
        finished = None if key is None or options.remeasure else recall_finished(key)
        if finished is not None:
            return reuse(finished, Path(out), report, progress)
        with open_work(key, progress) as work:
            search = _prepare(work, graph, source, parts, device, options, progress)
            search = replace(search, left_out=left_out)
            trials = rescue(
                search,
                search.run(candidates),
                max_layers=options.max_float_layers if graph.integers is None else 0,
                remeasure=options.remeasure,
            )
            if graph.integers is not None and options.min_fidelity is None:
                search, trials = accept_nearest(search, trials)
            trials = choose(search, trials, remeasure=options.remeasure)
            result = finish(search, trials, Path(out), report)
        if key is not None:
            keep_finished(key, Path(out), result.model_dump(mode="json"), progress)
    return result


def _candidates(
    device: Target, stored: StoredIntegers | None, options: CompileOptions
) -> tuple[tuple[CandidateSpec, ...], tuple[LeftOut, ...]]:
    """What is tried, and what is not though the target lists it."""
    asked: dict[str, Any] = {"precision": options.precision, "engine": options.engine}
    if stored is None:
        return select_candidates(device, **asked), ()
    check_saturation(device, stored, reduces=device.reduces_range(detect()))
    return select_for_integers(device, stored, **asked)


def _prepare(
    work: Work,
    graph: GraphInfo,
    source: Calibration,
    parts: tuple[Indices, Indices],
    device: Target,
    options: CompileOptions,
    progress: Progress,
) -> Search:
    """Store the samples, compute the reference, simplify the graph: what all candidates share."""
    prepared = work.folder / "original.onnx"
    if not prepared.exists():
        with atomic_path(prepared) as temporary:
            shutil.copyfile(graph.path, temporary)
    graph = graph.model_copy(update={"path": str(prepared)})
    count, held = (len(part) for part in parts)
    message = f"{count} samples to calibrate, {held} held out to check"
    progress(ProgressEvent("calibration", message=message))
    samples, held_out = (
        _stored(work, name, source, indices, graph, options, progress)
        for name, indices in zip(("calibration", "held_out"), parts, strict=True)
    )
    reference = _reference(work, graph, held_out, options)
    # A rewritten graph may be the original's equal on real samples only, so they come first.
    rewritten = _rewritten(work, graph, held_out, _limits(options))
    host = detect()
    encoder = graph.embedding_dim is not None or embedding_dim(reference) is not None
    return Search(
        target=device,
        host=host,
        obstacle=device.runs_here(host),
        graph=rewritten.graph,
        rewrites=rewritten.remarks,
        calibration=samples,
        held_out=held_out,
        reference=reference,
        gate=_gate(graph, device, options, encoder=encoder),
        work=work,
        threads=options.threads,
        method=options.method or device.quantization.method,
        settings={k: v for k in _TOOLCHAINS if (v := getattr(options, k)) is not None},
        limits=_limits(options),
        seed=options.seed,
        progress=progress,
    )


def _gate(graph: GraphInfo, device: Target, options: CompileOptions, *, encoder: bool) -> Gate:
    if graph.integers is not None and options.min_fidelity is None:
        return strict_gate(device, encoder=encoder)
    return Gate.of(
        options.min_fidelity or device.min_fidelity,
        neighbour_agreement=device.min_neighbour_agreement,
        sqnr_db=device.min_sqnr_db if options.min_fidelity is None else None,
        encoder=encoder,
    )


def _check_writable(out: Path) -> None:
    """Fail before minutes of work, not after."""
    with output_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass


def _limits(options: CompileOptions) -> Limits:
    return Limits(timeout_s=options.timeout_s, memory_bytes=memory_limit())


def _inspect(model: Path, folder: Path, device: Target, options: CompileOptions) -> GraphInfo:
    limits = _limits(options)
    with Worker(folder, timeout_s=limits.timeout_s, memory_bytes=limits.memory_bytes) as worker:
        values = _ask_model(
            worker,
            model,
            "inspect",
            model=str(model.absolute()),
            out=str(folder / "original.onnx"),
            batch_size=options.batch_size,
            static=device.shapes.static,
            shapes=options.shapes,
            frozen=options.freeze,
        )
    graph = GraphInfo.model_validate(values)
    return describe_inputs(graph, preprocess=options.preprocess, constants=options.constants)


def _stored(
    work: Work,
    name: str,
    source: Calibration,
    indices: Indices,
    graph: GraphInfo,
    options: CompileOptions,
    progress: Progress,
) -> Samples:
    place = work.folder / name
    if work.recall(f"{name}-stored", Done) is None:
        shutil.rmtree(place, ignore_errors=True)
        corrupt = options.max_corrupt
        store(source, indices, graph, place, max_corrupt=corrupt, progress=progress)
        work.keep(f"{name}-stored", Done())
    return Samples(place)


def _reference(work: Work, graph: GraphInfo, held_out: Samples, options: CompileOptions) -> Samples:
    out = work.folder / "reference"
    if work.recall("reference-computed", Done) is None:
        shutil.rmtree(out, ignore_errors=True)
        limits = _limits(options)
        with Worker(
            work.folder, timeout_s=limits.timeout_s, memory_bytes=limits.memory_bytes
        ) as worker:
            _ask_model(
                worker,
                Path(graph.path),
                "embed",
                engine="onnxruntime",
                model=graph.path,
                # Integers are judged by what their graph says, not by how an engine fuses it.
                options={"threads": options.threads, "optimize": graph.integers is None},
                samples=str(held_out.folder),
                out=str(out),
            )
        work.keep("reference-computed", Done())
    return Samples(out)


class _Rewritten(Options):
    graph: GraphInfo
    remarks: tuple[RewriteRemark, ...]


def _rewritten(work: Work, graph: GraphInfo, samples: Samples, limits: Limits) -> _Rewritten:
    known = work.recall("rewritten", _Rewritten)
    if known is None:
        folder = work.fresh("rewrites")
        result, remarks = rewrite_in_workers(
            graph,
            folder,
            samples,
            names=SEQUENCE if graph.integers is None else INTEGER_SEQUENCE,
            timeout_s=limits.timeout_s,
            memory_bytes=limits.memory_bytes,
        )
        known = work.keep("rewritten", _Rewritten(graph=result, remarks=remarks))
    return known


def _ask_model(worker: Worker, file: Path, operation: str, /, **arguments: Any) -> Any:
    try:
        return worker.request(operation, **arguments)
    except WorkerFailure as failure:
        raise ModelError(
            f"{file.name}: {failure}; the file may be damaged, export it again"
        ) from failure
