from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contracts.source_contract import sample_images
from edgessl.data.evaluation import fit_images
from edgessl.data.source import Source, open_source
from edgessl.data.store import SampleStore, channel_statistics, choose_canvas, decode_store
from edgessl.errors import CorruptSampleError, DataError, OutputError
from edgessl.preprocessing import ImageInput, fit
from edgessl.progress import ProgressEvent

from .conftest import MakeFolder, smooth_images


def decode(source: Source, cache: Path | None, **changes: Any) -> SampleStore:
    settings: dict[str, Any] = {"channels": 3, "canvas": 32, "num_workers": 2}
    return decode_store(source, cache_dir=cache, **(settings | changes))


def reads_counted(source: Source, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    read = type(source).read

    def counted(self: Source, index: int) -> Any:
        seen.append(index)
        return read(self, index)

    monkeypatch.setattr(type(source), "read", counted)
    return seen


@pytest.mark.parametrize("cached", [True, False])
def test_samples_are_the_fitted_images(
    make_folder: MakeFolder, tmp_path: Path, cached: bool
) -> None:
    images = smooth_images(5)
    store = decode(make_folder(images), tmp_path / "cache" if cached else None)
    spec = ImageInput(channels=3, height=32, width=32, mean=(0,) * 3, std=(1,) * 3, resize="squash")
    expected = np.stack([fit(image, spec).transpose(2, 0, 1) for image in images])
    assert store.samples.dtype == np.uint8
    assert (store.samples == expected).all()
    assert store.aspects.tolist() == pytest.approx([56 / 40] * 5)
    assert store.keys == [f"{i:04d}.png" for i in range(5)]
    assert len(set(store.content_hashes)) == 5


def test_the_second_call_decodes_nothing(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_folder(smooth_images(5))
    first = decode(source, tmp_path / "cache")
    seen = reads_counted(source, monkeypatch)
    second = decode(source, tmp_path / "cache")
    assert seen == []
    assert (first.samples == second.samples).all()
    assert first.content_hashes == second.content_hashes
    decode(source, tmp_path / "cache", canvas=16)
    assert sorted(seen)[-1] == 4


def test_a_changed_file_is_decoded_again(make_folder: MakeFolder, tmp_path: Path) -> None:
    images = smooth_images(3)
    first = decode(make_folder(images), tmp_path / "cache")
    images[1] = 255 - images[1]
    second = decode(make_folder(images), tmp_path / "cache")
    assert (second.samples[1] != first.samples[1]).any()
    assert (second.samples[[0, 2]] == first.samples[[0, 2]]).all()


@pytest.mark.parametrize("damage", ["flip", "truncate", "index", "missing"])
def test_a_damaged_cache_is_made_again(
    make_folder: MakeFolder, tmp_path: Path, damage: str
) -> None:
    source = make_folder(smooth_images(4))
    expected = np.array(decode(source, tmp_path / "cache").samples)
    (folder,) = (tmp_path / "cache").glob("*.store")
    samples, index = folder / "samples.bin", folder / "index.json"
    content = bytearray(samples.read_bytes())
    content[5000] ^= 1
    if damage == "flip":
        samples.write_bytes(bytes(content))
    elif damage == "truncate":
        samples.write_bytes(bytes(content[:-1]))
    elif damage == "missing":
        samples.unlink()
    else:
        document = json.loads(index.read_text())
        document["index"]["keys"][0] = "other.png"
        index.write_text(json.dumps(document))
    events: list[ProgressEvent] = []
    assert (decode(source, tmp_path / "cache", progress=events.append).samples == expected).all()
    assert "damaged and are made again" in (events[0].message or "")


@pytest.mark.parametrize("cached", [True, False])
def test_corrupt_samples_are_skipped_and_reported_once(
    make_folder: MakeFolder, tmp_path: Path, cached: bool
) -> None:
    images = smooth_images(6)
    source = make_folder(images, corrupt=(1, 4))
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        events: list[ProgressEvent] = []
        store = decode(source, cache, max_corrupt=0.34, progress=events.append)
        assert store.keys == ["0000.png", "0002.png", "0003.png", "0005.png"]
        assert [key for key, _ in store.corrupt] == ["0001.png", "0004.png"]
        (warning,) = [event for event in events if event.warning]
        assert "2 of 6 samples" in (warning.message or "")
        assert "0001.png" in (warning.message or "")
    whole = decode(make_folder(images), None)
    assert (store.samples == whole.samples[[0, 2, 3, 5]]).all()


def test_too_many_corrupt_samples(make_folder: MakeFolder, tmp_path: Path) -> None:
    source = make_folder(smooth_images(10), corrupt=(2, 7))
    with pytest.raises(DataError) as caught:
        decode(source, tmp_path / "cache")
    message = str(caught.value)
    assert "2 of 10 samples (20.0%) are corrupt: 0002.png: " in message
    assert message.endswith("more than 1.0% allowed; repair or remove them, or allow more with "
                            "max_corrupt=0.2")  # fmt: skip
    assert caught.value.exit_code == 2
    assert list((tmp_path / "cache").glob("*.store")) == []
    assert len(decode(source, tmp_path / "cache", max_corrupt=0.2)) == 8


def test_one_corrupt_sample_of_a_hundred_passes(make_folder: MakeFolder) -> None:
    assert len(decode(make_folder(smooth_images(100), corrupt=(50,)), None)) == 99


def test_everything_corrupt(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match=r"none of 3 samples could be read, first 0000\.png: "):
        decode(make_folder(smooth_images(3), corrupt=(0, 1, 2)), None, max_corrupt=1.0)


def test_channels_that_cannot_be_had_count_as_corrupt(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 8, 8, 5), np.uint8))
    with pytest.raises(DataError, match=r"x\[0\]: an image with 5 channels cannot become"):
        decode(open_source(tmp_path / "a.npz").train, None)


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    values = np.arange(2 * 16 * 16, dtype=np.uint16).reshape(2, 16, 16) * 100
    np.savez(tmp_path / "a.npz", x=values)
    store = decode(open_source(tmp_path / "a.npz").train, tmp_path, channels=1, canvas=16)
    assert store.samples.dtype == np.uint16
    assert (store.samples[:, 0] == values).all()


