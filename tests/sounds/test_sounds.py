"""Decoding and resampling of sounds, against scipy and against the whole clip."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from edgessl.errors import CorruptSampleError, UnavailableError
from edgessl.preprocessing import SoundInput
from edgessl.sounds import Clip, resample

RNG = np.random.default_rng(0)
SIGNAL = (0.1 * RNG.standard_normal(5000)).astype(np.float32)


def write(path: Path, signal: NDArray[np.float32] = SIGNAL, rate: int = 16_000) -> Path:
    subtype = "FLOAT" if path.suffix == ".wav" else "PCM_16"
    soundfile.write(path, signal, rate, subtype=subtype)
    return path


def all_windows(path: Path, spec: SoundInput) -> NDArray[np.float32]:
    with Clip(path, spec, name=path.name) as clip:
        return np.stack([clip.read(k) for k in range(clip.windows)])


@pytest.mark.parametrize(
    ("rate", "new"),
    [(8000, 16_000), (16_000, 8000), (44_100, 16_000), (16_000, 44_100), (3, 7), (5, 5)],
)
@pytest.mark.parametrize("length", [1, 5, 100, 5000])
def test_resampling_is_scipys(rate: int, new: int, length: int) -> None:
    signal = RNG.standard_normal(length).astype(np.float32)
    common = math.gcd(rate, new)
    expected = resample_poly(signal.astype(np.float64), new // common, rate // common)
    found = resample(signal, rate, new)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize("hop", [None, 100, 512])
def test_windows_are_parts_of_the_resampled_clip(
    tmp_path: Path, rate: int, hop: int | None
) -> None:
    path = write(tmp_path / "a.wav", rate=rate)
    whole = resample(SIGNAL, rate, 16_000)
    windows = all_windows(path, SoundInput(sample_rate_hz=16_000, samples=576, hop=hop))
    step = hop or 576
    assert len(windows) == 1 + math.ceil((len(whole) - 576) / step)
    for number, window in enumerate(windows):
        part = whole[number * step : number * step + 576]
        np.testing.assert_allclose(window[: len(part)], part, atol=1e-6)
    assert (len(windows) - 1) * step + 576 >= len(whole)


def test_a_short_clip_is_one_window_with_zeros_after_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", SIGNAL[:100])
    windows = all_windows(path, SoundInput(sample_rate_hz=16_000, samples=576))
    assert windows.shape == (1, 576)
    np.testing.assert_array_equal(windows[0, :100], SIGNAL[:100])
    np.testing.assert_array_equal(windows[0, 100:], 0)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_formats_and_channels_become_mono(tmp_path: Path, suffix: str) -> None:
    stereo = np.stack([SIGNAL, -0.5 * SIGNAL], axis=1)
    path = write(tmp_path / f"a.{suffix}", stereo)
    windows = all_windows(path, SoundInput(sample_rate_hz=16_000, samples=1000))
    np.testing.assert_allclose(windows.ravel(), 0.25 * SIGNAL, atol=1e-4)


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    spec = SoundInput(sample_rate_hz=16_000, samples=1000)
    for name, data in (("empty.wav", b""), ("noise.flac", b"fLaC rubbish"), ("text.wav", b"hello")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CorruptSampleError, match=f"{name}: cannot be decoded"):
            Clip(tmp_path / name, spec, name=name)
    with pytest.raises(CorruptSampleError, match=r"none\.wav: cannot be decoded"):
        Clip(tmp_path / "none.wav", spec, name="none.wav")
    write(tmp_path / "silent.wav", SIGNAL[:0])
    with pytest.raises(CorruptSampleError, match=r"silent\.wav: holds no sound"):
        Clip(tmp_path / "silent.wav", spec, name="silent.wav")


def test_a_bad_value_and_a_truncated_file_are_named(tmp_path: Path) -> None:
    spec = SoundInput(sample_rate_hz=16_000, samples=1000)
    bad = SIGNAL.copy()
    bad[4500] = np.nan
    with Clip(write(tmp_path / "nan.wav", bad), spec, name="nan.wav") as clip:
        clip.read(0)
        with pytest.raises(CorruptSampleError, match=r"nan\.wav: holds NaN"):
            clip.read(4)
    path = write(tmp_path / "cut.flac")
    path.write_bytes(path.read_bytes()[:-2000])
    with (
        Clip(path, spec, name="cut.flac") as clip,
        pytest.raises(CorruptSampleError, match=r"cut\.flac: "),
    ):
        clip.read(clip.windows - 1)


def test_without_soundfile_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UnavailableError, match="pip install"):
        Clip(tmp_path / "a.wav", SoundInput(sample_rate_hz=8000, samples=10), name="a")
