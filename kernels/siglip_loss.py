"""The pairwise sigmoid loss (SigLIP)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor

from edgessl.kernels import reference
from edgessl.kernels.arguments import (
    Implementation,
    Reduction,
    check_pair,
    positive_scalar,
    scalar,
)
from edgessl.kernels.gather import group_name
from edgessl.kernels.implementations import choose
from edgessl.kernels.operators.sigmoid_towers import sigmoid_towers_losses
from edgessl.kernels.settings import ContrastiveLoss, Settings, check_words, reduced

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SigLIPLoss", "siglip_loss"]


def siglip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    normalize: bool = True,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Tell pairs that belong together from all others, each pair for itself.

    lᵢ = Σⱼ softplus(−yᵢⱼ(sᵢⱼ + b)) with s = logit_scale·x̂ŷᵀ, b = logit_bias, and y = 1
    for i = j, −1 for all others.

    Args:
        image: (N, D) float32, float16 or bfloat16; row i belongs to row i of ``text``. Rows of two
            dtypes are computed in the wider one.
        text: (N, D).
        logit_scale: 1/τ > 0 (not its logarithm), a number or a tensor of one element (which then
            gets a gradient).
        logit_bias: b, likewise; the paper starts from −10.
        normalize: Scale rows to unit length first; this and the other keywords are as for
            `edgessl.kernels.nt_xent`.
        reduction: ``"mean"`` over this process's N images, ``"sum"`` of them, or ``"none"``.
        implementation: ``"auto"``, ``"triton"``, ``"chunked"`` or ``"reference"``.
        group: Processes that share a global batch, each with N pairs of its own; each image sees
            all texts.

    Returns:
        A float32 scalar, or (N,) for ``reduction="none"``.

    Raises:
        TypeError: An argument of another type or dtype.
        ValueError: A shape, device, scale, bias or word that is not as above.
        RuntimeError: On a second derivative, except of the reference.

    Source: arXiv:2303.15343, eq. 1.
    """
    check_words("siglip_loss", reduction, implementation)
    image, text = check_pair("siglip_loss", "image", image, "text", text)
    scale = positive_scalar("siglip_loss", "logit_scale", logit_scale, image)
    bias = scalar("siglip_loss", "logit_bias", logit_bias, image)
    chosen = choose("siglip_loss", implementation, image)
    if chosen == "reference":
        rows, columns = (reference.precise(z, normalize) for z in (image, text))
        losses = reference.siglip_losses(rows, columns, scale, bias, group)
    else:
        losses = sigmoid_towers_losses(
            image,
            text,
            scale,
            bias,
            implementation=chosen,
            normalize=normalize,
            uniform=reduction != "none",
            group_name=group_name(group),
        )
    return reduced(losses, reduction)


class SigLIPLoss(ContrastiveLoss):
    """`siglip_loss` with its settings kept: keywords of `siglip_loss`."""

    def __init__(self, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor,
    ) -> Tensor:
        """Loss of (N, D) images and (N, D) texts; see `siglip_loss`."""
        return siglip_loss(image, text, logit_scale, logit_bias, **self.settings)
