"""Whether a training was still learning when it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from edgessl.distillation.account.result import Convergence

__all__ = ["convergence"]

_FEWEST = 20
_SHARE = 0.1


def convergence(
    phase: Literal["float", "integers"], metrics: Sequence[Mapping[str, Any]]
) -> Convergence | None:
    """Judge a loss curve by its second half; None if it has fewer than 20 points.

    The slope at the very end says nothing: learning rates that fall to zero flatten any curve. So
    the mean loss of the tenth in the middle is compared with that of the last tenth. A training
    that has reached what its student can do has done so before the middle, and only gains there
    what the falling learning rate takes off the noise.

    Args:
        phase: Which training.
        metrics: Lines of ``metrics.jsonl``; those without a ``loss`` are passed over.
    """
    lines = [m for m in metrics if isinstance(m.get("loss"), int | float)]
    loss = np.array([m["loss"] for m in lines], dtype=np.float64)
    if len(loss) < _FEWEST or not np.isfinite(loss).all():
        return None
    tenth = len(loss) // 10
    start = (len(loss) - tenth) // 2
    middle, end = loss[start : start + tenth], loss[-tenth:]
    first, last = float(loss[:tenth].mean()), float(end.mean())
    fall = float(middle.mean()) - last
    share = fall / (first - last) if first > last else 0.0
    # Neighbouring differences tell the noise apart from the trend.
    noise = float(np.diff(loss[start:]).std()) / np.sqrt(2)
    error = noise * np.sqrt(2 / tenth)
    return Convergence(
        phase=phase,
        steps=int(lines[-1]["step"]),
        first=round(first, 6),
        last=round(last, 6),
        recent_share=round(share, 4),
        still_falling=bool(share > _SHARE and fall > 2 * error),
    )
