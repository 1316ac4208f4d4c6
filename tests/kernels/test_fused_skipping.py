"""Cells that the fused backward pass may leave out: which, and what that changes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from contracts.contrastive_oracle import ORACLE
from contracts.engine_cases import scalar, terms_for, unit
from edgessl.kernels.problem import PEAK_CELL, Gradient, PairKind, Pairs, Rows, Skip, Terms

pytest.importorskip("triton")

from edgessl.kernels.fused.gradients import gradients, mutual_gradients
from edgessl.kernels.fused.skipping import keep_cells

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALE = 60.0


def clustered(count: int, width: int, seed: int = 0) -> Tensor:
    """Rows near one of two opposed directions, in turns of a cell: many cells weigh nothing."""
    values = 0.3 * unit(count, width, seed=seed).double()
    values[:, 0] += 1.0 - 2.0 * (torch.arange(count) // PEAK_CELL % 2)
    return torch.nn.functional.normalize(values, dim=1).float()


def problem(kind: PairKind, count: int) -> tuple[Tensor, Tensor, Pairs, Terms, Terms, Tensor]:
    columns = clustered(count, 24)
    rows = clustered(count, 24, seed=3) if kind == "towers" else columns
    labels = torch.arange(count) // PEAK_CELL % 2 if kind == "labels" else None
    pairs = Pairs(kind, 0, labels, labels)
    row_terms = terms_for(rows, columns, SCALE, pairs, seed=1)
    column_terms = terms_for(columns, rows, SCALE, pairs, seed=2) if kind == "towers" else row_terms
    peaks = ORACLE.statistics(rows, columns, scalar(SCALE), pairs, bounded=True, peaks=True).peaks
    assert peaks is not None
    return rows, columns, pairs, row_terms, column_terms, peaks.float()


def moved(thing: Terms | Pairs | Skip) -> Terms | Pairs | Skip:
    if DEVICE == "cpu":
        return thing
    return dataclasses.replace(
        thing,
        **{
            field.name: value.to(DEVICE)
            for field in dataclasses.fields(thing)
            if isinstance(value := getattr(thing, field.name), Tensor)
        },
    )


def run(
    rows: Tensor,
    columns: Tensor,
    pairs: Pairs,
    row_terms: Terms,
    column_terms: Terms,
    skip: Skip | None,
    *,
    bounded: bool = True,
) -> Gradient:
    own = moved(row_terms)
    made = gradients(
        Rows(rows.to(DEVICE), None),
        columns.to(DEVICE),
        scalar(SCALE).to(DEVICE),
        moved(pairs),
        own,
        own if column_terms is row_terms else moved(column_terms),
        scalar(1.0).to(DEVICE),
        bounded=bounded,
        skip=None if skip is None else moved(skip),
    )
    return Gradient(made.rows.cpu(), made.along.cpu())


@pytest.mark.parametrize("kind", ["views", "towers", "labels"])
@pytest.mark.parametrize("bounded", [True, False])
def test_what_is_left_out_is_below_the_threshold(kind: PairKind, bounded: bool) -> None:
    rows, columns, pairs, *terms, peaks = problem(kind, 602)
    threshold = 2.0**-24
    skip = Skip(peaks, scalar(threshold))
    _, numbers = keep_cells(skip, *terms)
    assert numbers.sum() < peaks.numel(), "the case skips nothing"
    whole = run(rows, columns, pairs, *terms, None, bounded=bounded).rows
    part = run(rows, columns, pairs, *terms, skip, bounded=bounded).rows
    # Each column of unit length that is left out brings less than the threshold, and rounding more.
    assert (part - whole).norm(dim=1).max() <= 602 * threshold + 1e-5 * whole.norm(dim=1).max()
    wanted = ORACLE.gradients(
        Rows(rows, None),
        columns,
        scalar(SCALE),
        pairs,
        *terms,
        scalar(1.0),
        bounded=bounded,
        skip=None,
    ).rows
    assert (part - wanted).norm(dim=1).max() <= 602 * threshold + 1e-5 * wanted.norm(dim=1).max()


@pytest.mark.parametrize("kind", ["views", "towers"])
def test_exactly_the_cells_below_the_threshold_are_left_out(kind: PairKind) -> None:
    """Each cell of a peak of −∞ takes its weights with it, no more and no less."""
    rows, columns, pairs, *terms, peaks = problem(kind, 602)
    marked = torch.full_like(peaks, torch.inf)
    marked[0, 2] = marked[2, 0] = marked[3, 1] = marked[4, 4] = -torch.inf
    made = run(rows, columns, pairs, *terms, Skip(marked, scalar(1e-9))).rows

    logits = SCALE * rows.double() @ columns.double().T
    weights = terms[0].weight[:, None] * torch.exp(logits - terms[0].log_normalizer[:, None])
    weights += terms[1].weight[None, :] * torch.exp(logits - terms[1].log_normalizer[None, :])
    index = torch.arange(602)
    positive = (index + 301) % 602 if kind == "views" else index
    weights[index, index] = 0
    weights[index, positive] = -(terms[0].pull + terms[1].pull[positive]).double()
    cells = (marked == -torch.inf).repeat_interleave(PEAK_CELL, 0).repeat_interleave(PEAK_CELL, 1)
    whole = weights @ columns.double()
    weights[cells[:602, :602]] = 0
    wanted = weights @ columns.double()
    assert (made - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    assert (made - whole).abs().max() > 1e-2 * wanted.abs().max()


def test_kept_cells_are_those_whose_bound_reaches_the_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    heights, widths = 9, 70
    row_count, column_count = heights * PEAK_CELL - 5, widths * PEAK_CELL - 100

    def terms(count: int) -> Terms:
        log_normalizer = torch.randn(count, generator=generator) * 3 + 5
        log_normalizer[::7] = torch.inf
        weight = torch.rand(count, generator=generator) * 2 - 1
        return Terms(log_normalizer, weight, weight)

    rows, columns = terms(row_count), terms(column_count)
    peaks = torch.randn(heights, widths, generator=generator) * 10 - 8
    peaks[3, 5], peaks[4, 6] = torch.inf, -torch.inf

    def extremes(one: Terms) -> tuple[list[float], list[float]]:
        parts = one.log_normalizer.split(PEAK_CELL), one.weight.split(PEAK_CELL)
        return [p.min().item() for p in parts[0]], [p.abs().max().item() for p in parts[1]]

    (row_least, row_most), (column_least, column_most) = extremes(rows), extremes(columns)
    threshold = 1e-4
    for layout in (peaks, peaks.T.contiguous().T):
        skip = Skip(layout.to(DEVICE), scalar(threshold).to(DEVICE))
        kept, numbers = keep_cells(skip, moved(rows), moved(columns))
        for i in range(heights):
            bounds = [
                row_most[i] * math.exp(min(peaks[i, j].item() - row_least[i], 80))
                + column_most[j] * math.exp(min(peaks[i, j].item() - column_least[j], 80))
                for j in range(widths)
            ]
            wanted = [j for j in range(widths) if bounds[j] >= threshold]
            assert 0 < len(wanted) < widths
            assert kept[i, : numbers[i]].tolist() == wanted


def test_cells_of_rows_that_do_not_count_are_kept() -> None:
    """∞ − ∞ must not read as small: the cell may hold a positive."""
    nothing = torch.full((PEAK_CELL,), torch.inf)
    terms = Terms(nothing, torch.zeros(PEAK_CELL), torch.zeros(PEAK_CELL))
    skip = Skip(torch.full((1, 1), torch.inf, device=DEVICE), scalar(1e-3).to(DEVICE))
    there = moved(terms)
    _, numbers = keep_cells(skip, there, there)
    assert numbers.tolist() == [1]


def test_the_columns_of_a_mutual_pass_skip_the_transpose() -> None:
    rows, columns, pairs, *terms, peaks = problem("towers", 300)
    marked = torch.full_like(peaks, torch.inf)
    marked[0, 2] = -torch.inf
    turned = Pairs("towers")
    skip = Skip(marked, scalar(1e-9))
    made = mutual_gradients(
        Rows(rows.to(DEVICE), None),
        Rows(columns.to(DEVICE), None),
        scalar(SCALE).to(DEVICE),
        pairs,
        *(moved(one) for one in terms),
        scalar(1.0).to(DEVICE),
        bounded=True,
        skip=moved(skip),
    )
    assert torch.equal(made[0].rows.cpu(), run(rows, columns, pairs, *terms, skip).rows)
    other = Skip(marked.T.contiguous(), skip.threshold)
    assert torch.equal(
        made[1].rows.cpu(), run(columns, rows, turned, terms[1], terms[0], other).rows
    )
