"""Samples on disk give back what was written, one engine call at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgessl.compiler.samples import Samples, SampleWriter, Stream

IMAGES = Stream(name="images", dtype="float32", shape=(3, 4), batched=True)
STATE = Stream(name="state", dtype="int64", shape=(2,), batched=False)


def _write(folder: Path, streams: tuple[Stream, ...], batch_size: int, count: int) -> Samples:
    rng = np.random.default_rng(0)
    with SampleWriter(folder, streams, batch_size=batch_size) as writer:
        for start in range(0, count, 3):
            n = min(3, count - start)
            writer.append(
                {s.name: rng.integers(0, 99, (n, *s.shape)).astype(s.dtype) for s in streams}
            )
    return Samples(folder)


def _expected(streams: tuple[Stream, ...], count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    parts: dict[str, list[np.ndarray]] = {s.name: [] for s in streams}
    for start in range(0, count, 3):
        for s in streams:
            parts[s.name].append(
                rng.integers(0, 99, (min(3, count - start), *s.shape)).astype(s.dtype)
            )
    return {name: np.concatenate(values) for name, values in parts.items()}


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    samples = _write(tmp_path / "s", (IMAGES, STATE), 1, 7)
    expected = _expected((IMAGES, STATE), 7)
    for name, array in samples.read(0, 7).items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == expected[name].dtype
    np.testing.assert_array_equal(samples.read(5, 9)["state"], expected["state"][5:])
    rows = np.stack(list(samples.rows("images")))
    np.testing.assert_array_equal(rows, expected["images"].reshape(7, -1))


def test_the_last_call_repeats_its_last_sample(tmp_path: Path) -> None:
    samples = _write(tmp_path / "s", (IMAGES,), 4, 6)
    expected = _expected((IMAGES,), 6)["images"]
    assert samples.calls == 2
    np.testing.assert_array_equal(samples.feeds(0)["images"], expected[:4])
    np.testing.assert_array_equal(samples.feeds(1)["images"], expected[[4, 5, 5, 5]])


def test_an_unbatched_input_is_fed_as_it_is(tmp_path: Path) -> None:
    samples = _write(tmp_path / "s", (IMAGES, STATE), 1, 4)
    assert samples.feeds(2)["state"].shape == (2,)
    assert samples.feeds(2)["images"].shape == (1, 3, 4)


def test_hash_depends_on_values_and_names(tmp_path: Path) -> None:
    one = _write(tmp_path / "a", (IMAGES,), 1, 4).sha256()
    assert one == _write(tmp_path / "b", (IMAGES,), 1, 4).sha256()
    renamed = IMAGES.model_copy(update={"name": "pixels"})
    assert one != _write(tmp_path / "c", (renamed,), 1, 4).sha256()
    assert one != _write(tmp_path / "d", (IMAGES,), 1, 5).sha256()


def test_an_interrupted_write_is_not_readable(tmp_path: Path) -> None:
    def interrupted() -> None:
        with SampleWriter(tmp_path / "s", (IMAGES,), batch_size=1) as writer:
            writer.append({"images": np.zeros((2, 3, 4), np.float32)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(FileNotFoundError):
        Samples(tmp_path / "s")
