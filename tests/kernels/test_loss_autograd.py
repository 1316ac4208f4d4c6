"""The losses inside autograd: upstream gradients, repeats, arguments that want no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contracts.contrastive_checks import (
    ENGINES,
    agrees,
    available,
    by_definition,
    call,
    gradients,
    upstream_of,
)
from contracts.contrastive_losses import LOSSES, Problem, problem
from edgessl import kernels

each_loss = pytest.mark.parametrize("loss", LOSSES)
each_engine = pytest.mark.parametrize("engine", ENGINES)


def small(loss: str, device: str, dtype: torch.dtype = torch.float32) -> Problem:
    return problem(loss, 50, 24, 0.1, dtype).to(device)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Equal to the last bit."""
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, wanted[name]), name


@each_loss
@each_engine
def test_reductions(loss: str, engine: str) -> None:
    device, implementation = available(engine)
    given = small(loss, device)
    losses = call(given, implementation=implementation, reduction="none")
    total = call(given, implementation=implementation, reduction="sum")
    mean = call(given, implementation=implementation)
    torch.testing.assert_close(total, losses.sum())
    counts = (losses != 0).sum() if loss == "supcon" else losses.numel()
    torch.testing.assert_close(mean, losses.sum() / counts)


@each_loss
@each_engine
@pytest.mark.parametrize("value", [0.0, -3.0, 1e-6, 65536.0])
def test_upstream_gradients_of_any_size(loss: str, engine: str, value: float) -> None:
    device, implementation = available(engine)
    given = small(loss, device)
    learnable = given.learnable()
    losses = call(learnable, implementation=implementation, reduction="none")
    upstream = value * upstream_of(len(losses), device)
    found = gradients(losses, learnable, upstream)
    wanted = by_definition(given, upstream, implementation=implementation)
    agrees(given, losses.detach(), found, wanted)


@each_loss
@each_engine
def test_expanded_upstream_gradients(loss: str, engine: str) -> None:
    """``losses.sum().backward()`` hands down a gradient without memory of its own."""
    device, implementation = available(engine)
    learnable = small(loss, device).learnable()
    losses = call(learnable, implementation=implementation, reduction="none")
    expanded = torch.tensor(0.7, device=device).expand(len(losses))
    found = gradients(losses, learnable, expanded)
    losses = call(learnable, implementation=implementation, reduction="none")
    same(found, gradients(losses, learnable, expanded.clone()))


@each_loss
@each_engine
def test_upstream_gradients_of_a_few_rows(loss: str, engine: str) -> None:
    device, implementation = available(engine)
    given = small(loss, device)
    learnable = given.learnable()
    losses = call(learnable, implementation=implementation, reduction="none")
    upstream = torch.zeros_like(losses)
    upstream[1] = 2
    wanted = by_definition(given, upstream, implementation=implementation)
    agrees(given, losses.detach(), gradients(losses[1] * 2, learnable), wanted)


@each_loss
@each_engine
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_repeated_backward(loss: str, engine: str, reduction: str) -> None:
    device, implementation = available(engine)
    learnable = small(loss, device).learnable()
    total = call(learnable, implementation=implementation, reduction=reduction).sum()
    total.backward(retain_graph=True)
    first = {name: leaf.grad.clone() for name, leaf in learnable.leaves.items()}
    total.backward()
    same(
        {name: leaf.grad for name, leaf in learnable.leaves.items()},
        {name: 2 * gradient for name, gradient in first.items()},
    )


@each_loss
@each_engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_every_time(loss: str, engine: str, dtype: torch.dtype) -> None:
    device, implementation = available(engine)
    given = problem(loss, 140, 40, 0.05, dtype).to(device)
    runs = []
    for _ in range(3):
        learnable = given.learnable()
        losses = call(learnable, implementation=implementation, reduction="none")
        upstream = upstream_of(len(losses), device)
        runs.append({"losses": losses, **gradients(losses, learnable, upstream)})
    same(runs[1], runs[0])
    same(runs[2], runs[0])


@each_loss
@each_engine
def test_arguments_are_not_changed(loss: str, engine: str) -> None:
    device, implementation = available(engine)
    given = small(loss, device)
    for normalize in (True, False):
        learnable = given.learnable()
        call(learnable, implementation=implementation, normalize=normalize).backward()
        for found, wanted in zip(learnable.arguments, given.arguments, strict=True):
            assert torch.equal(found, wanted)


@each_loss
@each_engine
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_of_some_arguments_only(loss: str, engine: str, reduction: str) -> None:
    """Each argument alone gets the gradient that it gets together with the others."""
    device, implementation = available(engine)
    given = small(loss, device)
    learnable = given.learnable()
    keywords = {"implementation": implementation, "reduction": reduction}
    together = gradients(call(learnable, **keywords).sum(), learnable)
    for name in given.leaves:
        alone = given.learnable()
        for other, leaf in alone.leaves.items():
            leaf.requires_grad_(other == name)
        total = call(alone, **keywords).sum()
        (found,) = torch.autograd.grad(total, alone.leaves[name])
        torch.testing.assert_close(found, together[name], rtol=1e-5, atol=1e-6)
    constant = call(given, **keywords)
    assert not constant.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(call(learnable, **keywords), constant)


