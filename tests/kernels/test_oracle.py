"""The dense engine that other tests trust, against losses written row by row and autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contracts.contrastive_oracle import ORACLE
from edgessl.kernels.problem import Gradient, Pairs, Rows, Statistics, Terms

SCALE = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
BIAS = torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])


def leaves(*sizes: int) -> list[Tensor]:
    """Float64 rows (n, 5) that want gradients, none of unit length."""
    return [(2 * torch.randn(n, 5).double()).requires_grad_() for n in sizes]


def units(*rows: Tensor) -> list[Tensor]:
    return [row / row.norm(dim=1, keepdim=True) for row in rows]


def same(given: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(given, wanted, rtol=1e-10, atol=1e-12)


def row_losses(
    rows: Tensor, columns: Tensor, positives: list[list[int]], others: list[list[int]]
) -> Tensor:
    """log Σ_others exp(s) − mean_positives s, row by row; rows without a positive give 0."""
    losses = []
    for i, (near, rest) in enumerate(zip(positives, others, strict=True)):
        s = SCALE * (columns @ rows[i])
        losses.append(torch.logsumexp(s[rest], 0) - s[near].mean() if near else 0 * s.sum())
    return torch.stack(losses)


def softmax_terms(found: Statistics, upstream: Tensor) -> Terms:
    """Of losses whose denominator holds the positive."""
    normalizer = torch.logaddexp(found.others, found.positive)
    pull = upstream * torch.sigmoid(found.others - found.positive)
    return Terms(normalizer, upstream, pull)


def agrees(gradients: list[Gradient], leaf: list[Tensor], loss: Tensor, share: float) -> None:
    """Gradients and the scale's equal autograd's; ``share`` of ⟨dẑ, ẑ⟩ belongs to the scale."""
    *rows, scale = torch.autograd.grad(loss, [*leaf, SCALE])
    for given, wanted in zip(gradients, rows, strict=True):
        same(given.rows, wanted)
    along = torch.stack([given.along.sum() for given in gradients]).sum()
    same(share * along / SCALE.detach(), scale)


@pytest.mark.parametrize("decoupled", [False, True])
def test_views(decoupled: bool) -> None:
    (z,) = leaves(8)
    upstream = torch.rand(8).double() - 0.3
    rows = ORACLE.unit_rows(z.detach())
    pairs = Pairs("views")
    found, _ = ORACLE.mutual_statistics(
        rows.values, None, SCALE.detach(), pairs, bounded=False, peaks=False
    )
    other_view = [[(i + 4) % 8] for i in range(8)]
    counted = [
        [j for j in range(8) if j != i and not (decoupled and j == (i + 4) % 8)] for i in range(8)
    ]
    losses = row_losses(*units(z, z), other_view, counted)
    difference = found.others - found.positive
    same(difference if decoupled else F.softplus(difference), losses.detach())
    terms = Terms(found.others, upstream, upstream) if decoupled else softmax_terms(found, upstream)
    gradient, again = ORACLE.mutual_gradients(
        rows, None, SCALE.detach(), pairs, terms, terms, SCALE.detach(), bounded=False, skip=None
    )
    assert gradient is again
    agrees([gradient], [z], (losses * upstream).sum(), share=0.5)


def test_labels() -> None:
    (z,) = leaves(8)
    upstream = torch.rand(8).double() - 0.3
    rows = ORACLE.unit_rows(z.detach())
    pairs = Pairs("labels", 0, LABELS, LABELS)
    found = ORACLE.statistics(
        rows.values, rows.values, SCALE.detach(), pairs, bounded=False, peaks=False
    )
    positives = [[j for j in range(8) if j != i and LABELS[j] == LABELS[i]] for i in range(8)]
    losses = row_losses(
        *units(z, z), positives, [[j for j in range(8) if j != i] for i in range(8)]
    )
    assert found.positives is not None
    same(found.positives, torch.tensor([2.0, 2, 2, 0, 2, 2, 0, 2], dtype=torch.float64))
    has = found.positives > 0
    same(torch.where(has, found.others - found.positive, 0), losses.detach())
    terms = Terms(
        torch.where(has, found.others, torch.inf),
        upstream,
        torch.where(has, upstream / found.positives, 0),
    )
    gradient = ORACLE.gradients(
        rows,
        rows.values,
        SCALE.detach(),
        pairs,
        terms,
        terms,
        SCALE.detach(),
        bounded=False,
        skip=None,
    )
    agrees([gradient], [z], (losses * upstream).sum(), share=0.5)


def test_towers() -> None:
    image, text = leaves(6, 6)
    upstream = torch.rand(6).double() - 0.3
    rows, columns = ORACLE.unit_rows(image.detach()), ORACLE.unit_rows(text.detach())
    pairs = Pairs("towers")
    found = ORACLE.mutual_statistics(
        rows.values, columns.values, SCALE.detach(), pairs, bounded=False, peaks=False
    )
    everyone = [list(range(6)) for _ in range(6)]
    near = [[i] for i in range(6)]
    first, second = units(image, text)
    losses = row_losses(first, second, near, everyone) + row_losses(second, first, near, everyone)
    given = [F.softplus(one.others - one.positive) for one in found]
    same(given[0] + given[1], losses.detach())
    terms = [softmax_terms(one, upstream) for one in found]
    gradients = ORACLE.mutual_gradients(
        rows, columns, SCALE.detach(), pairs, *terms, SCALE.detach(), bounded=False, skip=None
    )
    agrees(list(gradients), [image, text], (losses * upstream).sum(), share=0.5)


@pytest.mark.parametrize("kind", ["views", "towers", "labels"])
def test_a_share_of_the_rows_equals_all_rows(kind: str) -> None:
    """Rows 4… of 12 with an offset, in a batch ordered rank by rank."""
    (z,) = leaves(12)
    rows = ORACLE.unit_rows(z.detach())
    own = Rows(rows.values[4:8], None)
    labels = torch.tensor([0, 1, 2] * 4)
    pairs = {
        "views": Pairs("views", 4),
        "towers": Pairs("towers", 4),
        "labels": Pairs("labels", 4, labels[4:8], labels),
    }[kind]
    scale = SCALE.detach()
    found = ORACLE.statistics(own.values, rows.values, scale, pairs, bounded=False, peaks=False)
    for i in range(4):
        s = scale * (rows.values @ own.values[i])
        positives = {"views": [4 + (i + 2) % 4], "towers": [4 + i]}.get(
            kind, [j for j in range(12) if j != 4 + i and labels[j] == labels[4 + i]]
        )
        rest = [
            j
            for j in range(12)
            if (kind == "towers" or j != 4 + i) and (kind == "labels" or j not in positives)
        ]
        same(found.others[i], torch.logsumexp(s[rest], 0))
        same(found.positive[i], s[positives].mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid(weighted: bool) -> None:
    image, text = leaves(5, 5)
    rows, columns = ORACLE.unit_rows(image.detach()), ORACLE.unit_rows(text.detach())
    weight = torch.rand(5).double() if weighted else torch.ones(5).double()
    signs = 2 * torch.eye(5).double() - 1

    def plainly() -> Tensor:
        first, second = units(image, text)
        return -F.logsigmoid(signs * (SCALE * first @ second.T + BIAS))

    pairwise = plainly()
    given = ORACLE.sigmoid(
        rows,
        columns.values,
        SCALE.detach(),
        BIAS.detach(),
        0,
        weight if weighted else None,
        gradients=True,
    )
    same(given.losses, pairwise.sum(1).detach())
    loss = (pairwise * weight).sum()
    same(given.weight_sum.sum(), torch.autograd.grad(loss, BIAS, retain_graph=True)[0])
    assert given.gradient is not None
    agrees([given.gradient], [image], loss, share=1.0)
    if not weighted:
        both, of_columns = ORACLE.mutual_sigmoid(
            rows, columns, SCALE.detach(), BIAS.detach(), gradients=True
        )
        assert both.gradient is not None
        assert of_columns is not None
        agrees([both.gradient, of_columns], [image, text], plainly().sum(), share=0.5)


def test_queue() -> None:
    query, key, queue = leaves(4, 4, 7)
    rows = ORACLE.unit_rows(query.detach())
    keys, waiting = units(key.detach(), queue.detach())
    (unit,) = units(query)
    positive = (unit * keys).sum(1, keepdim=True)
    logits = SCALE * torch.cat([positive, unit @ waiting.T], 1)
    losses = F.cross_entropy(logits, torch.zeros(4, dtype=torch.long), reduction="none")
    given = ORACLE.queue(rows, keys, waiting, SCALE.detach(), bounded=False, gradients=True)
    same(given.losses, losses.detach())
    same(given.pull, 1 - logits.softmax(1)[:, 0].detach())
    assert given.gradient is not None
    agrees([given.gradient], [query], losses.sum(), share=1.0)


@pytest.mark.parametrize("length", [1e-200, 1e-25, 1.0, 1e30])
def test_unit_rows_of_any_length(length: float) -> None:
    z = length * torch.randn(3, 4).double()
    z[1] = 0
    rows = ORACLE.unit_rows(z)
    assert rows.inverse_norm is not None
    same(rows.values.norm(dim=1), torch.tensor([1.0, 0.0, 1.0]).double())
    same(z * rows.inverse_norm[:, None], rows.values)


def test_peaks_are_the_largest_logits_of_cells() -> None:
    rows, columns = torch.randn(130, 3).double(), torch.randn(300, 3).double()
    pairs = Pairs("towers", 0)
    found = ORACLE.statistics(rows, columns, SCALE.detach(), pairs, bounded=False, peaks=True)
    assert found.peaks is not None
    assert found.peaks.shape == (2, 3)
    infinite = torch.tensor([[True, False, False], [False, True, False]])
    assert torch.equal(found.peaks.isinf(), infinite)
    same(found.peaks[0, 2], (SCALE.detach() * rows[:128] @ columns[256:].T).max())


def numeric(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """Slope by central differences, which knows nothing of autograd."""
    return (function(at + step) - function(at - step)) / (2 * step)


def test_scale_gradient_is_the_slope() -> None:
    (z,) = leaves(6)
    rows = ORACLE.unit_rows(z.detach())

    def total(scale: Tensor) -> Tensor:
        found = ORACLE.statistics(
            rows.values, rows.values, scale, Pairs("views"), bounded=False, peaks=False
        )
        return F.softplus(found.others - found.positive).sum()

    scale = SCALE.detach()
    found = ORACLE.statistics(
        rows.values, rows.values, scale, Pairs("views"), bounded=False, peaks=False
    )
    terms = softmax_terms(found, torch.ones(6).double())
    gradient = ORACLE.gradients(
        rows, rows.values, scale, Pairs("views"), terms, terms, scale, bounded=False, skip=None
    )
    torch.testing.assert_close(
        gradient.along.sum() / (2 * scale), numeric(total, scale), rtol=1e-6, atol=1e-8
    )
