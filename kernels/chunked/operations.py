"""What happens to a tile of logits between two matrix products, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from edgessl.kernels.chunked.tiling import Masks, Tile, TileShape
from edgessl.kernels.problem import Pairs, Statistics, Terms

__all__ = ["Factors", "Operations", "QueueSums", "SigmoidSums", "Sums"]


@dataclass(frozen=True)
class Sums:
    """Sums over what was seen so far of each row's logits.

    Attributes:
        total: (A,) Σ exp(s − largest).
        largest: (A,) the largest logit; None where exp(s) itself is summed. It starts as the
            lowest number, not as −∞: −∞ − (−∞) would be NaN.
        positive: (A,) the positive's logit, or the sum of all positives' (labels).
        positives: (A,) how many; None but for labels.
    """

    total: Tensor
    largest: Tensor | None
    positive: Tensor
    positives: Tensor | None

    @staticmethod
    def of(count: int, pairs: Pairs, scale: Tensor, bounded: bool) -> Sums:
        """Of nothing."""
        zeros = scale.new_zeros(3, count)
        lowest = torch.finfo(scale.dtype).min
        return Sums(
            zeros[0],
            None if bounded else scale.new_full((count,), lowest),
            zeros[1],
            zeros[2] if pairs.kind == "labels" else None,
        )

    def statistics(self) -> Statistics:
        """What they come to."""
        others = self.total.log()
        if self.largest is not None:
            others = others + self.largest
        if self.positives is None:
            return Statistics(others, self.positive)
        return Statistics(others, self.positive / self.positives.clamp(min=1), self.positives)


@dataclass(frozen=True)
class Factors:
    """Terms of rows, or columns, as the weights take them: weight · exp(s − shift).

    Attributes:
        shift: (A,); None where the exponential of the logit serves rows and columns at once.
        weight: (A,).
        pull: (A,).
    """

    shift: Tensor | None
    weight: Tensor
    pull: Tensor

    @staticmethod
    def of(terms: Terms, bounded: bool, multiple: float) -> Factors:
        """Of terms; ``multiple`` scales all weights.

        A row whose L is −∞ has no columns that count, so that its exponentials are never needed;
        they are 0 here, as with +∞, so that nothing becomes NaN.
        """
        nothing = terms.log_normalizer.isinf()
        weight = terms.weight.masked_fill(nothing, 0)
        pull = terms.pull.contiguous()
        if multiple != 1.0:
            weight, pull = weight * multiple, pull * multiple
        if bounded:
            decay = torch.exp(-terms.log_normalizer).masked_fill_(nothing, 0)
            return Factors(None, weight.mul_(decay), pull)
        return Factors(terms.log_normalizer.masked_fill(nothing, torch.inf), weight, pull)


@dataclass(frozen=True)
class SigmoidSums:
    """Sums over each row's columns: of losses, and of weights."""

    losses: Tensor
    weights: Tensor


@dataclass(frozen=True)
class QueueSums:
    """Sums over each query's part of the queue, as in `Sums`."""

    total: Tensor
    largest: Tensor | None


class Operations(Protocol):
    """Operations on the tiles of one pass.

    A tile comes as ``products``: (rows, columns) contiguous float32 or float64, which is
    overwritten. They are logits if ``takes_logits``, else they still have to be multiplied by the
    scale. Where there is an ``out``, it is ``products`` itself or of the rows' dtype.
    """

    takes_logits: ClassVar[bool]

    def __init__(self, scale: Tensor, shape: TileShape) -> None:
        """For tiles of at most this shape; ``scale`` is 0-dimensional."""

    def sums(
        self, products: Tensor, tile: Tile, masks: Masks, rows: Sums, columns: Sums | None
    ) -> None:
        """Add the tile to its rows' sums and, if asked for, to its columns'."""

    def weights(
        self,
        products: Tensor,
        tile: Tile,
        masks: Masks,
        rows: Factors,
        columns: Factors,
        out: Tensor,
    ) -> None:
        """W of `edgessl.kernels.problem`."""

    def sigmoid(
        self,
        products: Tensor,
        tile: Tile,
        masks: Masks,
        bias: Tensor,
        column_weight: Tensor | None,
        sums: SigmoidSums,
        out: Tensor,
        multiple: float,
    ) -> None:
        """``multiple``·W of the sigmoid loss in ``out``; losses and W are added to the sums."""

    def queue(
        self, products: Tensor, tile: Tile, sums: QueueSums, out: Tensor, multiple: float
    ) -> Tensor | None:
        """``multiple``·exp(s − largest) in ``out``, added to the sums.

        Gives (rows,) exp(largest before − largest now), None without largest logits.
        """
