"""The pairwise sigmoid loss between two towers (SigLIP), as an operator.

Each pair's loss stands alone, so that its gradient is known when its logit is: the forward pass
leaves gradients for an upstream gradient of 1. Only where upstream gradients differ from row to row
(``uniform=False``) are those of the texts computed later.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from edgessl.kernels.engine import engine
from edgessl.kernels.gather import gather_values, named_group, rank_and_size
from edgessl.kernels.implementations import Chosen
from edgessl.kernels.operators.upstream import (
    differentiable_once,
    shared_weights,
    times_upstream,
    unscaled,
)
from edgessl.kernels.problem import Rows

__all__ = ["sigmoid_towers_losses"]


def sigmoid_towers_losses(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    implementation: Chosen,
    normalize: bool,
    uniform: bool,
    group_name: str,
) -> Tensor:
    """Sum over all texts of the pairwise losses of each image of this process, (N,) float32.

    Args:
        image: (N, D); row i belongs to row i of ``text``.
        text: (N, D), of the same dtype.
        scale: 0-dimensional, 1/τ.
        bias: 0-dimensional, added to all logits.
        implementation: ``"triton"`` or ``"chunked"``.
        normalize: Scale rows to unit length first.
        uniform: All rows of all processes will get the same upstream gradient.
        group_name: Of `edgessl.kernels.gather.group_name`.
    """
    wanted = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (image, text, scale, bias)
    )
    flags = (implementation, normalize, uniform, wanted, group_name)
    losses: Tensor = torch.ops.edgessl.sigmoid_towers(image, text, scale, bias, *flags)[0]
    return losses


@custom_op("edgessl::sigmoid_towers", mutates_args=())
def _sigmoid_towers(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    implementation: str,
    normalize: bool,
    uniform: bool,
    wanted: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses; what multiplies upstream gradients; what the texts' later gradients need.

    (N,) losses, (N, D) gradient of the images and of the texts (as `unscaled` rows leave them),
    (N,) of the scale, (N,) of the bias; 1/norms of images and texts; for ``uniform=False``
    everybody's images and the texts. Those that do not apply are empty.
    """
    run = engine(implementation)
    group = named_group(group_name)
    rank, size = rank_and_size(group)
    pairs = size * image.shape[0]
    images, texts = (
        run.unit_rows(z) if normalize else Rows(z.contiguous(), None) for z in (image, text)
    )
    at_once = wanted and uniform
    offset = rank * image.shape[0]
    all_images = images.values
    of_texts = None
    if size == 1 and (at_once or not wanted):
        found, of_texts = run.mutual_sigmoid(
            unscaled(images, scale, pairs),
            unscaled(texts, scale, pairs),
            scale,
            bias,
            gradients=wanted,
        )
    else:
        all_texts = gather_values(texts.values, group)
        found = run.sigmoid(
            unscaled(images, scale, pairs), all_texts, scale, bias, offset, None, gradients=wanted
        )
        if wanted:
            all_images = gather_values(images.values, group)
        if at_once:
            of_texts = run.sigmoid(
                unscaled(texts, scale, pairs), all_images, scale, bias, offset, None, gradients=True
            ).gradient
    later = wanted and not uniform
    of_images = found.gradient
    nothing = found.losses.new_empty(0)
    norms = [
        side.inverse_norm if wanted and side.inverse_norm is not None else nothing.clone()
        for side in (images, texts)
    ]
    return (
        found.losses,
        image.new_empty(0) if of_images is None else of_images.rows,
        text.new_empty(0) if of_texts is None else of_texts.rows,
        nothing if of_images is None else of_images.along / scale,
        found.weight_sum if wanted else nothing.clone(),
        norms[0],
        norms[1],
        # Outputs may not be inputs, which rows as given are.
        all_images.clone() if later else image.new_empty(0),
        texts.values.clone() if later else image.new_empty(0),
    )


@_sigmoid_towers.register_fake
def _sigmoid_towers_shapes(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    implementation: str,
    normalize: bool,
    uniform: bool,
    wanted: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    count, size = image.shape[0], rank_and_size(named_group(group_name))[1]
    later = wanted and not uniform
    return (
        scale.new_empty(count),
        image.new_empty(image.shape if wanted else (0,)),
        text.new_empty(text.shape if wanted and uniform else (0,)),
        scale.new_empty(count if wanted else 0),
        scale.new_empty(count if wanted else 0),
        scale.new_empty(count if wanted and normalize else 0),
        scale.new_empty(count if wanted and normalize else 0),
        image.new_empty((size * count, image.shape[1]) if later else (0,)),
        text.new_empty(text.shape if later else (0,)),
    )


@custom_op("edgessl::sigmoid_towers_backward", mutates_args=())
def _sigmoid_towers_backward(
    gradient: Tensor,
    image_gradient: Tensor,
    text_gradient: Tensor,
    of_scale: Tensor,
    of_bias: Tensor,
    image_inverse_norm: Tensor,
    text_inverse_norm: Tensor,
    all_images: Tensor,
    texts: Tensor,
    scale: Tensor,
    bias: Tensor,
    implementation: str,
    uniform: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of image, text (N, D), scale and bias for an upstream gradient (N,)."""
    group = named_group(group_name)
    rank, size = rank_and_size(group)
    pairs = size * len(gradient)
    of_images = times_upstream(image_gradient, gradient, image_inverse_norm, scale, pairs)
    if uniform:
        of_texts = times_upstream(text_gradient, gradient[:1], text_inverse_norm, scale, pairs)
    else:
        weights, magnitude = shared_weights(gradient, False, group)
        rows = Rows(texts, text_inverse_norm if len(text_inverse_norm) else None)
        offset = rank * len(texts)
        found = engine(implementation).sigmoid(
            unscaled(rows, scale, pairs), all_images, scale, bias, offset, weights, gradients=True
        )
        of_texts = rows.values if found.gradient is None else found.gradient.rows
        of_texts = times_upstream(of_texts, magnitude[None], text_inverse_norm, scale, pairs)
    return of_images, of_texts, (of_scale * gradient).sum(), (of_bias * gradient).sum()


@_sigmoid_towers_backward.register_fake
def _sigmoid_towers_backward_shapes(
    gradient: Tensor,
    image_gradient: Tensor,
    text_gradient: Tensor,
    of_scale: Tensor,
    of_bias: Tensor,
    image_inverse_norm: Tensor,
    text_inverse_norm: Tensor,
    all_images: Tensor,
    texts: Tensor,
    scale: Tensor,
    bias: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(image_gradient),
        torch.empty_like(image_gradient),
        torch.empty_like(scale),
        torch.empty_like(bias),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, scale, bias, implementation, _, uniform, _, group_name = inputs
    ctx.save_for_backward(*output[1:], scale, bias)
    ctx.flags = (implementation, uniform, group_name)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 5
    if gradient is None:
        return None, None, None, None, *nothing
    operator = torch.ops.edgessl.sigmoid_towers_backward
    return *operator(gradient, *ctx.saved_tensors, *ctx.flags), *nothing


_sigmoid_towers.register_autograd(_backward, setup_context=_keep)
differentiable_once(_sigmoid_towers_backward)
