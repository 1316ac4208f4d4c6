"""A training's student for a budget: chosen once, kept in its run, taken from there on resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pydantic

from edgessl.config import describe_validation
from edgessl.distillation.budget.choice import StudentChoice, choose_student
from edgessl.errors import EdgeSSLError, RunError
from edgessl.pretraining.session import Session
from edgessl.run_directory import RunDirectory
from edgessl.targets import Target

__all__ = ["student_for"]


def student_for(
    session: Session,
    family: str,
    budgets: Sequence[str],
    data: str | Path,
    *,
    for_target: Target | None = None,
    on: str | None = None,
) -> tuple[Session, StudentChoice]:
    """Choose the student of a training, and bring the training to its image size.

    A run that is resumed keeps the student that it recorded; nothing is measured again. With
    several processes the first one chooses for all.

    Raises:
        RunError: The run to be resumed was started with another budget or family, or with none.
        EdgeSSLError: What `choose_student` raises.
    """
    if session.resume:
        choice = _recorded(session.out, family, budgets)
    else:
        choice = _chosen(session, family, budgets, data, for_target=for_target, on=on)
    height, width = choice.image_size
    size = height if height == width else (height, width)
    options = session.modality.options.model_copy(update={"image_size": size})
    return replace(session, modality=type(session.modality)(options)), choice


def _chosen(
    session: Session,
    family: str,
    budgets: Sequence[str],
    data: str | Path,
    *,
    for_target: Target | None,
    on: str | None,
) -> StudentChoice:
    choice: StudentChoice | None = None
    error: EdgeSSLError | None = None
    if session.fabric.is_global_zero:
        try:
            choice = choose_student(
                family,
                budgets,
                data,
                spec=session.modality.input_spec(session.splits.train, mean_std=None),
                for_target=for_target,
                precision=_precision(session) if for_target is not None else None,
                on=on,
                progress=session.progress,
            )
        except EdgeSSLError as problem:
            error = problem
    if session.fabric.world_size > 1:
        choice, error = session.fabric.broadcast((choice, error))
    if choice is None:
        raise error or RunError("no student was chosen")
    return choice


def _precision(session: Session) -> str | None:
    """What the integer phase was told to train; None leaves it to the target."""
    asked = getattr(session.more, "integer_precision", "auto")
    return None if asked == "auto" else str(asked)


def _recorded(out: Path, family: str, budgets: Sequence[str]) -> StudentChoice:
    if not RunDirectory.is_run(out):
        raise RunError(f"{out} holds no run to resume; leave --resume out to start one")
    recorded = RunDirectory(out).config().get("budget")
    if recorded is None:
        raise RunError(f"{out} was started without --budget; resume it without")
    try:
        choice = StudentChoice.model_validate(recorded)
    except pydantic.ValidationError as error:
        problem = describe_validation(error)
        raise RunError(f"{out}: the student in config.toml is not valid: {problem}") from error
    if (choice.family, choice.budgets) != (family, tuple(budgets)):
        raise RunError(
            f"{out} was started with --student {choice.family} "
            f"{' '.join(f'--budget {text}' for text in choice.budgets)}; resume it with the same"
        )
    return choice
