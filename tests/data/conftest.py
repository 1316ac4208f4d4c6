from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgessl.data.source import Source, open_source

MakeFolder = Callable[..., Source]


def smooth_images(count: int, height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """Colourful images without sharp edges, ``(count, height, width, 3)``."""
    generator = np.random.default_rng(7)
    coarse = generator.integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    sized = [Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC) for c in coarse]
    return np.stack([np.asarray(image) for image in sized])


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write images as PNG files, some of them corrupt, and open the folder."""

    def make(images: NDArray[np.uint8], *, corrupt: tuple[int, ...] = ()) -> Source:
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        for i, image in enumerate(images):
            path = root / f"{i:04d}.png"
            Image.fromarray(image).save(path)
            if i in corrupt:
                path.write_bytes(path.read_bytes()[:60])
        return open_source(root).train

    return make
