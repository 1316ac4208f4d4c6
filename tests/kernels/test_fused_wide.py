"""Triton's engine for D > 512 against the oracle; in the interpreter without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contracts.contrastive_oracle import ORACLE
from contracts.engine_cases import (
    LIMITS,
    check_gradient,
    check_statistics,
    close,
    labels_for,
    scalar,
    terms_for,
    unit,
)
from edgessl.kernels.problem import PairKind, Pairs, Rows, Terms

pytest.importorskip("triton")

from contracts.device_rows import DEVICE, followed_by_nan
from edgessl.kernels import fused
from edgessl.kernels.chunked.tiling import TileShape
from edgessl.kernels.fused.wide import WideEngine

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDTHS = (640, 768, 1024)
ENGINE = WideEngine(TileShape(64, 96))
"""Several tiles, ragged ones among them; blocks of kernels are larger and smaller than tiles."""


def rows_of(count: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return followed_by_nan(unit(count, width, dtype, seed))


def terms_of(rows: Tensor, columns: Tensor, scale: float, pairs: Pairs, seed: int = 0) -> Terms:
    found = terms_for(rows, columns, scale, pairs, seed)
    return Terms(*(followed_by_nan(vector) for vector in vars(found).values()))


def pairs_of(kind: PairKind, count: int) -> Pairs:
    labels = labels_for(kind, count)
    labels = None if labels is None else labels.to(DEVICE)
    return Pairs(kind, 0, labels, labels)


class TestStatistics:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("width", WIDTHS)
    def test_widths(self, dtype: torch.dtype, width: int) -> None:
        rows = rows_of(70, width, dtype)
        check_statistics(fused, rows, None, 14.0, Pairs("views"), bounded=True)

    @pytest.mark.parametrize("kind", ["views", "towers", "labels"])
    @pytest.mark.parametrize("bounded", [True, False])
    def test_kinds(self, kind: PairKind, bounded: bool) -> None:
        rows = rows_of(50, 640)
        check_statistics(fused, rows, rows, 14.0, pairs_of(kind, 50), bounded=bounded)

    def test_unit_rows(self) -> None:
        z = followed_by_nan(torch.randn(7, 1000))
        found, expected = fused.unit_rows(z), ORACLE.unit_rows(z)
        close(found.values, expected.values, 1e-6, "unit rows")


class TestGradients:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("width", WIDTHS)
    def test_widths(self, dtype: torch.dtype, width: int) -> None:
        rows = rows_of(70, width, dtype)
        terms = terms_of(rows, rows, 14.0, Pairs("views"))
        check_gradient(ENGINE, rows, None, 14.0, Pairs("views"), terms, terms, bounded=True)

    @pytest.mark.parametrize("kind", ["views", "towers", "labels"])
    @pytest.mark.parametrize("count", [2, 50, 130])
    @pytest.mark.parametrize("bounded", [True, False])
    def test_kinds(self, kind: PairKind, count: int, bounded: bool) -> None:
        rows, pairs = rows_of(count, 640, torch.float16), pairs_of(kind, count)
        columns = rows_of(count, 640, torch.float16, 1) if kind == "towers" else rows
        mine, theirs = terms_of(rows, columns, 14.0, pairs), terms_of(columns, rows, 14.0, pairs)
        check_gradient(ENGINE, rows, columns, 14.0, pairs, mine, theirs, bounded=bounded)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("bounded", [True, False])
    def test_two_towers(self, dtype: torch.dtype, bounded: bool) -> None:
        rows, columns, pairs = rows_of(70, 640, dtype), rows_of(70, 640, dtype, 1), Pairs("towers")
        mine = terms_of(rows, columns, 14.0, pairs)
        theirs = terms_of(columns, rows, 14.0, pairs, 1)
        check_gradient(
            ENGINE, rows, columns, 14.0, pairs, mine, theirs, bounded=bounded, mutual=True
        )

    @pytest.mark.parametrize("kind", ["views", "towers", "labels"])
    def test_rows_of_a_group(self, kind: PairKind) -> None:
        everyone = rows_of(150, 640)
        whole_pairs = pairs_of(kind, 150)
        whole = terms_of(everyone, everyone, 30.0, whole_pairs)
        own = slice(50, 100)
        mine = Terms(whole.log_normalizer[own], whole.weight[own], whole.pull[own])
        labels = whole_pairs.column_labels
        pairs = Pairs(kind, 50, None if labels is None else labels[own], labels)
        check_gradient(ENGINE, everyone[own], everyone, 30.0, pairs, mine, whole, bounded=False)

    @pytest.mark.parametrize("bounded", [True, False])
    def test_rows_that_do_not_count(self, bounded: bool) -> None:
        rows = rows_of(60, 640)
        rows[5] = 0
        terms = terms_of(rows, rows, 14.0, Pairs("views"))
        terms.log_normalizer[[3, 5, 40]] = torch.inf
        check_gradient(ENGINE, rows, None, 14.0, Pairs("views"), terms, terms, bounded=bounded)
        terms.log_normalizer.fill_(-torch.inf)
        found = ENGINE.gradients(
            Rows(rows, None), rows, scalar(14.0).to(DEVICE), Pairs("views"), terms, terms,
            scalar(1.0).to(DEVICE), bounded=bounded, skip=None,
        )  # fmt: skip
        assert found.rows.isfinite().all()

    def test_memory_of_the_default_shape(self) -> None:
        """A tile's weights and a strip's sums are a tenth of rows and gradient at most."""
        rows = torch.empty(16384, 768, dtype=torch.bfloat16, device="meta")
        shape = WideEngine().shape(rows, 16384)
        taken = 2 * shape.rows * shape.columns + 4 * shape.rows * 768
        assert taken <= 0.1 * (2 * 2 * rows.numel())

    def test_default_shape(self) -> None:
        rows = rows_of(70, 640, torch.bfloat16)
        terms = terms_of(rows, rows, 14.0, Pairs("views"))
        check_gradient(WideEngine(), rows, None, 14.0, Pairs("views"), terms, terms, bounded=True)


class TestSigmoid:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("width", WIDTHS)
    def test_two_towers(self, dtype: torch.dtype, width: int) -> None:
        rows = Rows(rows_of(70, width, dtype), followed_by_nan(torch.rand(70) + 0.5))
        columns = Rows(rows_of(70, width, dtype, 1), followed_by_nan(torch.rand(70) + 0.5))
        arguments = (rows, columns, scalar(10.0).to(DEVICE), scalar(-5.0).to(DEVICE))
        found, second = ENGINE.mutual_sigmoid(*arguments, gradients=True)
        expected, expected_second = ORACLE.mutual_sigmoid(*arguments, gradients=True)
        close(found.losses, expected.losses, LIMITS[torch.float32], "losses")
        close(found.weight_sum, expected.weight_sum, LIMITS[torch.float32], "weights")
        assert found.gradient is not None
        assert second is not None
        assert expected.gradient is not None
        assert expected_second is not None
        close(found.gradient.rows, expected.gradient.rows, LIMITS[dtype], "rows")
        close(second.rows, expected_second.rows, LIMITS[dtype], "columns")
        close(second.along, expected_second.along, LIMITS[dtype], "along")

    @pytest.mark.parametrize("weighted", [True, False])
    def test_rows_of_a_group(self, weighted: bool) -> None:
        rows = Rows(rows_of(50, 640), followed_by_nan(torch.rand(50) + 0.5))
        weight = followed_by_nan(torch.rand(150) * 2 - 1) if weighted else None
        numbers = (scalar(10.0).to(DEVICE), scalar(-5.0).to(DEVICE))
        arguments = (rows, rows_of(150, 640, seed=1), *numbers, 100, weight)
        found = ENGINE.sigmoid(*arguments, gradients=True)
        expected = ORACLE.sigmoid(*arguments, gradients=True)
        assert found.gradient is not None
        assert expected.gradient is not None
        limit = LIMITS[torch.float32]
        close(found.losses, expected.losses, limit, "losses")
        close(found.weight_sum, expected.weight_sum, limit, "weights")
        close(found.gradient.rows, expected.gradient.rows, limit, "rows")
        bare = ENGINE.sigmoid(*arguments, gradients=False)
        assert bare.gradient is None
        assert torch.equal(bare.losses, found.losses)


class TestQueue:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("scale", "bounded"), [(14.0, True), (200.0, False)])
    @pytest.mark.parametrize("length", [1, 130])
    def test_oracle(self, dtype: torch.dtype, scale: float, bounded: bool, length: int) -> None:
        query = Rows(rows_of(50, 640, dtype), followed_by_nan(torch.rand(50) + 0.5))
        key, queue = rows_of(50, 640, dtype, 1), rows_of(length, 640, dtype, 2)
        arguments = (query, key, queue, scalar(scale).to(DEVICE))
        found = ENGINE.queue(*arguments, bounded=bounded, gradients=True)
        expected = ORACLE.queue(*arguments, bounded=bounded, gradients=True)
        assert found.gradient is not None
        assert expected.gradient is not None
        assert (found.losses - expected.losses).abs().max() <= 1e-6 * scale
        assert (found.pull - expected.pull).abs().max() <= 1e-6 * scale
        close(found.gradient.rows, expected.gradient.rows, LIMITS[dtype], "rows")
        assert ENGINE.queue(*arguments, bounded=bounded, gradients=False).gradient is None


def test_same_bits_again() -> None:
    rows = rows_of(150, 640, torch.bfloat16)
    terms = terms_of(rows, rows, 14.0, Pairs("views"))
    number = scalar(14.0).to(DEVICE)
    first, second = (
        ENGINE.mutual_gradients(
            Rows(rows, None), None, number, Pairs("views"), terms, terms, number,
            bounded=True, skip=None,
        )[0]
        for _ in range(2)
    )  # fmt: skip
    assert torch.equal(first.rows, second.rows)
    assert torch.equal(first.along, second.along)
