"""The second phase of `distill`: the student is trained with its target's integers.

The student is exported, the compiler's quantizer for the target makes an integer graph of it, and a
replay of that graph in PyTorch goes on learning from the same teachers, and from the float student.
The trained integers go back into the graph, which `edgessl compile` takes as it stands.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from edgessl import onnx_metadata
from edgessl.compiler.integers import IntegerGraph, integer_graph
from edgessl.config import Options
from edgessl.data.batch import Batch
from edgessl.data.calibration import ImageCalibration
from edgessl.data.store import SampleStore
from edgessl.distillation.integers import IntegerBackbone
from edgessl.distillation.objective import Distillation, TaughtBy
from edgessl.distillation.options import DistillationOptions
from edgessl.distillation.teacher_features import teacher_features
from edgessl.distillation.teachers.encoder import EncoderTeacher
from edgessl.errors import GateError, OutputError
from edgessl.exporting.export import INPUT_NAME, export
from edgessl.exporting.student import StudentFacts
from edgessl.files import atomic_path, output_errors, sha256_file, write_json
from edgessl.models import Encoder, load_encoder
from edgessl.optional import require
from edgessl.pretraining.method import StepContext, StepOutput
from edgessl.pretraining.options import TrainerOptions
from edgessl.pretraining.session import Session
from edgessl.progress import ProgressEvent
from edgessl.run_directory import RunDirectory
from edgessl.runtime import open_session
from edgessl.targets import Target

__all__ = ["IntegerDistillation", "IntegerOptions", "adopt_float_phase", "train_integers"]

# Sums in another order move a value across the middle between two integers now and then.
_MIN_MEAN_COSINE = 0.99
_COMPARED = 32
_FLOAT_STUDENT = "float student"


class IntegerOptions(Options):
    """Settings of the phase that trains for a target's integers.

    Attributes:
        integer_epochs: Passes over the data; None takes a fifth of ``epochs``, one at least.
        integer_learning_rate: Peak of the schedule; None takes three tenths of ``learning_rate``.
        integer_precision: ``"auto"`` takes the first integer precision of the target.
        integer_ranges: Activation ranges follow the data (``"moving_average"``) or are trained
            (``"learned"``).
        integer_samples: Samples that the first ranges are taken from; None takes the target's
            number.
        frozen_share: Last share of the phase in which no range moves.
        float_weight: Weight of 1 − cosine to the float student's embedding.
    """

    integer_epochs: Annotated[int, Field(ge=1)] | None = None
    integer_learning_rate: Annotated[float, Field(gt=0)] | None = None
    integer_precision: Literal["auto", "int8", "a16w8"] = "auto"
    integer_ranges: Literal["moving_average", "learned"] = "moving_average"
    integer_samples: Annotated[int, Field(ge=8, le=100_000)] | None = None
    frozen_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    float_weight: Annotated[float, Field(ge=0)] = 1.0


class IntegerDistillation(Distillation):
    """A distillation whose student is a replay of its integer graph.

    Args:
        student: Its backbone is an `IntegerBackbone`.
        teachers: Those of the float phase, and the float student.
        options: Settings of the float phase.
        frozen_share: Last share of the steps in which no range moves.
    """

    def __init__(
        self,
        student: Encoder,
        teachers: Sequence[TaughtBy],
        options: DistillationOptions,
        *,
        frozen_share: float,
    ) -> None:
        super().__init__(student, teachers, options, maps=False)
        self._frozen_share = frozen_share
        self._float_student = len(teachers) if teachers[-1].source.name == _FLOAT_STUDENT else 0

    def forward(self, batch: Batch, context: StepContext) -> StepOutput:
        """The float phase's loss, of the student as its integers compute it."""
        if context.progress >= 1.0 - self._frozen_share:
            cast(IntegerBackbone, self.encoder.backbone).freeze_ranges()
        loss, metrics = super().forward(batch, context)
        return StepOutput(loss, {self._figure(name): value for name, value in metrics.items()})

    def _figure(self, name: str) -> str:
        """Teachers keep the names of the float phase beside the float student."""
        if name == f"normalized_mse_loss_{self._float_student}":
            return "float_student_error"
        return name.removesuffix("_1") if self._float_student == 2 else name


