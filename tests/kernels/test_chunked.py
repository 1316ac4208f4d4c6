"""The chunked engine against the oracle, with tiles so small that many are ragged."""

from __future__ import annotations

import pytest
import torch

from contracts.chunked_engines import ENGINES, ROUNDED
from contracts.contrastive_oracle import ORACLE
from contracts.engine_cases import (
    check_gradient,
    check_statistics,
    close,
    labels_for,
    scalar,
    terms_for,
    unit,
)
from edgessl.kernels import chunked
from edgessl.kernels.engine import Engine
from edgessl.kernels.problem import PairKind, Pairs, Terms

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


class TestUnitRows:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("width", [1, 24, 200, 768])
    def test_oracle(self, dtype: torch.dtype, width: int) -> None:
        z = torch.randn(70, width).to(dtype)
        z[3] = 0
        found, expected = chunked.unit_rows(z), ORACLE.unit_rows(z)
        assert found.values.dtype == dtype
        close(found.values, expected.values, torch.finfo(dtype).eps, "unit rows")
        assert found.inverse_norm is not None
        assert expected.inverse_norm is not None
        ratio = found.inverse_norm.double() / expected.inverse_norm.where(
            expected.inverse_norm > 0, torch.ones(())
        )
        assert found.inverse_norm[3] == 0
        ratio[3] = 1
        close(ratio, torch.ones(70), 1e-6, "inverse norms")

    def test_rows_of_any_size(self) -> None:
        z = torch.randn(6, 16) * torch.tensor([1e-25, 1e30, 1e-38, 1e-44, 1.0, 0.0])[:, None]
        found = chunked.unit_rows(z)
        assert found.inverse_norm is not None
        assert found.values.isfinite().all()
        assert found.inverse_norm.isfinite().all()
        close(found.values[:3], ORACLE.unit_rows(z).values[:3], 1e-6, "unit rows")
        assert not found.values[5].any()

    def test_a_view_is_not_changed(self) -> None:
        base = torch.randn(8, 32)
        kept = base.clone()
        values = chunked.unit_rows(base[:, ::2]).values
        assert values.is_contiguous()
        assert torch.equal(base, kept)


class TestStatistics:
    @pytest.mark.parametrize("kind", ["views", "towers", "labels"])
    @pytest.mark.parametrize("count", [2, 50, 70, 254])
    @pytest.mark.parametrize("bounded", [True, False])
    def test_own_rows(self, engine: Engine, kind: PairKind, count: int, bounded: bool) -> None:
        rows = unit(count, 24)
        pairs = Pairs(kind, 0, labels_for(kind, count), labels_for(kind, count))
        check_statistics(engine, rows, rows, 20.0, pairs, bounded=bounded)
        if kind != "towers":
            check_statistics(engine, rows, None, 20.0, pairs, bounded=bounded)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("width", [1, 48, 200, 768])
    def test_dtypes(self, engine: Engine, dtype: torch.dtype, width: int) -> None:
        rows = unit(70, width, dtype)
        check_statistics(engine, rows, None, 14.0, Pairs("views"), bounded=True)

    @pytest.mark.parametrize("kind", ["views", "towers", "labels"])
    @pytest.mark.parametrize("rank", [0, 1, 2])
    def test_rows_of_a_group(self, engine: Engine, kind: PairKind, rank: int) -> None:
        everyone = unit(3 * 50, 24)
        labels = labels_for(kind, 150)
        own = slice(50 * rank, 50 * rank + 50)
        pairs = Pairs(kind, 50 * rank, None if labels is None else labels[own], labels)
        check_statistics(engine, everyone[own], everyone, 30.0, pairs, bounded=False)

    @pytest.mark.parametrize("bounded", [True, False])
    def test_two_towers(self, engine: Engine, bounded: bool) -> None:
        pairs = Pairs("towers")
        check_statistics(
            engine, unit(70, 24), unit(70, 24, seed=1), 14.0, pairs, bounded=bounded, mutual=True
        )

    @pytest.mark.parametrize("count", [1000, 1026])
    def test_several_default_tiles(self, count: int) -> None:
        rows = unit(count, 24)
        terms = terms_for(rows, rows, 14.0, Pairs("views"))
        check_statistics(chunked, rows, None, 14.0, Pairs("views"), bounded=True)
        check_gradient(chunked, rows, None, 14.0, Pairs("views"), terms, terms, bounded=True)

    def test_large_scale(self, engine: Engine) -> None:
        check_statistics(engine, unit(70, 48), None, 200.0, Pairs("views"), bounded=False)

    def test_bound_of_the_plain_exponential(self, engine: Engine) -> None:
        rows = torch.cat([unit(30, 4), -unit(30, 4)])
        check_statistics(engine, rows, None, 74.0, Pairs("views"), bounded=True)

    def test_zero_and_duplicated_rows(self, engine: Engine) -> None:
        rows = unit(60, 24)
        rows[5] = 0
        rows[10:20] = rows[10]
        check_statistics(engine, rows, None, 74.0, Pairs("views"), bounded=True)
        check_statistics(engine, rows, None, 200.0, Pairs("views"), bounded=False)

    @pytest.mark.parametrize("bounded", [True, False])
    def test_nothing_but_the_positive(self, engine: Engine, bounded: bool) -> None:
        found, _ = engine.mutual_statistics(
            unit(2, 8), None, scalar(2.0), Pairs("views"), bounded=bounded, peaks=False
        )
        assert (found.others == -torch.inf).all()

    def test_rows_as_given(self, engine: Engine) -> None:
        check_statistics(engine, 8 * torch.randn(50, 24), None, 3.0, Pairs("views"), bounded=False)


