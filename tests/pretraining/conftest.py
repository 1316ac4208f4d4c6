"""Small data that the pretraining tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey squares of four kinds (bright quarter) in noise: (N, 32, 32) uint8 and labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 120, (count, 32, 32), dtype=np.uint8)
    labels = np.arange(count) % 4
    for image, label in zip(images, labels, strict=False):
        row, column = divmod(int(label), 2)
        image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 120
    return images, labels


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 labelled training and 32 test images."""
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    x_train, y_train = blobs(64, 0)
    x_test, y_test = blobs(32, 1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path
