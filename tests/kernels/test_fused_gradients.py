"""The fused backward pass against the oracle in float64, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import cast

import pytest
import torch
from torch import Tensor

from contracts.contrastive_oracle import ORACLE
from contracts.engine_cases import LIMITS, close, labels_for, scalar, terms_for, unit
from edgessl.kernels.problem import Gradient, PairKind, Pairs, Rows, Skip, Terms

pytest.importorskip("triton")

from edgessl.kernels.fused.gradient_blocks import column_splits
from edgessl.kernels.fused.gradients import gradients, mutual_gradients

KINDS: tuple[PairKind, ...] = ("views", "towers", "labels")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclasses.dataclass(frozen=True)
class Case:
    rows: Rows
    columns: Tensor
    scale: float
    pairs: Pairs
    row_terms: Terms
    column_terms: Terms

    def arguments(self, device: str = "cpu") -> tuple[object, ...]:
        def there(thing: object) -> object:
            if isinstance(thing, Tensor):
                return thing.to(device)
            if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
                moved = {f.name: there(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
                return dataclasses.replace(thing, **moved)
            return thing

        scale, factor = scalar(self.scale), scalar(0.37 * self.scale)
        own = (self.rows, self.columns, scale, self.pairs, self.row_terms, self.column_terms)
        return tuple(there(one) for one in (*own, factor))


def make(
    kind: PairKind,
    count: int,
    width: int,
    dtype: torch.dtype,
    *,
    scale: float = 10.0,
    offset: int = 0,
    columns: int | None = None,
    scaled: bool = True,
    values: Tensor | None = None,
) -> Case:
    """Rows of one process of several, if there are more columns than rows; else of the only one."""
    total = columns or count
    everyone = unit(total, width, dtype) if values is None else values
    labels = labels_for(kind, total)
    mine = slice(offset, offset + count)
    # Of two towers, the rows are the other one's.
    rows = unit(total, width, dtype, seed=5)[mine] if kind == "towers" else everyone[mine]
    own_labels = None if labels is None else labels[mine]
    pairs = Pairs(kind, offset, own_labels, labels)
    row_terms = terms_for(rows, everyone, scale, pairs, seed=1)
    if kind == "towers":
        seen = Pairs(kind, -offset)
        column_terms = terms_for(everyone, rows, scale, seen, seed=2)
    elif total == count:
        column_terms = row_terms
    else:
        column_terms = terms_for(everyone, everyone, scale, Pairs(kind, 0, labels, labels), seed=2)
    inverse = torch.rand(count) + 0.5 if scaled else None
    return Case(Rows(rows, inverse), everyone, scale, pairs, row_terms, column_terms)


def found(case: Case, *, bounded: bool, skip: Skip | None = None) -> Gradient:
    made = gradients(*case.arguments(DEVICE), bounded=bounded, skip=skip)
    return Gradient(made.rows.cpu(), made.along.cpu())


def expected(case: Case) -> Gradient:
    return ORACLE.gradients(*case.arguments(), bounded=False, skip=None)


def check(case: Case, *, bounded: bool) -> None:
    made, wanted = found(case, bounded=bounded), expected(case)
    dtype = case.rows.values.dtype
    assert made.rows.dtype == dtype
    assert made.along.dtype == torch.float32
    # A single number has no direction across itself: what is left of its gradient is rounding.
    size = max(wanted.rows.abs().max().item(), wanted.along.abs().max().item())
    assert (made.rows.double() - wanted.rows).abs().max().item() <= LIMITS[dtype] * size
    assert (made.along.double() - wanted.along).abs().max().item() <= LIMITS[dtype] * size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("count", "width", "bounded"),
    [(2, 16, True), (50, 24, False), (70, 48, True), (254, 96, False)],
)
def test_against_the_oracle(
    kind: PairKind, dtype: torch.dtype, count: int, width: int, bounded: bool
) -> None:
    check(make(kind, count, width, dtype), bounded=bounded)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 128, 200, 256, 384, 512])
def test_widths(dtype: torch.dtype, width: int) -> None:
    kind = KINDS[width % 3]
    check(make(kind, 70, width, dtype), bounded=width != 256)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bounded", [True, False])
def test_many_rows_that_are_not_scaled(kind: PairKind, bounded: bool) -> None:
    check(make(kind, 602, 24, torch.float16, scaled=False), bounded=bounded)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bounded", [True, False])
def test_rows_of_one_process_of_several(kind: PairKind, bounded: bool) -> None:
    for offset in (0, 100, 200):
        check(make(kind, 100, 48, torch.float32, offset=offset, columns=300), bounded=bounded)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scale", "bounded"), [(74.0, True), (74.0, False), (200.0, False)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_low_temperatures(kind: PairKind, scale: float, bounded: bool, dtype: torch.dtype) -> None:
    # Logits of 200 have errors of 200·2⁻²⁴ and more in float32, and so do the weights' logarithms.
    case = make(kind, 134, 32, dtype, scale=scale)
    made, wanted = found(case, bounded=bounded), expected(case)
    close(made.rows, wanted.rows, LIMITS[dtype] * 5, "gradient")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bounded", [True, False])
def test_equal_and_opposed_rows(dtype: torch.dtype, bounded: bool) -> None:
    """The largest and the smallest logits that `bounded` allows, where powers of two end."""
    values = torch.zeros(140, 16, dtype=dtype)
    values[:, 0] = 1
    values[70:, 0] = -1
    values[3:, 1] = values[3:, 0] / 2
    values = torch.nn.functional.normalize(values.double(), dim=1).to(dtype)
    for kind in KINDS:
        check(make(kind, 140, 16, dtype, scale=73.0, values=values), bounded=bounded)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bounded", [True, False])
def test_rows_that_do_not_count(kind: PairKind, bounded: bool) -> None:
    """L = ±∞ (no positive; no others), rows of zeros, weights of 0."""
    case = make(kind, 70, 24, torch.float32)
    values = case.rows.values.clone()
    values[7] = 0
    inverse = case.rows.inverse_norm
    assert inverse is not None
    inverse[7] = 0
    columns = values if kind != "towers" else case.columns
    terms = Terms(
        *(getattr(case.row_terms, f).clone() for f in ("log_normalizer", "weight", "pull"))
    )
    terms.log_normalizer[5] = torch.inf
    terms.weight[9] = 0
    others = terms if kind != "towers" else case.column_terms
    rows = Rows(values, inverse)
    check(Case(rows, columns, case.scale, case.pairs, terms, others), bounded=bounded)
    assert (
        not found(Case(rows, columns, case.scale, case.pairs, terms, others), bounded=bounded)
        .rows[7]
        .any()
    )


@pytest.mark.parametrize("bounded", [True, False])
def test_a_pair_alone_has_no_others(bounded: bool) -> None:
    """Decoupled losses: L = −∞ where the only other row is the positive."""
    for kind in ("views", "towers"):
        count = 2 if kind == "views" else 1
        case = make(kind, count, 24, torch.float32)
        nothing = torch.full((count,), -torch.inf)
        terms = dataclasses.replace(case.row_terms, log_normalizer=nothing)
        case = dataclasses.replace(case, row_terms=terms, column_terms=terms)
        made = found(case, bounded=bounded)
        assert made.rows.isfinite().all()
        check(case, bounded=bounded)


def test_decoupled_positives_far_above_the_others() -> None:
    """exp(s − L) of the positive, which does not count, is beyond float32."""
    values = torch.eye(35).repeat(2, 1)
    case = make("views", 70, 35, torch.float32, scale=200.0, values=values, scaled=False)
    statistics = ORACLE.statistics(
        values, values, scalar(200.0), case.pairs, bounded=False, peaks=False
    )
    assert (statistics.positive - statistics.others).min() > 128 * math.log(2)
    terms = dataclasses.replace(case.row_terms, log_normalizer=statistics.others.float())
    check(dataclasses.replace(case, row_terms=terms, column_terms=terms), bounded=False)


def test_small_weights_survive_in_half_precision() -> None:
    """Weights below 2⁻²⁴, float16's smallest number, are most of the gradient here."""
    case = make("views", 140, 32, torch.float16)
    terms = dataclasses.replace(case.row_terms, pull=torch.zeros(140))
    terms = dataclasses.replace(terms, log_normalizer=terms.log_normalizer + 12)
    case = dataclasses.replace(case, row_terms=terms, column_terms=terms)
    arguments = list(case.arguments(DEVICE))
    arguments[-1] = cast(Tensor, arguments[-1]) * 2.0**13
    made = gradients(*arguments, bounded=True, skip=None)
    wanted = expected(case).rows * 2.0**13
    close(made.rows.cpu(), wanted, LIMITS[torch.float16], "gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_after_the_buffers_is_read(kind: PairKind) -> None:
    case = make(kind, 70, 24, torch.float32)

    def followed(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        wrong = torch.nan if tensor.is_floating_point() else 0
        padded = torch.full((len(tensor) + 200, *tensor.shape[1:]), wrong, dtype=tensor.dtype)
        padded[: len(tensor)] = tensor
        return padded[: len(tensor)]

    def terms(one: Terms) -> Terms:
        return Terms(
            cast(Tensor, followed(one.log_normalizer)),
            cast(Tensor, followed(one.weight)),
            cast(Tensor, followed(one.pull)),
        )

    values = cast(Tensor, followed(case.rows.values))
    planted = Case(
        Rows(values, followed(case.rows.inverse_norm)),
        cast(Tensor, followed(case.columns)),
        case.scale,
        Pairs(kind, 0, followed(case.pairs.row_labels), followed(case.pairs.column_labels)),
        terms(case.row_terms),
        terms(case.column_terms),
    )
    for bounded in (True, False):
        check(planted, bounded=bounded)
        assert torch.equal(found(planted, bounded=bounded).rows, found(case, bounded=bounded).rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bounded", [True, False])
def test_split_columns(kind: PairKind, bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(kind, 70, 24, torch.float16, offset=70, columns=350)
    whole = found(case, bounded=bounded)
    for splits in (2, 5):
        # By name, since the package has a function of that name too.
        module = sys.modules["edgessl.kernels.fused.gradients"]
        monkeypatch.setattr(module, "column_splits", lambda *_, splits=splits: splits)
        check(case, bounded=bounded)
        parts = found(case, bounded=bounded)
        close(parts.rows, whole.rows, 2e-3, "gradient")
        close(parts.along, whole.along, 1e-5, "along")
        assert torch.equal(parts.rows, found(case, bounded=bounded).rows)


def test_columns_are_split_where_rows_leave_the_chip_idle() -> None:
    assert column_splits(row_blocks=64, column_blocks=64, processors=132) == 2
    assert column_splits(row_blocks=1, column_blocks=512, processors=132) == 128
    assert column_splits(row_blocks=1, column_blocks=6, processors=132) == 1
    assert column_splits(row_blocks=67, column_blocks=512, processors=132) == 1
    assert column_splits(row_blocks=1000, column_blocks=512, processors=132) == 1


def test_mutual_gradients_are_the_gradients_of_both() -> None:
    case = make("towers", 150, 24, torch.float16)
    rows, _, scale, pairs, row_terms, column_terms, factor = case.arguments(DEVICE)
    columns = Rows(case.columns.to(DEVICE), (torch.rand(150) + 0.5).to(DEVICE))
    both = (rows, columns, scale, pairs, row_terms, column_terms, factor)
    made = mutual_gradients(*both, bounded=True, skip=None)
    wanted = ORACLE.mutual_gradients(*both, bounded=True, skip=None)
    for one, other in zip(made, wanted, strict=True):
        close(one.rows, other.rows, LIMITS[torch.float16], "gradient")
        close(one.along, other.along, LIMITS[torch.float16], "along")


@pytest.mark.parametrize("kind", ["views", "labels"])
def test_columns_that_are_the_rows(kind: PairKind) -> None:
    case = make(kind, 150, 24, torch.float16)
    rows, _, scale, pairs, terms, _, factor = case.arguments(DEVICE)
    one, other = mutual_gradients(
        rows,
        None,
        scale,
        pairs,
        terms,
        terms,
        factor,
        bounded=True,
        skip=None,
    )
    assert one is other
    assert torch.equal(one.rows.cpu(), found(case, bounded=True).rows)


def test_the_same_inputs_give_the_same_bits() -> None:
    case = make("labels", 254, 48, torch.bfloat16)
    first = found(case, bounded=True)
    for _ in range(3):
        again = found(case, bounded=True)
        assert torch.equal(first.rows, again.rows)
        assert torch.equal(first.along, again.along)


def test_rows_that_are_not_contiguous() -> None:
    case = make("views", 70, 24, torch.float32)
    turned = case.rows.values.T.contiguous().T
    assert not turned.is_contiguous()
    terms = Terms(
        *(
            torch.stack([getattr(case.row_terms, f)] * 2, 1)[:, 0]
            for f in ("log_normalizer", "weight", "pull")
        )
    )
    strided = dataclasses.replace(
        case,
        rows=Rows(turned, case.rows.inverse_norm),
        columns=turned,
        row_terms=terms,
        column_terms=terms,
    )
    assert torch.equal(found(strided, bounded=True).rows, found(case, bounded=True).rows)
