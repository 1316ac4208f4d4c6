"""The Triton kernel of the sigmoid loss against the oracle; in the interpreter without a GPU."""

from __future__ import annotations

import pytest
import torch

from contracts.contrastive_oracle import ORACLE
from contracts.engine_cases import LIMITS, close, scalar, unit
from edgessl.kernels.engine import SigmoidPass
from edgessl.kernels.problem import Rows

pytest.importorskip("triton")

from contracts.device_rows import DEVICE, followed_by_nan
from edgessl.kernels.fused import row_owned
from edgessl.kernels.fused.sigmoid import mutual_sigmoid, sigmoid

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FLOAT32 = torch.finfo(torch.float32).eps


def rows_of(count: int, width: int, dtype: torch.dtype, seed: int) -> Rows:
    values = unit(count, width, dtype, seed)
    return Rows(followed_by_nan(values), followed_by_nan(torch.rand(count) + 0.5))


def check(found: SigmoidPass, expected: SigmoidPass, scale: float, dtype: torch.dtype) -> None:
    """Assert that every result is right, losses and weight sums for each row's own size."""
    # A logit has an error of a few eps times the scale, its exponential that as a relative error.
    relative = 4 * FLOAT32 * max(scale, 10.0)
    assert ((found.losses.double() - expected.losses).abs() <= relative * expected.losses).all()
    close(found.weight_sum, expected.weight_sum, relative, "weight_sum")
    if expected.gradient is not None:
        assert found.gradient is not None
        assert found.gradient.rows.dtype == dtype
        # Along the rows, too, the gradient was rounded before that part was taken away.
        size = expected.gradient.along.abs().max() + expected.gradient.rows.abs().max()
        error = (found.gradient.rows.double() - expected.gradient.rows).abs().max()
        assert error <= LIMITS[dtype] * size
        close(found.gradient.along, expected.gradient.along, LIMITS[dtype], "along")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 24, 96, 128, 200, 384, 512])
def test_widths(width: int, dtype: torch.dtype) -> None:
    rows, columns = rows_of(70, width, dtype, 1), rows_of(70, width, dtype, 2)
    arguments = (rows, columns.values, scalar(10.0).to(DEVICE), scalar(-10.0).to(DEVICE), 0, None)
    found = sigmoid(*arguments, gradients=True)
    check(found, ORACLE.sigmoid(*arguments, gradients=True), 10.0, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("temperature", "bias"), [(0.5, 0.0), (0.1, -10.0), (0.005, -10.0)])
