"""`distill()`: a compact student learns to see what frozen teachers see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from edgessl.compiler.integers import choose_integers
from edgessl.distillation.account import account_afterwards
from edgessl.distillation.for_target import IntegerOptions, adopt_float_phase, train_integers
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
from edgessl.targets import Target, load_target

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
    for_target: str | Path | Target | None = None,
    float_run: Path | None = None,
    budget: Sequence[str] = (),
    on: str | None = None,
    progress: Progress = silent,
) -> RunDirectory:
    """Train a student on unlabelled samples to agree with one or several teachers.

    With ``for_target`` a second phase follows, see `edgessl.distillation.for_target`.

    Args:
        teacher: A run, a timm model name (``timm:vit_small_patch14_dinov2.lvd142m``) or one of the
            hub of transformers (``hf:facebook/dinov2-small``), whose published weights are
            fetched, a folder of ``save_pretrained`` or an ONNX file; or several of these. None
            takes the ``teachers`` of the settings.
        student: A timm model name; with a budget, a family, see `choose_student`.
        data: A source; of a split, only the training part is used.
        out: The run directory to be.
        overrides: Settings by name; see ``docs/distill.md``.
        teacher_weights: A ``.safetensors`` file with the weights of a teacher given by name.
        resume: Continue the run at ``out``.
        overwrite: Replace the run at ``out``.
        monitor: A labelled source for an online kNN accuracy.
        for_target: The device whose integers the student is to be trained with.
        float_run: A finished run with the same settings, whose float phase is not repeated.
        budget: What the student may cost, like ``5ms@cpu-x86-64`` and ``1MB``: the largest of its
            family that fits is chosen by measuring.
        on: ``ssh://`` address of the device that measures; None is this machine.
        progress: Told of every step.

    Returns:
        The finished run; its encoder is the student without the projector, and
        ``exported/student.onnx`` the same with the target's integers.

    Raises:
        UsageError: An unknown setting, or teacher and samples of different channels.
        ModelError: An unknown teacher or student, or weights that do not fit.
        DataError: The data cannot be used, or a teacher's embedding of them is not finite.
        UnavailableError: Published weights cannot be fetched.
        TargetError: Unknown target, or it has no such integers.
        GateError: The trained integers cannot be written as they were trained, or no student fits
            the budget.
    """
    target = None if for_target is None else _with_integers(for_target, overrides or {})
    if float_run is not None and not (resume and RunDirectory.is_run(out)):
        adopt_float_phase(float_run, out, overwrite=overwrite)
        resume = True
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
        more=IntegerOptions,
    ) as session:
        options = cast(DistillationOptions, session.own)
        named = named_teachers(teacher, teacher_weights, options)
        opened = open_teachers(named, session.splits.train, session.modality)
        session = session.with_channels(opened[0].teacher.spec.channels)
        chosen: dict[str, Any] = {}
        if budget:
            from edgessl.distillation.budget.session import student_for

            session, choice = student_for(session, student, budget, data, for_target=target, on=on)
            student = choice.student
            chosen = {"budget": choice.model_dump(mode="json", exclude_none=True)}
        spec = session.modality.input_spec(session.splits.train, mean_std=None)
        torch.manual_seed(session.trainer.seed)
        encoder = build_encoder(student, spec)
        store = session.decode(spec)
        taught = teach(session, opened, store, options)
        objective = Distillation(encoder, taught, options)
        facts = {"backbone": encoder.name, **chosen, **teacher_facts(opened)}
        run = session.train(
            objective,
            store,
            views="distill",
            facts=facts,
            lineage=teacher_lineage(opened),
            views_cycle=options.view_seeds,
            monitor=monitor,
        )
        if target is not None:
            train_integers(
                session,
                run,
                objective,
                taught,
                store,
                data=data,
                target=target,
                facts=facts,
                lineage=teacher_lineage(opened),
                monitor=monitor,
            )
        if options.account:
            account_afterwards(session, run, data, [each.teacher for each in opened])
    return run


def _with_integers(target: str | Path | Target, overrides: Mapping[str, Any]) -> Target:
    """Load the target; refuse one without such integers before hours of training."""
    device = target if isinstance(target, Target) else load_target(target)
    choose_integers(device, precision=str(overrides.get("integer_precision", "auto")), engine=None)
    return device