def train_integers(
    session: Session,
    run: RunDirectory,
    objective: Distillation,
    taught: Sequence[TaughtBy],
    store: SampleStore,
    *,
    data: str | Path,
    target: Target,
    facts: Mapping[str, Any],
    lineage: Mapping[str, str],
    monitor: str | Path | None = None,
) -> RunDirectory:
    """Train a run's student with its target's integers, and leave ``exported/student.onnx``.

    Args:
        session: The one whose float phase made the run; ``session.more`` is `IntegerOptions`.
        run: The finished float phase.
        objective: Its objective, in the state in which that phase ended.
        taught: Its teachers.
        store: The decoded training samples.
        data: Where they are from; the first ranges are calibrated on some of them.
        target: The device.
        facts: What else decides the result.
        lineage: Hashes of what went in.
        monitor: A labelled source for an online kNN accuracy.

    Returns:
        The nested run of this phase.

    Raises:
        TargetError: The target has no integers of that precision.
        ModelError: The student cannot be exported, quantized or replayed.
        GateError: The graph that was written computes something else than what was trained.
    """
    options = cast(IntegerOptions, session.more)
    own = cast(DistillationOptions, session.own)
    graph = _graph(session, run, data, target, options)
    float_student = load_encoder(run.path)[0]
    name, spec = float_student.name, float_student.spec
    backbone = IntegerBackbone.from_graph(
        Path(graph.float_model), Path(graph.model), ranges=options.integer_ranges
    )
    student = Encoder(backbone, name=name, spec=spec)
    if options.float_weight > 0:
        taught = [*taught, _float_teacher(session, store, float_student, own, options)]
    replayed = IntegerDistillation(student, taught, own, frozen_share=options.frozen_share)
    for left_out in replayed.left_out:
        _say(session, f"objective '{left_out}' rests: integers show no feature maps")
    fresh = replayed.teachers.state_dict(prefix="teachers.")
    replayed.load_agreements({**fresh, **objective.state_dict()})
    phase = replace(
        session,
        verb="integers",
        own=options,
        trainer=_trainer_options(session.trainer, options),
        out=run.integers_path,
        resume=session.resume and RunDirectory.is_run(run.integers_path),
        overwrite=True,
    )
    views = session.modality.views("distill", spec, seed=session.trainer.seed)
    batch = store.fetch(np.arange(min(_COMPARED, len(store)), dtype=np.int64))
    return phase.train(
        replayed,
        store,
        views="distill",
        facts={
            **facts,
            "target": target.name,
            "scheme": graph.scheme,
            "integer_precision": graph.precision,
            "float_sha256": sha256_file(run.encoder_path),
            "distillation": own.model_dump(mode="json", exclude_none=True),
        },
        lineage=lineage,
        views_cycle=own.view_seeds,
        monitor=monitor,
        save=partial(_save, graph=graph, out=run.student_path, inputs=views(batch, 0)[0]),
    )


def adopt_float_phase(float_run: Path, out: Path, *, overwrite: bool) -> None:
    """Begin a run with the float phase of another, so that only the second phase is left.

    Raises:
        RunError: There is no finished run.
        OutputError: ``out`` is taken, or holds the float run itself.
    """
    source, run = RunDirectory.open(float_run), RunDirectory(out)
    if source.path.resolve().is_relative_to(run.path.resolve()):
        raise OutputError(
            f"{out}: holds the float run {float_run}, which would be replaced; choose another --out"
        )
    run.refuse_existing(overwrite=overwrite)
    if RunDirectory.is_run(out):
        shutil.rmtree(out)
    later = (run.integers_path.name, "graph", "account", ".lock")
    with output_errors(out):
        shutil.copytree(
            source.path,
            out,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(*later, f"{run.student_path.stem}.*"),
        )


