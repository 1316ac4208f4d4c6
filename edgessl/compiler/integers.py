"""The integers that a target will compute with, placed before a student is trained for them.

`integer_graph` runs what `edgessl.compiler.compile_model` runs up to the target's quantizer: the
same checks, the same rewrites, the same placement. Its result is trained, and compiled as it
stands.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgessl.compiler.calibration import (
    CalibrationInput,
    OpenData,
    describe_inputs,
    open_calibration,
    split_indices,
    store,
)
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.process import WorkerFailure, ask, memory_limit
from edgessl.compiler.rewrites.pipeline import rewrite_in_workers
from edgessl.config import Options, build_options
from edgessl.errors import ModelError, OutputError, TargetError
from edgessl.files import atomic_path, output_errors
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.targets import CandidateSpec, Target, detect, load_target

__all__ = ["FloatNode", "IntegerGraph", "IntegerOptions", "integer_graph"]

_FLOAT, _MODEL = "float.onnx", "integers.onnx"
# NNCF writes no ONNX file. OpenVINO, for which it is, computes with these as well.
_STAND_IN = {"nncf": "u8s8"}
_WITHOUT_ACTIVATIONS = "weight-only"


class FloatNode(Options):
    """A node that the target's quantizer leaves in floating point.

    Attributes:
        node: ONNX name.
        operator: ``"LayerNormalization"``.
        reason: Why.
    """

    node: str
    operator: str
    reason: str


class IntegerGraph(Options):
    """A graph with its integers in place, and the one that it was made of.

    Attributes:
        float_model: The float ``.onnx`` that the quantizer started from: batch norms folded,
            nodes fused and named, batch open.
        model: The QDQ ``.onnx``: the same node names, batch open, with all metadata.
        target: Name of the target.
        engine: Engine of the target that will run it.
        scheme: ``"u8s8"``, ``"s8s8"``, ``"tensorrt"``, ``"tensorrt-dla"`` or ``"qnn"``.
        precision: ``"int8"`` or ``"a16w8"``.
        kept_float: What computes in floating point.
    """

    float_model: str
    model: str
    target: str
    engine: str
    scheme: str
    precision: str
    kept_float: tuple[FloatNode, ...]


class IntegerOptions(Options):
    """What a caller may choose.

    Attributes:
        precision: ``"auto"`` takes the target's first integer candidate.
        engine: Only candidates of this engine; None takes any.
        samples: Calibration samples; None takes the target's number.
        held_out: Samples beside them, for checks; as in `CompileOptions`, so that both draw the
            same calibration samples.
        seed: Draws the samples.
        method: How activation ranges are chosen; None takes the target's way.
        preprocess: How images become the model's input, as ``--preprocess`` says it.
        rough: True leaves out what only betters a quantizer's values (rounding by error, bias
            correction), which training replaces.
        max_corrupt: Share of unreadable calibration samples that is tolerated.
        timeout_s: Longest time that one step may take.
    """

    precision: Literal["auto", "int8", "a16w8"] = "auto"
    engine: str | None = None
    samples: Annotated[int, Field(ge=8, le=100_000)] | None = None
    held_out: Annotated[int, Field(ge=8, le=10_000)] = 200
    seed: Annotated[int, Field(ge=0)] = 0
    method: Literal["minmax", "percentile", "mse", "entropy"] | None = None
    preprocess: str | None = None
    rough: bool = True
    max_corrupt: Annotated[float, Field(ge=0, le=1)] = 0.01
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0


def integer_graph(
    model: str | Path,
    *,
    target: str | Path | Target,
    calibration: CalibrationInput,
    folder: str | Path,
    overrides: Mapping[str, Any] | None = None,
    open_data: OpenData | None = None,
    keep_float: Sequence[str] = (),
    progress: Progress = silent,
) -> IntegerGraph:
    """Place a target's integers in a float model, for training.

    Args:
        model: The ``.onnx`` file, its batch open or 1.
        target: Name of a target, path of a target file, or a loaded target.
        calibration: Inputs of the model, see `edgessl.compiler.calibration.open_calibration`.
        folder: Where ``float.onnx`` and ``integers.onnx`` go; made if missing.
        overrides: Fields of `IntegerOptions`.
        open_data: Decodes a data source, see `open_calibration`.
        keep_float: Names of nodes that stay in floating point.
        progress: Told of each step.

    Raises:
        UsageError: An unknown override or node name, or a value out of range.
        TargetError: Unknown target, or it has no such integers.
        ModelError: The model cannot be used, quantized, or given a batch.
        DataError: The calibration input does not fit the model.
        OutputError: The folder cannot be written.
    """
    options = build_options(IntegerOptions, overrides or {}, where="integers")
    device = target if isinstance(target, Target) else load_target(target)
    spec = choose_integers(device, precision=options.precision, engine=options.engine)
    place = Path(folder)
    with output_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    with (
        output_errors(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="edgessl-integers-") as name,
    ):
        work = Path(name)
        graph, samples = _prepared(
            Path(model), work, calibration, device, options, open_data, progress
        )
        progress(ProgressEvent("integers", message=f"placing {spec.precision} ({spec.scheme})"))
        answer = _ask(
            Path(model),
            work,
            "place_integers",
            options,
            graph=graph.model_dump(mode="json"),
            samples=str(samples),
            folder=str(work),
            target=device.name,
            scheme=spec.scheme,
            precision=spec.precision,
            per_channel=device.quantization.per_channel,
            reduce_range=device.reduces_range(detect()),
            method=options.method or device.quantization.method,
            keep_float=list(keep_float),
            engine=spec.engine,
            rough=options.rough,
        )
        for key, out in (("float_model", _FLOAT), ("model", _MODEL)):
            with atomic_path(place / out) as temporary:
                shutil.copyfile(work / answer[key], temporary)
    return IntegerGraph(
        float_model=str(place / _FLOAT),
        model=str(place / _MODEL),
        target=device.name,
        engine=spec.engine,
        scheme=str(spec.scheme),
        precision=spec.precision,
        kept_float=tuple(
            FloatNode(node=node, operator=operator, reason=reason)
            for node, operator, reason in answer["kept_float"]
        ),
    )


def choose_integers(target: Target, *, precision: str, engine: str | None) -> CandidateSpec:
    """The first integer candidate of a target whose graph is an ONNX file.

    NNCF's are replaced by the scheme ``u8s8``, which OpenVINO computes with as well.

    Raises:
        TargetError: There is none; the message says what there is.
    """
    whole = [c for c in target.candidates if c.scheme not in (None, _WITHOUT_ACTIVATIONS)]
    if not whole:
        have = ", ".join(sorted({c.precision for c in target.candidates}))
        raise TargetError(
            f"{target.name} has no integer support, only {have}; choose a target with int8, or "
            "train without a target"
        )
    fitting = [
        c for c in whole if engine in (None, c.engine) and precision in ("auto", c.precision)
    ]
    if not fitting:
        have = ", ".join(sorted({f"{c.engine} {c.precision}" for c in whole}))
        asked = " ".join(w for w in (engine, precision) if w not in (None, "auto"))
        raise TargetError(f"{target.name} has no integers by {asked}; choose {have}")
    first = fitting[0]
    scheme = _STAND_IN.get(first.scheme or "", first.scheme)
    own = next((c for c in fitting if c.scheme == scheme), None)
    return own or first.model_copy(update={"scheme": scheme})


def _prepared(
    model: Path,
    work: Path,
    calibration: CalibrationInput,
    device: Target,
    options: IntegerOptions,
    open_data: OpenData | None,
    progress: Progress,
) -> tuple[GraphInfo, Path]:
    """The rewritten graph for one sample, and the folder of its calibration samples."""
    values = _ask(
        model,
        work,
        "inspect",
        options,
        model=str(model.absolute()),
        out=str(work / "original.onnx"),
        batch_size=1,
        static=True,
    )
    graph = GraphInfo.model_validate(values)
    if not set(graph.batched_inputs).issuperset(spec.name for spec in graph.inputs):
        raise ModelError(f"{model}: not every input starts with the batch; export it with one")
    graph = describe_inputs(graph, preprocess=options.preprocess)
    source = open_calibration(calibration, graph, open_data=open_data)
    chosen, _ = split_indices(
        len(source),
        samples=options.samples or device.quantization.calibration_samples,
        held_out=options.held_out,
        seed=options.seed,
    )
    progress(ProgressEvent("integers", message=f"{len(chosen)} samples to calibrate"))
    place = work / "calibration"
    samples = store(
        source, chosen, graph, place, max_corrupt=options.max_corrupt, progress=progress
    )
    rewritten, _ = rewrite_in_workers(
        graph, work, samples, timeout_s=options.timeout_s, memory_bytes=memory_limit()
    )
    return rewritten, place


def _ask(
    file: Path, work: Path, operation: str, options: IntegerOptions, /, **arguments: Any
) -> Any:
    try:
        return ask(
            work,
            operation,
            timeout_s=options.timeout_s,
            memory_bytes=memory_limit(),
            **arguments,
        )
    except OutputError:
        raise
    except WorkerFailure as failure:
        raise ModelError(
            f"{file.name}: {failure}; the file may be damaged, export it again"
        ) from failure
