"""The normalised temperature-scaled cross entropy (NT-Xent)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.kernels.gather import gather_rows, rank_and_size

__all__ = ["IMPLEMENTATIONS", "NTXentLoss", "nt_xent"]

Reduction = Literal["mean", "sum", "none"]
Implementation = Literal["auto", "reference"]

IMPLEMENTATIONS = ("reference",)
"""Implementations that this installation can run, best first."""


def nt_xent(
    z: Tensor,
    temperature: float | Tensor,
    *,
    normalize: bool = True,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Contrast each row with every other row of the global batch; its other view is the positive.

    lᵢ = −sᵢₚ + log Σ_{k≠i} exp(sᵢₖ) with s = ẑẑᵀ/τ and p = (i+N) mod 2N.

    Args:
        z: (2N, D) float32, float16 or bfloat16; rows i and i+N are two views of one sample.
        temperature: τ > 0, a number or a scalar tensor (which then gets a gradient).
        normalize: Scale rows to unit length first; False if they have it already.
        reduction: ``"mean"`` over this process's 2N rows, ``"sum"`` of them, or ``"none"``.
        implementation: ``"reference"`` stores the (2N, 2WN) similarity matrix in float32;
            ``"auto"`` takes the best of `IMPLEMENTATIONS`.
        group: Processes that share a global batch, each with 2N rows of its own. The mean over
            processes of the returned means is the loss of the global batch, and so are the
            gradients after DDP's averaging.

    Returns:
        A float32 scalar, or (2N,) for ``reduction="none"``.

    Raises:
        ValueError: z is not (2N, D) with N ≥ 1, or an argument is unknown.

    Source: arXiv:2002.05709, eq. 1.
    """
    if z.ndim != 2 or z.shape[0] % 2 or z.shape[0] == 0:
        raise ValueError(f"nt_xent: z must be (2N, D), found {tuple(z.shape)}")
    if implementation not in ("auto", *IMPLEMENTATIONS):
        raise ValueError(f"nt_xent: implementation must be one of {('auto', *IMPLEMENTATIONS)}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"nt_xent: reduction must be mean, sum or none, found {reduction!r}")
    rows = z.float()
    if normalize:
        rows = F.normalize(rows, dim=1)
    losses = _reference(rows, temperature, group)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _reference(
    rows: Tensor, temperature: float | Tensor, group: dist.ProcessGroup | None
) -> Tensor:
    """Per-row losses (2N,) of this process's unit rows (2N, D), in float32."""
    rank, size = rank_and_size(group)
    n = rows.shape[0] // 2
    first, second = (gather_rows(view, group) for view in rows.chunk(2))
    everyone = torch.cat([first, second])
    own = torch.arange(n, device=rows.device) + rank * n
    itself = torch.cat([own, own + size * n])
    positive = torch.cat([own + size * n, own])
    with torch.autocast(rows.device.type, enabled=False):
        logits = rows @ everyone.T / temperature
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return F.cross_entropy(logits, positive, reduction="none")


class NTXentLoss(nn.Module):
    """`nt_xent` with its settings kept.

    Args:
        temperature: τ > 0.
        implementation: As for `nt_xent`.
        group: As for `nt_xent`.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        implementation: Implementation = "auto",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.implementation: Implementation = implementation
        self.group = group

    def forward(self, z: Tensor) -> Tensor:
        """Mean loss of (2N, D) rows; see `nt_xent`."""
        return nt_xent(z, self.temperature, implementation=self.implementation, group=self.group)
