"""The Triton kernels of the loss over a queue against the oracle; interpreted without a GPU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from contracts.contrastive_oracle import ORACLE
from contracts.engine_cases import LIMITS, close, scalar, unit
from edgessl.kernels.engine import QueuePass
from edgessl.kernels.problem import Rows

pytest.importorskip("triton")

from contracts.device_rows import DEVICE, followed_by_nan
from edgessl.kernels.fused import row_owned
from edgessl.kernels.fused.queue import queue

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def given(count: int, length: int, width: int, dtype: torch.dtype) -> tuple[Rows, Tensor, Tensor]:
    """Queries, keys near to them, and a queue."""
    query = unit(count, width, dtype, 1)
    key = torch.nn.functional.normalize(query.double() + unit(count, width, seed=2) / 2, dim=1)
    inverse_norm = followed_by_nan(torch.rand(count) + 0.5)
    return (
        Rows(followed_by_nan(query), inverse_norm),
        followed_by_nan(key.to(dtype)),
        followed_by_nan(unit(length, width, dtype, 3)),
    )


def check(arguments: tuple[Rows, Tensor, Tensor], scale: float, *, bounded: bool) -> QueuePass:
    """Assert that every result is right, small losses by their own size."""
    dtype = arguments[0].values.dtype
    passed = (*arguments, scalar(scale).to(DEVICE))
    found = queue(*passed, bounded=bounded, gradients=True)
    expected = ORACLE.queue(*passed, bounded=bounded, gradients=True)
    # A logit has an error of a few eps times the scale, its exponential that as a relative error.
    relative = 5e-7 * max(scale, 10.0)
    # The oracle's log(1 + x) has no digits of a small x.
    losses = torch.where(expected.pull < 0.5, -torch.log1p(-expected.pull), expected.losses)
    for name, right in (("losses", losses), ("pull", expected.pull)):
        error = (getattr(found, name).double() - right).abs()
        assert (error <= relative * right.abs() + 1e-37).all(), name
    assert found.gradient is not None
    assert expected.gradient is not None
    assert found.gradient.rows.dtype == dtype
    # Queue and key, and what is along the rows, were rounded before they were subtracted.
    size = expected.gradient.rows.abs().max() + expected.gradient.along.abs().max()
    size += scale * expected.pull.max()
    for name in ("rows", "along"):
        error = getattr(found.gradient, name).double() - getattr(expected.gradient, name)
        limit = max(LIMITS[dtype], 2 * relative)
        assert error.abs().max() <= limit * size, name
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("width", [1, 24, 96, 128, 200, 384, 512])
def test_widths(width: int, bounded: bool, dtype: torch.dtype) -> None:
    check(given(70, 130, width, dtype), 14.0, bounded=bounded)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("temperature", "bounded"), [(0.5, True), (0.07, True), (0.0136, True), (0.005, False)]
)
@pytest.mark.parametrize(("count", "length"), [(1, 1), (2, 7), (65, 63), (50, 200)])
def test_shapes(
    count: int, length: int, temperature: float, bounded: bool, dtype: torch.dtype
) -> None:
    query, key, entries = given(count, length, 24, dtype)
    entries[length // 2] = 0
    query.values[count // 2] = 0
    found = check((query, key, entries), 1 / temperature, bounded=bounded)
    assert found.gradient is not None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bounded", [True, False])
def test_all_of_a_queue_equal(bounded: bool, dtype: torch.dtype) -> None:
    """Queries equal to the queue and opposed to their keys: the largest exponentials there are."""
    row = followed_by_nan(unit(1, 32, dtype))
    arguments = (Rows(row, None), -row, row.expand(150, -1))
    check(arguments, 74.0, bounded=bounded)


@pytest.mark.parametrize("bounded", [True, False])
def test_empty_queue(bounded: bool) -> None:
    query, key, entries = given(20, 1, 24, torch.float32)
    arguments = (query, key, entries[:0], scalar(10.0).to(DEVICE))
    found = queue(*arguments, bounded=bounded, gradients=True)
    assert found.gradient is not None
    for zeros in (found.losses, found.pull, found.gradient.rows, found.gradient.along):
        assert not zeros.any()


@pytest.mark.parametrize("bounded", [True, False])
def test_key_that_is_certain(bounded: bool) -> None:
    """The loss is some 10⁻²⁹, far below what would be left of 1 − P."""
    row = unit(1, 24).to(DEVICE)
    arguments = (Rows(row, None), row, -row.expand(60, -1), scalar(35.0).to(DEVICE))
    found = queue(*arguments, bounded=bounded, gradients=True)
    expected = 60 * math.exp(-70 * float(row.double().square().sum()))
    close(found.losses, torch.tensor([expected], device=DEVICE), 1e-4, "loss")
    close(found.pull, torch.tensor([expected], device=DEVICE), 1e-4, "pull")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("scale", "bounded"), [(20.0, True), (20.0, False), (200.0, False)])
@pytest.mark.parametrize("processors", [2, 3, 100])
def test_splits(
    processors: int,
    scale: float,
    bounded: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few queries fill the chip by parts of the queue, whose largest logits differ."""
    monkeypatch.setattr(row_owned, "processors", lambda tensor: processors)
    query, key, entries = given(20, 300, 24, dtype)
    entries[:64] *= 0.01
    entries[250] = query.values[0]
    check((query, key, entries), scale, bounded=bounded)


def test_more_parts_than_are_loaded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_owned, "processors", lambda tensor: 1000)
    check(given(3, 1300, 16, torch.float16), 30.0, bounded=False)


@pytest.mark.parametrize("processors", [1, 4])
@pytest.mark.parametrize("bounded", [True, False])
def test_the_same_bits_each_time(
    bounded: bool, processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_owned, "processors", lambda tensor: processors)
    arguments = (*given(30, 200, 24, torch.bfloat16), scalar(14.0).to(DEVICE))
    first, again = (queue(*arguments, bounded=bounded, gradients=True) for _ in range(2))
    bare = queue(*arguments, bounded=bounded, gradients=False)
    assert bare.gradient is None
    assert first.gradient is not None
    assert again.gradient is not None
    for other in (again, bare):
        assert torch.equal(first.losses, other.losses)
        assert torch.equal(first.pull, other.pull)
    assert torch.equal(first.gradient.rows, again.gradient.rows)
    assert torch.equal(first.gradient.along, again.gradient.along)
