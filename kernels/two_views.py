"""What `nt_xent` and `dcl` share: all but the positive's place in the denominator."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from edgessl.kernels import reference
from edgessl.kernels.arguments import (
    Implementation,
    Reduction,
    check_rows,
    inverse_temperature,
)
from edgessl.kernels.gather import group_name, rank_and_size
from edgessl.kernels.implementations import choose
from edgessl.kernels.operators.views import views_losses
from edgessl.kernels.passes import is_bounded, skips_tiles
from edgessl.kernels.settings import check_words, reduced

__all__ = ["two_views_loss"]


def two_views_loss(
    function: str,
    z: Tensor,
    temperature: float | Tensor,
    *,
    decoupled: bool,
    normalize: bool,
    reduction: Reduction,
    implementation: Implementation,
    group: dist.ProcessGroup | None,
    skip_tiles: bool | None,
) -> Tensor:
    """The loss of ``function``; arguments and errors as of `edgessl.kernels.nt_xent`."""
    check_words(function, reduction, implementation)
    check_rows(function, "z", z)
    if z.shape[0] % 2:
        raise ValueError(
            f"{function}: z must be (2N, D), two views of each sample, found {tuple(z.shape)}"
        )
    if decoupled and z.shape[0] * rank_and_size(group)[1] == 2:
        raise ValueError(
            f"{function}: z must hold two samples or more, found one: {tuple(z.shape)}; "
            "a positive alone has nothing to be contrasted with"
        )
    scale = inverse_temperature(function, temperature, z)
    chosen = choose(function, implementation, z)
    if chosen == "reference":
        rows = reference.precise(z, normalize)
        losses = reference.views_losses(rows, scale, group, decoupled=decoupled)
    else:
        losses, _ = views_losses(
            z,
            scale,
            None,
            implementation=chosen,
            normalize=normalize,
            decoupled=decoupled,
            bounded=is_bounded(1 / temperature, normalize),
            uniform=reduction != "none",
            skip_tiles=skips_tiles(skip_tiles, chosen, z, 1 / temperature),
            group_name=group_name(group),
        )
    return reduced(losses, reduction)
