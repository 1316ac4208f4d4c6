"""InfoNCE against a queue (MoCo), as an operator.

A query's softmax is known after one pass over the queue, and with it the gradient: the forward pass
leaves it, and the backward pass never sees the queue, which may be changed as soon as the loss is
there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from edgessl.kernels.engine import engine
from edgessl.kernels.implementations import Chosen
from edgessl.kernels.operators.upstream import differentiable_once, times_upstream, unscaled
from edgessl.kernels.problem import Rows

__all__ = ["queue_losses"]

_MOST = 2
"""A query's weights sum to 1 − P over the queue, and its key's is as much again."""


def queue_losses(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    scale: Tensor,
    *,
    implementation: Chosen,
    normalize: bool,
    bounded: bool,
) -> Tensor:
    """Losses (N,) float32 of queries, each with its key against all rows of the queue.

    Args:
        query: (N, D).
        key: (N, D), of the same dtype; it gets a gradient if it requires one.
        queue: (K, D), of the same dtype, a constant.
        scale: 0-dimensional, 1/τ.
        implementation: ``"triton"`` or ``"chunked"``.
        normalize: Scale the rows of all three to unit length first.
        bounded: Rows have unit length and scale ≤ 74.
    """
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, scale))
    flags = (implementation, normalize, bounded, wanted, wanted and key.requires_grad)
    losses: Tensor = torch.ops.edgessl.queue(query, key, queue.detach(), scale, *flags)[0]
    return losses


@custom_op("edgessl::queue", mutates_args=())
def _queue(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    scale: Tensor,
    implementation: str,
    normalize: bool,
    bounded: bool,
    wanted: bool,
    key_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses, and what multiplies upstream gradients: of query, key (N, D) and the scale (N,).

    Gradients of rows are as `unscaled` rows leave them; then come 1/norms of queries and keys.
    """
    run = engine(implementation)
    queries, keys, columns = (
        run.unit_rows(z) if normalize else Rows(z.contiguous(), None) for z in (query, key, queue)
    )
    found = run.queue(
        unscaled(queries, scale, _MOST),
        keys.values,
        columns.values,
        scale,
        bounded=bounded,
        gradients=wanted,
    )
    nothing = [found.losses.new_empty(0) for _ in range(3)]
    if found.gradient is None:
        none = (query.new_empty(0), key.new_empty(0))
        return found.losses, *none, nothing[0], nothing[1], nothing[2]
    of_scale = found.gradient.along / scale
    inverse = nothing[0] if queries.inverse_norm is None else queries.inverse_norm
    if not key_wanted:
        return found.losses, found.gradient.rows, key.new_empty(0), of_scale, inverse, nothing[1]
    key_inverse = nothing[1] if keys.inverse_norm is None else keys.inverse_norm
    # d loss / d s = P − 1 for the key's own logit, the only one in which the key stands.
    with torch.autocast(query.device.type, enabled=False):
        unit = keys.values.to(found.losses.dtype)
        factor = unscaled(keys, scale, _MOST).inverse_norm
        of_keys = -(found.pull * scale)[:, None] * queries.values.to(found.losses.dtype)
        if factor is not None:
            along = (of_keys * unit).sum(dim=1, keepdim=True)
            of_keys = (of_keys - unit * along) * factor[:, None]
    of_keys = of_keys.to(key.dtype)
    return found.losses, found.gradient.rows, of_keys, of_scale, inverse, key_inverse


@_queue.register_fake
def _queue_shapes(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    scale: Tensor,
    implementation: str,
    normalize: bool,
    bounded: bool,
    wanted: bool,
    key_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape = query.shape if wanted else (0,)
    return (
        scale.new_empty(query.shape[0]),
        query.new_empty(shape),
        key.new_empty(key.shape if key_wanted else (0,)),
        scale.new_empty(shape[0]),
        scale.new_empty(shape[0] if normalize else 0),
        scale.new_empty(shape[0] if normalize and key_wanted else 0),
    )


@custom_op("edgessl::queue_backward", mutates_args=())
def _queue_backward(
    gradient: Tensor,
    of_query: Tensor,
    of_key: Tensor,
    of_scale: Tensor,
    query_inverse_norm: Tensor,
    key_inverse_norm: Tensor,
    scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key (N, D) and of the scale for an upstream gradient (N,)."""
    keys = torch.empty_like(of_key)
    if len(of_key):
        keys = times_upstream(of_key, gradient, key_inverse_norm, scale, _MOST)
    return (
        times_upstream(of_query, gradient, query_inverse_norm, scale, _MOST),
        keys,
        (of_scale * gradient).sum(),
    )


@_queue_backward.register_fake
def _queue_backward_shapes(
    gradient: Tensor, of_query: Tensor, of_key: Tensor, of_scale: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(of_query), torch.empty_like(of_key), of_scale.new_empty(())


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:], inputs[3])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 5
    if gradient is None:
        return None, None, None, None, *nothing
    query, key, scale = torch.ops.edgessl.queue_backward(gradient, *ctx.saved_tensors)
    return query, key if len(key) else None, None, scale, *nothing


_queue.register_autograd(_backward, setup_context=_keep)
differentiable_once(_queue_backward)
