"""Fused forward passes against formulas in float64, with whatever runs Triton's kernels here."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from torch import Tensor

from contracts.contrastive_oracle import ORACLE

pytest.importorskip("triton")

from edgessl.kernels.fused import mutual as mutual_module
from edgessl.kernels.fused.logits import forward_blocks
from edgessl.kernels.fused.mutual import Strips, mutual_statistics, strips_for
from edgessl.kernels.fused.statistics import statistics
from edgessl.kernels.fused.unit_rows import unit_rows
from edgessl.kernels.problem import Pairs, Statistics

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = (
    (2, 24),
    (50, 1),
    (70, 48),
    (254, 96),
    (70, 200),
    (50, 256),
    (70, 384),
    (50, 512),
    (50, 768),
)
"""Rows and D: from D = 257 on products come in parts."""

# The float64 oracle is given the same rounded rows, so what is left is float32's products and
# sums: a logit of scale·⟨r, c⟩ is wrong by about scale·√D·2⁻²⁴, and as much again in base 2.
ROUNDING = 1e-6


def before_nan(values: Tensor) -> Tensor:
    """The same values on the device, followed in memory by NaN (labels: by other labels)."""
    flat = values.flatten()
    behind = torch.full((20_000,), torch.nan if values.is_floating_point() else 1)
    padded = torch.cat([flat, behind.to(values.dtype)]).to(DEVICE)
    return padded[: flat.numel()].view(values.shape)


def rows_of(count: int, width: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Unit rows with neighbours, rows that are equal, and a row of zeros."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, width, generator=generator)
    z[count // 2 :] = z[: count - count // 2] + 0.3 * z[count // 2 :]
    if count >= 50:
        z[7] = z[3]
        z[11] = z[3]
        z[20] = 0
    return before_nan(torch.nn.functional.normalize(z, dim=1).to(dtype))


def scalar(value: float) -> Tensor:
    return torch.tensor(value, device=DEVICE)


def check(got: Statistics, want: Statistics, scale: float) -> None:
    close = ROUNDING * max(scale, 4.0)
    for name in ("others", "positive", "positives", "peaks"):
        one, other = getattr(got, name), getattr(want, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.dtype == torch.float32
            torch.testing.assert_close(
                one.double().cpu(),
                other.cpu(),
                rtol=0,
                atol=close,
                msg=lambda m, n=name: f"{n}: {m}",
            )


def pairs_of(kind: str, rows: int, columns: int, offset: int = 0) -> Pairs:
    if kind != "labels":
        return Pairs(kind, offset)
    # Labels around 2³² that differ only in their upper halves, and one row alone with its label.
    labels = torch.arange(columns) * 7 % 5 * 2**32
    labels[columns // 2] = -1
    return Pairs(kind, offset, before_nan(labels[offset : offset + rows]), before_nan(labels))


def compare(rows: Tensor, columns: Tensor, scale: float, pairs: Pairs, **keywords: object) -> None:
    arguments = dict(bounded=scale <= 74, peaks=True)
    got = statistics(rows, columns, scalar(scale), pairs, **arguments, **keywords)
    want = ORACLE.statistics(rows, columns, scalar(scale), pairs, **arguments)
    check(got, want, scale)


@pytest.mark.parametrize("kind", ["views", "towers", "labels"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "width"), SHAPES)
def test_statistics_are_those_of_the_formulas(
    count: int, width: int, dtype: torch.dtype, kind: str
) -> None:
    rows = rows_of(count, width, dtype)
    columns = rows_of(count, width, dtype, seed=1) if kind == "towers" else rows
    for scale in (2.0, 200.0):
        compare(rows, columns, scale, pairs_of(kind, count, count))


@pytest.mark.parametrize("scale", [2.0, 14.3, 74.0, 74.1, 200.0])
def test_statistics_at_every_temperature(scale: float) -> None:
    rows = rows_of(254, 128, torch.float16)
    compare(rows, rows, scale, Pairs("views"))


def test_unbounded_statistics_of_rows_that_are_not_unit() -> None:
    rows = 3 * rows_of(70, 48, torch.float32)
    got = statistics(rows, rows, scalar(50.0), Pairs("views"), bounded=False, peaks=True)
    check(
        got,
        ORACLE.statistics(rows, rows, scalar(50.0), Pairs("views"), bounded=False, peaks=True),
        450.0,
    )


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("splits", [1, 2, 99])
@pytest.mark.parametrize("kind", ["views", "towers", "labels"])
def test_splits_of_the_columns_change_nothing_but_rounding(
    kind: str, splits: int, bounded: bool
) -> None:
    rows = rows_of(598, 24, torch.float16)
    compare(rows, rows, 20.0 if bounded else 100.0, pairs_of(kind, 598, 598), splits=splits)


@pytest.mark.parametrize("kind", ["views", "towers", "labels"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_rows_of_one_rank_against_everybodys_columns(kind: str, rank: int) -> None:
    columns = rows_of(210, 48, torch.float32)
    mine = before_nan(columns[rank * 70 : rank * 70 + 70].cpu())
    compare(mine, columns, 20.0, pairs_of(kind, 70, 210, 70 * rank), splits=2)


@pytest.mark.parametrize("bounded", [True, False])
def test_two_rows_have_no_others(bounded: bool) -> None:
    rows = rows_of(2, 24, torch.float32)
    got = statistics(rows, rows, scalar(10.0), Pairs("views"), bounded=bounded, peaks=False)
    assert got.others.tolist() == [-torch.inf, -torch.inf]
    assert got.peaks is None


def test_rows_need_not_be_contiguous() -> None:
    rows = rows_of(70, 48, torch.float32)
    turned = rows.T.contiguous().T
    compare(turned, turned, 10.0, Pairs("views"))


def _answer(arch: int, _: Tensor) -> int:
    return arch


def tiles_of(arch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes the tiles of an architecture; a GPU keeps its own."""
    if DEVICE == "cpu":
        monkeypatch.setattr(mutual_module, "architecture", partial(_answer, arch))


