"""Which layers lose how much to a target's integers: `sensitivity_report`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgessl.compiler.backends import BuildRequest
from edgessl.compiler.calibration import (
    Calibration,
    CalibrationInput,
    OpenData,
    describe_inputs,
    open_calibration,
    split_indices,
    store,
)
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.identity import compilation_key, toolchain_identity
from edgessl.compiler.integers import choose_integers
from edgessl.compiler.layer_chart import draw_layers
from edgessl.compiler.layer_losses import (
    LayerLosses,
    LayerSensitivity,
    LeftFloat,
    SensitivityReport,
    in_order,
)
from edgessl.compiler.process import Worker, WorkerFailure, memory_limit
from edgessl.compiler.rewrites.pipeline import rewrite_in_workers
from edgessl.compiler.samples import Samples
from edgessl.compiler.sensitivity import Loss
from edgessl.compiler.work import Work, open_work
from edgessl.config import Options, build_options
from edgessl.errors import ModelError, OutputError
from edgessl.files import atomic_path, cache_directory, output_errors, sha256_json, write_json
from edgessl.optional import require
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.targets import CandidateSpec, Target, detect, load_target

__all__ = ["SensitivityOptions", "sensitivity_report"]

_CHUNK = 8
_JSON, _PICTURE = "sensitivity.json", "sensitivity.png"


class SensitivityOptions(Options):
    """What a caller may choose.

    Attributes:
        precision: ``"auto"`` takes the target's first integer candidate.
        engine: Only candidates of this engine; None takes any.
        samples: Held-out samples that the losses are means of.
        calibration_samples: Samples that set the integer ranges; None takes the target's number.
        seed: Draws both.
        threads: Threads of the session; 0 leaves onnxruntime's default.
        batch_size: Samples per run.
        preprocess: How images or sounds become the model's input, as ``--preprocess`` says it.
        constants: Input name → the value that fills an input that never changes.
        shapes: Input name → its shape with the batch, for inputs of open size.
        freeze: Input name → the number that takes its place for good.
        method: How activation ranges are chosen; None takes the target's way.
        timeout_s: Longest time that one step may take.
        max_corrupt: Share of unreadable samples that is tolerated.
    """

    precision: Literal["auto", "int8", "a16w8"] = "auto"
    engine: str | None = None
    samples: Annotated[int, Field(ge=8, le=10_000)] = 32
    calibration_samples: Annotated[int, Field(ge=8, le=100_000)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    preprocess: str | None = None
    constants: dict[str, int | float] = Field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    freeze: dict[str, int | float] = Field(default_factory=dict)
    method: Literal["minmax", "percentile", "mse", "entropy"] | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    max_corrupt: Annotated[float, Field(ge=0, le=1)] = 0.01


def sensitivity_report(
    model: str | Path,
    *,
    target: str | Path | Target,
    data: CalibrationInput,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    open_data: OpenData | None = None,
    progress: Progress = silent,
) -> SensitivityReport:
    """Measure what each layer's integers cost, alone and beside those of the others.

    Every layer is quantized by itself, as the target's quantizer does it, and kept by itself in
    floating point while all others are quantized. What that takes from the outputs on held-out
    samples is compared with the float model. No labels and no device are needed.

    The same inputs give the same report, from a cache; an interrupted one goes on.

    Args:
        model: The float ``.onnx`` file.
        target: Name of a target, path of a target file, or a loaded target.
        data: Inputs of the model, see `edgessl.compiler.calibration.open_calibration`.
        out: Folder for ``sensitivity.json`` and ``sensitivity.png``; None writes nothing.
        overrides: Fields of `SensitivityOptions`.
        open_data: Decodes a data source, see `open_calibration`.
        progress: Told of each step.

    Returns:
        The layers, the most harmful first.

    Raises:
        UsageError: An unknown override, or a value out of range.
        TargetError: Unknown target, or it has no such integers.
        ModelError: The model is quantized already, has nothing to quantize, or cannot be used.
        DataError: The data do not fit the model.
        UnavailableError: matplotlib or the quantizer's toolkit is not installed.
        OutputError: The folder cannot be written.
    """
    options = build_options(SensitivityOptions, overrides or {}, where="sensitivity")
    device = target if isinstance(target, Target) else load_target(target)
    spec = choose_integers(device, precision=options.precision, engine=options.engine)
    if out is not None:
        require("matplotlib", extra="report")
        with output_errors(Path(out)):
            Path(out).mkdir(parents=True, exist_ok=True)
    with (
        output_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="edgessl-sensitivity-") as inbox,
    ):
        file = Path(model)
        graph = _inspect(file, Path(inbox), device, options)
        source = open_calibration(data, graph, open_data=open_data)
        parts = split_indices(
            len(source),
            samples=options.calibration_samples or device.quantization.calibration_samples,
            held_out=options.samples,
            seed=options.seed,
        )
        inputs = compilation_key(graph, source, parts, device, options)
        key = None if inputs is None else sha256_json(["sensitivity", inputs])
        report = None if key is None else _recall(key)
        if report is None:
            with open_work(key, progress) as work:
                samples = [
                    _stored(work, name, source, indices, graph, options, progress)
                    for name, indices in zip(("calibration", "judged"), parts, strict=True)
                ]
                report = _Layers(file, device, spec, options, work, progress).measure(
                    graph, *samples
                )
            _remember(key, report, progress)
    report = report.model_copy(update={"model": file.name})
    if out is not None:
        _write(report, Path(out))
    return report


class _Layers:
    """What all steps of one report have in common."""

    def __init__(
        self,
        file: Path,
        device: Target,
        spec: CandidateSpec,
        options: SensitivityOptions,
        work: Work,
        progress: Progress,
    ) -> None:
        self._file, self._device, self._spec = file, device, spec
        self._options, self._work, self._progress = options, work, progress

    def measure(self, graph: GraphInfo, calibration: Samples, judged: Samples) -> SensitivityReport:
        """Rewrite, quantize, and try each layer."""
        options, device, spec = self._options, self._device, self._spec
        rewritten, _ = rewrite_in_workers(
            graph,
            self._work.fresh("rewrites"),
            judged,
            timeout_s=options.timeout_s,
            memory_bytes=memory_limit(),
        )
        request = self._request(rewritten, calibration)
        with Worker(
            Path(request.folder),
            threads=options.threads,
            timeout_s=options.timeout_s,
            memory_bytes=memory_limit(),
        ) as worker:
            facts = _ask(
                worker,
                self._file,
                "open_layers",
                request=request.model_dump(mode="json"),
                count=judged.count,
                samples=str(judged.folder),
            )
            layers: list[tuple[str, str]] = [(name, kind) for name, kind in facts["layers"]]
            losses = self._losses(worker, len(layers))
        whole, alone, kept = losses[0], losses[1 : len(layers) + 1], losses[len(layers) + 1 :]
        encoder = _is_encoder(graph)
        entries = [
            LayerSensitivity(node=name, operator=kind, alone=one, left_without=rest)
            for (name, kind), one, rest in zip(layers, alone, kept, strict=True)
        ]
        version, _, packages = toolchain_identity()
        return SensitivityReport(
            model=self._file.name,
            model_sha256=graph.sha256,
            data_sha256=judged.sha256(),
            calibration_sha256=calibration.sha256(),
            target=device.name,
            engine=spec.engine,
            precision=spec.precision,
            scheme=str(spec.scheme),
            method=request.method,
            encoder=encoder,
            seed=options.seed,
            samples=int(facts["count"]),
            calibration_samples=calibration.count,
            cpu=detect().cpu,
            versions={"edgessl": str(version), **_installed(packages)},
            all_quantized=whole,
            layers=in_order(entries, encoder=encoder),
            left_float=tuple(LeftFloat(node=n, operator=kind) for n, kind in facts["left_float"]),
        )

    def _request(self, graph: GraphInfo, calibration: Samples) -> BuildRequest:
        device, options = self._device, self._options
        return BuildRequest(
            graph=graph,
            candidate=self._spec,
            target=device,
            here=False,
            calibration=str(calibration.folder),
            folder=str(self._work.fresh("layers")),
            threads=options.threads,
            reduce_range=device.reduces_range(detect()),
            method=options.method or device.quantization.method,
            seed=options.seed,
        )

    def _losses(self, worker: Worker, count: int) -> list[Loss]:
        """Of all layers together, each alone, and all but each."""
        every = list(range(count))
        sets = [every, *([k] for k in every), *([j for j in every if j != k] for k in every)]
        known = self._work.recall("losses", LayerLosses)
        losses = list(known.losses) if known is not None and known.count == count else []
        for start in range(len(losses), len(sets), _CHUNK):
            self._progress(ProgressEvent("sensitivity", start, len(sets), unit="trials"))
            answer = _ask(worker, self._file, "try_layers", sets=sets[start : start + _CHUNK])
            losses += [Loss.model_validate(entry) for entry in answer]
            self._work.keep("losses", LayerLosses(count=count, losses=tuple(losses)))
        self._progress(ProgressEvent("sensitivity", len(sets), len(sets), unit="trials"))
        return losses


def _inspect(model: Path, folder: Path, device: Target, options: SensitivityOptions) -> GraphInfo:
    with Worker(folder, timeout_s=options.timeout_s, memory_bytes=memory_limit()) as worker:
        values = _ask(
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
    if graph.integers is not None:
        raise ModelError(
            f"{model.name}: is quantized already, so no layer can be tried in floating point; give "
            "the float model that it was made of"
        )
    return describe_inputs(graph, preprocess=options.preprocess, constants=options.constants)


def _stored(
    work: Work,
    name: str,
    source: Calibration,
    indices: Any,
    graph: GraphInfo,
    options: SensitivityOptions,
    progress: Progress,
) -> Samples:
    place = work.fresh(name)
    place.rmdir()
    corrupt = options.max_corrupt
    return store(source, indices, graph, place, max_corrupt=corrupt, progress=progress)


def _is_encoder(graph: GraphInfo) -> bool:
    outputs = graph.outputs
    return graph.embedding_dim is not None or (len(outputs) == 1 and len(outputs[0].shape) == 2)


def _installed(packages: object) -> dict[str, str]:
    found = packages if isinstance(packages, dict) else {}
    return {name: version for name, version in found.items() if version is not None}


def _ask(worker: Worker, file: Path, operation: str, /, **arguments: Any) -> Any:
    try:
        return worker.request(operation, **arguments)
    except WorkerFailure as failure:
        raise ModelError(
            f"{file.name}: {failure}; the file may be damaged, export it again"
        ) from failure


def _recall(key: str) -> SensitivityReport | None:
    try:
        return SensitivityReport.model_validate_json(_cached(key).read_bytes())
    except (OSError, ValueError):
        return None


def _remember(key: str | None, report: SensitivityReport, progress: Progress) -> None:
    if key is None:
        return
    try:
        write_json(_cached(key), report.model_dump(mode="json"))
    except OutputError as error:
        message = f"the report is not remembered: {error}"
        progress(ProgressEvent("sensitivity", message=message, warning=True))


def _cached(key: str) -> Path:
    return cache_directory("sensitivity", f"{key}.json")


def _write(report: SensitivityReport, folder: Path) -> None:
    write_json(folder / _JSON, report.model_dump(mode="json"))
    with output_errors(folder), atomic_path(folder / _PICTURE) as temporary:
        draw_layers(report, temporary)
