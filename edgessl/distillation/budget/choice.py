"""`choose_student()`: the largest student of a family that fits its budgets on a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgessl.config import Options, build_options
from edgessl.data.image import ImageModality
from edgessl.data.source import open_source
from edgessl.distillation.budget.bench import TargetBench, integer_precision
from edgessl.distillation.budget.families import candidates_of, in_order, open_family
from edgessl.distillation.budget.limits import parse_budget, target_of
from edgessl.distillation.budget.search import Tried, search
from edgessl.preprocessing import ImageInput
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.targets import Target, load_target

__all__ = ["StudentChoice", "choose_student"]


class StudentChoice(Options):
    """What was chosen, and from what.

    Attributes:
        family: As it was asked for.
        budgets: The same.
        target: Where size and latency hold.
        precision: What candidates were compiled for; ``"auto"``: the fastest of the target.
        on: Address of the device that measured; None is this machine.
        machine: Hash of the machine that measured; None if no latency was asked for.
        student: A name for `edgessl.models.build_encoder`.
        image_size: (height, width) in pixels.
        candidates: How many the family has at these sizes.
        tried: Those that were looked at, smallest first.
        remarks: What else is to be known.
    """

    family: str
    budgets: tuple[str, ...]
    target: str
    precision: str
    on: str | None = None
    machine: str | None = None
    student: str
    image_size: tuple[int, int]
    candidates: int
    tried: tuple[Tried, ...]
    remarks: tuple[str, ...] = ()


def choose_student(
    family: str,
    budgets: Sequence[str],
    data: str | Path,
    *,
    spec: ImageInput | None = None,
    image_size: int | tuple[int, int] | None = None,
    for_target: str | Target | None = None,
    precision: str | None = None,
    on: str | None = None,
    python: str = "python3",
    remeasure: bool = False,
    progress: Progress = silent,
) -> StudentChoice:
    """Choose the largest student of a family that fits every budget.

    Candidates are ordered by what they compute. Those that a bisection comes by are exported with
    random weights, compiled for the target in its integers, and measured on its runtime; then the
    next larger ones are tried too, as more operations need not take more time. What is chosen was
    measured to fit.

    Args:
        family: A name of `FAMILIES`, models with commas between them, or a ``.toml`` file.
        budgets: ``5ms@TARGET``, ``1MB``, ``200MFLOPs``; see `parse_budget`.
        data: The training data, which calibrates.
        spec: Channels, mean and deviation of the input, and the largest size; None looks at the
            data.
        image_size: Largest side, or (height, width); None takes that of ``spec``, or 224.
        for_target: The target that the student will be trained for, if any.
        precision: None takes the target's first of integers.
        on: ``ssh://user@host:port`` of the device; None measures here.
        python: Interpreter there.
        remeasure: Do not take figures from the cache.
        progress: Told of each candidate.

    Raises:
        UsageError: No such budget or family, or budgets for two targets.
        TargetError: Unknown target, or it has no such precision.
        UnavailableError: A latency that can be measured neither here nor on a device.
        NothingFitsError: No candidate fits; the nearest miss is named.
    """
    limits = [parse_budget(text) for text in budgets]
    trained_for = for_target.name if isinstance(for_target, Target) else for_target
    asked = target_of(limits, trained_for)
    target = for_target if isinstance(for_target, Target) else load_target(asked)
    members = open_family(family)
    precision = precision or integer_precision(target)
    timed = any(limit.kind == "latency" for limit in limits)
    spec = spec or _input_of(data, image_size)
    size = image_size or _side(spec)
    with TargetBench(
        target,
        spec,
        data,
        precision=precision,
        on=on,
        python=python,
        cache=not remeasure,
        progress=progress,
    ) as bench:
        if timed:
            bench.check()
        students = in_order(candidates_of(members, size), spec)
        progress(_begin(len(students), budgets, target))
        found = search(students, limits, bench, progress=progress)
    return StudentChoice(
        family=family,
        budgets=tuple(budgets),
        target=target.name,
        precision=precision,
        on=on,
        machine=bench.machine if timed else None,
        student=found.student.name,
        image_size=(found.student.height, found.student.width),
        candidates=len(students),
        tried=found.tried,
        remarks=found.remarks,
    )


def _input_of(data: str | Path, image_size: int | tuple[int, int] | None) -> ImageInput:
    values = {} if image_size is None else {"image_size": image_size}
    options = build_options(ImageModality.Options, values, where="budget")
    return ImageModality(options).input_spec(open_source(data).train, mean_std=None)


def _side(spec: ImageInput) -> int | tuple[int, int]:
    return spec.height if spec.height == spec.width else (spec.height, spec.width)


def _begin(count: int, budgets: Sequence[str], target: Target) -> ProgressEvent:
    message = f"{count} candidates for {', '.join(budgets)}, compiled for {target.name}"
    return ProgressEvent("budget", message=message)
