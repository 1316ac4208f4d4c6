"""The contrastive language-image loss (CLIP)."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from edgessl.kernels import reference
from edgessl.kernels.arguments import (
    Implementation,
    Reduction,
    check_pair,
    positive_scalar,
)
from edgessl.kernels.gather import group_name
from edgessl.kernels.implementations import choose
from edgessl.kernels.operators.towers import towers_losses
from edgessl.kernels.passes import is_bounded, skips_tiles
from edgessl.kernels.settings import SoftmaxLoss, check_words, reduced

__all__ = ["CLIPLoss", "clip_loss"]


def clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    *,
    normalize: bool = True,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
    group: dist.ProcessGroup | None = None,
    skip_tiles: bool | None = None,
) -> Tensor:
    """Symmetric InfoNCE between two towers: each image finds its text, each text its image.

    lᵢ = ½(log Σⱼ exp(sᵢⱼ) + log Σⱼ exp(sⱼᵢ)) − sᵢᵢ with s = logit_scale·x̂ŷᵀ.

    Args:
        image: (N, D) float32, float16 or bfloat16; row i belongs to row i of ``text``. Rows of two
            dtypes are computed in the wider one.
        text: (N, D).
        logit_scale: 1/τ > 0 (not its logarithm), a number or a tensor of one element (which then
            gets a gradient).
        normalize: Scale rows to unit length first; this and the other keywords are as for
            `edgessl.kernels.nt_xent`.
        reduction: ``"mean"`` over this process's N pairs, ``"sum"`` of them, or ``"none"``.
        implementation: ``"auto"``, ``"triton"``, ``"chunked"`` or ``"reference"``.
        group: Processes that share a global batch, each with N pairs of its own.
        skip_tiles: Leave out vanishing blocks of pairs in the backward; None: in 16 bits
            from a scale of 50 on that is a number.

    Returns:
        A float32 scalar, or (N,) for ``reduction="none"``.

    Raises:
        TypeError: An argument of another type or dtype.
        ValueError: A shape, device, scale or word that is not as above.
        RuntimeError: On a second derivative, except of the reference.

    Source: arXiv:2103.00020, figure 3.
    """
    check_words("clip_loss", reduction, implementation)
    image, text = check_pair("clip_loss", "image", image, "text", text)
    scale = positive_scalar("clip_loss", "logit_scale", logit_scale, image)
    chosen = choose("clip_loss", implementation, image)
    if chosen == "reference":
        rows, columns = (reference.precise(z, normalize) for z in (image, text))
        losses = reference.clip_losses(rows, columns, scale, group)
    else:
        losses = towers_losses(
            image,
            text,
            scale,
            implementation=chosen,
            normalize=normalize,
            bounded=is_bounded(logit_scale, normalize),
            uniform=reduction != "none",
            skip_tiles=skips_tiles(skip_tiles, chosen, image, logit_scale),
            group_name=group_name(group),
        )
    return reduced(losses, reduction)


class CLIPLoss(SoftmaxLoss):
    """`clip_loss` with its settings kept: keywords of `clip_loss`."""

    def forward(self, image: Tensor, text: Tensor, logit_scale: float | Tensor) -> Tensor:
        """Loss of (N, D) images and (N, D) texts; see `clip_loss`."""
        return clip_loss(image, text, logit_scale, **self.settings)
