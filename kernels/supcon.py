"""The supervised contrastive loss (SupCon)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor

from edgessl.kernels import reference
from edgessl.kernels.arguments import (
    Implementation,
    Reduction,
    check_labels,
    check_rows,
    inverse_temperature,
)
from edgessl.kernels.gather import group_name, rank_and_size
from edgessl.kernels.implementations import choose
from edgessl.kernels.operators.views import views_losses
from edgessl.kernels.passes import is_bounded, skips_tiles
from edgessl.kernels.settings import SoftmaxLoss, SoftmaxSettings, check_words

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SupConLoss", "supcon"]


def supcon(
    z: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    *,
    normalize: bool = True,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
    group: dist.ProcessGroup | None = None,
    skip_tiles: bool | None = None,
) -> Tensor:
    """Contrast each row with all others; the others of its label are its positives.

    lᵢ = −1/|P(i)| Σ_{p∈P(i)} sᵢₚ + log Σ_{k≠i} exp(sᵢₖ) with s = ẑẑᵀ/τ; rows whose label no other
    row of the global batch has do not count.

    Args:
        z: (M, D) as for `edgessl.kernels.nt_xent`, of any number of rows.
        labels: (M,) integers ≥ 0, on z's device. On a GPU they are not looked at before they are
            used: there a negative label makes its row's loss NaN.
        temperature: As for `edgessl.kernels.nt_xent`, and so are the keywords.
        normalize: Scale rows to unit length first.
        reduction: ``"mean"`` over the rows that count, so that the mean over processes is that of
            the global batch; 0 if none do. ``"sum"`` of them. ``"none"`` gives 0 for the others.
        implementation: ``"auto"``, ``"triton"``, ``"chunked"`` or ``"reference"``.
        group: Processes that share a global batch, each with M rows of its own.
        skip_tiles: Leave out vanishing blocks of pairs in the backward; None: in 16 bits at
            τ ≤ 0.02.

    Returns:
        A float32 scalar, or (M,) for ``reduction="none"``.

    Raises:
        TypeError: As `edgessl.kernels.nt_xent`, and for labels that are not integers.
        ValueError: As there, and for labels of another shape, device or out of range.
        RuntimeError: On a second derivative, except of the reference.

    Source: arXiv:2004.11362, eq. 2.
    """
    check_words("supcon", reduction, implementation)
    check_rows("supcon", "z", z)
    check_labels("supcon", labels, z)
    labels = labels.long()
    scale = inverse_temperature("supcon", temperature, z)
    chosen = choose("supcon", implementation, z)
    if chosen == "reference":
        rows = reference.precise(z, normalize)
        losses, counted = reference.supcon_losses(rows, labels, scale, group)
    else:
        losses, counted = views_losses(
            z,
            scale,
            labels,
            implementation=chosen,
            normalize=normalize,
            decoupled=False,
            bounded=is_bounded(1 / temperature, normalize),
            uniform=reduction != "none",
            skip_tiles=skips_tiles(skip_tiles, chosen, z, 1 / temperature),
            group_name=group_name(group),
        )
    if reduction == "mean":
        return losses.sum() * rank_and_size(group)[1] / counted.clamp(min=1)
    return losses.sum() if reduction == "sum" else losses


class SupConLoss(SoftmaxLoss):
    """`supcon` with its settings kept.

    Args:
        temperature: τ > 0; a parameter is learnt.
        settings: Keywords of `supcon`.
    """

    def __init__(
        self, temperature: float | Tensor = 0.1, **settings: Unpack[SoftmaxSettings]
    ) -> None:
        super().__init__(**settings)
        self.temperature = temperature

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Loss of (M, D) rows with (M,) labels; see `supcon`."""
        return supcon(z, labels, self.temperature, **self.settings)
