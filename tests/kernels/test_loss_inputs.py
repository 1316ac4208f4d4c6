"""Rows that break careless code: duplicates, zeros, extreme lengths, strides, NaN beside them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contracts.contrastive_checks import (
    ENGINES,
    EPS,
    agrees,
    available,
    by_definition,
    call,
    check,
    gradients,
    shares,
)
from contracts.contrastive_losses import LOSSES, Problem, problem
from contracts.contrastive_oracle import ORACLE
from edgessl.kernels.engine import engine as load

each_loss = pytest.mark.parametrize("loss", LOSSES)
each_engine = pytest.mark.parametrize("engine", ENGINES)


def finite(given: Problem, loss: Tensor, found: dict[str, Tensor]) -> None:
    assert loss.isfinite().all()
    for name, gradient in found.items():
        assert gradient.isfinite().all(), name


@each_loss
@each_engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_duplicated_rows(loss: str, engine: str, dtype: torch.dtype) -> None:
    device, implementation = available(engine)

    def repeat(rows: Tensor) -> Tensor:
        return rows[torch.arange(len(rows)) % 7 % 5].clone()

    given = problem(loss, 50, 24, 0.05, dtype).map(repeat).to(device)
    check(given, implementation=implementation)
    check(given.map(lambda rows: rows[:1].expand_as(rows)), implementation=implementation)


@each_loss
@each_engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_of_zeros_have_no_gradient(loss: str, engine: str, dtype: torch.dtype) -> None:
    device, implementation = available(engine)

    def blank(rows: Tensor) -> Tensor:
        rows = rows.clone()
        rows[::3] = 0
        return rows

    given = problem(loss, 50, 24, 0.1, dtype).map(blank).to(device)
    check(given, implementation=implementation)
    learnable = given.learnable()
    found = gradients(call(learnable, implementation=implementation), learnable)
    for name in given.rows.keys() & found.keys():
        assert not found[name][::3].any()
        assert found[name].any()
    nothing = given.map(torch.zeros_like).learnable()
    total = call(nothing, implementation=implementation)
    finite(nothing, total, gradients(total, nothing))


@each_engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 24, 200, 768])
def test_unit_rows_are_rounded_once(engine: str, dtype: torch.dtype, dim: int) -> None:
    device, implementation = available(engine)
    z = problem("nt_xent", 70, dim, 0.1, dtype).rows["z"].to(device)
    exact = ORACLE.unit_rows(z)
    given = load(implementation).unit_rows(z)
    assert given.values.dtype == dtype
    assert given.inverse_norm is not None
    # Half of the distance between two numbers of the dtype, and the last bits of float32.
    distance = torch.exp2(exact.values.abs().clamp(min=2.0**-14).log2().floor()) * EPS[dtype]
    bound = distance / 2 + 2.0**-22 * exact.values.abs()
    assert ((given.values.double() - exact.values).abs() <= bound).all()
    torch.testing.assert_close(given.inverse_norm.double(), exact.inverse_norm, rtol=1e-6, atol=0)


@each_loss
@each_engine
@pytest.mark.parametrize("length", [1e-25, 1e-10, 1e15, 1e30])
def test_rows_of_any_length(loss: str, engine: str, length: float) -> None:
    device, implementation = available(engine)
    given = problem(loss, 50, 24, 0.1).to(device)
    usual, stretched = given.learnable(), given.map(lambda rows: length * rows).learnable()
    losses = [
        call(each, implementation=implementation, reduction="none") for each in (usual, stretched)
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    found = [
        gradients(each.sum(), given) for each, given in zip(losses, (usual, stretched), strict=True)
    ]
    for name in given.rows.keys() & found[0].keys():
        scale = float(found[0][name].abs().max())
        # In float64: with rows of 1e-25 the gradient is near the end of float32.
        given_back = found[1][name].double() * length
        torch.testing.assert_close(
            given_back, found[0][name].double(), rtol=1e-3, atol=1e-5 * scale
        )


@each_loss
@each_engine
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("count", "dim"), [(50, 24), (130, 100)])
def test_memory_beside_the_rows_is_not_read(
    loss: str, engine: str, normalize: bool, count: int, dim: int
) -> None:
    device, implementation = available(engine)

    def planted(rows: Tensor) -> Tensor:
        """The same rows between NaN, before and behind, within one allocation."""
        margin = 300 * rows.shape[1]
        memory = torch.full((margin + rows.numel() + margin,), torch.nan).to(rows)
        memory[margin:-margin] = rows.flatten()
        return memory[margin:-margin].view_as(rows)

    given = problem(loss, count, dim, 0.1).to(device)
    found = []
    for each in (given, given.map(planted)):
        leaves = [leaf.detach().requires_grad_() for leaf in each.leaves.values()]
        rows = {**each.rows, **dict(zip(each.leaves, leaves, strict=True))}
        beside = Problem(
            loss,
            {name: rows[name] for name in each.rows},
            {name: rows[name] for name in each.scalars},
            each.labels,
        )
        losses = call(beside, implementation=implementation, normalize=normalize, reduction="none")
        found.append([losses, *torch.autograd.grad(losses.sum(), leaves)])
    for plain, beside_nan in zip(*found, strict=True):
        assert torch.equal(plain, beside_nan)


@each_loss
@each_engine
@pytest.mark.parametrize("normalize", [True, False])
def test_strides(loss: str, engine: str, normalize: bool) -> None:
    device, implementation = available(engine)
    given = problem(loss, 50, 24, 0.1).to(device)

    def transposed(rows: Tensor) -> Tensor:
        return rows.T.contiguous().T

    def sliced(rows: Tensor) -> Tensor:
        return torch.stack([rows, rows], dim=2).flatten(1)[:, ::2]

    wanted = by_definition(given, None, implementation=implementation, normalize=normalize)
    for change in (transposed, sliced):
        other = given.map(change)
        for name in other.rows.keys() & other.leaves.keys():
            assert not other.rows[name].is_contiguous()
            other.rows[name].requires_grad_()
        losses = call(other, implementation=implementation, normalize=normalize, reduction="none")
        found = gradients(losses.sum(), other, numbers=True)
        agrees(given, losses.detach(), found, wanted)


@each_engine
@pytest.mark.parametrize("loss", ["clip_loss", "siglip_loss", "info_nce_queue", "nt_xent"])
def test_the_smallest_batch(loss: str, engine: str) -> None:
    device, implementation = available(engine)
    given = problem(loss, 2 if loss == "nt_xent" else 1, 5, 0.2)
    if loss == "info_nce_queue":
        rows = {name: rows[:1] for name, rows in given.rows.items()}
        given = Problem(loss, rows, given.scalars)
    check(given.to(device), implementation=implementation)
    check(given.to(device), implementation=implementation, numbers=True)


@each_engine
def test_labels_without_a_second_row(engine: str) -> None:
    """No row has a positive: nothing counts, and nothing is NaN."""
    device, implementation = available(engine)
    given = problem("supcon", 20, 6, 0.1)
    for labels in (torch.arange(20), torch.zeros(1, dtype=torch.long)):
        rows = {"z": given.rows["z"][: len(labels)]}
        alone = Problem("supcon", rows, given.scalars, labels).to(device).learnable()
        for reduction in ("none", "sum", "mean"):
            losses = call(alone, implementation=implementation, reduction=reduction)
            found = gradients(losses.sum(), alone)
            finite(alone, losses, found)
            assert not losses.any()
            assert not found["z"].any()


@each_engine
@pytest.mark.parametrize("labels", [torch.zeros(20), torch.arange(20) % 2, torch.arange(20) % 10])
def test_labels_of_many_positives(engine: str, labels: Tensor) -> None:
    device, implementation = available(engine)
    given = problem("supcon", 20, 6, 0.05)
    given = Problem("supcon", given.rows, given.scalars, labels.long())
    check(given.to(device), implementation=implementation)


def test_supcon_with_two_rows_of_each_label_is_nt_xent() -> None:
    given = problem("nt_xent", 30, 8, 0.1)
    labels = torch.arange(15).repeat(2)
    other = Problem("supcon", given.rows, given.scalars, labels)
    for implementation in ("chunked", "reference"):
        torch.testing.assert_close(
            call(other, implementation=implementation, reduction="none"),
            call(given, implementation=implementation, reduction="none"),
            rtol=1e-5,
            atol=1e-5,
        )


@each_engine
@pytest.mark.parametrize("loss", ["siglip_loss", "info_nce_queue"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradients_left_by_the_forward_pass_fit_into_float16(
    loss: str, engine: str, reduction: str
) -> None:
    """What multiplies an upstream gradient may not be in float16's range when the product is."""
    device, implementation = available(engine)
    given = problem(loss, 120, 4, 0.01, torch.float16)
    # Short rows: the gradient of the sum of all losses is beyond 65504, that of the mean is not.
    given = given.map(lambda rows: rows / 64).to(device)
    if "logit_bias" in given.scalars:
        given.scalars["logit_bias"].zero_()
    learnable = given.learnable()
    losses = call(learnable, implementation=implementation, reduction=reduction)
    upstream = torch.full_like(losses, 1 / 2000)
    rows = len(next(iter(given.rows.values())))
    share = upstream.cpu() if reduction == "none" else torch.full((rows,), 1 / 2000 / rows)
    wanted = by_definition(given, share.to(device), implementation=implementation)
    found = gradients(losses, learnable, upstream)
    for name in given.rows.keys() & found.keys():
        assert wanted.gradients[name].abs().max() < 60000
        assert found[name].isfinite().all(), name


@each_engine
@pytest.mark.parametrize("loss", LOSSES)
def test_small_gradients_of_float16_survive_a_scaled_loss(loss: str, engine: str) -> None:
    """A loss scaled by 2²⁰ shows gradients that float16 could not hold before scaling."""
    device, implementation = available(engine)
    # Long rows have small gradients: here below 2⁻²⁴, float16's least number.
    given = problem(loss, 60, 24, 0.5, torch.float16).map(lambda rows: rows * 4096).to(device)
    learnable = given.learnable()
    total = call(learnable, implementation=implementation)
    found = gradients(total, learnable, torch.full_like(total, 2.0**20))
    count = len(next(iter(given.rows.values())))
    upstream = shares(given, count) * 2.0**20
    wanted = by_definition(given, upstream, implementation=implementation)
    for name in given.rows.keys() & found.keys():
        difference = (found[name].double() - wanted.gradients[name]).norm()
        assert difference < 0.01 * wanted.gradients[name].norm(), name