class TestGradients:
    @pytest.mark.parametrize("kind", ["views", "towers", "labels"])
    @pytest.mark.parametrize("count", [2, 50, 70, 254])
    @pytest.mark.parametrize("bounded", [True, False])
    def test_own_rows(self, engine: Engine, kind: PairKind, count: int, bounded: bool) -> None:
        rows = unit(count, 24)
        pairs = Pairs(kind, 0, labels_for(kind, count), labels_for(kind, count))
        terms = terms_for(rows, rows, 20.0, pairs)
        check_gradient(engine, rows, rows, 20.0, pairs, terms, terms, bounded=bounded)
        if kind != "towers":
            check_gradient(engine, rows, None, 20.0, pairs, terms, terms, bounded=bounded)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("width", [1, 48, 200, 768])
    def test_dtypes(self, engine: Engine, dtype: torch.dtype, width: int) -> None:
        rows = unit(70, width, dtype)
        terms = terms_for(rows, rows, 14.0, Pairs("views"))
        check_gradient(engine, rows, None, 14.0, Pairs("views"), terms, terms, bounded=True)

    @pytest.mark.parametrize("kind", ["views", "towers", "labels"])
    @pytest.mark.parametrize("rank", [0, 2])
    def test_rows_of_a_group(self, engine: Engine, kind: PairKind, rank: int) -> None:
        everyone = unit(3 * 50, 24)
        labels = labels_for(kind, 150)
        own = slice(50 * rank, 50 * rank + 50)
        whole = terms_for(everyone, everyone, 30.0, Pairs(kind, 0, labels, labels))
        mine = Terms(whole.log_normalizer[own], whole.weight[own], whole.pull[own])
        pairs = Pairs(kind, 50 * rank, None if labels is None else labels[own], labels)
        check_gradient(engine, everyone[own], everyone, 30.0, pairs, mine, whole, bounded=False)

    @pytest.mark.parametrize("bounded", [True, False])
    def test_two_towers(self, engine: Engine, bounded: bool) -> None:
        rows, columns, pairs = unit(70, 24), unit(70, 24, seed=1), Pairs("towers")
        mine = terms_for(rows, columns, 14.0, pairs)
        theirs = terms_for(columns, rows, 14.0, pairs, seed=1)
        check_gradient(
            engine, rows, columns, 14.0, pairs, mine, theirs, bounded=bounded, mutual=True
        )

    @pytest.mark.parametrize("bounded", [True, False])
    def test_rows_that_do_not_count(self, engine: Engine, bounded: bool) -> None:
        rows = unit(60, 24)
        rows[5] = 0
        terms = terms_for(rows, rows, 14.0, Pairs("views"))
        terms.log_normalizer[[3, 5, 40]] = torch.inf
        check_gradient(engine, rows, None, 14.0, Pairs("views"), terms, terms, bounded=bounded)

    @pytest.mark.parametrize("bounded", [True, False])
    def test_rows_without_others(self, engine: Engine, bounded: bool) -> None:
        rows = unit(2, 8)
        terms = Terms(torch.full((2,), -torch.inf), torch.tensor([1.0, 0.0]), torch.ones(2))
        check_gradient(engine, rows, None, 2.0, Pairs("views"), terms, terms, bounded=bounded)

    def test_large_scale(self, engine: Engine) -> None:
        rows = unit(70, 48)
        terms = terms_for(rows, rows, 200.0, Pairs("views"))
        check_gradient(engine, rows, None, 200.0, Pairs("views"), terms, terms, bounded=False)

    def test_bound_of_the_plain_exponential(self, engine: Engine) -> None:
        rows = torch.cat([unit(30, 4), -unit(30, 4)])
        terms = terms_for(rows, rows, 74.0, Pairs("views"))
        check_gradient(engine, rows, None, 74.0, Pairs("views"), terms, terms, bounded=True)

    def test_rows_as_given(self, engine: Engine) -> None:
        rows = 4 * torch.randn(50, 24)
        terms = terms_for(rows, rows, 0.5, Pairs("views"))
        check_gradient(
            engine, rows, None, 0.5, Pairs("views"), terms, terms, bounded=False, scaled=False
        )

    def test_tiny_weights_of_half_precision(self) -> None:
        """Without a multiple, weights near 1/M² would be float16's last bits, or 0."""
        rows = unit(254, 24, torch.float16)
        terms = terms_for(rows, rows, 2.0, Pairs("views"))
        tiny = Terms(terms.log_normalizer, terms.weight / 1000, terms.pull / 1000)
        check_gradient(ROUNDED, rows, None, 2.0, Pairs("views"), tiny, tiny, bounded=True)
