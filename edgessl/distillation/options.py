"""Settings of a distillation: its teachers, and what it means to agree with each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from edgessl.config import Options, build_options
from edgessl.distillation.objectives import OBJECTIVES
from edgessl.errors import UsageError

__all__ = ["DistillationOptions", "ObjectiveSettings", "TeacherOptions", "chosen_objectives"]

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ObjectiveSettings = dict[str, Weight | dict[str, bool | int | float | str]]
"""Objective → its weight, or a table of ``weight`` (1) and its own settings."""


class TeacherOptions(Options):
    """One of several teachers; what is None is that of all teachers.

    Attributes:
        name: What ``--teacher`` takes: a run, ``timm:NAME``, ``hf:NAME``, a folder of
            `transformers` or an ONNX file.
        weight: Factor on the losses of this teacher.
        objectives: Objectives of this teacher, and their weights.
        weights_file: A ``.safetensors`` file with the weights of a ``timm:`` teacher.
        image_size: Side of its input.
        preprocess: What an ONNX file takes, as in ``compile --preprocess``.
        output: Name of the output of an ONNX file that is the embedding.
    """

    name: Annotated[str, Field(min_length=1)]
    weight: Weight = 1.0
    objectives: ObjectiveSettings | None = None
    weights_file: Path | None = None
    image_size: Annotated[int, Field(ge=1)] | None = None
    preprocess: str | None = None
    output: str | None = None

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: ObjectiveSettings | None) -> ObjectiveSettings | None:
        """A wrong objective is a mistake of the recipe, not of its third hour."""
        if value is not None:
            chosen_objectives(value, where="objectives")
        return value


class DistillationOptions(Options):
    """Settings of the distillation.

    Attributes:
        objectives: Objectives of every teacher that names none of its own, and their weights; what
            is not named is not trained.
        teachers: Several teachers with settings of their own; instead of ``--teacher``.
        projector_layers: Layers between the student's embedding and a teacher's dimension.
        view_seeds: Different views of each sample that the teachers see.
        teacher_image_size: Side of the teachers' input; None takes their own, up to 224.
        teacher_preprocess: What a teacher from an ONNX file takes.
        teacher_output: Which output of an ONNX file is the embedding.
        map_size: Teachers' feature maps are pooled to at most so many rows and columns.
        account: Write ``RUN/account`` at the end; it does not decide the result, so it is not
            part of the run's configuration.
    """

    objectives: ObjectiveSettings = Field(
        default_factory=lambda: {"similarity": 1.0, "cosine": 1.0}, validate_default=True
    )
    teachers: tuple[TeacherOptions, ...] = ()
    projector_layers: Annotated[int, Field(ge=1, le=4)] = 1
    view_seeds: Annotated[int, Field(ge=1, le=1024)] = 4
    teacher_image_size: Annotated[int, Field(ge=1)] | None = None
    teacher_preprocess: str | None = None
    teacher_output: str | None = None
    map_size: Annotated[int, Field(ge=1, le=64)] = 7
    account: Annotated[bool, Field(exclude=True)] = True

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: ObjectiveSettings) -> ObjectiveSettings:
        """A wrong objective is a mistake of the recipe, not of its third hour."""
        chosen_objectives(value, where="objectives")
        return value

    def of_teacher(self, name: str) -> TeacherOptions:
        """A teacher without settings of its own."""
        return self.complete(TeacherOptions(name=name))

    def complete(self, teacher: TeacherOptions, *, several: bool = False) -> TeacherOptions:
        """A teacher with the settings of all where it has none of its own.

        Args:
            teacher: What is said about it alone.
            several: There are others, and so what is said of ONNX files need not be about it.
        """
        common: dict[str, Any] = {
            "objectives": self.objectives,
            "image_size": self.teacher_image_size,
        }
        if not several or teacher.name.endswith(".onnx"):
            common |= {"preprocess": self.teacher_preprocess, "output": self.teacher_output}
        missing = {k: v for k, v in common.items() if getattr(teacher, k) is None}
        return teacher.model_copy(update=missing)


def chosen_objectives(
    settings: Mapping[str, float | Mapping[str, Any]], *, where: str
) -> dict[str, tuple[float, Options]]:
    """Objectives with a positive weight: name → weight and own settings.

    Args:
        settings: As in a recipe.
        where: Whose they are, for messages.

    Raises:
        UsageError: An unknown objective or setting, a value out of range, or no objective.
    """
    chosen: dict[str, tuple[float, Options]] = {}
    for name, value in settings.items():
        kind = OBJECTIVES.get(name)
        own = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight = own.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise UsageError(f"{where}: objective '{name}': weight is {weight!r}; give 0 or more")
        options = build_options(kind.Options, own, where=f"{where}: objective '{name}'")
        if weight > 0:
            chosen[name] = (float(weight), options)
    if not chosen:
        raise UsageError(
            f"{where}: no objective has a weight; give one of {', '.join(OBJECTIVES.names())}"
        )
    return chosen
