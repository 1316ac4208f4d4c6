"""The chunked engine: losses that need one pass, and what all passes promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contracts.chunked_engines import ENGINES
from contracts.contrastive_oracle import ORACLE
from contracts.engine_cases import (
    LIMITS,
    check_gradient,
    check_statistics,
    close,
    scalar,
    terms_for,
    unit,
)
from edgessl.kernels import chunked
from edgessl.kernels.chunked.tiling import tile_shape
from edgessl.kernels.engine import Engine
from edgessl.kernels.problem import Pairs, Rows, Terms

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


class TestSigmoid:
    @pytest.mark.parametrize("count", [1, 2, 50, 70, 254])
    @pytest.mark.parametrize("bias", [-10.0, 3.0])
    def test_both_towers(self, engine: Engine, count: int, bias: float) -> None:
        rows, columns = _scaled(unit(count, 24)), _scaled(unit(count, 24, seed=1))
        arguments = (rows, columns, scalar(10.0), scalar(bias))
        found, second = engine.mutual_sigmoid(*arguments, gradients=True)
        expected, expected_second = ORACLE.mutual_sigmoid(*arguments, gradients=True)
        limit = LIMITS[torch.float32]
        close(found.losses / expected.losses, torch.ones(count), limit, "losses")
        close(found.weight_sum, expected.weight_sum, limit, "weights")
        assert found.gradient is not None
        assert second is not None
        assert expected.gradient is not None
        assert expected_second is not None
        close(found.gradient.rows, expected.gradient.rows, limit, "rows")
        close(found.gradient.along, expected.gradient.along, limit, "along")
        close(second.rows, expected_second.rows, limit, "columns")
        close(second.along, expected_second.along, limit, "along")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("weighted", [True, False])
    @pytest.mark.parametrize("offset", [0, 100])
    def test_rows_of_a_group(
        self, engine: Engine, dtype: torch.dtype, weighted: bool, offset: int
    ) -> None:
        rows, columns = _scaled(unit(50, 48, dtype)), unit(150, 48, dtype, seed=1)
        weight = torch.rand(150, dtype=scalar(1.0, dtype).dtype) * 2 - 1 if weighted else None
        arguments = (rows, columns, scalar(10.0, dtype), scalar(-5.0, dtype), offset, weight)
        found = engine.sigmoid(*arguments, gradients=True)
        expected = ORACLE.sigmoid(*arguments, gradients=True)
        assert found.gradient is not None
        assert expected.gradient is not None
        exact = LIMITS[torch.float64 if dtype == torch.float64 else torch.float32]
        close(found.losses, expected.losses, exact, "losses")
        close(found.weight_sum, expected.weight_sum, exact, "weights")
        close(found.gradient.rows, expected.gradient.rows, LIMITS[dtype], "rows")
        bare = engine.sigmoid(*arguments, gradients=False)
        assert bare.gradient is None
        assert torch.equal(bare.losses, found.losses)
        assert torch.equal(bare.weight_sum, found.weight_sum)

    @pytest.mark.parametrize("bias", [-300.0, 300.0])
    def test_far_from_the_middle(self, engine: Engine, bias: float) -> None:
        rows, columns = _scaled(unit(30, 24)), unit(30, 24, seed=1)
        arguments = (rows, columns, scalar(100.0), scalar(bias), 0, None)
        found = engine.sigmoid(*arguments, gradients=True)
        expected = ORACLE.sigmoid(*arguments, gradients=True)
        assert found.gradient is not None
        assert expected.gradient is not None
        close(found.losses, expected.losses, LIMITS[torch.float32], "losses")
        close(found.gradient.rows, expected.gradient.rows, LIMITS[torch.float32], "rows")


class TestQueue:
    @pytest.mark.parametrize("count", [1, 50, 70])
    @pytest.mark.parametrize("length", [1, 33, 254])
    @pytest.mark.parametrize(("scale", "bounded"), [(14.0, True), (14.0, False), (200.0, False)])
    def test_oracle(
        self, engine: Engine, count: int, length: int, scale: float, bounded: bool
    ) -> None:
        query, key = _scaled(unit(count, 24)), unit(count, 24, seed=1)
        _check_queue(engine, query, key, unit(length, 24, seed=2), scale, bounded)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("width", [1, 200, 768])
    def test_dtypes(self, engine: Engine, dtype: torch.dtype, width: int) -> None:
        query, key = _scaled(unit(50, width, dtype)), unit(50, width, dtype, seed=1)
        _check_queue(engine, query, key, unit(130, width, dtype, seed=2), 70.0, True)

    @pytest.mark.parametrize("bounded", [True, False])
    def test_empty_queue(self, engine: Engine, bounded: bool) -> None:
        query, key = _scaled(unit(50, 24)), unit(50, 24, seed=1)
        _check_queue(engine, query, key, torch.empty(0, 24), 14.0, bounded)

    def test_key_that_is_certain(self, engine: Engine) -> None:
        """The loss is some 10⁻²⁹, far below what would be left of 1 − P."""
        row = unit(1, 24)
        query, queue = Rows(row, torch.ones(1)), -row.expand(60, -1).contiguous()
        found = engine.queue(query, row, queue, scalar(35.0), bounded=True, gradients=True)
        expected = 60 * math.exp(-70 * float(row.double().square().sum()))
        close(found.losses, torch.tensor([expected]), 1e-4, "loss")
        close(found.pull, torch.tensor([expected]), 1e-4, "pull")


class TestPromises:
    def test_same_bits_again(self, engine: Engine) -> None:
        rows = unit(254, 48)
        pairs, scale, own = Pairs("views"), scalar(14.0), _scaled(rows)
        terms = terms_for(rows, rows, 14.0, pairs)

        def results() -> list[Tensor]:
            statistics, _ = engine.mutual_statistics(
                rows, None, scale, pairs, bounded=True, peaks=False
            )
            gradient, _ = engine.mutual_gradients(
                own, None, scale, pairs, terms, terms, scale, bounded=True, skip=None
            )
            return [statistics.others, statistics.positive, gradient.rows, gradient.along]

        for first, second in zip(results(), results(), strict=True):
            assert torch.equal(first, second)

    def test_nothing_outside_the_rows_is_read(self, engine: Engine) -> None:
        padded = torch.full((80, 24), torch.nan)
        padded[:70] = unit(70, 24)
        rows = padded[:70]
        terms = terms_for(rows, rows, 14.0, Pairs("views"))
        long = [torch.cat([t, torch.full((9,), torch.nan)])[:70] for t in vars(terms).values()]
        kept = padded.clone()
        check_statistics(engine, rows, None, 14.0, Pairs("views"), bounded=True)
        check_gradient(
            engine, rows, None, 14.0, Pairs("views"), Terms(*long), Terms(*long), bounded=True
        )
        assert torch.equal(padded.nan_to_num(7), kept.nan_to_num(7))

    def test_autocast_changes_nothing(self) -> None:
        rows = unit(70, 48)

        def others() -> Tensor:
            arguments = (rows, rows, scalar(50.0), Pairs("views"))
            return chunked.statistics(*arguments, bounded=True, peaks=False).others

        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = others()
        assert torch.equal(inside, others())

    @pytest.mark.parametrize("run", ["views", "labels", "towers", "sigmoid", "queue"])
    def test_no_tensor_grows_with_the_square_of_the_rows(self, run: str) -> None:
        count, width = 3000, 16
        largest = _largest_tensor(lambda: _whole(run, count, width))
        shape = tile_shape(torch.empty(count, width), count)
        assert largest <= max(count * width, shape.rows * shape.columns)


def _scaled(rows: Tensor) -> Rows:
    """Rows as if they had been scaled to unit length."""
    precision = torch.float64 if rows.dtype == torch.float64 else torch.float32
    return Rows(rows, torch.rand(rows.shape[0], dtype=precision) + 0.5)


def _check_queue(
    engine: Engine, query: Rows, key: Tensor, queue: Tensor, scale: float, bounded: bool
) -> None:
    dtype = key.dtype
    arguments = (query, key, queue, scalar(scale, dtype))
    found = engine.queue(*arguments, bounded=bounded, gradients=True)
    expected = ORACLE.queue(*arguments, bounded=bounded, gradients=True)
    assert found.gradient is not None
    assert expected.gradient is not None
    # Logits up to `scale` have an absolute error of some eps times `scale`.
    error = scale * (1e-12 if dtype == torch.float64 else 1e-6)
    assert (found.losses - expected.losses).abs().max() <= error
    assert (found.pull - expected.pull).abs().max() <= error
    close(found.gradient.rows, expected.gradient.rows, LIMITS[dtype], "rows")
    bare = engine.queue(*arguments, bounded=bounded, gradients=False)
    assert bare.gradient is None
    assert torch.equal(bare.losses, found.losses)


def _whole(run: str, count: int, width: int) -> None:
    """Forward and backward of one loss."""
    rows, other, scale = _scaled(unit(count, width)), _scaled(unit(count, width)), scalar(10.0)
    if run == "sigmoid":
        chunked.mutual_sigmoid(rows, other, scale, scalar(-5.0), gradients=True)
        return
    if run == "queue":
        chunked.queue(rows, other.values, other.values, scale, bounded=True, gradients=True)
        return
    labels = torch.arange(count) % 7 if run == "labels" else None
    pairs = Pairs(run, 0, labels, labels)
    columns = other if run == "towers" else None
    values = None if columns is None else columns.values
    found, _ = chunked.mutual_statistics(
        rows.values, values, scale, pairs, bounded=True, peaks=False
    )
    terms = Terms(found.others, torch.ones(count), torch.ones(count))
    chunked.mutual_gradients(
        rows, columns, scale, pairs, terms, terms, scale, bounded=True, skip=None
    )


def _largest_tensor(run: Callable[[], None]) -> int:
    """Elements of the largest tensor that any operation gives."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for one in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(one, Tensor):
                    # A view holds what it is a view of.
                    stored = one.untyped_storage().nbytes() // one.element_size()
                    largest = max(largest, stored)
            return result

    with Watch():
        run()
    return largest
