"""The normalised temperature-scaled cross entropy (NT-Xent)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor

from edgessl.kernels.arguments import Implementation, Reduction
from edgessl.kernels.settings import SoftmaxLoss, SoftmaxSettings
from edgessl.kernels.two_views import two_views_loss

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NTXentLoss", "nt_xent"]


def nt_xent(
    z: Tensor,
    temperature: float | Tensor,
    *,
    normalize: bool = True,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
    group: dist.ProcessGroup | None = None,
    skip_tiles: bool | None = None,
) -> Tensor:
    """Contrast each row with every other row of the global batch; its other view is the positive.

    lᵢ = −sᵢₚ + log Σ_{k≠i} exp(sᵢₖ) with s = ẑẑᵀ/τ and p = (i+N) mod 2N.

    Args:
        z: (2N, D) float32, float16 or bfloat16; rows i and i+N are two views of one sample. Unit
            rows are rounded to this dtype; logits and sums are float32. float64 is computed in
            float64, not by Triton.
        temperature: τ > 0, a number or a tensor of one element (which then gets a gradient). A
            number ≥ 1/74 lets exponentials be shared by the two directions of a pair.
        normalize: Scale rows to unit length first; False takes them as they are. Rows of zeros
            stay zeros and get no gradient.
        reduction: ``"mean"`` over this process's 2N rows, ``"sum"`` of them, or ``"none"``.
        implementation: ``"triton"`` (a GPU from sm_80) and ``"chunked"`` (PyTorch, any device)
            need O(N·D) memory; ``"reference"`` stores the (2N, 2WN) similarity matrix and can be
            differentiated again; ``"auto"`` is Triton where it can run, else chunked.
        group: Processes that share a global batch, each with 2N rows of its own. The mean over
            processes of the returned means is the loss of the global batch, and so are the
            gradients after DDP's averaging. For ``"mean"`` and ``"sum"`` all processes must go
            back with the same upstream gradient, as under DDP; nothing is exchanged then. For
            ``"none"`` the upstream gradients are gathered.
        skip_tiles: Let Triton's backward leave out 128×128 blocks of pairs that cannot change a
            gradient by the dtype's eps; None does so for float16 and bfloat16 at τ ≤ 0.02.

    Returns:
        A float32 scalar, or (2N,) for ``reduction="none"``.

    Raises:
        TypeError: An argument of another type or dtype.
        ValueError: A shape, device, temperature or word that is not as above, or Triton where it
            cannot run.
        RuntimeError: On a second derivative, except of the reference.

    Source: arXiv:2002.05709, eq. 1.
    """
    return two_views_loss(
        "nt_xent",
        z,
        temperature,
        decoupled=False,
        normalize=normalize,
        reduction=reduction,
        implementation=implementation,
        group=group,
        skip_tiles=skip_tiles,
    )


class NTXentLoss(SoftmaxLoss):
    """`nt_xent` with its settings kept.

    Args:
        temperature: τ > 0; a parameter is learnt.
        settings: Keywords of `nt_xent`.
    """

    def __init__(
        self, temperature: float | Tensor = 0.1, **settings: Unpack[SoftmaxSettings]
    ) -> None:
        super().__init__(**settings)
        self.temperature = temperature

    def forward(self, z: Tensor) -> Tensor:
        """Loss of (2N, D) rows; see `nt_xent`."""
        return nt_xent(z, self.temperature, **self.settings)
