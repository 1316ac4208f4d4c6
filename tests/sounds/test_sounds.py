"""Decoding and resampling of sounds, against scipy and against the whole clip."""

from __future__ import annotations

import math
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly

from edgessl.errors import CorruptSampleError, UnavailableError
from edgessl.preprocessing import SoundInput
from edgessl.sounds import Clip, resample

RNG = np.random.default_rng(0)
SIGNAL = (0.1 * RNG.standard_normal(5000)).astype(np.float32)


def write(path: Path, signal: NDArray[np.float32] = SIGNAL, rate: int = 16_000) -> Path:
    wavfile.write(path, rate, signal)
    return path


def encoded(suffix: str) -> tuple[Path, NDArray[np.float64]]:
    """A stereo file beside this one, 16 kHz, and the mean of its channels before encoding.

    The second channel is the first times -1/2.
    """
    time = np.arange(5000) / 16_000
    first = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 1500 * time)
    return Path(__file__).parent / f"tones.{suffix}", 0.25 * first


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


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_wav_of_every_width_becomes_mono(tmp_path: Path, dtype: type) -> None:
    stereo = np.stack([SIGNAL, -0.5 * SIGNAL], axis=1).astype(np.float64)
    tolerance = 1e-6
    if dtype is np.uint8:
        stereo, tolerance = np.round(stereo * 127 + 128), 0.02
    elif np.issubdtype(dtype, np.integer):
        most = float(np.iinfo(dtype).max)
        stereo, tolerance = np.round(stereo * most), 1e-4
    wavfile.write(tmp_path / "a.WAV", 16_000, stereo.astype(dtype))
    windows = all_windows(tmp_path / "a.WAV", SoundInput(sample_rate_hz=16_000, samples=1000))
    np.testing.assert_allclose(windows.ravel(), 0.25 * SIGNAL, atol=tolerance)


@pytest.mark.parametrize(("suffix", "tolerance"), [("flac", 1e-4), ("ogg", 0.02), ("mp3", 0.02)])
def test_other_formats_become_mono(suffix: str, tolerance: float) -> None:
    path, mono = encoded(suffix)
    windows = all_windows(path, SoundInput(sample_rate_hz=16_000, samples=1000))
    np.testing.assert_allclose(windows.ravel(), mono, atol=tolerance)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("hop", [100, 500])
def test_windows_are_the_same_in_any_order(tmp_path: Path, suffix: str, hop: int) -> None:
    path = write(tmp_path / "a.wav", rate=44_100) if suffix == "wav" else encoded(suffix)[0]
    spec = SoundInput(sample_rate_hz=16_000, samples=500, hop=hop)
    windows = all_windows(path, spec)
    order = np.random.default_rng(1).permutation(len(windows))
    with Clip(path, spec, name=path.name) as clip:
        for number in (*order, *order[::-1]):
            np.testing.assert_array_equal(clip.read(int(number)), windows[number])


@pytest.mark.parametrize("step", [1, 7, 400])
def test_of_a_long_clip_little_is_held(tmp_path: Path, step: int) -> None:
    signal = np.tile(SIGNAL, 200)
    path = write(tmp_path / "a.wav", signal, rate=8000)
    spec = SoundInput(sample_rate_hz=8000, samples=1000)
    most = 0
    with Clip(path, spec, name="a.wav") as clip:
        assert clip.windows == 1000
        for number in range(0, 1000, step):
            tracemalloc.start()
            window = clip.read(number)
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            np.testing.assert_array_equal(window, signal[number * 1000 : number * 1000 + 1000])
    assert most < signal.nbytes / 8


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    spec = SoundInput(sample_rate_hz=16_000, samples=1000)
    for name, data in (("empty.wav", b""), ("noise.flac", b"fLaC rubbish"), ("text.wav", b"hello")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CorruptSampleError, match=f"{name}: cannot be decoded"):
            Clip(tmp_path / name, spec, name=name)
    (tmp_path / "a.aiff").write_bytes(b"FORM")
    with pytest.raises(CorruptSampleError, match=r"\(unsupported file format\)"):
        Clip(tmp_path / "a.aiff", spec, name="a.aiff")
    with pytest.raises(CorruptSampleError, match=r"none\.wav: cannot be decoded"):
        Clip(tmp_path / "none.wav", spec, name="none.wav")
    write(tmp_path / "silent.wav", SIGNAL[:0])
    with pytest.raises(CorruptSampleError, match=r"silent\.wav: holds no sound"):
        Clip(tmp_path / "silent.wav", spec, name="silent.wav")


def test_a_bad_value_is_named(tmp_path: Path) -> None:
    spec = SoundInput(sample_rate_hz=16_000, samples=1000)
    bad = SIGNAL.copy()
    bad[4500] = np.nan
    with Clip(write(tmp_path / "nan.wav", bad), spec, name="nan.wav") as clip:
        clip.read(0)
        with pytest.raises(CorruptSampleError, match=r"nan\.wav: holds NaN"):
            clip.read(4)


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    data = encoded(suffix)[0].read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(data[: len(data) * 3 // 5])
    spec = SoundInput(sample_rate_hz=16_000, samples=1000)
    with pytest.raises(CorruptSampleError, match=rf"cut\.{suffix}: "):
        all_windows(path, spec)
    with (
        pytest.raises(CorruptSampleError, match=rf"cut\.{suffix}: "),
        Clip(path, spec, name=path.name) as clip,
    ):
        clip.read(clip.windows - 1)


def test_a_damaged_rate_costs_no_memory(tmp_path: Path) -> None:
    data = bytearray(encoded("ogg")[0].read_bytes())
    place = data.index(b"\x01vorbis") + 12
    assert int.from_bytes(data[place : place + 4], "little") == 16_000
    data[place : place + 4] = (4_000_000_003).to_bytes(4, "little")
    path = tmp_path / "a.ogg"
    path.write_bytes(data)
    with pytest.raises(CorruptSampleError, match="2 channels at 4000000003 Hz"):
        Clip(path, SoundInput(sample_rate_hz=16_000, samples=1000), name="a.ogg")


def test_without_miniaudio_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "miniaudio", None)
    with pytest.raises(UnavailableError, match="pip install"):
        Clip(tmp_path / "a.wav", SoundInput(sample_rate_hz=8000, samples=10), name="a")