def test_mixed_depths_use_the_full_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 51, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 8), 13107, np.uint16)).save(tmp_path / "b.png")
    store = decode(open_source(tmp_path).train, None, channels=1, canvas=8)
    assert store.samples.dtype == np.uint16
    assert (store.samples == 13107).all()


def test_empty_source(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        decode(make_folder(smooth_images(2)).subset([]), None)


def test_a_full_disk_leaves_nothing_behind(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_folder(smooth_images(3))

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=r"disk is full.*EDGESSL_CACHE.*decode_cache=false"):
        decode(source, tmp_path / "cache")
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_folder_that_cannot_be(make_folder: MakeFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"a part of the path is a file.*decode_cache=false"):
        decode(make_folder(smooth_images(2)), tmp_path / "file" / "cache")


def test_interruption_leaves_nothing_behind(make_folder: MakeFolder, tmp_path: Path) -> None:
    def interrupt(event: ProgressEvent) -> None:
        if event.completed == 2:
            raise KeyboardInterrupt

    source = make_folder(smooth_images(5))
    with pytest.raises(KeyboardInterrupt):
        decode(source, tmp_path / "cache", progress=interrupt)
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]
    assert len(decode(source, tmp_path / "cache")) == 5


def test_pickling_maps_the_file_again(make_folder: MakeFolder, tmp_path: Path) -> None:
    source = make_folder(smooth_images(40))
    for cache, most in ((tmp_path / "cache", 20_000), (None, 200_000)):
        store = decode(source, cache)
        packed = pickle.dumps(store)
        assert len(packed) < most
        assert (pickle.loads(packed).samples == store.samples).all()


def test_fetch_copies(make_folder: MakeFolder, tmp_path: Path) -> None:
    store = decode(make_folder(smooth_images(4)), tmp_path / "cache")
    batch = store.fetch(np.array([3, 1]))
    assert (batch.samples.numpy() == store.samples[[3, 1]]).all()
    assert batch.indices.tolist() == [3, 1]
    batch.samples.zero_()
    assert store.samples[[3, 1]].any()


def test_statistics(make_folder: MakeFolder) -> None:
    store = decode(make_folder(smooth_images(12)), None)
    mean, std = channel_statistics(store)
    values = store.samples.astype(np.float64) / 255
    assert mean == pytest.approx(values.mean(axis=(0, 2, 3)))
    assert std == pytest.approx(values.std(axis=(0, 2, 3)))


def test_statistics_of_an_empty_channel_divide() -> None:
    store = SampleStore(
        np.zeros((2, 1, 4, 4), np.uint8), np.ones(2, np.float32), ["a", "b"], [], []
    )
    assert channel_statistics(store)[1][0] > 0


@pytest.mark.parametrize(("image_size", "canvas"), [(16, 32), (24, 48), (32, 48), (96, 56)])
def test_canvas(make_folder: MakeFolder, image_size: int, canvas: int) -> None:
    assert choose_canvas(make_folder(smooth_images(2)), image_size) == canvas


def test_fitted_images_are_what_the_device_sees(make_folder: MakeFolder) -> None:
    images = smooth_images(6)
    source = make_folder(images, corrupt=(2,))
    spec = ImageInput(channels=3, height=24, width=20, mean=(0.5,) * 3, std=(0.5,) * 3)
    fitted, kept = fit_images(source, spec, max_corrupt=0.2)
    assert kept.tolist() == [0, 1, 3, 4, 5]
    assert (fitted == np.stack([fit(images[i], spec) for i in kept])).all()


def test_corrupt_sample_error_is_named(make_folder: MakeFolder) -> None:
    with pytest.raises(CorruptSampleError, match=r"^0000\.png"):
        make_folder(sample_images(1), corrupt=(0,)).read(0)
