"""What holds for any rows: order, sides, lengths and rotations make no difference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contracts.contrastive_checks import call, gradients
from contracts.contrastive_losses import LOSSES, Problem, problem

# Triton's interpreter would take a minute for each property: its kernels are drawn on a GPU only.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMPLEMENTATIONS = ("chunked", "reference", "triton")[: 3 if DEVICE == "cuda" else 2]

each_loss = pytest.mark.parametrize("loss", LOSSES)
few = settings(max_examples=25, deadline=None)
sizes = st.tuples(st.integers(2, 9), st.integers(1, 6))
temperatures = st.floats(0.02, 1.0)
seeds = st.integers(0, 2**31)
implementations = st.sampled_from(IMPLEMENTATIONS)


def drawn(loss: str, size: tuple[int, int], temperature: float) -> Problem:
    count, dim = size
    return problem(loss, 2 * count, dim, temperature).to(DEVICE)


def indexed(given_problem: Problem, order: dict[str, Tensor]) -> Problem:
    labels = given_problem.labels
    return Problem(
        given_problem.loss,
        {name: rows[order[name]] for name, rows in given_problem.rows.items()},
        given_problem.scalars,
        None if labels is None else labels[order["z"]],
    )


def orders(of: Problem, seed: int) -> dict[str, Tensor]:
    """New orders of the rows that keep positives together."""
    generator = torch.Generator().manual_seed(seed)
    names = list(of.rows)
    count = len(of.rows[names[0]])
    if of.loss in ("nt_xent", "dcl"):
        half = torch.randperm(count // 2, generator=generator)
        return {"z": torch.cat([half, half + count // 2]).to(DEVICE)}
    order = torch.randperm(count, generator=generator).to(DEVICE)
    found = {name: order for name in names}
    if "queue" in found:
        length = len(of.rows["queue"])
        found["queue"] = torch.randperm(length, generator=generator).to(DEVICE)
    return found


def computed(of: Problem, implementation: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of all rows, and the gradients of their sum."""
    learnable = of.learnable()
    losses = call(learnable, implementation=implementation, reduction="none")
    return losses.detach(), gradients(losses.sum(), learnable)


def close(found: Tensor, wanted: Tensor, size: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-5 * size)


def size_of(found: dict[str, Tensor], temperature: float) -> float:
    """Of the gradients of rows: those that cancel are compared with those that could be there."""
    return max(1 / temperature, *(float(gradient.abs().max()) for gradient in found.values()))


@each_loss
@few
@given(size=sizes, temperature=temperatures, seed=seeds, implementation=implementations)
def test_the_order_of_rows_makes_no_difference(
    loss: str, size: tuple[int, int], temperature: float, seed: int, implementation: str
) -> None:
    plain = drawn(loss, size, temperature)
    order = orders(plain, seed)
    losses, found = computed(plain, implementation)
    other_losses, other = computed(indexed(plain, order), implementation)
    first = order[next(iter(order))]
    close(other_losses, losses[first], 1 / temperature)
    for name in plain.rows.keys() & found.keys():
        close(other[name], found[name][order[name]], 8 * size_of(found, temperature))


@few
@given(size=sizes, temperature=temperatures, implementation=implementations)
@pytest.mark.parametrize("loss", ["nt_xent", "dcl", "clip_loss", "siglip_loss"])
def test_the_sides_may_be_exchanged(
    loss: str, size: tuple[int, int], temperature: float, implementation: str
) -> None:
    plain = drawn(loss, size, temperature)
    if "z" in plain.rows:
        halves = plain.rows["z"].chunk(2)
        exchanged = {"z": torch.cat(halves[::-1])}
    else:
        exchanged = {"image": plain.rows["text"], "text": plain.rows["image"]}
    other = Problem(loss, exchanged, plain.scalars)
    total = call(plain, implementation=implementation)
    close(call(other, implementation=implementation), total, 1 / temperature)


@each_loss
@few
@given(
    size=sizes,
    temperature=temperatures,
    exponents=st.lists(st.integers(-12, 12), min_size=18, max_size=18),
    implementation=implementations,
)
def test_the_length_of_a_row_makes_no_difference(
    loss: str,
    size: tuple[int, int],
    temperature: float,
    exponents: list[int],
    implementation: str,
) -> None:
    """A row c times as long has the same loss and 1/c of the gradient; powers of 2 are exact."""
    plain = drawn(loss, size, temperature)
    factors = torch.exp2(torch.tensor(exponents, device=DEVICE).float())[:, None]
    stretched = plain.map(lambda rows: rows * factors[: len(rows)])
    losses, found = computed(plain, implementation)
    other_losses, other = computed(stretched, implementation)
    close(other_losses, losses, 1 / temperature)
    for name in plain.rows.keys() & found.keys():
        given_back = other[name] * factors[: len(other[name])]
        close(given_back, found[name], 8 * size_of(found, temperature))


@each_loss
@few
@given(size=sizes, temperature=temperatures, seed=seeds, implementation=implementations)
def test_rotations_make_no_difference(
    loss: str, size: tuple[int, int], temperature: float, seed: int, implementation: str
) -> None:
    plain = drawn(loss, size, temperature)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(size[1], size[1], generator=generator)).Q.to(DEVICE)
    losses, _ = computed(plain, implementation)
    close(computed(plain.map(lambda rows: rows @ turn), implementation)[0], losses, 4 / temperature)


@each_loss
@few
@given(size=sizes, temperature=temperatures, implementation=implementations)
def test_a_row_has_no_gradient_along_itself(
    loss: str, size: tuple[int, int], temperature: float, implementation: str
) -> None:
    plain = drawn(loss, size, temperature)
    _, found = computed(plain, implementation)
    for name in plain.rows.keys() & found.keys():
        along = (found[name] * plain.rows[name]).sum(1)
        close(along, torch.zeros_like(along), 8 * size_of(found, temperature))


@few
@given(size=sizes, temperature=temperatures, implementation=implementations)
@pytest.mark.parametrize("loss", ["nt_xent", "clip_loss", "info_nce_queue"])
def test_identical_rows_give_the_logarithm_of_their_number(
    loss: str, size: tuple[int, int], temperature: float, implementation: str
) -> None:
    same = drawn(loss, size, temperature).map(lambda rows: torch.ones_like(rows))
    losses, found = computed(same, implementation)
    counted = {
        "nt_xent": len(same.rows.get("z", ())) - 1,
        "clip_loss": len(same.rows.get("image", ())),
        "info_nce_queue": 1 + len(same.rows.get("queue", ())),
    }[loss]
    close(losses, torch.full_like(losses, math.log(counted)), 1 / temperature)
    for name in same.rows.keys() & found.keys():
        close(found[name], torch.zeros_like(found[name]), 8 * size_of(found, temperature))


@few
@given(size=sizes, temperature=temperatures, implementation=implementations)
def test_nt_xent_is_at_least_dcl(
    size: tuple[int, int], temperature: float, implementation: str
) -> None:
    """One more term in the denominator; exp of nt_xent is 1 + exp of dcl."""
    plain = drawn("nt_xent", size, temperature)
    coupled, _ = computed(plain, implementation)
    other = Problem("dcl", plain.rows, plain.scalars)
    decoupled, _ = computed(other, implementation)
    close(coupled, torch.nn.functional.softplus(decoupled), 1 / temperature)
