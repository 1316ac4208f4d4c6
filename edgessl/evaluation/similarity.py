"""How alike two embeddings of the same samples are, whatever their dimensions and rotations.

Two figures that miss different things. Linear CKA compares all pairwise similarities at once and
is ruled by the directions of large variance. Neighbour agreement asks who is near whom, which is
what kNN and retrieval see, and does not care about the rest. Both are taken on unit rows, because
an embedding is used by its direction, and both are corrected so that unrelated embeddings give 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgessl.errors import DataError
from edgessl.evaluation.neighbours import unit_rows

__all__ = ["Geometry", "geometry", "linear_cka", "neighbour_agreement"]

Figures = NDArray[np.float64]
_TINY = 1e-12
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Geometry:
    """What is compared of one embedding.

    Attributes:
        cosine: (N, N) float32 cosines, −inf on the diagonal.
        centred: (N, N) float64 U-centred Gram matrix of the unit rows, zero on the diagonal.
        spread: Mean square of the off-diagonal of `centred`; 0 is an embedding that has collapsed.
    """

    cosine: NDArray[np.float32]
    centred: Figures
    spread: float

    def __len__(self) -> int:
        return len(self.centred)


def geometry(embeddings: NDArray[np.float32]) -> Geometry:
    """Prepare an embedding for comparing.

    Args:
        embeddings: (N, D), N ≥ 4.

    Raises:
        DataError: Fewer than four samples.

    Source: U-centring, Székely and Rizzo, Annals of Statistics 42 (2014), definition 2.
    """
    count = len(embeddings)
    if count < 4:
        raise DataError(f"comparing embeddings needs 4 samples or more, found {count}")
    unit = unit_rows(embeddings)
    cosine = unit @ unit.T
    centred = cosine.astype(np.float64)
    np.fill_diagonal(centred, 0.0)
    rows = centred.sum(axis=1) / (count - 2)
    centred += centred.sum() / ((count - 1) * (count - 2)) - rows[:, None] - rows[None, :]
    np.fill_diagonal(centred, 0.0)
    np.fill_diagonal(cosine, -np.inf)
    spread = float(np.vdot(centred, centred)) / (count * (count - 1))
    # Below the rounding of float32 cosines there is nothing left to compare.
    return Geometry(cosine, centred, spread if spread > _TINY else 0.0)


def linear_cka(
    first: Geometry, second: Geometry, weights: Figures | None = None
) -> float | Figures:
    """Centred kernel alignment of two embeddings, with the bias of few samples removed.

    CKA = ⟨A, B⟩ / √(⟨A, A⟩ ⟨B, B⟩) of the U-centred Gram matrices A and B, which is the ratio of
    unbiased HSIC estimates: the plain estimate nears 1 for any two embeddings with more
    dimensions than samples. Negative estimates become 0, and so does anything collapsed.

    Args:
        first: One embedding.
        second: Another of the same samples.
        weights: (R, N) how often each sample counts in each of R bootstrap draws; None gives the
            figure of the samples as they are.

    Returns:
        One figure in [0, 1], or (R,) of them.

    Source: arXiv:1905.00414, eq. 3; unbiased HSIC, Song et al., JMLR 13 (2012), eq. 5, as used
        for CKA in arXiv:2010.15327, eq. 3.
    """
    a, b = first.centred, second.centred
    ones = np.ones((1, len(a)))
    chosen = ones if weights is None else weights
    if first.spread == 0.0 or second.spread == 0.0:
        alignment: Figures = np.zeros(len(chosen))
    else:
        # A sample drawn twice makes no pair with itself, because the diagonals are zero.
        cross, left, right = (((chosen @ (x * y)) * chosen).sum(axis=1) for x, y in _pairs(a, b))
        scale = np.sqrt(np.maximum(left * right, _TINY**2))
        alignment = np.clip(cross / scale, 0.0, 1.0)
    return float(alignment[0]) if weights is None else alignment


def _pairs(a: Figures, b: Figures) -> tuple[tuple[Figures, Figures], ...]:
    return (a, b), (a, a), (b, b)


def neighbour_agreement(first: Geometry, second: Geometry, *, k: int) -> Figures:
    """Per sample, the share of the second's k nearest neighbours that are the first's too.

    A sample as near as the first's last neighbour, up to rounding, counts as one of them. The
    share c = k / (N − 1) that chance gives is taken off: (share − c) / (1 − c), so that the mean
    is 0 for unrelated embeddings and 1 for equal ones.

    Args:
        first: The reference.
        second: Another embedding of the same samples.
        k: Neighbours by cosine, at most N − 2.

    Returns:
        (N,), at most 1; single samples can be below 0.
    """
    last = -np.partition(-first.cosine, k - 1, axis=1)[:, k - 1 : k]
    nearest = np.argsort(-second.cosine, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(first.cosine, nearest, axis=1) >= last - _ROUNDING
    chance = k / (len(first) - 1)
    shares: Figures = (found.mean(axis=1) - chance) / (1.0 - chance)
    return shares
