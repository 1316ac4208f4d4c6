"""Keywords that all losses share, their reduction, and what their modules have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgessl.kernels.arguments import Implementation, Reduction, check_word

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ContrastiveLoss", "Settings", "SoftmaxSettings", "check_words", "reduced"]


class Settings(TypedDict, total=False):
    """Keywords of every loss; see `edgessl.kernels.nt_xent`."""

    normalize: bool
    reduction: Reduction
    implementation: Implementation
    group: dist.ProcessGroup | None


class SoftmaxSettings(Settings, total=False):
    """Keywords of the losses with a backward pass over the logits."""

    skip_tiles: bool | None


class ContrastiveLoss(nn.Module):
    """A loss with its keywords kept in ``settings``: those of its function, unchanged.

    Raises:
        TypeError: An unknown keyword.
        ValueError: An unknown reduction or implementation.
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        super().__init__()
        for name in settings:
            if name not in Settings.__annotations__:
                choices = ", ".join(Settings.__annotations__)
                raise TypeError(f"{type(self).__name__}: no keyword {name!r}; there are {choices}")
        check_words(
            type(self).__name__,
            settings.get("reduction", "mean"),
            settings.get("implementation", "auto"),
        )
        self.settings: Settings = settings

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())


class SoftmaxLoss(ContrastiveLoss):
    """A `ContrastiveLoss` whose function takes ``skip_tiles`` too."""

    settings: SoftmaxSettings

    def __init__(self, *, skip_tiles: bool | None = None, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.settings = {**settings, "skip_tiles": skip_tiles}


def check_words(function: str, reduction: object, implementation: object) -> None:
    """Words of the keywords.

    Raises:
        ValueError: An unknown word.
    """
    check_word(function, "reduction", reduction, Reduction)
    check_word(function, "implementation", implementation, Implementation)


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    """Mean or sum of (N,) losses, or the losses themselves."""
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else torch.sum(losses)
