"""What happens to a tile of logits between two matrix products, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edgessl.kernels.chunked.tiling import Masks, Tile
from edgessl.kernels.problem import Gradient, Pairs, Rows, Statistics, Terms

__all__ = ["Factors", "Operations", "SigmoidSums", "Summing", "Sums"]


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


class Operations(Protocol):
    """Weights of one pass, tile by tile.

    Blocks of rows and columns come as `edgessl.kernels.chunked.products.Products.block` gives
    them. Weights go out in a buffer that the next call takes, (rows, columns) contiguous in
    ``weights_dtype`` and times ``weights_scale``.
    """

    def take_rows(self, block: Tensor) -> None:
        """Go to a strip: these are the rows of the following tiles."""

    def finish(self, sums: Tensor, rows: Rows, factor: Tensor, start: int, out: Gradient) -> None:
        """See `edgessl.kernels.chunked.scaling.finish`."""

    def weights(
        self, block: Tensor, tile: Tile, masks: Masks, rows: Factors, columns: Factors
    ) -> Tensor:
        """W of `edgessl.kernels.problem`; the multiple is in the factors."""

    def sigmoid(
        self,
        block: Tensor,
        tile: Tile,
        masks: Masks,
        bias: Tensor,
        column_weight: Tensor | None,
        sums: SigmoidSums,
    ) -> Tensor:
        """W of the sigmoid loss; losses and weights are added to the sums."""


class Summing(Protocol):
    """Logits of one pass, tile by tile, into sums; blocks as for `Operations`."""

    def take_rows(self, block: Tensor) -> None:
        """Go to a strip: these are the rows of the following tiles."""

    def sums(
        self, block: Tensor, tile: Tile, masks: Masks, rows: Sums, columns: Sums | None
    ) -> None:
        """Add a tile's logits to its rows' sums and, unless None, to its columns'.

        If both are one object the matrix is symmetric, and a tile on its diagonal is square.
        """
