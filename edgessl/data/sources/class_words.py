"""Labels as a format writes them, numbers or words, turned into class indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassWords", "agree"]


class ClassWords:
    """The labels of one part, read when they are first needed.

    Args:
        read: Gives the labels ``(N,)`` as whole numbers or text; None if there are none.
    """

    def __init__(self, read: Callable[[], NDArray[np.generic] | None]) -> None:
        self._read = read
        self._parts: Sequence[ClassWords] = (self,)

    @property
    def indices(self) -> NDArray[np.int64] | None:
        """Class index ``(N,)`` of each sample."""
        if self._written is None:
            return None
        return np.searchsorted(self._distinct, self._written.astype(self._distinct.dtype))

    @property
    def names(self) -> tuple[str, ...] | None:
        """The distinct labels of all parts, numbers in numeric order."""
        if self._written is None:
            return None
        return tuple(str(value) for value in self._distinct)

    @cached_property
    def _written(self) -> NDArray[np.generic] | None:
        return self._read()

    @cached_property
    def _distinct(self) -> NDArray[np.generic]:
        written = [part._written for part in self._parts]
        return np.unique(np.concatenate([w for w in written if w is not None]))


def agree(parts: Sequence[ClassWords]) -> None:
    """Give the parts of one split the same classes, though one may lack some of them."""
    for part in parts:
        part._parts = tuple(parts)