@each_loss
@each_engine
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative_is_an_error(loss: str, engine: str, reduction: str) -> None:
    device, implementation = available(engine)
    learnable = small(loss, device).learnable()
    total = call(learnable, implementation=implementation, reduction=reduction).sum()
    for leaf in learnable.leaves.values():
        (first,) = torch.autograd.grad(total, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=r"once.*'reference'"):
            torch.autograd.grad(first.sum(), list(learnable.leaves.values()), allow_unused=True)


@each_loss
def test_the_reference_has_second_derivatives(loss: str) -> None:
    learnable = problem(loss, 6, 3, 0.5, torch.float64).learnable()
    tensors = [*learnable.rows.values(), *learnable.scalars.values()]

    def total(*changed: Tensor) -> Tensor:
        named = dict(zip([*learnable.rows, *learnable.scalars], changed, strict=True))
        return call(
            Problem(
                loss,
                {name: named[name] for name in learnable.rows},
                {name: named[name] for name in learnable.scalars},
                learnable.labels,
            ),
            implementation="reference",
            reduction="none",
        )

    assert torch.autograd.gradgradcheck(total, tensors)


@each_loss
def test_chunked_gradients_are_slopes(loss: str) -> None:
    """Against differences of the function itself, which know nothing of the formulas."""
    learnable = problem(loss, 6, 3, 0.5, torch.float64).learnable()
    for reduction in ("none", "mean"):
        for normalize in (True, False):
            tensors = [*learnable.leaves.values()]

            def total(
                *changed: Tensor, reduction: str = reduction, normalize: bool = normalize
            ) -> Tensor:
                named = {**learnable.rows, **dict(zip(learnable.leaves, changed, strict=True))}
                return call(
                    Problem(
                        loss,
                        {name: named[name] for name in learnable.rows},
                        {name: named[name] for name in learnable.scalars},
                        learnable.labels,
                    ),
                    implementation="chunked",
                    reduction=reduction,
                    normalize=normalize,
                )

            assert torch.autograd.gradcheck(total, tensors)


@each_engine
def test_the_queue_may_change_before_the_backward_pass(engine: str) -> None:
    """MoCo enqueues the keys as soon as the loss is there."""
    device, implementation = available(engine)
    found = []
    for change in (False, True):
        learnable = small("info_nce_queue", device).learnable()
        total = call(learnable, implementation=implementation)
        if change:
            learnable.rows["queue"].zero_()
        found.append(gradients(total, learnable))
    same(found[1], found[0])


@each_engine
def test_the_wrong_change_between_the_passes_is_an_error(engine: str) -> None:
    """Rows that the backward pass needs as they were: autograd sees that they changed."""
    device, implementation = available(engine)
    given = small("nt_xent", device)
    z = given.rows["z"].clone().requires_grad_()
    rows = z * 1
    total = kernels.nt_xent(rows, 0.1, normalize=False, implementation=implementation)
    rows.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@each_engine
def test_two_dtypes_are_computed_in_the_wider_one(engine: str) -> None:
    device, implementation = available(engine)
    for loss in ("clip_loss", "siglip_loss"):
        wide = small(loss, device)
        narrow = {**wide.rows, "text": wide.rows["text"].bfloat16()}
        mixed = Problem(loss, narrow, wide.scalars).learnable()
        total = call(mixed, implementation=implementation)
        total.backward()
        for rows in mixed.rows.values():
            assert rows.grad is not None
            assert rows.grad.dtype == rows.dtype
        widened = Problem(loss, {**narrow, "text": narrow["text"].float()}, wide.scalars)
        assert torch.equal(total, call(widened, implementation=implementation))


@each_loss
def test_modules_keep_their_settings(loss: str) -> None:
    given = small(loss, "cpu")
    rows = [*given.rows.values(), *([] if given.labels is None else [given.labels])]
    scalars = [*given.scalars.values()]
    module = {
        "nt_xent": kernels.NTXentLoss,
        "dcl": kernels.DCLLoss,
        "supcon": kernels.SupConLoss,
        "clip_loss": kernels.CLIPLoss,
        "siglip_loss": kernels.SigLIPLoss,
        "info_nce_queue": kernels.InfoNCEQueueLoss,
    }[loss]
    keywords = {"reduction": "none", "normalize": False, "implementation": "chunked"}
    wanted = call(given, **keywords)
    if "temperature" in given.scalars:
        learnt = torch.nn.Parameter(scalars[0])
        made = module(learnt, **keywords)
        assert dict(made.named_parameters()) == {"temperature": learnt}
        assert torch.equal(made(*rows), wanted)
    else:
        made = module(**keywords)
        assert torch.equal(made(*rows, *scalars), wanted)
    assert "reduction='none'" in repr(made)
