"""NVIDIA Jetson modules: compute capability, DLA cores, and how a device says which it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["MODULES", "JetsonModule", "module_of"]


class JetsonModule(NamedTuple):
    """One series of modules.

    Attributes:
        title: What it is sold as.
        compute_capability: Of its GPU.
        dla_cores: Deep-learning accelerators; the Orin NX with 8 GB has one of the two.
        boards: Beginnings of the module's part numbers in the device tree.
        words: What the device tree's ``model`` holds where the part number does not say.
    """

    title: str
    compute_capability: str
    dla_cores: int
    boards: tuple[str, ...]
    words: str


# Part numbers: NVIDIA's Jetson Linux Developer Guide, "Jetson Modules and Configurations".
MODULES: dict[str, JetsonModule] = {
    "orin-nano": JetsonModule(
        title="Jetson Orin Nano",
        compute_capability="8.7",
        dla_cores=0,
        boards=("nvidia,p3767-0003", "nvidia,p3767-0004", "nvidia,p3767-0005"),
        words="orin nano",
    ),
    "orin-nx": JetsonModule(
        title="Jetson Orin NX",
        compute_capability="8.7",
        dla_cores=2,
        boards=("nvidia,p3767-0000", "nvidia,p3767-0001"),
        words="orin nx",
    ),
    "agx-orin": JetsonModule(
        title="Jetson AGX Orin",
        compute_capability="8.7",
        dla_cores=2,
        boards=("nvidia,p3701-",),
        words="agx orin",
    ),
    "thor": JetsonModule(
        title="Jetson Thor",
        compute_capability="11.0",
        dla_cores=0,
        boards=("nvidia,p3834-",),
        words="thor",
    ),
}


def module_of(*, model: str, compatible: Sequence[str]) -> str | None:
    """Key of `MODULES` for a device tree's ``model`` and ``compatible``; None if it is no Jetson.

    The part number decides: a carrier board's maker may name the model as he likes.
    """
    for name, module in MODULES.items():
        if any(entry.startswith(module.boards) for entry in compatible):
            return name
    text = model.lower()
    if "jetson" not in text:
        return None
    return next((name for name, module in MODULES.items() if module.words in text), None)
