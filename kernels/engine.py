"""What an implementation of the losses has to be able to do, and which one a name means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from edgessl.kernels.problem import Gradient, Pairs, Rows, Skip, Statistics, Terms

__all__ = ["Engine", "QueuePass", "SigmoidPass", "engine"]


@dataclass(frozen=True)
class SigmoidPass:
    """One pass of the pairwise sigmoid loss.

    Attributes:
        losses: (A,) Σⱼ softplus(−y_ij·(s_ij + bias)), y = 1 for the positive and −1 for others.
        gradient: Of the rows for an upstream gradient of 1 for each column's (or row's) loss;
            None if not asked for.
        weight_sum: (A,) Σⱼ W_ij with W_ij = σ(s_ij + bias) − [j is the positive]: the gradient of
            the bias.
    """

    losses: Tensor
    gradient: Gradient | None
    weight_sum: Tensor


@dataclass(frozen=True)
class QueuePass:
    """One pass of queries over a queue.

    Attributes:
        losses: (A,) log(1 + Σⱼ exp(s_ij − s_iₖ)) with s_iₖ the logit of the key.
        pull: (A,) 1 − P_iₖ, computed without cancellation: the (negated) gradient of s_iₖ.
        gradient: Of the queries for an upstream gradient of 1 each; None if not asked for.
    """

    losses: Tensor
    pull: Tensor
    gradient: Gradient | None


class Engine(Protocol):
    """Passes over logits without storing them; nothing here is differentiable.

    Shapes: rows (A, D), columns (B, D), one dtype and device. ``scale`` (and ``bias``) are
    0-dimensional float32 tensors on that device (float64 for float64 rows). ``bounded`` promises
    that rows have unit length and scale ≤ 74, so that exp(s) neither overflows nor underflows in
    float32. Results are float32 and do not depend on anything but the arguments (deterministic).
    """

    def unit_rows(self, z: Tensor) -> Rows:
        """Rows scaled to unit length in float32 and rounded once to z's dtype; zeros stay zeros."""

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
        """Statistics of the rows."""

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
        """Statistics of the rows and of the columns; columns None are the rows themselves.

        With None both results are the same object. ``peaks`` of the second are the transpose.
        """

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
        """Gradient of the rows: factor · Σⱼ W_ij·cⱼ, brought back through the scaling."""

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
        """Gradients of the rows and of the columns; columns None are the rows themselves.

        With None both results are the same object, and both terms are the same.
        """

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
        """Pairwise sigmoid losses of rows; the positive of row i is column i + offset.

        ``column_weight`` (B,) multiplies the weights of a column in gradient and weight_sum (not in
        losses); None stands for ones.
        """

    def mutual_sigmoid(
        self,
        rows: Rows,
        columns: Rows,
        scale: Tensor,
        bias: Tensor,
        *,
        gradients: bool,
    ) -> tuple[SigmoidPass, Gradient | None]:
        """As `sigmoid` with offset 0 and weights of 1, and the gradient of the columns too."""

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
        """InfoNCE of (A, D) queries, each with its key (A, D) against the queue (K, D)."""


def engine(implementation: str) -> Engine:
    """The engine ``"triton"`` or ``"chunked"``; Triton is imported only here."""
    if implementation == "triton":
        from edgessl.kernels import fused

        return fused
    from edgessl.kernels import chunked

    return chunked
