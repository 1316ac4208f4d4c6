"""The data sets of the distillation benchmark, and how each is shown to the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.data.image import ImageModality, ImageOptions
from edgessl.files import cache_directory

__all__ = ["CACHE", "DATA", "DATA_SETS", "DataSet"]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CACHE = cache_directory("benchmark-distillation")


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        file: Where it lies in the folder of data sets.
        says: What a table says about it.
        train: Samples that students see; None takes all.
        views: Augmentations, for teachers and students alike.
        teacher_size: Side of the teacher's views in pixels.
        size: Side of the students' views.
        teacher_epochs: Passes of the teacher over all labelled training samples.
        epochs: Passes of a student over its samples.
        batch_size: Of students.
    """

    name: str
    file: str
    says: str
    train: int | None
    views: Mapping[str, Any]
    teacher_size: int
    size: int
    teacher_epochs: int
    epochs: int
    batch_size: int

    def whole(self, folder: Path) -> Path:
        """What the teacher is trained on.

        Raises:
            FileNotFoundError: The data set is not there.
        """
        path = folder / self.file
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such data set; pass --data")
        return path

    def samples(self, folder: Path) -> Path:
        """What students are trained on and everything is scored on."""
        path = self.whole(folder)
        if self.train is None:
            return path
        part = CACHE / f"{self.name}-{self.train}.npz"
        if not part.exists():
            part.parent.mkdir(parents=True, exist_ok=True)
            with np.load(path, allow_pickle=False) as arrays:
                # Shuffled when it was made, so the first ones are as good as any.
                cut = {
                    key: array[: self.train] if key.endswith("_train") else array
                    for key, array in arrays.items()
                }
            np.savez(part, **cut)
        return part

    def modality(self, size: int) -> ImageModality:
        """How samples become views."""
        return ImageModality(ImageOptions(**self.views, image_size=size))


DATA_SETS = {
    one.name: one
    for one in (
        DataSet(
            "trashnet",
            "trashnet-192",
            "TrashNet, 990 training and 279 test photographs, 6 classes, colour",
            None,
            {"vertical_flip": 0.5},
            teacher_size=96,
            size=64,
            teacher_epochs=60,
            epochs=40,
            batch_size=64,
        ),
        DataSet(
            "fashion",
            "fashion-mnist/fashion-mnist.npz",
            "Fashion-MNIST, 3,000 training and 3,000 test images, 10 classes, grey",
            3000,
            {"crop_scale": (0.4, 1.0)},
            teacher_size=32,
            size=32,
            teacher_epochs=14,
            epochs=12,
            batch_size=64,
        ),
    )
}
