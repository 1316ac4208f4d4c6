"""What the teacher gives for a view, by the number of the sample: from a table, or computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgessl.distillation.objectives import TeacherFeatures
from edgessl.distillation.objectives.objective import MapShape

__all__ = ["FeatureSource", "FeatureTable", "split_rows"]


class FeatureSource(ABC):
    """One teacher's features of all training samples.

    Attributes:
        name: The teacher's name, for people.
        dim: D of its embedding.
        map_shape: C, h, w of its feature map; None where it is not asked for.
        samples: How many samples N.
        views: How many view seeds K.
    """

    name: str
    dim: int
    map_shape: MapShape | None
    samples: int
    views: int

    @abstractmethod
    def features(self, view_seed: int, indices: Tensor) -> TeacherFeatures:
        """Features of one view of some samples.

        Args:
            view_seed: From 0 to K − 1.
            indices: (N,) int64 store indices, on the device that the features are wanted on.
        """


class FeatureTable(FeatureSource):
    """Rows that were computed before.

    Args:
        views: K arrays of ``(rows, D + C·h·w)`` float16, mapped or in memory: the embedding, then
            the feature map if there is one.
        dim: D.
        map_shape: C, h, w.
        name: The teacher's.
        places: (N,) row of each sample; None if rows are in the store's order.
        keep: Kept alive as long as the table (a lock, a temporary folder).
    """

    def __init__(
        self,
        views: Sequence[NDArray[np.float16]],
        *,
        dim: int,
        map_shape: MapShape | None = None,
        name: str = "teacher",
        places: NDArray[np.int64] | None = None,
        keep: Any = None,
    ) -> None:
        self._views, self._places, self._keep = list(views), places, keep
        self.name, self.dim, self.map_shape = name, dim, map_shape
        self.samples = len(self._views[0]) if places is None else len(places)
        self.views = len(self._views)

    def features(self, view_seed: int, indices: Tensor) -> TeacherFeatures:
        """Read some rows; nothing else of the table comes into memory."""
        wanted = indices.cpu().numpy()
        places = wanted if self._places is None else self._places[wanted]
        rows = torch.from_numpy(np.asarray(self._views[view_seed][places]))
        return split_rows(rows.to(indices.device).float(), self.dim, self.map_shape)


def split_rows(rows: Tensor, dim: int, map_shape: MapShape | None) -> TeacherFeatures:
    """Take rows of ``(N, D + C·h·w)`` apart."""
    if map_shape is None:
        return TeacherFeatures(rows)
    return TeacherFeatures(rows[:, :dim], rows[:, dim:].unflatten(1, map_shape))
