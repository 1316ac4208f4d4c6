"""Data that the distillation tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 grey images of 32 pixels, no labels."""
    path = tmp_path_factory.mktemp("data") / "unlabelled.npz"
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (48, 8, 8), dtype=np.uint8)
    np.savez(path, x=np.kron(coarse, np.ones((1, 4, 4), dtype=np.uint8)))
    return path
