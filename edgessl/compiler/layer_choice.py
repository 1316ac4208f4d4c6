"""The cheapest layers to keep in floating point, so that little enough error is left.

Errors of layers nearly add up, so the choice is a knapsack to be filled at the least cost: exact
for the sum, then corrected by what sets of layers really do together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["cheapest_cover", "cheapest_set"]

Chosen = tuple[int, ...]

_STEPS = 50_000
"""Branches that are looked at; then the best cover so far is the answer."""
_CORRECTIONS = 12
_LEAST_STEP = 0.01
_COUNT_COST = 1e-3
"""Part of the mean cost that every layer has besides, so that of two sets that cost the same the
smaller one is taken."""
_TINY = 1e-12


def cheapest_set(
    error: Callable[[frozenset[int]], float],
    removals: Sequence[float],
    costs: Sequence[float],
    *,
    allowed: float,
    most: int,
) -> Chosen | None:
    """Choose layers by what they remove and cost, and check with what is really left.

    The cheapest cover by the sum is tried; where it leaves too much, it must remove more. At last
    each layer that turns out unnecessary goes back, the dearest first.

    Args:
        error: What is left if these layers stay in floating point; it may take long.
        removals: What each layer is expected to remove.
        costs: What each layer costs, below 0 for one that saves; infinite for one that must not be
            taken.
        allowed: Most that may be left.
        most: Most layers.

    Returns:
        Indices in ascending order; None if no such set was found.
    """
    whole = error(frozenset())
    if whole <= allowed:
        return ()
    needed = whole - allowed
    found: Chosen | None = None
    for _ in range(_CORRECTIONS):
        cover = cheapest_cover(removals, costs, needed=needed, most=most)
        if cover is None:
            break
        left = error(frozenset(cover))
        if left <= allowed:
            found = cover
            break
        needed += max(left - allowed, _LEAST_STEP * whole)
    if found is None:
        order = sorted(range(len(removals)), key=lambda k: -removals[k])
        found = tuple(sorted([k for k in order if np.isfinite(costs[k])][:most]))
        if error(frozenset(found)) > allowed:
            return None
    return _without_the_unnecessary(error, costs, found, allowed)


def _without_the_unnecessary(
    error: Callable[[frozenset[int]], float],
    costs: Sequence[float],
    found: Chosen,
    allowed: float,
) -> Chosen:
    kept = set(found)
    for layer in sorted(found, key=lambda k: -costs[k]):
        if costs[layer] >= 0 and error(frozenset(kept - {layer})) <= allowed:
            kept.remove(layer)
    return tuple(sorted(kept))


def cheapest_cover(
    removals: Sequence[float], costs: Sequence[float], *, needed: float, most: int
) -> Chosen | None:
    """The cheapest layers that remove enough, if what they remove adds up.

    Branch and bound over the layers in order of removal per cost, bounded by the same problem
    with parts of layers.

    Args:
        removals: What each layer removes, at least 0.
        costs: What each layer costs, below 0 for one that saves.
        needed: Least sum of removals.
        most: Most layers.

    Returns:
        Indices in ascending order; None if all that may be taken does not remove enough.
    """
    return _Cover(removals, costs, needed, most).solve()


class _Cover:
    def __init__(
        self, removals: Sequence[float], costs: Sequence[float], needed: float, most: int
    ) -> None:
        useful = [k for k in range(len(removals)) if removals[k] > 0 and np.isfinite(costs[k])]
        mean = float(np.mean([abs(costs[k]) for k in useful])) if useful else 0.0
        base = _COUNT_COST * mean if mean > 0 else 1.0
        # What saves comes first, then what removes most for its cost.
        self._order = sorted(
            useful,
            key=lambda k: (
                (0, costs[k], k)
                if costs[k] + base <= 0
                else (1, -removals[k] / (costs[k] + base), k)
            ),
        )
        self._removals = [float(removals[k]) for k in self._order]
        self._costs = [float(costs[k]) + base for k in self._order]
        self._saving = sum(cost <= 0 for cost in self._costs)
        self._needed, self._most = needed * (1.0 - _TINY), most
        self._best: tuple[float, Chosen] | None = None
        self._steps = 0
        # The most that the layers from one on can remove, with so many of them.
        self._largest = [
            np.concatenate([[0.0], np.cumsum(sorted(self._removals[at:], reverse=True)[:most])])
            for at in range(len(self._order) + 1)
        ]

    def solve(self) -> Chosen | None:
        stack: list[tuple[int, float, float, Chosen]] = [(0, 0.0, 0.0, ())]
        while stack and self._steps < _STEPS:
            self._steps += 1
            at, removed, cost, chosen = stack.pop()
            if removed >= self._needed:
                if self._best is None or cost < self._best[0]:
                    self._best = (cost, chosen)
                if at >= self._saving:
                    continue
            if at == len(self._order) or not self._promises(at, removed, cost, len(chosen)):
                continue
            # The last one pushed is looked at first: take the layer before leaving it out.
            stack.append((at + 1, removed, cost, chosen))
            if len(chosen) < self._most:
                item = (removed + self._removals[at], cost + self._costs[at])
                stack.append((at + 1, *item, (*chosen, at)))
        if self._best is None:
            return None
        return tuple(sorted(self._order[at] for at in self._best[1]))

    def _promises(self, at: int, removed: float, cost: float, count: int) -> bool:
        """Whether the layers from one on can complete a cover that is cheaper than the best."""
        largest = self._largest[at]
        if removed + largest[min(self._most - count, len(largest) - 1)] < self._needed:
            return False
        if self._best is None:
            return True
        missing = max(0.0, self._needed - removed)
        for k in range(at, min(self._saving, at + self._most - count)):
            cost += self._costs[k]
            missing -= self._removals[k]
        for k in range(max(at, self._saving), len(self._order)):
            if missing <= 0:
                break
            share = min(1.0, missing / self._removals[k])
            cost += share * self._costs[k]
            missing -= share * self._removals[k]
            if missing <= _TINY * self._needed or cost >= self._best[0]:
                break
        return cost < self._best[0]
