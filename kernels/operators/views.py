"""Softmax losses among one set of rows, as operators: NT-Xent, decoupled, supervised contrastive.

`edgessl::views` gives the losses and what its backward needs; `edgessl::views_backward` gives each
process the complete gradient of its rows, from everybody's log-sum-exps, so that no gradients are
exchanged. How logits are passed over is the engine's matter (`edgessl.kernels.engine`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from edgessl.kernels.engine import engine
from edgessl.kernels.gather import gather_values, named_group, rank_and_size
from edgessl.kernels.implementations import Chosen
from edgessl.kernels.operators.upstream import differentiable_once, shared_weights, skip_below
from edgessl.kernels.problem import PEAK_CELL, SOFTPLUS_LIMIT, PairKind, Pairs, Rows, Terms

__all__ = ["views_losses"]


def views_losses(
    z: Tensor,
    scale: Tensor,
    labels: Tensor | None,
    *,
    implementation: Chosen,
    normalize: bool,
    decoupled: bool,
    bounded: bool,
    uniform: bool,
    skip_tiles: bool,
    group_name: str,
) -> tuple[Tensor, Tensor]:
    """Losses of this process's rows against all rows of the group.

    Args:
        z: (M, D); without labels rows i and i + M/2 are positives of each other.
        scale: 0-dimensional, 1/τ.
        labels: (M,) or None.
        implementation: ``"triton"`` or ``"chunked"``.
        normalize: Scale rows to unit length first.
        decoupled: Leave the positive out of the denominator.
        bounded: Rows have unit length and scale ≤ 74.
        uniform: All rows of all processes will get the same upstream gradient.
        skip_tiles: Let the backward leave out what vanishes in the rows' dtype.
        group_name: Of `edgessl.kernels.gather.group_name`.

    Returns:
        Losses (M,) float32, 0 for rows without a positive; and how many rows of the global batch
        have a positive (0-dimensional).
    """
    flags = (implementation, normalize, decoupled, bounded, uniform, skip_tiles, group_name)
    outputs = torch.ops.edgessl.views(z, scale, labels, *flags)
    return outputs[0], outputs[1]


@custom_op("edgessl::views", mutates_args=())
def _views(
    z: Tensor,
    scale: Tensor,
    labels: Tensor | None,
    implementation: str,
    normalize: bool,
    decoupled: bool,
    bounded: bool,
    uniform: bool,
    skip_tiles: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses, how many rows count; unit rows, 1/norms, everybody's rows, labels, terms, peaks.

    Those that do not apply are empty: outputs may not be inputs or each other.
    """
    run = engine(implementation)
    group = named_group(group_name)
    rank, size = rank_and_size(group)
    count = z.shape[0]
    rows = run.unit_rows(z) if normalize else Rows(z.contiguous(), None)
    everyone = gather_values(rows.values, group)
    all_labels = None if labels is None else gather_values(labels, group)
    pairs = Pairs("views" if labels is None else "labels", rank * count, labels, all_labels)
    if size == 1:
        found, _ = run.mutual_statistics(
            rows.values, None, scale, pairs, bounded=bounded, peaks=skip_tiles
        )
    else:
        found = run.statistics(
            rows.values, everyone, scale, pairs, bounded=bounded, peaks=skip_tiles
        )
    margin = found.others - found.positive
    if found.positives is not None and labels is not None:
        counts = found.positives > 0
        losses = torch.where(counts, margin, 0)
        losses = torch.where(labels < 0, float("nan"), losses)
        normalizer = torch.where(counts, found.others, float("inf"))
        pull = torch.where(counts, 1 / found.positives.clamp(min=1), 0)
    elif decoupled:
        losses, normalizer, pull = margin, found.others, torch.ones_like(margin)
    else:
        losses = F.softplus(margin, threshold=SOFTPLUS_LIMIT)
        normalizer = torch.logaddexp(found.others, found.positive)
        pull = torch.sigmoid(margin)
    terms = gather_values(torch.stack([normalizer, pull], dim=1), group)
    # In these terms a row without a positive has no pull; in NT-Xent a pull may vanish, yet counts.
    if labels is None:
        counted = losses.new_full((), float(terms.shape[0]))
    else:
        counted = (terms[:, 1] > 0).sum().to(losses.dtype)
    return (
        losses,
        counted,
        rows.values if normalize else z.new_empty(0),
        losses.new_empty(0) if rows.inverse_norm is None else rows.inverse_norm,
        z.new_empty(0) if size == 1 else everyone,
        terms.new_empty(0, dtype=torch.int64) if size == 1 or all_labels is None else all_labels,
        terms,
        losses.new_empty(0) if found.peaks is None else found.peaks,
    )


