"""The symmetric softmax loss between two towers (CLIP), as an operator."""

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
from edgessl.kernels.problem import PEAK_CELL, SOFTPLUS_LIMIT, Pairs, Rows, Terms

__all__ = ["towers_losses"]


def towers_losses(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    *,
    implementation: Chosen,
    normalize: bool,
    bounded: bool,
    uniform: bool,
    skip_tiles: bool,
    group_name: str,
) -> Tensor:
    """Mean of both directions' cross entropies for each pair of this process, (N,) float32.

    Args:
        image: (N, D); row i belongs to row i of ``text``.
        text: (N, D), of the same dtype.
        scale: 0-dimensional, 1/τ.
        implementation: ``"triton"`` or ``"chunked"``.
        normalize: Scale rows to unit length first.
        bounded: Rows have unit length and scale ≤ 74.
        uniform: All pairs of all processes will get the same upstream gradient.
        skip_tiles: Let the backward leave out what vanishes in the rows' dtype.
        group_name: Of `edgessl.kernels.gather.group_name`.
    """
    flags = (implementation, normalize, bounded, uniform, skip_tiles, group_name)
    losses: Tensor = torch.ops.edgessl.towers(image, text, scale, *flags)[0]
    return losses


@custom_op("edgessl::towers", mutates_args=())
def _towers(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    implementation: str,
    normalize: bool,
    bounded: bool,
    uniform: bool,
    skip_tiles: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses; of the images, then of the texts: unit rows, 1/norms, everybody's rows, terms, peaks.

    Those that do not apply are empty: outputs may not be inputs or each other.
    """
    run = engine(implementation)
    group = named_group(group_name)
    rank, size = rank_and_size(group)
    sides = [run.unit_rows(z) if normalize else Rows(z.contiguous(), None) for z in (image, text)]
    everyone = [gather_values(side.values, group) for side in sides]
    pairs = Pairs("towers", rank * image.shape[0])
    if size == 1:
        found = run.mutual_statistics(
            sides[0].values, sides[1].values, scale, pairs, bounded=bounded, peaks=skip_tiles
        )
    else:
        found = (
            run.statistics(
                sides[0].values, everyone[1], scale, pairs, bounded=bounded, peaks=skip_tiles
            ),
            run.statistics(
                sides[1].values, everyone[0], scale, pairs, bounded=bounded, peaks=skip_tiles
            ),
        )
    margins = [side.others - side.positive for side in found]
    sides_losses = [F.softplus(margin, threshold=SOFTPLUS_LIMIT) for margin in margins]
    losses = (sides_losses[0] + sides_losses[1]) / 2

    def kept(place: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rows, statistics = sides[place], found[place]
        normalizer = torch.logaddexp(statistics.others, statistics.positive)
        terms = torch.stack([normalizer, torch.sigmoid(margins[place])], dim=1)
        # A copy: those of the texts may be a view of the images'.
        peaks = statistics.peaks
        if peaks is not None:
            peaks = peaks.clone(memory_format=torch.contiguous_format)
        return (
            rows.values if normalize else image.new_empty(0),
            losses.new_empty(0) if rows.inverse_norm is None else rows.inverse_norm,
            image.new_empty(0) if size == 1 else everyone[place],
            gather_values(terms, group),
            losses.new_empty(0) if peaks is None else peaks,
        )

    return losses, *kept(0), *kept(1)


@_towers.register_fake
def _towers_shapes(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    implementation: str,
    normalize: bool,
    bounded: bool,
    uniform: bool,
    skip_tiles: bool,
    group_name: str,
) -> tuple[Tensor, ...]:
    count, size = image.shape[0], rank_and_size(named_group(group_name))[1]
    cells = (-(-count // PEAK_CELL), -(-(size * count) // PEAK_CELL))
    kept: list[Tensor] = []
    for z in (image, text):
        kept += [
            z.new_empty(z.shape) if normalize else z.new_empty(0),
            scale.new_empty(count if normalize else 0),
            z.new_empty(0) if size == 1 else z.new_empty((size * count, z.shape[1])),
            scale.new_empty((size * count, 2)),
            scale.new_empty(cells if skip_tiles else 0),
        ]
    return (scale.new_empty(count), *kept)


@custom_op("edgessl::towers_backward", mutates_args=())
def _towers_backward(
    gradient: Tensor,
    scale: Tensor,
    image: list[Tensor],
    text: list[Tensor],
    implementation: str,
    bounded: bool,
    uniform: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of image and text (N, D) and of the scale, for an upstream gradient (N,).

    ``image`` and ``text`` are what `edgessl::towers` left of each.
    """
    group = named_group(group_name)
    rank, size = rank_and_size(group)
    count = image[0].shape[0]
    own = slice(rank * count, (rank + 1) * count)
    run = engine(implementation)
    # Each direction has half of the loss.
    weights, magnitude = shared_weights(gradient / 2, uniform, group)
    factor = scale * magnitude
    sides, everyone, all_terms, own_terms = [], [], [], []
    for values, inverse_norm, all_rows, terms, _ in (image, text):
        sides.append(Rows(values, inverse_norm if len(inverse_norm) else None))
        everyone.append(values if size == 1 else all_rows)
        columns = Terms(terms[:, 0].contiguous(), weights, weights * terms[:, 1])
        all_terms.append(columns)
        own_terms.append(Terms(*(part[own] for part in vars(columns).values())))
    largest_pull = torch.maximum(all_terms[0].pull.abs(), all_terms[1].pull.abs())
    skips = [skip_below(side[4], largest_pull, image[0].dtype) for side in (image, text)]
    pairs = Pairs("towers", rank * count)
    if size == 1:
        found = run.mutual_gradients(
            sides[0],
            sides[1],
            scale,
            pairs,
            all_terms[0],
            all_terms[1],
            factor,
            bounded=bounded,
            skip=skips[0],
        )
    else:
        found = (
            run.gradients(
                sides[0],
                everyone[1],
                scale,
                pairs,
                own_terms[0],
                all_terms[1],
                factor,
                bounded=bounded,
                skip=skips[0],
            ),
            run.gradients(
                sides[1],
                everyone[0],
                scale,
                pairs,
                own_terms[1],
                all_terms[0],
                factor,
                bounded=bounded,
                skip=skips[1],
            ),
        )
    # In a group each tower knows its own rows' share; alone both sums are the same.
    along = found[0].along.sum() + found[1].along.sum()
    return found[0].rows, found[1].rows, along / (2 * scale)


@_towers_backward.register_fake
def _towers_backward_shapes(
    gradient: Tensor, scale: Tensor, image: list[Tensor], text: list[Tensor], *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(image[0]), torch.empty_like(text[0]), torch.empty_like(scale)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    image, text, scale, implementation, normalize, bounded, uniform, _, group_name = inputs
    kept = list(output[1:])
    if not normalize:
        kept[0], kept[5] = image.contiguous(), text.contiguous()
    ctx.save_for_backward(scale, *kept)
    ctx.flags = (implementation, bounded, uniform, group_name)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 6
    if gradient is None:
        return None, None, None, *nothing
    scale, *kept = ctx.saved_tensors
    operator = torch.ops.edgessl.towers_backward
    found = operator(gradient, scale, kept[:5], kept[5:], *ctx.flags)
    return *found, *nothing


_towers.register_autograd(_backward, setup_context=_keep)
differentiable_once(_towers_backward)
