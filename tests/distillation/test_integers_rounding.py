"""Fake quantization beside a naive straight-through implementation in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgessl.distillation.integers.operators import Node, build_operator
from edgessl.distillation.integers.quantized_graph import Range, Weight
from edgessl.distillation.integers.ranges import ActivationRanges, RangeRule
from edgessl.distillation.integers.rounding import (
    fake_quantize,
    fake_quantize_learned,
    straight_through,
)
from edgessl.distillation.integers.weights import WeightGrids, starting_weight

U8 = np.dtype("uint8")
SHAPES = [(7,), (2, 3, 5, 4), (3, 4, 2)]


def naive(x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """Rounding as x + (round(x) - x).detach(), clipping as autograd knows it."""
    steps = torch.clamp(x / scale, low - 0.5, high + 0.5)
    whole = torch.clamp(torch.round(steps), low, high)
    return (steps + (whole - steps).detach()) * scale


def case(shape: tuple[int, ...], *, last: bool = False) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2
    if last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return x


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape: tuple[int, ...], last: bool) -> None:
    scale, low, high = 0.05, -20.0, 30.0
    x = case(shape, last=last).requires_grad_()
    found = fake_quantize(x, scale, low, high)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    (found * weight).sum().backward()
    exact = x.detach().double().requires_grad_()
    expected = naive(exact, torch.tensor(scale, dtype=torch.float64), low, high)
    (expected * weight).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-6, atol=0)
    assert 0 < (x.grad == 0).sum() < x.numel()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_learned_scale(shape: tuple[int, ...], last: bool) -> None:
    low, high = -20.0, 30.0
    x = case(shape, last=last).requires_grad_()
    scale = torch.tensor(0.05, requires_grad=True)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = fake_quantize_learned(x, scale, low, high)
    (found * weight).sum().backward()
    exact, step = x.detach().double().requires_grad_(), torch.tensor(0.05, dtype=torch.float64)
    step.requires_grad_()
    (naive(exact, step, low, high) * weight).sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-6, atol=0)
    # Autograd's derivative by the scale is equation 3 of the paper; ours is tempered by numbers.
    tempered = step.grad / (x.numel() * 30) ** 0.5
    torch.testing.assert_close(scale.grad.double(), tempered, rtol=1e-4, atol=1e-6)


def test_ties_go_to_even_and_zero_is_exact() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.0])
    assert fake_quantize(x, 1.0, -8, 7).tolist() == [0, 2, 2, 0, -2, 0]
    assert fake_quantize(torch.zeros(3), 0.3, -3, 7).tolist() == [0, 0, 0]
    assert fake_quantize(torch.tensor([1e9, -1e9]), 0.5, -3, 7).tolist() == [3.5, -1.5]


def test_straight_through_takes_one_and_teaches_the_other() -> None:
    value = torch.tensor([1.2, -0.7], requires_grad=True)
    found = straight_through(value, torch.tensor([1.0, -1.0]))
    (found * torch.tensor([2.0, 3.0])).sum().backward()
    assert found.tolist() == [1.0, -1.0]
    assert value.grad.tolist() == [2.0, 3.0]


def ranges(rule: RangeRule = "moving_average", **changes: Any) -> ActivationRanges:
    one = Range("s", "z", U8, 2 / 255, 64, low=-np.inf, high=np.inf)
    relu = Range("s1", "z1", U8, 4 / 255, 0, low=0.0, high=np.inf)
    share = Range("s2", "z2", U8, 1 / 256, 0, low=-np.inf, high=np.inf, fixed=True)
    return ActivationRanges(
        [one, relu, share],
        symmetric=False,
        rule=rule,
        decay=0.9,
        **changes,
    )


def pair(low: float, high: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(low), torch.tensor(high)


def test_a_moving_average_follows_the_batches_within_limits() -> None:
    moved = ranges()
    low, high = moved.low[0].item(), moved.high[0].item()
    for _ in range(3):
        low, high = 0.9 * low + 0.1 * -3.0, 0.9 * high + 0.1 * 5.0
        moved.move({0: pair(-3.0, 5.0), 1: pair(-9.0, 8.0)})
    assert moved.low[0].item() == pytest.approx(low)
    assert moved.high[0].item() == pytest.approx(high)
    assert moved.scale[0].item() == pytest.approx((high - low) / 255)
    assert moved.zero_point[0].item() == round(-low / ((high - low) / 255))
    assert moved.zero_point[1].item() == 0
    assert moved.scale[1].item() > 4 / 255
    assert moved.moving() == [True, True, False]


def test_a_batch_of_nan_moves_nothing() -> None:
    moved = ranges()
    before = {name: value.clone() for name, value in moved.state_dict().items()}
    moved.move({0: pair(float("nan"), float("nan")), 1: pair(0.0, float("inf"))})
    assert all(torch.equal(before[name], value) for name, value in moved.state_dict().items())


def test_learned_ranges_that_an_operator_fixes_stay() -> None:
    learned = ranges("learned")
    with torch.no_grad():
        learned.log_growth.fill_(0.5)
    scales = learned.scales()
    growth = (scales / learned.scale).tolist()
    assert growth == pytest.approx([np.exp(0.5), np.exp(0.5), 1.0])
    scales.sum().backward()
    assert learned.log_growth.grad[2].item() == 0
    learned.frozen.fill_(True)
    assert not learned.scales().requires_grad


def weight(values: np.ndarray, dtype: str, *, symmetric: bool) -> Weight:
    """Per channel along axis 0, by the plain rule."""
    info = np.iinfo(dtype)
    low = np.minimum(values.min(axis=(1, 2)), 0)
    high = np.maximum(values.max(axis=(1, 2)), 0)
    if symmetric:
        span, levels = np.maximum(-low, high), 127
    else:
        span, levels = high - low, 255
    # Of what is all zero any scale will do.
    scale = np.where(span > 0, span / levels, 1.0).astype(np.float32)
    zero = np.zeros_like(scale)
    if not symmetric:
        zero = np.rint(-low / scale).astype(np.float32)
    s, z = scale.reshape(-1, 1, 1), zero.reshape(-1, 1, 1)
    whole = np.clip(np.rint(values / s) + z, info.min, info.max).astype(dtype)
    return Weight("w", "w_q", "s", "z", 0, np.dtype(dtype), values, whole, scale, zero, "out")


@pytest.mark.parametrize(("dtype", "symmetric"), [("int8", True), ("uint8", False)])
def test_a_grid_grows_with_its_weights(dtype: str, symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 4, 5)).astype(np.float32)
    values[1], values[2], values[3] = np.abs(values[1]), 0.0, -np.abs(values[3])
    written = weight(values, dtype, symmetric=symmetric)
    grids = WeightGrids([written], [torch.from_numpy(values)])
    now, at = grids.flat([torch.from_numpy(values)])
    assert now.numpy().tobytes() == written.scale.tobytes()
    np.testing.assert_array_equal(at.numpy(), written.zero_point)
    grown = values * 1.7 + 0.3 * rng.standard_normal(values.shape).astype(np.float32)
    now, at = grids.flat([torch.from_numpy(grown)])
    plain = weight(grown, dtype, symmetric=symmetric)
    # The first zero point was rounded to a whole step, and the grid grows from there.
    np.testing.assert_allclose(now.numpy(), plain.scale, rtol=5e-3)
    assert np.abs(at.numpy() - plain.zero_point).max() <= 1
    (grid,) = grids.grids(now, at)
    whole = grid.integers(torch.from_numpy(grown)).numpy()
    assert np.abs(whole - plain.integers).max() <= 2
    on_grid = grid.on_grid(torch.from_numpy(grown)).numpy()
    assert np.abs(on_grid - grown).max() <= 1.01 * now.max().item()


def test_weights_start_where_they_round_to_what_was_written() -> None:
    values = np.random.default_rng(1).standard_normal((6, 4, 5)).astype(np.float32)
    plain = weight(values, "int8", symmetric=True)
    assert plain.integers is not None
    moved = plain.integers.copy()
    moved[0, 0, :3] += 1
    odd = Weight(**{**vars(plain), "integers": moved})
    start = starting_weight(odd)
    s = odd.scale.reshape(-1, 1, 1)
    np.testing.assert_array_equal(np.rint(start / s), moved)
    np.testing.assert_array_equal(start[1:], values[1:])
    assert np.abs(start - values).max() <= 1.5 * s.max()


def test_a_denominator_rounded_to_zero_clips_and_stops_gradients() -> None:
    """As onnxruntime quantizes x / 0: the greatest and the least integer, the least for 0 / 0."""
    a = torch.tensor([1.0, -1.0, 0.0, 1.0], requires_grad=True)
    b = torch.tensor([0.0, 0.0, 0.0, 2.0], requires_grad=True)
    node = Node("div", "Div", 18, ("a", "b"), ("c",), {})
    result = fake_quantize(build_operator(node)(a, b), 0.1, -100.0, 155.0)
    torch.testing.assert_close(result, torch.tensor([15.5, -10.0, -10.0, 0.5]))
    with torch.inference_mode():
        frozen = fake_quantize(build_operator(node)(a.detach(), b.detach()), 0.1, -100.0, 155.0)
    torch.testing.assert_close(frozen, result.detach())
    result.sum().backward()
    torch.testing.assert_close(a.grad, torch.tensor([0.0, 0.0, 0.0, 0.5]))
    torch.testing.assert_close(b.grad, torch.tensor([0.0, 0.0, 0.0, -0.25]))


def test_infinity_leaves_a_learned_scale_its_gradient() -> None:
    scale = torch.tensor(0.1, requires_grad=True)
    x = torch.tensor([torch.inf, -torch.inf, 0.27], requires_grad=True)
    fake_quantize_learned(x, scale, -100.0, 155.0).sum().backward()
    assert scale.grad is not None
    assert bool(torch.isfinite(scale.grad))
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0.0, 1.0]))
