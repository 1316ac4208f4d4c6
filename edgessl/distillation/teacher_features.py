"""A teacher's features of every view that the student is going to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgessl.data.modality import Modality, Views
from edgessl.data.store import SampleStore
from edgessl.distillation.feature_table import FeatureSource, FeatureTable, split_rows
from edgessl.distillation.objectives import TeacherFeatures
from edgessl.distillation.objectives.objective import MapShape
from edgessl.distillation.teacher_cache import CacheTable
from edgessl.distillation.teachers import Teacher
from edgessl.errors import DataError
from edgessl.files import sha256_json
from edgessl.progress import Progress, ProgressEvent

__all__ = ["LiveTeacher", "teacher_features"]

_VIEWS_VERSION = 1
"""Raise when the views of kind ``distill`` change, so that cached features are remade."""


def teacher_features(
    teacher: Teacher,
    store: SampleStore,
    modality: Modality,
    *,
    seed: int,
    view_seeds: int,
    map_size: int | None,
    folder: Path | None,
    device: torch.device,
    progress: Progress,
) -> FeatureSource:
    """Look at every view once and keep what the teacher gives, or run it along.

    Samples that the teacher's table knows are not looked at again, whatever file or data set they
    come from. A table that does not fit into the cache is not made: the teacher then runs at
    every step.

    Args:
        teacher: The frozen teacher.
        store: The decoded samples.
        modality: Makes the views, the same for teacher and student.
        seed: Of the views.
        view_seeds: K, how many views of each sample.
        map_size: Most rows and columns of its feature map, which is pooled to it; None wants no
            map.
        folder: Where the tables of all teachers are; None keeps nothing after the run.
        device: Where the teacher runs.
        progress: Told how far it is.

    Raises:
        DataError: The teacher gives NaN or infinity.
        ModelError: It has no feature map, and one is wanted.
    """
    shape = None if map_size is None else _pooled_shape(teacher.map_shape(), map_size)
    live = LiveTeacher(teacher, store, modality, seed, view_seeds, shape, device)
    header = {
        "views_version": _VIEWS_VERSION,
        "teacher": teacher.sha256,
        "inputs": sha256_json(
            {
                "spec": teacher.spec.model_dump(mode="json"),
                "views": modality.options.model_dump(mode="json"),
                "canvas": list(store.samples.shape[1:]),
                "seed": seed,
            }
        ),
        "dim": teacher.dim,
        "map": None if shape is None else list(shape),
    }
    teacher.to(device)
    table = CacheTable(
        None if folder is None else folder / sha256_json(header)[:32],
        header,
        row=teacher.dim + (0 if shape is None else int(np.prod(shape))),
        progress=progress,
    )
    filled = table.fill(store.content_hashes, view_seeds, live.rows)
    if filled is None:
        message = (
            f"teacher {teacher.name}: its features do not fit into the cache, so it runs at every "
            "step; raise EDGESSL_TEACHER_CACHE_GB or lower view_seeds"
        )
        progress(ProgressEvent("teacher", message=message, warning=True))
        return live
    teacher.to(torch.device("cpu"))
    arrays, places = filled
    return FeatureTable(
        arrays,
        dim=teacher.dim,
        map_shape=shape,
        name=teacher.name,
        places=places,
        keep=table,
    )


class LiveTeacher(FeatureSource):
    """A teacher that looks at the views when they are asked for.

    What it gives is rounded to half precision, as in a table: the same run with and without a
    cache is the same.
    """

    def __init__(
        self,
        teacher: Teacher,
        store: SampleStore,
        modality: Modality,
        seed: int,
        view_seeds: int,
        map_shape: MapShape | None,
        device: torch.device,
    ) -> None:
        self.name, self.dim, self.map_shape = teacher.name, teacher.dim, map_shape
        self.samples, self.views = len(store), view_seeds
        self._teacher, self._store, self._device = teacher, store, device
        self._views: Views = modality.views("distill", teacher.spec, seed=seed)

    def features(self, view_seed: int, indices: Tensor) -> TeacherFeatures:
        """Run the teacher on one view of some samples."""
        rows = self._look(view_seed, indices.cpu().numpy()).to(indices.device)
        return split_rows(rows.float(), self.dim, self.map_shape)

    def rows(self, view_seed: int, indices: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, D + C·h·w) for a table."""
        rows: NDArray[np.float16] = self._look(view_seed, indices).cpu().numpy()
        return rows

    def _look(self, view_seed: int, indices: NDArray[np.int64]) -> Tensor:
        batch = self._store.fetch(np.asarray(indices, dtype=np.int64))
        views = self._views(batch, view_seed)[0].to(self._device)
        given = self._teacher.features(views, maps=self.map_shape is not None)
        parts = [given.embedding]
        if self.map_shape is not None and given.maps is not None:
            maps = given.maps
            if maps.shape[2:] != self.map_shape[1:]:
                maps = F.adaptive_avg_pool2d(maps, self.map_shape[1:])
            parts.append(maps.flatten(1))
        rows = torch.cat(parts, dim=1).half()
        if not bool(torch.isfinite(rows).all()):
            raise DataError(
                f"the teacher {self.name} gives NaN, infinite or too large embeddings for this "
                "data; check its weights"
            )
        return rows


def _pooled_shape(shape: MapShape, most: int) -> MapShape:
    return (shape[0], min(shape[1], most), min(shape[2], most))