def mutual(
    rows: Tensor, columns: Tensor | None, scale: float, kind: str, strips: Strips | None
) -> None:
    pairs = Pairs(kind)
    arguments = dict(bounded=scale <= 74, peaks=True)
    got = mutual_statistics(rows, columns, scalar(scale), pairs, **arguments, strips=strips)
    want = ORACLE.mutual_statistics(rows, columns, scalar(scale), pairs, **arguments)
    assert (got[0] is got[1]) == (columns is None)
    for one, other in zip(got, want, strict=True):
        check(one, other, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "width"), SHAPES)
def test_mutual_statistics_in_strips(count: int, width: int, dtype: torch.dtype) -> None:
    strips = Strips(rows=128, parts=1)
    rows = rows_of(count, width, dtype)
    mutual(rows, None, 20.0, "views", strips)
    mutual(rows, rows_of(count, width, dtype, seed=1), 20.0, "towers", strips)


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("strips", [Strips(128, 1), Strips(256, 2), Strips(768, 3)])
@pytest.mark.parametrize("count", [256, 602])
def test_strips_change_nothing_but_rounding(
    count: int, strips: Strips, arch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles_of(arch, monkeypatch)
    rows = rows_of(count, 24, torch.float16)
    mutual(rows, None, 14.3, "views", strips)
    mutual(rows, rows_of(count, 24, torch.float16, seed=1), 14.3, "towers", strips)


def test_strips_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles_of(90, monkeypatch)
    mutual(rows_of(302, 48, torch.float32), None, 14.3, "views", Strips(128, 2))


@pytest.mark.parametrize("width", [128, 256])
def test_strips_that_multiply_ahead(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles_of(90, monkeypatch)
    assert forward_blocks(width, torch.float16, 90, mutual=True, peaks=False).ahead
    rows = rows_of(520, width, torch.float16)
    given = (rows, None, scalar(14.3), Pairs("views"))
    got = mutual_statistics(*given, bounded=True, peaks=False, strips=Strips(256, 1))
    want = ORACLE.mutual_statistics(*given, bounded=True, peaks=False)
    check(got[0], want[0], 14.3)


def test_towers_of_different_heights_in_strips() -> None:
    # A column without a row has no positive; nothing is promised about that entry.
    image, text = rows_of(150, 24, torch.float16), rows_of(400, 24, torch.float16, seed=1)
    arguments = dict(bounded=True, peaks=True)
    given = (image, text, scalar(10.0), Pairs("towers"))
    got = mutual_statistics(*given, **arguments, strips=Strips(128, 1))
    want = ORACLE.mutual_statistics(*given, **arguments)
    check(got[0], want[0], 10.0)
    torch.testing.assert_close(
        got[1].others.double().cpu(), want[1].others.cpu(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("scale", [20.0, 200.0])
@pytest.mark.parametrize("kind", ["views", "towers"])
def test_mutual_statistics_of_few_rows(kind: str, scale: float) -> None:
    rows = rows_of(70, 48, torch.float32)
    columns = rows_of(70, 48, torch.float32, seed=1) if kind == "towers" else None
    mutual(rows, columns, scale, kind, None)


def test_mutual_statistics_of_labels() -> None:
    rows = rows_of(70, 48, torch.float32)
    given = (rows, None, scalar(10.0), pairs_of("labels", 70, 70))
    got, again = mutual_statistics(*given, bounded=True, peaks=True)
    assert got is again
    check(got, ORACLE.mutual_statistics(*given, bounded=True, peaks=True)[0], 10.0)


def test_the_same_arguments_give_the_same_bits() -> None:
    rows = rows_of(300, 48, torch.float16)
    for run in (
        lambda: statistics(rows, rows, scalar(9.0), Pairs("views"), bounded=True, peaks=True),
        lambda: mutual_statistics(
            rows, None, scalar(9.0), Pairs("views"), bounded=True, peaks=True, strips=Strips(128, 1)
        )[0],
    ):
        first, second = run(), run()
        for name in ("others", "positive", "peaks"):
            assert torch.equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("width", [48, 64, 128, 256, 512])
@pytest.mark.parametrize("count", [4096, 8192, 65536, 131072])
@pytest.mark.parametrize("size", [2, 4])
def test_buffers_of_strips_stay_below_the_size_of_the_gradient(
    count: int, width: int, size: int
) -> None:
    dtype = torch.bfloat16 if size == 2 else torch.float32
    for arch in (80, 90):
        blocks = forward_blocks(width, dtype, arch, mutual=True)
        strips = strips_for(count, count, width, size, blocks)
        if strips is None:
            assert width < 128 or count <= 8192
            continue
        assert strips.rows % (blocks.rows * strips.parts) == 0
        of_rows = strips.rows * -(-count // blocks.columns)
        assert 4 * (of_rows + strips.parts * count) <= count * width * size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 24, 48, 200, 512, 1024])
def test_unit_rows(width: int, dtype: torch.dtype) -> None:
    z = torch.randn(37, width, generator=torch.Generator().manual_seed(2))
    z[5] = 0
    z = before_nan(z.to(dtype))
    got, want = unit_rows(z), ORACLE.unit_rows(z)
    assert got.values.dtype == dtype
    assert got.inverse_norm is not None
    assert want.inverse_norm is not None
    # Half a unit in the last place, from one rounding, and float32's own before it.
    close = torch.finfo(dtype).eps / 2 * 1.01 + 2e-7
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    torch.testing.assert_close(got.values.double(), want.values, rtol=close, atol=tiny)
    torch.testing.assert_close(got.inverse_norm.double(), want.inverse_norm, rtol=1e-6, atol=0)
    assert not got.values[5].any()
    assert got.inverse_norm[5] == 0


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e30, 3e38])
def test_unit_rows_of_any_size(size: float) -> None:
    direction = torch.nn.functional.normalize(torch.randn(20, 48), dim=1).clamp(-0.9, 0.9)
    z = (direction * size).to(DEVICE)
    got, want = unit_rows(z), ORACLE.unit_rows(z)
    assert got.inverse_norm is not None
    assert want.inverse_norm is not None
    torch.testing.assert_close(got.values.double(), want.values, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(got.inverse_norm.double(), want.inverse_norm, rtol=1e-5, atol=0)


def test_rows_with_nan_stay_nan_and_subnormal_rows_stay_finite() -> None:
    z = torch.randn(4, 48)
    z[0, 3] = torch.nan
    z[1] = torch.nan
    z[2] = 1e-42
    got = unit_rows(z.to(DEVICE))
    assert got.inverse_norm is not None
    assert got.values[:2].isnan().all()
    assert got.values[2:].isfinite().all()
    assert got.inverse_norm[2:].isfinite().all()
