"""The decoupled contrastive loss (DCL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor

from edgessl.kernels.arguments import Implementation, Reduction
from edgessl.kernels.settings import SoftmaxLoss, SoftmaxSettings
from edgessl.kernels.two_views import two_views_loss

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DCLLoss", "dcl"]


def dcl(
    z: Tensor,
    temperature: float | Tensor,
    *,
    normalize: bool = True,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
    group: dist.ProcessGroup | None = None,
    skip_tiles: bool | None = None,
) -> Tensor:
    """NT-Xent with the positive left out of the denominator.

    lᵢ = −sᵢₚ + log Σ_{k≠i,p} exp(sᵢₖ) with s = ẑẑᵀ/τ and p = (i+N) mod 2N.

    Args:
        z: (2N, D) as for `edgessl.kernels.nt_xent`, of at least two samples in the global batch.
        temperature: As there, and so are the keywords.
        normalize: Scale rows to unit length first.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        implementation: ``"auto"``, ``"triton"``, ``"chunked"`` or ``"reference"``.
        group: Processes that share a global batch.
        skip_tiles: Leave out vanishing blocks of pairs in the backward; None: in 16 bits at
            τ ≤ 0.02.

    Returns:
        A float32 scalar, or (2N,) for ``reduction="none"``; it can be negative.

    Raises:
        TypeError: As `edgessl.kernels.nt_xent`.
        ValueError: As there, and for one sample alone, which has nothing to be contrasted with.
        RuntimeError: On a second derivative, except of the reference.

    Source: arXiv:2110.06848, eq. 6, with weights of 1.
    """
    return two_views_loss(
        "dcl",
        z,
        temperature,
        decoupled=True,
        normalize=normalize,
        reduction=reduction,
        implementation=implementation,
        group=group,
        skip_tiles=skip_tiles,
    )


class DCLLoss(SoftmaxLoss):
    """`dcl` with its settings kept.

    Args:
        temperature: τ > 0; a parameter is learnt.
        settings: Keywords of `dcl`.
    """

    def __init__(
        self, temperature: float | Tensor = 0.1, **settings: Unpack[SoftmaxSettings]
    ) -> None:
        super().__init__(**settings)
        self.temperature = temperature

    def forward(self, z: Tensor) -> Tensor:
        """Loss of (2N, D) rows; see `dcl`."""
        return dcl(z, self.temperature, **self.settings)
