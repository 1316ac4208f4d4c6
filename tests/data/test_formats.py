"""Every file format, depth and colour mode, through a folder as a user gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgessl.data.source import open_source
from edgessl.preprocessing import RawImage, convert_channels

from .conftest import smooth_images

COLOUR = smooth_images(1)[0]
DEEP = COLOUR.astype(np.uint16) * np.uint16(257) - np.where(
    COLOUR > 3, np.uint16(100), np.uint16(0)
)


def only(path: Path) -> RawImage:
    source = open_source(path.parent).train
    assert len(source) == 1
    return source.read(0)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".bmp"])
def test_lossless_colour(tmp_path: Path, suffix: str) -> None:
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(COLOUR).save(tmp_path / f"a{suffix}", **options)
    assert (only(tmp_path / f"a{suffix}") == COLOUR).all()


def test_jpeg(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(only(tmp_path / "a.jpg").astype(int) - COLOUR).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_deep_grey(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(DEEP[:, :, 0]).save(tmp_path / f"a{suffix}")
    image = only(tmp_path / f"a{suffix}")
    assert image.dtype == np.uint16
    assert (image[:, :, 0] == DEEP[:, :, 0]).all()


def test_deep_colour_png(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(DEEP))
    image = only(tmp_path / "a.png")
    assert image.dtype == np.uint16
    assert (image == DEEP).all()


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_tiff_with_any_channels(tmp_path: Path, channels: int, dtype: Any, planar: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    values: NDArray[Any] = (
        np.random.default_rng(0).integers(0, 250, (9, 11, channels)).astype(dtype)
    )
    if channels == 1:
        stored, layout = values[:, :, 0], {}
    else:
        stored = values if planar == "contig" else values.transpose(2, 0, 1)
        layout = {"planarconfig": planar}
    photometric = "rgb" if channels in (3, 4) else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, **layout, **extra)
    image = only(tmp_path / "a.tif")
    assert image.dtype == dtype
    assert (image == values).all()


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "LA", "RGBA"])
def test_modes_become_colour_or_grey(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    converted = Image.fromarray(COLOUR).convert(mode)
    converted.save(path)
    expected = np.asarray(converted.convert("RGB")).astype(int)
    found = convert_channels(only(path), 3).astype(int)
    assert np.abs(found - expected).mean() < (6 if mode == "CMYK" else 0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    turned = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: np.rot90(COLOUR, -1),
        7: np.rot90(COLOUR.transpose(1, 0, 2), 2),
        8: np.rot90(COLOUR),
    }[orientation]
    assert (only(tmp_path / "a.png") == turned).all()
