"""From what a user calls teachers to what a distillation reads of them; both phases begin here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgessl.data.decoding import guess_channels
from edgessl.data.source import Source
from edgessl.data.store import SampleStore
from edgessl.distillation.objective import TaughtBy, compares_maps
from edgessl.distillation.options import DistillationOptions, TeacherOptions, chosen_objectives
from edgessl.distillation.teacher_features import teacher_features
from edgessl.distillation.teachers import Teacher, open_teacher
from edgessl.errors import ModelError, UsageError
from edgessl.pretraining.session import Session

__all__ = [
    "OpenedTeacher",
    "TeacherNames",
    "named_teachers",
    "open_teachers",
    "teach",
    "teacher_facts",
    "teacher_lineage",
]

TeacherNames = str | Path | Sequence[str | Path]

_CONVERTIBLE = ((1, 2, 3, 4), (1, 3))


@dataclass(frozen=True)
class OpenedTeacher:
    """A teacher and what a recipe says about it.

    Attributes:
        maps: One of its objectives compares feature maps.
    """

    teacher: Teacher
    options: TeacherOptions
    maps: bool


def named_teachers(
    names: TeacherNames | None, weights: Path | None, options: DistillationOptions
) -> list[TeacherOptions]:
    """Teachers of the command line or of the recipe, with the settings of all.

    Args:
        names: What ``--teacher`` gave.
        weights: Weights of a named teacher.
        options: Settings, with ``teachers`` of a recipe.

    Raises:
        UsageError: Teachers in both places or in none, or weights for one of several.
    """
    if names is None:
        given: list[str | Path] = []
    else:
        given = [names] if isinstance(names, str | Path) else list(names)
    if bool(given) == bool(options.teachers):
        found = "both" if given else "neither"
        raise UsageError(f"teachers are given by --teacher or by [[teachers]], found {found}")
    if options.teachers:
        if weights is not None:
            raise UsageError("--teacher-weights goes with --teacher; write weights_file = …")
        several = len(options.teachers) > 1
        return [options.complete(teacher, several=several) for teacher in options.teachers]
    if weights is not None and len(given) > 1:
        raise UsageError(
            f"--teacher-weights is for one teacher, found {len(given)}; write [[teachers]] with "
            "weights_file in a recipe"
        )
    alone = [TeacherOptions(name=str(name), weights_file=weights) for name in given]
    return [options.complete(teacher, several=len(alone) > 1) for teacher in alone]


def open_teachers(
    named: Sequence[TeacherOptions], source: Source, modality: Any, *, maps: bool = True
) -> list[OpenedTeacher]:
    """Open all teachers and see that they, the data and the student fit each other.

    Args:
        named: From `named_teachers`.
        source: The training samples.
        modality: What the user said about them; an explicit number of channels must be the
            teachers'.
        maps: False leaves objectives on feature maps out.

    Raises:
        ModelError: A teacher cannot be used, or teachers differ in their channels.
        UsageError: The student or the data cannot have the teachers' channels, or an objective is
            not known.
    """
    opened = []
    for options in named:
        objectives = chosen_objectives(options.objectives or {}, where=f"teacher {options.name}")
        wants_maps = maps and compares_maps(objectives)
        opened.append(OpenedTeacher(open_teacher(options), options, wants_maps))
    first = opened[0].teacher
    for other in (o.teacher for o in opened[1:]):
        if other.spec.channels != first.spec.channels:
            raise ModelError(
                f"teacher {other.name} takes {other.spec.channels} channels, {first.name} "
                f"{first.spec.channels}; choose teachers of one kind"
            )
    wanted = first.spec.channels
    asked = getattr(modality.options, "channels", "auto")
    if asked not in ("auto", wanted):
        raise UsageError(
            f"teacher {first.name} takes {wanted} channels, the student {asked}; leave channels "
            "out, or choose another teacher"
        )
    have = guess_channels(source)
    if have != wanted and not (have in _CONVERTIBLE[0] and wanted in _CONVERTIBLE[1]):
        raise UsageError(
            f"teacher {first.name} takes {wanted} channels, the samples have {have}; choose a "
            f"teacher of {have} channels, or convert the files"
        )
    return opened


def teach(
    session: Session,
    opened: Sequence[OpenedTeacher],
    store: SampleStore,
    options: DistillationOptions,
) -> list[TaughtBy]:
    """Features of all teachers for all views; the first process computes them for all."""
    taught = []
    for each in opened:
        with session.fabric.rank_zero_first():
            source = teacher_features(
                each.teacher,
                store,
                session.modality,
                seed=session.trainer.seed,
                view_seeds=options.view_seeds,
                map_size=options.map_size if each.maps else None,
                folder=session.cache("teachers"),
                device=session.fabric.device,
                progress=session.progress,
            )
        taught.append(TaughtBy.configured(source, each.options))
    return taught


def teacher_facts(opened: Sequence[OpenedTeacher]) -> dict[str, Any]:
    """What a run's configuration says about its teachers; compared on resume."""
    if len(opened) == 1:
        return {"teacher": opened[0].teacher.name, "teacher_sha256": opened[0].teacher.sha256}
    return {
        "teacher": [each.teacher.name for each in opened],
        "teacher_sha256": [each.teacher.sha256 for each in opened],
    }


def teacher_lineage(opened: Sequence[OpenedTeacher]) -> dict[str, str]:
    """``teacher`` (``teacher-2``, …) → hash, kept with the encoder."""
    return {
        "teacher" if number == 1 else f"teacher-{number}": each.teacher.sha256
        for number, each in enumerate(opened, start=1)
    }
