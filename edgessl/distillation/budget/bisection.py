"""Find the largest that fits, asking seldom, where the order is only nearly that of the cost."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["largest_fitting"]

_REACH = 2


def largest_fitting(count: int, fits: Callable[[int], bool], *, reach: int = _REACH) -> int | None:
    """Bisect candidates that are ordered by size, then look beyond the boundary.

    Where what fits is a prefix of the order, the answer is the largest that fits, after about
    log2(count) + reach questions. Where it is not, the answer still fits, and none of the `reach`
    candidates above it does; that there is none is said only when the `reach` + 1 smallest and
    all that the bisection came by were asked.

    Args:
        count: Number of candidates, smallest first.
        fits: Asked at most once for each.
        reach: How many candidates above the best one are asked before it stands.

    Returns:
        The index of one for which ``fits`` said yes; None if it never did.
    """
    answers: dict[int, bool] = {}

    def ask(index: int) -> bool:
        if index not in answers:
            answers[index] = fits(index)
        return answers[index]

    low, high = -1, count  # everything up to low fits and from high on does not, if ordered
    while high - low > 1:
        middle = (low + high) // 2
        if ask(middle):
            low = middle
        else:
            high = middle
    beyond = low + 1
    while beyond < count and beyond <= low + reach + (low < 0):
        if ask(beyond):
            low = beyond
        beyond += 1
    return low if low >= 0 else None