@_views.register_fake
def _views_shapes(
    z: Tensor,
    scale: Tensor,
    labels: Tensor | None,
    implementation: str,
    normalize: bool,
    decoupled: bool,
    bounded: bool,
    uniform: bool,
    skip_tiles: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    count, size = z.shape[0], rank_and_size(named_group(group_name))[1]
    cells = (-(-count // PEAK_CELL), -(-(size * count) // PEAK_CELL))
    return (
        scale.new_empty(count),
        scale.new_empty(()),
        torch.empty_like(z, memory_format=torch.contiguous_format) if normalize else z.new_empty(0),
        scale.new_empty(count if normalize else 0),
        z.new_empty(0) if size == 1 else z.new_empty((size * count, z.shape[1])),
        z.new_empty(0 if size == 1 or labels is None else size * count, dtype=torch.int64),
        scale.new_empty((size * count, 2)),
        scale.new_empty(cells if skip_tiles else 0),
    )


@custom_op("edgessl::views_backward", mutates_args=())
def _views_backward(
    gradient: Tensor,
    values: Tensor,
    inverse_norm: Tensor,
    everyone: Tensor,
    scale: Tensor,
    labels: Tensor | None,
    all_labels: Tensor,
    terms: Tensor,
    peaks: Tensor,
    implementation: str,
    bounded: bool,
    uniform: bool,
    group_name: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of z (M, D) and of the scale, for an upstream gradient (M,)."""
    group = named_group(group_name)
    rank, size = rank_and_size(group)
    count = values.shape[0]
    own = slice(rank * count, (rank + 1) * count)
    rows = Rows(values, inverse_norm if len(inverse_norm) else None)
    weights, magnitude = shared_weights(gradient, uniform, group)
    normalizer, pull = terms[:, 0].contiguous(), weights * terms[:, 1]
    columns = Terms(normalizer, weights, pull)
    skip = skip_below(peaks, pull, values.dtype)
    kind: PairKind = "views" if labels is None else "labels"
    if size == 1:
        pairs = Pairs(kind, 0, labels, labels)
        found, _ = engine(implementation).mutual_gradients(
            rows,
            None,
            scale,
            pairs,
            columns,
            columns,
            scale * magnitude,
            bounded=bounded,
            skip=skip,
        )
    else:
        pairs = Pairs(kind, rank * count, labels, None if labels is None else all_labels)
        mine = Terms(normalizer[own], weights[own], pull[own])
        found = engine(implementation).gradients(
            rows,
            everyone,
            scale,
            pairs,
            mine,
            columns,
            scale * magnitude,
            bounded=bounded,
            skip=skip,
        )
    # Both rows of a pair bring its share: half of it each.
    return found.rows, found.along.sum() / (2 * scale)


@_views_backward.register_fake
def _views_backward_shapes(
    gradient: Tensor, values: Tensor, inverse_norm: Tensor, everyone: Tensor, scale: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(values), torch.empty_like(scale)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, scale, labels, implementation, normalize, _, bounded, uniform, _, group_name = inputs
    _, _, unit, inverse_norm, everyone, all_labels, terms, peaks = output
    values = unit if normalize else z.contiguous()
    ctx.save_for_backward(values, inverse_norm, everyone, scale, labels, all_labels, terms, peaks)
    ctx.flags = (implementation, bounded, uniform, group_name)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 8
    if gradient is None:
        return None, None, *nothing
    saved = ctx.saved_tensors
    rows, scale = torch.ops.edgessl.views_backward(gradient, *saved, *ctx.flags)
    return rows, scale, *nothing


_views.register_autograd(_backward, setup_context=_keep)
differentiable_once(_views_backward)
