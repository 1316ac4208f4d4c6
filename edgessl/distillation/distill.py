"""`distill()`: a compact student learns to see what frozen teachers see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from edgessl.distillation.objective import Distillation, DistillationOptions
from edgessl.distillation.teaching import (
    TeacherNames,
    named_teachers,
    open_teachers,
    teach,
    teacher_facts,
    teacher_lineage,
)
from edgessl.models import build_encoder
from edgessl.pretraining.session import open_training
from edgessl.progress import Progress, silent
from edgessl.run_directory import RunDirectory

__all__ = ["distill"]


def distill(
    teacher: TeacherNames | None,
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
    """Train a student on unlabelled samples to agree with one or several teachers.

    Args:
        teacher: A run, a timm model name (``timm:vit_small_patch14_dinov2.lvd142m``) or one of the
            hub of transformers (``hf:facebook/dinov2-small``), whose published weights are
            fetched, a folder of ``save_pretrained`` or an ONNX file; or several of these. None
            takes the ``teachers`` of the settings.
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
        UsageError: An unknown setting, or teacher and samples of different channels.
        ModelError: An unknown teacher or student, or weights that do not fit.
        DataError: The data cannot be used, or a teacher's embedding of them is not finite.
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
        named = named_teachers(teacher, teacher_weights, options)
        opened = open_teachers(named, session.splits.train, session.modality)
        session = session.with_channels(opened[0].teacher.spec.channels)
        spec = session.modality.input_spec(session.splits.train, mean_std=None)
        torch.manual_seed(session.trainer.seed)
        encoder = build_encoder(student, spec)
        store = session.decode(spec)
        taught = teach(session, opened, store, options)
        return session.train(
            Distillation(encoder, taught, options),
            store,
            views="distill",
            facts={"backbone": encoder.name, **teacher_facts(opened)},
            lineage=teacher_lineage(opened),
            views_cycle=options.view_seeds,
            monitor=monitor,
        )
