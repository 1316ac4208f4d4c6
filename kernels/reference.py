"""The losses as they are defined: full matrices, plain PyTorch, differentiable any number of times.

All take unit rows (or rows as given) in float32 or float64 and give one loss for each row of this
process. With a group, columns are everybody's rows.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from edgessl.kernels.gather import gather_rows, gather_values, rank_and_size
from edgessl.kernels.problem import SOFTPLUS_LIMIT

__all__ = [
    "clip_losses",
    "precise",
    "queue_losses",
    "siglip_losses",
    "supcon_losses",
    "views_losses",
]


def precise(rows: Tensor, normalize: bool) -> Tensor:
    """Rows in float32 (or float64), scaled to unit length; zeros stay zeros and get no gradient."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    if not normalize:
        return rows
    # Division by the largest magnitude keeps the squares of very small and large rows in range.
    largest = rows.detach().abs().amax(dim=1, keepdim=True)
    scaled = rows / torch.where(largest > 0, largest, 1)
    norm = torch.where(largest > 0, scaled, 1).norm(dim=1, keepdim=True)
    return torch.where(largest > 0, scaled / norm, 0)


def views_losses(
    rows: Tensor, scale: Tensor, group: dist.ProcessGroup | None, *, decoupled: bool
) -> Tensor:
    """NT-Xent (2N,), or decoupled: without the positive in the denominator."""
    count = rows.shape[0]
    own = _own(count, group, rows)
    logits = _logits(rows, gather_rows(rows, group), scale)
    logits = logits.scatter(1, own[:, None], float("-inf"))
    positive = (own[0] + (torch.arange(count, device=rows.device) + count // 2) % count)[:, None]
    positive_logits = logits.gather(1, positive)[:, 0]
    if decoupled:
        logits = logits.scatter(1, positive, float("-inf"))
    return torch.logsumexp(logits, dim=1) - positive_logits


def supcon_losses(
    rows: Tensor, labels: Tensor, scale: Tensor, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Losses (M,), 0 for rows without a positive; how many rows of the global batch have one."""
    own = _own(rows.shape[0], group, rows)
    logits = _logits(rows, gather_rows(rows, group), scale)
    logits = logits.scatter(1, own[:, None], float("-inf"))
    same = labels[:, None] == gather_values(labels, group)[None, :]
    same = same.scatter(1, own[:, None], False)
    positives = same.sum(dim=1)
    mean = torch.where(same, logits, 0).sum(dim=1) / positives.clamp(min=1)
    counts = positives > 0
    # One row alone has no logits at all; its sum must not make gradients NaN.
    lse = torch.logsumexp(torch.where(counts[:, None], logits, 0), dim=1)
    losses = torch.where(counts, lse - mean, 0)
    losses = torch.where(labels < 0, float("nan"), losses)
    return losses, gather_values(counts, group).sum()


def clip_losses(
    image: Tensor, text: Tensor, scale: Tensor, group: dist.ProcessGroup | None
) -> Tensor:
    """Mean of both directions' cross entropies (N,)."""
    own = _own(image.shape[0], group, image)
    from_image = F.cross_entropy(
        _logits(image, gather_rows(text, group), scale), own, reduction="none"
    )
    from_text = F.cross_entropy(
        _logits(text, gather_rows(image, group), scale), own, reduction="none"
    )
    return (from_image + from_text) / 2


def siglip_losses(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, group: dist.ProcessGroup | None
) -> Tensor:
    """Sum over the texts of each image's pairwise losses (N,)."""
    own = _own(image.shape[0], group, image)
    logits = _logits(image, gather_rows(text, group), scale) + bias
    signs = torch.ones_like(logits).scatter(1, own[:, None], -1.0)
    return F.softplus(signs * logits, threshold=SOFTPLUS_LIMIT).sum(dim=1)


def queue_losses(query: Tensor, key: Tensor, queue: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE (N,) of each query's key against the queue."""
    own = (query * key).sum(dim=1, keepdim=True) * scale
    logits = torch.cat([own, _logits(query, queue, scale)], dim=1)
    return torch.logsumexp(logits, dim=1) - own[:, 0]


def _own(count: int, group: dist.ProcessGroup | None, like: Tensor) -> Tensor:
    """(N,) columns of this process's rows in the global batch."""
    return torch.arange(count, device=like.device) + rank_and_size(group)[0] * count


def _logits(rows: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return scale * (rows @ columns.T)