def _graph(
    session: Session, run: RunDirectory, data: str | Path, target: Target, options: IntegerOptions
) -> IntegerGraph:
    """The integer graph of the run's float student; made once, by the first process."""
    folder = run.path / "graph"
    record = folder / "graph.json"
    with session.fabric.rank_zero_first():
        if not record.is_file():
            exported = folder / "student.onnx"
            export(run.encoder_path, out=exported, progress=session.progress)
            made = integer_graph(
                exported,
                target=target,
                calibration=ImageCalibration(
                    Path(data), load_encoder(run.path)[0].spec, INPUT_NAME
                ),
                folder=folder,
                overrides={
                    "precision": options.integer_precision,
                    "samples": options.integer_samples,
                    "seed": session.trainer.seed,
                },
                progress=session.progress,
            )
            exported.unlink()
            write_json(record, made.model_dump(mode="json"))
            for node in made.kept_float:
                _say(session, f"{node.node} ({node.operator}) stays in float: {node.reason}")
    graph = IntegerGraph.model_validate_json(record.read_bytes())
    # The run may have moved since.
    places = {key: str(folder / Path(getattr(graph, key)).name) for key in ("float_model", "model")}
    return graph.model_copy(update=places)


def _float_teacher(
    session: Session,
    store: SampleStore,
    student: Encoder,
    own: DistillationOptions,
    options: IntegerOptions,
) -> TaughtBy:
    """What the student was before it had integers, as one teacher more."""
    with session.fabric.rank_zero_first():
        source = teacher_features(
            EncoderTeacher(student, _FLOAT_STUDENT),
            store,
            session.modality,
            seed=session.trainer.seed,
            view_seeds=own.view_seeds,
            map_size=None,
            folder=None,
            device=session.fabric.device,
            progress=session.progress,
        )
    return TaughtBy(source, options.float_weight, {"normalized_mse": 1.0})


def _trainer_options(trainer: TrainerOptions, options: IntegerOptions) -> TrainerOptions:
    return trainer.model_copy(
        update={
            "epochs": options.integer_epochs or max(1, round(trainer.epochs / 5)),
            "learning_rate": options.integer_learning_rate or 0.3 * trainer.learning_rate,
            "max_steps": None,
            # A mean of weights lies between the integers.
            "ema_decay": 0.0,
        }
    )


def _save(
    encoder: Encoder,
    run: RunDirectory,
    lineage: Mapping[str, str],
    *,
    graph: IntegerGraph,
    out: Path,
    inputs: Tensor,
) -> None:
    """Write the trained integers, once they are seen to compute what was trained."""
    onnx = require("onnx", extra="train")
    encoder = encoder.to("cpu").eval()
    with torch.inference_mode():
        wanted = encoder(inputs).numpy()
    with atomic_path(out) as temporary:
        cast(IntegerBackbone, encoder.backbone).write(temporary)
        model = onnx.load(temporary)
        properties = {item.key: item.value for item in model.metadata_props}
        facts = onnx_metadata.decode(properties, where=str(out))
        described = replace(facts, lineage={**facts.lineage, **lineage})
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {**properties, **onnx_metadata.encode(described)})
        onnx.save(model, temporary)
        given = _embed(temporary, inputs)
        difference, cosines = _compare(wanted, given)
        if not cosines.mean() >= _MIN_MEAN_COSINE:  # NaN is not
            raise GateError(
                f"{out}: the written integers compute something else than the trained ones (mean "
                f"cosine {cosines.mean():.6f}, {_MIN_MEAN_COSINE} wanted); nothing was written; "
                f"report this with the student's name, {encoder.name}"
            )
    described_student = StudentFacts(
        target=graph.target,
        scheme=graph.scheme,
        precision=graph.precision,
        opset=next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        embedding_dim=encoder.dim,
        max_abs_difference=difference,
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        samples=len(inputs),
        kept_float=tuple(node.node for node in graph.kept_float),
    )
    write_json(out.with_suffix(".json"), described_student.model_dump(mode="json"))


def _embed(model: Path, inputs: Tensor) -> NDArray[np.float32]:
    """What every node of the file says, in onnxruntime."""
    with open_session("onnxruntime", model, {"fuse_qdq": False}) as session:
        feeds = {session.inputs[0].name: inputs.numpy()}
        embedded: NDArray[np.float32] = next(iter(session.run(feeds).values()))
    return embedded


def _compare(
    wanted: NDArray[np.float32], given: NDArray[np.float32]
) -> tuple[float, NDArray[np.float32]]:
    """Largest difference, relative to the largest magnitude, and the cosine of each pair."""
    difference = float(np.abs(wanted - given).max() / max(float(np.abs(wanted).max()), 1e-12))
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
    return difference, (wanted * given).sum(axis=1) / np.maximum(norms, 1e-12)


def _say(session: Session, text: str) -> None:
    session.progress(ProgressEvent("integers", message=text))