@pytest.mark.parametrize(
    ("count", "columns", "offset"), [(1, 1, 0), (2, 3, 1), (50, 50, 0), (64, 256, 128)]
)
def test_shapes(
    count: int, columns: int, offset: int, temperature: float, bias: float, dtype: torch.dtype
) -> None:
    rows, others = rows_of(count, 24, dtype, 1), rows_of(columns, 24, dtype, 2)
    # Positives as they are after training: almost equal to their rows.
    others.values[offset : offset + count] = rows.values
    others.values[columns // 2] = 0
    weight = followed_by_nan(torch.rand(columns) * 2 - 1)
    scale = 1 / temperature
    arguments = (rows, others.values, scalar(scale).to(DEVICE), scalar(bias).to(DEVICE), offset)
    for column_weight in (None, weight):
        found = sigmoid(*arguments, column_weight, gradients=True)
        expected = ORACLE.sigmoid(*arguments, column_weight, gradients=True)
        check(found, expected, scale, dtype)


def test_positives_do_not_cancel() -> None:
    """Losses and weights of e⁻³⁰ keep their digits: σ(30) − 1 would be 0 in float32."""
    rows = Rows(torch.eye(40, device=DEVICE), None)
    arguments = (rows, rows.values, scalar(60.0).to(DEVICE), scalar(-30.0).to(DEVICE), 0, None)
    found, expected = (f(*arguments, gradients=True) for f in (sigmoid, ORACLE.sigmoid))
    assert found.gradient is not None
    assert expected.gradient is not None
    assert expected.losses.max() < 1e-11
    close(found.losses, expected.losses, 1e-5, "losses")
    close(found.gradient.rows, expected.gradient.rows, 1e-5, "gradient")


def test_logits_far_beyond_float32s_exponentials() -> None:
    rows = Rows(unit(20, 16).to(DEVICE) * 100, None)
    arguments = (rows, -rows.values, scalar(1.0).to(DEVICE), scalar(0.0).to(DEVICE), 0, None)
    found, expected = (f(*arguments, gradients=True) for f in (sigmoid, ORACLE.sigmoid))
    assert expected.losses.max() > 1e4
    check(found, expected, 100.0, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_weights_count(dtype: torch.dtype) -> None:
    """Weights of e⁻¹⁷ each, which float16 alone would flush to 0."""
    rows, columns = rows_of(64, 32, dtype, 1), rows_of(150, 32, dtype, 2)
    rows = Rows(rows.values, torch.full((64,), 2.0**18, device=DEVICE))
    arguments = (rows, columns.values, scalar(1.0).to(DEVICE), scalar(-17.0).to(DEVICE), 90, None)
    column_weight = torch.ones(150, device=DEVICE)
    column_weight[90:] = 0  # the positives' weights, beside which the others are nothing
    found = sigmoid(*arguments[:5], column_weight, gradients=True)
    expected = ORACLE.sigmoid(*arguments[:5], column_weight, gradients=True)
    check(found, expected, 10.0, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_splits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows fill the chip by parts of the columns, which give the same sums."""
    rows, columns = rows_of(40, 200, dtype, 1), rows_of(300, 200, dtype, 2)
    arguments = (rows, columns.values, scalar(20.0).to(DEVICE), scalar(-10.0).to(DEVICE), 7, None)
    expected = ORACLE.sigmoid(*arguments, gradients=True)
    monkeypatch.setattr(row_owned, "processors", lambda tensor: 1)
    check(sigmoid(*arguments, gradients=True), expected, 20.0, dtype)
    for wanted in (2, 3, 100):
        monkeypatch.setattr(row_owned, "processors", lambda tensor, wanted=wanted: wanted)
        check(sigmoid(*arguments, gradients=True), expected, 20.0, dtype)


@pytest.mark.parametrize("splits", [1, 4])
def test_the_same_bits_each_time(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_owned, "processors", lambda tensor: splits)
    rows, columns = rows_of(60, 24, torch.float16, 1), rows_of(200, 24, torch.float16, 2)
    arguments = (rows, columns.values, scalar(20.0).to(DEVICE), scalar(-10.0).to(DEVICE), 0, None)
    first, again = (sigmoid(*arguments, gradients=True) for _ in range(2))
    bare = sigmoid(*arguments, gradients=False)
    assert bare.gradient is None
    assert first.gradient is not None
    assert again.gradient is not None
    for other in (again, bare):
        assert torch.equal(first.losses, other.losses)
        assert torch.equal(first.weight_sum, other.weight_sum)
    assert torch.equal(first.gradient.rows, again.gradient.rows)
    assert torch.equal(first.gradient.along, again.gradient.along)


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_towers(dtype: torch.dtype) -> None:
    rows, columns = rows_of(90, 48, dtype, 1), rows_of(90, 48, dtype, 2)
    columns = Rows(columns.values, None)
    arguments = (rows, columns, scalar(10.0).to(DEVICE), scalar(-5.0).to(DEVICE))
    found, found_columns = mutual_sigmoid(*arguments, gradients=True)
    expected, expected_columns = ORACLE.mutual_sigmoid(*arguments, gradients=True)
    check(found, expected, 10.0, dtype)
    assert found_columns is not None
    assert expected_columns is not None
    close(found_columns.rows, expected_columns.rows, LIMITS[dtype], "columns' gradient")
    close(found_columns.along, expected_columns.along, LIMITS[dtype], "columns' along")
    bare, nothing = mutual_sigmoid(*arguments, gradients=False)
    assert bare.gradient is None
    assert nothing is None


def test_rows_that_are_not_contiguous() -> None:
    wide = unit(30, 64).to(DEVICE)
    rows = Rows(wide[:, ::2], None)
    arguments = (rows, wide.T[:32].T, scalar(2.0).to(DEVICE), scalar(0.0).to(DEVICE), 0, None)
    found = sigmoid(*arguments, gradients=True)
    check(found, ORACLE.sigmoid(*arguments, gradients=True), 10.0, torch.float32)
