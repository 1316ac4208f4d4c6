"""An `Engine` that stores every matrix, in float64: the formulas, with no thought of speed."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels.engine import Engine, QueuePass, SigmoidPass
from edgessl.kernels.problem import (
    PEAK_CELL,
    Gradient,
    PairKind,
    Pairs,
    Rows,
    Skip,
    Statistics,
    Terms,
)

__all__ = ["ORACLE", "OracleEngine", "flipped", "masks"]


def masks(pairs: Pairs, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Which columns count for a row, and which are its positives: two (A, B) bool matrices."""
    i = torch.arange(rows)[:, None]
    j = torch.arange(columns)[None, :]
    itself = j == i + pairs.offset
    if pairs.kind == "views":
        return ~itself, j == pairs.offset + (i + rows // 2) % rows
    if pairs.kind == "towers":
        return torch.ones(rows, columns, dtype=torch.bool), itself
    assert pairs.row_labels is not None
    assert pairs.column_labels is not None
    same = pairs.row_labels.cpu()[:, None] == pairs.column_labels.cpu()[None, :]
    return ~itself, same & ~itself


def flipped(pairs: Pairs) -> Pairs:
    """The pairs seen from the columns."""
    kind: PairKind = pairs.kind
    return Pairs(kind, -pairs.offset, pairs.column_labels, pairs.row_labels)


def _logits(rows: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
    return scale.double() * (rows.double() @ columns.double().T)


def _peaks(logits: Tensor, counts: Tensor, positive: Tensor) -> Tensor:
    """Largest logit that counts of each cell; +∞ where the cell holds a positive."""
    marked = logits.masked_fill(~counts, -torch.inf).masked_fill(positive, torch.inf)
    bands = [band.split(PEAK_CELL, dim=1) for band in marked.split(PEAK_CELL)]
    return torch.stack([torch.stack([cell.max() for cell in band]) for band in bands])


def _through_scaling(rows: Rows, gradient: Tensor) -> Gradient:
    """The gradient (A, D) of unit rows brought back to the rows before they were scaled."""
    unit = rows.values.double()
    along = (gradient * unit).sum(1)
    if rows.inverse_norm is not None:
        across = gradient - unit * along[:, None]
        gradient = across * rows.inverse_norm.double()[:, None]
    return Gradient(gradient, along)


class OracleEngine:
    """All eight functions; rows of any dtype go in, float64 comes out; ``skip`` is ignored."""

    def unit_rows(self, z: Tensor) -> Rows:
        """Not rounded to z's dtype."""
        z = z.double()
        largest = z.abs().amax(1, keepdim=True)
        safe = torch.where(largest > 0, largest, torch.ones_like(largest))
        shrunk = z / safe
        norm = shrunk.norm(dim=1, keepdim=True)
        is_zero = largest == 0
        unit = torch.where(is_zero, 0, shrunk / norm)
        inverse = torch.where(is_zero, 0, 1 / (norm * safe))
        return Rows(unit, inverse[:, 0])

    def statistics(
        self,
        rows: Tensor,
        columns: Tensor,
        scale: Tensor,
        pairs: Pairs,
        *,
        bounded: bool,
        peaks: bool,
    ) -> Statistics:
        logits = _logits(rows, columns, scale)
        counts, positive = (mask.to(rows.device) for mask in masks(pairs, len(rows), len(columns)))
        summed = counts if pairs.kind == "labels" else counts & ~positive
        others = logits.masked_fill(~summed, -torch.inf).logsumexp(1)
        number = positive.sum(1).double()
        mean = logits.masked_fill(~positive, 0).sum(1) / number.clamp(min=1)
        return Statistics(
            others,
            mean,
            number if pairs.kind == "labels" else None,
            _peaks(logits, counts, positive) if peaks else None,
        )

    def mutual_statistics(
        self,
        rows: Tensor,
        columns: Tensor | None,
        scale: Tensor,
        pairs: Pairs,
        *,
        bounded: bool,
        peaks: bool,
    ) -> tuple[Statistics, Statistics]:
        if columns is None:
            own = self.statistics(rows, rows, scale, pairs, bounded=bounded, peaks=peaks)
            return own, own
        return (
            self.statistics(rows, columns, scale, pairs, bounded=bounded, peaks=peaks),
            self.statistics(columns, rows, scale, flipped(pairs), bounded=bounded, peaks=peaks),
        )

    def gradients(
        self,
        rows: Rows,
        columns: Tensor,
        scale: Tensor,
        pairs: Pairs,
        row_terms: Terms,
        column_terms: Terms,
        factor: Tensor,
        *,
        bounded: bool,
        skip: Skip | None,
    ) -> Gradient:
        logits = _logits(rows.values, columns, scale)
        counts, positive = (
            mask.to(logits.device) for mask in masks(pairs, len(rows.values), len(columns))
        )
        row_weights = row_terms.weight.double()[:, None] * torch.exp(
            logits - row_terms.log_normalizer.double()[:, None]
        )
        column_weights = column_terms.weight.double()[None, :] * torch.exp(
            logits - column_terms.log_normalizer.double()[None, :]
        )
        summed = counts if pairs.kind == "labels" else counts & ~positive
        weights = torch.where(summed, row_weights + column_weights, 0)
        pull = row_terms.pull.double()[:, None] + column_terms.pull.double()[None, :]
        weights = weights - torch.where(positive, pull, 0)
        return _through_scaling(rows, factor.double() * (weights @ columns.double()))

    def mutual_gradients(
        self,
        rows: Rows,
        columns: Rows | None,
        scale: Tensor,
        pairs: Pairs,
        row_terms: Terms,
        column_terms: Terms,
        factor: Tensor,
        *,
        bounded: bool,
        skip: Skip | None,
    ) -> tuple[Gradient, Gradient]:
        def one(own: Rows, other: Rows, way: Pairs, mine: Terms, theirs: Terms) -> Gradient:
            return self.gradients(
                own, other.values, scale, way, mine, theirs, factor, bounded=bounded, skip=None
            )

        if columns is None:
            gradient = one(rows, rows, pairs, row_terms, column_terms)
            return gradient, gradient
        return (
            one(rows, columns, pairs, row_terms, column_terms),
            one(columns, rows, flipped(pairs), column_terms, row_terms),
        )

    def sigmoid(
        self,
        rows: Rows,
        columns: Tensor,
        scale: Tensor,
        bias: Tensor,
        offset: int,
        column_weight: Tensor | None,
        *,
        gradients: bool,
    ) -> SigmoidPass:
        logits = _logits(rows.values, columns, scale) + bias.double()
        _, positive = masks(Pairs("towers", offset), len(rows.values), len(columns))
        positive = positive.to(logits.device)
        # Not F.softplus, which is x itself above 20.
        signed = torch.where(positive, -logits, logits)
        losses = torch.logaddexp(signed, torch.zeros_like(signed)).sum(1)
        # σ(x) − 1 = −σ(−x), without cancellation.
        weights = torch.where(positive, -torch.sigmoid(-logits), torch.sigmoid(logits))
        if column_weight is not None:
            weights = weights * column_weight.double()[None, :]
        gradient = None
        if gradients:
            gradient = _through_scaling(rows, scale.double() * (weights @ columns.double()))
        return SigmoidPass(losses, gradient, weights.sum(1))

    def mutual_sigmoid(
        self, rows: Rows, columns: Rows, scale: Tensor, bias: Tensor, *, gradients: bool
    ) -> tuple[SigmoidPass, Gradient | None]:
        first = self.sigmoid(rows, columns.values, scale, bias, 0, None, gradients=gradients)
        second = self.sigmoid(columns, rows.values, scale, bias, 0, None, gradients=gradients)
        return first, second.gradient

    def queue(
        self,
        query: Rows,
        key: Tensor,
        queue: Tensor,
        scale: Tensor,
        *,
        bounded: bool,
        gradients: bool,
    ) -> QueuePass:
        positive = scale.double() * (query.values.double() * key.double()).sum(1)
        gaps = _logits(query.values, queue, scale) - positive[:, None]
        zero = torch.zeros_like(positive)[:, None]
        losses = torch.cat([zero, gaps], 1).logsumexp(1)
        weights = torch.exp(gaps - losses[:, None])
        pull = weights.sum(1)
        gradient = None
        if gradients:
            towards = weights @ queue.double() - pull[:, None] * key.double()
            gradient = _through_scaling(query, scale.double() * towards)
        return QueuePass(losses, pull, gradient)


ORACLE: Engine = OracleEngine()
