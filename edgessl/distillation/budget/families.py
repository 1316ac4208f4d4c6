"""Families of students: names with widths, and image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from pydantic import Field
from torch.utils.flop_counter import FlopCounterMode

from edgessl.config import Options, build_options, read_toml
from edgessl.errors import ModelError, UsageError, nearest
from edgessl.models import build_encoder
from edgessl.preprocessing import ImageInput
from edgessl.registry import Registry

__all__ = ["FAMILIES", "Family", "Student", "candidates_of", "in_order", "open_family"]

_SIZES = (96, 128, 160, 192, 224)
_LARGEST_SHARE = 0.95
"""Of the image size asked for: a family's size nearer to it would be the same again."""


class Student(Options):
    """One candidate.

    Attributes:
        name: As `edgessl.models.build_encoder` takes it, ``resnet18@0.25``.
        height: Of the input, in pixels.
        width: The same.
    """

    name: str
    height: int
    width: int

    def __str__(self) -> str:
        side = str(self.height) if self.height == self.width else f"{self.height}x{self.width}"
        return f"{self.name}/{side}"


class Family(Options):
    """Names, each at several image sizes.

    Attributes:
        students: As `edgessl.models.build_encoder` takes them; ``NAME/SIZE`` has one size.
        image_sizes: Sides that are tried besides the one asked for, where they are smaller.
    """

    students: tuple[str, ...] = Field(min_length=1)
    image_sizes: tuple[int, ...] = ()


def _widths(name: str, *widths: str) -> list[str]:
    return [f"{name}@{width}" for width in widths] + [name]


resnet = Family(
    students=(
        *_widths("resnet18", "0.125", "0.25", "0.375", "0.5", "0.75"),
        *_widths("resnet34", "0.25", "0.5", "0.75"),
    ),
    image_sizes=_SIZES,
)
mobilenetv3_small = Family(
    students=("mobilenetv3_small_050", "mobilenetv3_small_075", "mobilenetv3_small_100"),
    image_sizes=_SIZES,
)
mobilenetv4_conv = Family(
    students=(
        "mobilenetv4_conv_small_035",
        "mobilenetv4_conv_small_050",
        "mobilenetv4_conv_small",
        "mobilenetv4_conv_medium",
        "mobilenetv4_conv_large",
    ),
    image_sizes=_SIZES,
)
efficientnet_lite = Family(
    students=tuple(f"efficientnet_lite{i}" for i in range(5)), image_sizes=_SIZES
)
repvit = Family(
    students=(*_widths("repvit_m1", "0.25", "0.5", "0.75"), "repvit_m2", "repvit_m3"),
    image_sizes=_SIZES,
)
vit_tiny = Family(
    # Whole heads of 64: one, two, three, and the small one's four, five and six.
    students=(
        *_widths("vit_tiny_patch16_224", "0.34", "0.67"),
        *_widths("vit_small_patch16_224", "0.67", "0.84"),
    ),
    image_sizes=_SIZES,
)
convnext = Family(
    students=(
        *_widths("convnext_atto", "0.4", "0.6", "0.8"),
        "convnext_femto",
        "convnext_pico",
        "convnext_nano",
        "convnext_tiny",
    ),
    image_sizes=_SIZES,
)

FAMILIES: Registry[Family] = Registry(
    "family of students",
    {
        name: f"edgessl.distillation.budget.families:{name}"
        for name in (
            "convnext",
            "efficientnet_lite",
            "mobilenetv3_small",
            "mobilenetv4_conv",
            "repvit",
            "resnet",
            "vit_tiny",
        )
    },
    group="edgessl.student_families",
)


def open_family(text: str) -> Family:
    """A family by name, a list with commas, or a ``.toml`` with the fields of `Family`.

    Raises:
        UsageError: None of these.
    """
    if text.endswith(".toml"):
        return build_options(Family, read_toml(Path(text)), where=text)
    if text in FAMILIES.names():
        return FAMILIES.get(text)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise UsageError("no student; name a family, or models with commas between them")
    base = names[0].removeprefix("timm:").partition("/")[0].partition("@")[0].partition(".")[0]
    if len(names) == 1 and not timm.is_model(base):
        raise UsageError(
            f"'{text}' is no family of students and no model; "
            f"{nearest(text, [*FAMILIES.names(), *timm.list_models()])}; families: "
            f"{', '.join(FAMILIES.names())}"
        )
    return Family(students=names)


def candidates_of(family: Family, image_size: int | tuple[int, int]) -> list[Student]:
    """Every name at every size, none larger than the size asked for unless it says so itself.

    Args:
        family: What to choose from.
        image_size: Side, or (height, width), of the training's views; the largest that is tried.

    Raises:
        UsageError: A size that is none.
    """
    sizes = [image_size] if isinstance(image_size, tuple) else [(image_size, image_size)]
    if not isinstance(image_size, tuple):
        smaller = [s for s in family.image_sizes if s <= _LARGEST_SHARE * image_size]
        sizes = [*((s, s) for s in sorted(smaller)), *sizes]
    found: dict[Student, None] = {}
    for text in family.students:
        name, slash, side = text.removeprefix("timm:").partition("/")
        if slash and not (side.isdecimal() and 8 <= int(side) <= 4096):
            raise UsageError(f"'{text}': '{side}' is no image size; write NAME/128")
        own = [(int(side), int(side))] if slash else sizes
        found.update({Student(name=name, height=h, width=w): None for h, w in own})
    return list(found)


def in_order(students: Sequence[Student], spec: ImageInput) -> list[Student]:
    """Sort by what they compute, smallest first: operations, then weights.

    That is the order of capacity, and where the search begins; what a candidate costs on the
    target is measured. Candidates that cannot be built at their size are left out.

    Args:
        students: The candidates.
        spec: The input; its size is replaced.

    Raises:
        ModelError: A name is not known, or nothing can be built.
    """
    ranked: list[tuple[float, int, int, Student]] = []
    error: ModelError | None = None
    for position, student in enumerate(students):
        try:
            operations, weights = _computes(student, spec)
        except ModelError as problem:
            error = error or problem
            if not timm.is_model(student.name.partition("@")[0].partition(".")[0]):
                raise
            continue
        ranked.append((operations, weights, position, student))
    if not ranked and error is not None:
        raise error
    return [student for *_, student in sorted(ranked, key=lambda entry: entry[:3])]


@torch.no_grad()
def _computes(student: Student, spec: ImageInput) -> tuple[float, int]:
    """Operations of one sample and number of weights, without computing anything."""
    spec = spec.model_copy(update={"height": student.height, "width": student.width})
    with torch.device("meta"):
        encoder = build_encoder(student.name, spec).eval()
        with FlopCounterMode(display=False) as counter:
            encoder(torch.empty(1, spec.channels, spec.height, spec.width))
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    return float(counter.get_total_flops()), weights
