"""Label-free figures of an embedding: how many directions it uses, how evenly it spreads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgessl.evaluation.neighbours import unit_rows

__all__ = ["effective_rank", "singular_values", "uniformity"]


def singular_values(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Singular values of (N, D) embeddings, largest first."""
    values: NDArray[np.float64] = np.linalg.svd(embeddings.astype(np.float64), compute_uv=False)
    return values


def effective_rank(embeddings: NDArray[np.float32]) -> float:
    """Exp of the entropy of the normalised singular values: 1 is collapse, D the most.

    Args:
        embeddings: (N, D).

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007; as a label-free measure of
    representations, arXiv:2210.02885, eq. 1.
    """
    singular = singular_values(embeddings)
    total = singular.sum()
    if total == 0:
        return 1.0
    shares = singular / total
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def uniformity(embeddings: NDArray[np.float32], *, t: float = 2.0) -> float:
    """Log of the mean of exp(−t‖x−y‖²) over pairs of unit rows: lower is more even.

    Args:
        embeddings: (N, D).
        t: Width of the kernel.

    Source: arXiv:2005.10242, eq. 5.
    """
    unit = unit_rows(embeddings).astype(np.float64)
    squared = np.maximum(0.0, 2.0 - 2.0 * (unit @ unit.T))
    pairs = squared[np.triu_indices(len(unit), k=1)]
    return float(np.log(np.exp(-t * pairs).mean()))
