"""`distill()`: a compact student learns to see what a frozen teacher sees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from edgessl.distillation.objective import Distillation, DistillationOptions
from edgessl.distillation.teacher_features import teacher_features
from edgessl.errors import DataError
from edgessl.files import sha256_json
from edgessl.models import Encoder, build_encoder, load_encoder, load_teacher
from edgessl.models.weights import weights_sha256
from edgessl.pretraining.session import Session, open_training
from edgessl.progress import Progress, silent
from edgessl.run_directory import RunDirectory

__all__ = ["distill"]

_VIEWS_VERSION = 1
"""Raise when the views of kind ``distill`` change, so that cached teacher features are remade."""


def distill(
    teacher: str | Path,
    student: str,
    data: str | Path,
    *,
    out: Path,
    overrides: Mapping[str, Any] | None = None,
    teacher_weights: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    monitor: str | Path | None = None,
    progress: Progress = silent,
) -> RunDirectory:
    """Train a student on unlabelled samples to reproduce a teacher's embedding.

    Args:
        teacher: A run, or a timm model name (``timm:vit_small_patch14_dinov2.lvd142m``), whose
            published weights are fetched from the hub.
        student: A timm model name.
        data: A source; of a split, only the training part is used.
        out: The run directory to be.
        overrides: Settings by name; see ``docs/distill.md``.
        teacher_weights: A ``.safetensors`` file with the weights of a teacher given by name.
        resume: Continue the run at ``out``.
        overwrite: Replace the run at ``out``.
        monitor: A labelled source for an online kNN accuracy.
        progress: Told of every step.

    Returns:
        The finished run; its encoder is the student without the projector.

    Raises:
        UsageError: An unknown setting.
        ModelError: An unknown teacher or student, or weights that do not fit.
        DataError: The data cannot be used, or the teacher's embedding of them is not finite.
        UnavailableError: Published weights cannot be fetched.
    """
    with open_training(
        "distill",
        data,
        own=DistillationOptions,
        defaults={},
        overrides=overrides or {},
        out=out,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    ) as session:
        options = cast(DistillationOptions, session.own)
        model, name = _open_teacher(str(teacher), teacher_weights, options)
        session = session.with_channels(model.spec.channels)
        spec = session.modality.input_spec(session.splits.train, mean_std=None)
        torch.manual_seed(session.trainer.seed)
        encoder = build_encoder(student, spec)
        store = session.decode(spec)
        weights = weights_sha256(model.backbone)
        features = _embed(session, model, weights, store, options)
        return session.train(
            Distillation(encoder, features, options),
            store,
            views="distill",
            facts={"teacher": name, "teacher_sha256": weights, "backbone": encoder.name},
            lineage={"teacher": weights},
            views_cycle=options.view_seeds,
            monitor=monitor,
        )


def _open_teacher(
    teacher: str, weights: Path | None, options: DistillationOptions
) -> tuple[Encoder, str]:
    path = Path(teacher)
    if path.exists() and not teacher.startswith("timm:"):
        return load_encoder(path)[0], path.name
    size = options.teacher_image_size
    encoder = load_teacher(teacher, weights=weights, image_size=size, largest=224)
    return encoder.eval(), encoder.name


def _embed(
    session: Session,
    teacher: Encoder,
    weights: str,
    store: Any,
    options: DistillationOptions,
) -> torch.Tensor:
    identity = {
        "version": _VIEWS_VERSION,
        "weights": weights,
        "input": teacher.spec.model_dump(mode="json"),
        "views": session.modality.options.model_dump(mode="json"),
        "canvas": list(store.samples.shape[1:]),
        "seed": session.trainer.seed,
    }
    with session.fabric.rank_zero_first():
        features = teacher_features(
            teacher.requires_grad_(False).to(session.fabric.device),
            store,
            session.modality,
            seed=session.trainer.seed,
            view_seeds=options.view_seeds,
            folder=session.cache("teachers", sha256_json(identity)[:32]),
            progress=session.progress,
        )
    teacher.to("cpu")
    if not bool(torch.isfinite(features).all()):
        raise DataError(
            f"the teacher {teacher.name} gives NaN or infinite embeddings for this data; check "
            "its weights"
        )
    return features
