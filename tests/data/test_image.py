from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgessl.config import build_options
from edgessl.data.decoding import guess_channels
from edgessl.data.image import IMAGENET_MEAN, ImageModality, ImageOptions
from edgessl.data.modality import MODALITIES
from edgessl.data.source import open_source
from edgessl.errors import DataError, UsageError

from .conftest import MakeFolder, smooth_images


def test_registry() -> None:
    assert MODALITIES.get("image") is ImageModality


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("LA", 1), ("CMYK", 3), ("P", 3)]
)
def test_channels_are_guessed(tmp_path: Path, mode: str, channels: int) -> None:
    suffix = ".jpg" if mode == "CMYK" else ".png"
    for i, image in enumerate(smooth_images(3)):
        Image.fromarray(image).convert(mode).save(tmp_path / f"{i}{suffix}")
    assert guess_channels(open_source(tmp_path).train) == channels


def test_grey_pictures_in_colour_files_are_grey(make_folder: MakeFolder) -> None:
    images = smooth_images(4)
    grey = np.repeat(images[..., :1], 3, axis=3)
    assert guess_channels(make_folder(grey)) == 1
    grey[2] = images[2]
    assert guess_channels(make_folder(grey)) == 3


def test_many_channels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 16, 16, 7), np.uint8))
    source = open_source(tmp_path / "a.npz").train
    assert guess_channels(source) == 7
    spec = ImageModality(ImageOptions(image_size=16)).input_spec(source, mean_std=None)
    assert spec.channels == 7
    assert all(s > 0 for s in spec.std)


def test_statistics_are_imagenets_for_colour_and_the_datas_own_else(tmp_path: Path) -> None:
    values = smooth_images(6)
    np.savez(tmp_path / "colour.npz", x=values)
    np.savez(tmp_path / "grey.npz", x=values[..., 0])
    modality = ImageModality(ImageOptions(image_size=32))
    colour = modality.input_spec(open_source(tmp_path / "colour.npz").train, mean_std=None)
    assert (colour.channels, colour.mean) == (3, IMAGENET_MEAN)
    grey = modality.input_spec(open_source(tmp_path / "grey.npz").train, mean_std=None)
    assert grey.channels == 1
    assert grey.mean[0] == pytest.approx(values[..., 0].mean() / 255, abs=0.01)
    given = ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    told = modality.input_spec(open_source(tmp_path / "colour.npz").train, mean_std=given)
    assert (told.mean, told.std) == given


@pytest.mark.parametrize(
    ("kind", "count"), [("contrastive", 2), ("asymmetric", 2), ("crop", 1), ("distill", 1)]
)
def test_views_of_each_kind(make_folder: MakeFolder, kind: str, count: int) -> None:
    source = make_folder(smooth_images(5))
    modality = ImageModality(ImageOptions(image_size=(24, 32)))
    spec = modality.input_spec(source, mean_std=None)
    store = modality.prepare(source, spec, cache_dir=None, num_workers=1)
    views = modality.views(kind, spec, seed=0)  # type: ignore[arg-type]
    made = views(store.fetch(np.arange(5)), 0)
    assert views.count == len(made) == count
    assert all(view.shape == (5, 3, 24, 32) and view.dtype == torch.float32 for view in made)


def test_crops_keep_the_colours(make_folder: MakeFolder) -> None:
    flat = np.broadcast_to(np.array([10, 120, 240], np.uint8), (2, 32, 32, 3)).copy()
    source = make_folder(flat)
    modality = ImageModality(ImageOptions(image_size=16))
    spec = modality.input_spec(source, mean_std=((0.0,) * 3, (1.0,) * 3))
    store = modality.prepare(source, spec, cache_dir=None, num_workers=1)
    (view,) = modality.views("crop", spec, seed=0)(store.fetch(np.arange(2)), 0)
    expected = torch.tensor([10, 120, 240])[:, None, None] / 255
    torch.testing.assert_close(view, expected.expand_as(view), atol=1e-5, rtol=0)


def test_asymmetric_views_differ_in_blur_and_solarization(make_folder: MakeFolder) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 112, 112, 3), dtype=np.uint8)
    source = make_folder(images)
    modality = ImageModality(ImageOptions(image_size=112, crop_scale=(1.0, 1.0), strength=0.0))
    spec = modality.input_spec(source, mean_std=((0.0,) * 3, (1.0,) * 3))
    store = modality.prepare(source, spec, cache_dir=None, num_workers=1)
    first, second = modality.views("asymmetric", spec, seed=0)(store.fetch(np.arange(60)), 0)
    sharpness = [(v[..., 1:] - v[..., :-1]).abs().mean().item() for v in (first, second)]
    assert sharpness[0] < 0.9 * sharpness[1]
    bright = [(v.amax(dim=(1, 2, 3)) <= 0.5 + 1e-4).sum().item() for v in (first, second)]
    assert bright[0] == 0
    assert 4 <= bright[1] <= 22


def test_fitted_gives_raw_pixels(make_folder: MakeFolder) -> None:
    source = make_folder(smooth_images(3))
    modality = ImageModality(ImageOptions(image_size=24))
    spec = modality.input_spec(source, mean_std=None)
    fitted, kept = modality.fitted(source, spec, num_workers=2)
    assert fitted.shape == (3, 24, 24, 3)
    assert fitted.dtype.name == "uint8"
    assert kept.tolist() == [0, 1, 2]


def test_misspelt_and_impossible_options() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*brightness"):
        build_options(ImageOptions, {"brightnes": 1}, where="command line")
    with pytest.raises(UsageError, match="crop_scale"):
        build_options(ImageOptions, {"crop_scale": [0.9, 0.1]}, where="command line")
    with pytest.raises(UsageError, match="image_size"):
        build_options(ImageOptions, {"image_size": 2}, where="command line")


def test_different_many_channels_cannot_be_guessed(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for channels in (5, 6):
        tifffile.imwrite(
            tmp_path / f"{channels}.tif",
            np.zeros((8, 8, channels), np.uint8),
            photometric="minisblack",
            planarconfig="contig",
        )
    with pytest.raises(DataError, match="holds images of 5, 6 channels"):
        guess_channels(open_source(tmp_path).train)
