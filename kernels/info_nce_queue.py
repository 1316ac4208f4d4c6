"""InfoNCE with negatives from a queue (MoCo)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor

from edgessl.kernels import reference
from edgessl.kernels.arguments import (
    Implementation,
    Reduction,
    check_pair,
    check_rows,
    check_same,
    in_one_dtype,
    inverse_temperature,
)
from edgessl.kernels.implementations import choose
from edgessl.kernels.operators.queued import queue_losses
from edgessl.kernels.passes import is_bounded
from edgessl.kernels.settings import ContrastiveLoss, Settings, check_words, reduced

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["InfoNCEQueueLoss", "info_nce_queue"]


def info_nce_queue(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float | Tensor,
    *,
    normalize: bool = True,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Tell each query's key from the rows of a queue.

    lᵢ = log(1 + Σⱼ exp(⟨q̂ᵢ, ĉⱼ⟩/τ − ⟨q̂ᵢ, k̂ᵢ⟩/τ)) over the rows cⱼ of the queue.

    Args:
        query: (N, D) float32, float16 or bfloat16. Rows of several dtypes are computed in the
            widest one.
        key: (N, D); row i is the positive of query i. It gets a gradient if it requires one.
        queue: (K, D) negatives, a constant. The gradient is computed together with the loss: the
            queue may be changed as soon as this function has returned (not for the reference).
        temperature: τ > 0, a number or a tensor of one element (which then gets a gradient).
        normalize: Scale the rows of all three to unit length first; this and the other keywords
            are as for `edgessl.kernels.nt_xent`.
        reduction: ``"mean"`` over this process's N queries, ``"sum"`` of them, or ``"none"``.
        implementation: ``"auto"``, ``"triton"``, ``"chunked"`` or ``"reference"``.
        group: Accepted for the losses' common signature: a query sees its own key and the queue,
            whatever other processes hold, so that the mean over processes is the global loss.

    Returns:
        A float32 scalar, or (N,) for ``reduction="none"``.

    Raises:
        TypeError: An argument of another type or dtype.
        ValueError: A shape, device, temperature or word that is not as above, or a queue that
            requires a gradient.
        RuntimeError: On a second derivative, except of the reference.

    Source: arXiv:1911.05722, eq. 1.
    """
    check_words("info_nce_queue", reduction, implementation)
    query, key = check_pair("info_nce_queue", "query", query, "key", key)
    check_rows("info_nce_queue", "queue", queue)
    check_same("info_nce_queue", "query", query, "queue", queue, rows=False)
    if queue.requires_grad:
        raise ValueError(
            "info_nce_queue: queue must not require a gradient, it holds keys of earlier steps; "
            "pass queue.detach()"
        )
    query, queue = in_one_dtype(query, queue)
    key = key.to(query.dtype)
    scale = inverse_temperature("info_nce_queue", temperature, query)
    chosen = choose("info_nce_queue", implementation, query)
    if chosen == "reference":
        queries, keys, columns = (reference.precise(z, normalize) for z in (query, key, queue))
        losses = reference.queue_losses(queries, keys, columns, scale)
    else:
        losses = queue_losses(
            query,
            key,
            queue,
            scale,
            implementation=chosen,
            normalize=normalize,
            bounded=is_bounded(1 / temperature, normalize),
        )
    return reduced(losses, reduction)


class InfoNCEQueueLoss(ContrastiveLoss):
    """`info_nce_queue` with its settings kept.

    Args:
        temperature: τ > 0; a parameter is learnt.
        settings: Keywords of `info_nce_queue`.
    """

    def __init__(self, temperature: float | Tensor = 0.2, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.temperature = temperature

    def forward(self, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        """Loss of (N, D) queries and keys against a (K, D) queue; see `info_nce_queue`."""
        return info_nce_queue(query, key, queue, self.temperature, **self.settings)
