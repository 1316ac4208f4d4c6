"""Decode sound files in windows of the length and rate that a model takes.

Calibration and the device call the same code, so both see the same samples. A clip is never held
whole: of a file of hours no more than one window is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.closing import Closing
from edgessl.errors import CorruptSampleError
from edgessl.optional import require
from edgessl.preprocessing import SoundInput

__all__ = ["SOUND_SUFFIXES", "Clip", "resample"]

SOUND_SUFFIXES = frozenset({".flac", ".mp3", ".ogg", ".wav"})

_ZERO_CROSSINGS = 10
_KAISER_BETA = 5.0
_BLOCK = 16_384
# So far ahead decoding on costs less than opening the file again, and an mp3 has no index.
_MOST_SKIPPED = 16 * _BLOCK
# The highest rate that converters have; what is above is a damaged header.
_HIGHEST_RATE_HZ = 768_000


class Clip(Closing):
    """One sound file, as the windows that a model takes: mono, resampled, ``[-1, 1]`` float32.

    Window k starts at sample ``k * hop`` of the model's rate. The last one is filled up with
    zeros, so that a clip of any length has at least one and none of it is lost.

    Attributes:
        windows: Number of windows.

    Raises:
        CorruptSampleError: Not a sound file, empty, or with NaN or infinite samples.
        UnavailableError: The package that decodes sounds is not installed; the message holds the
            command that installs it.
    """

    def __init__(self, path: Path, spec: SoundInput, *, name: str) -> None:
        library = require("miniaudio", extra="compile")
        self._spec, self._name = spec, name
        self._errors = (library.MiniaudioError, OSError, ValueError, ArithmeticError)
        with self._decoding():
            self._decoder = _Decoder(library, path)
        frames, rate = self._decoder.frames, self._decoder.sample_rate_hz
        if frames <= 0:
            raise CorruptSampleError(f"{name}: holds no sound; delete it or fetch it again")
        common = math.gcd(rate, spec.sample_rate_hz)
        self._up, self._down, self._frames = spec.sample_rate_hz // common, rate // common, frames
        samples = -(-frames * self._up // self._down)
        self.windows = 1 + max(0, -(-(samples - spec.samples) // (spec.hop or spec.samples)))

    def read(self, index: int) -> NDArray[np.float32]:
        """Window ``index``: ``(T,)``.

        Raises:
            CorruptSampleError: The file is truncated or damaged there.
        """
        start = index * (self._spec.hop or self._spec.samples)
        stop = start + self._spec.samples
        first, last = _needed(start, stop, self._up, self._down)
        lower, upper = max(0, first), min(self._frames, last)
        with self._decoding():
            mono = self._decoder.read(lower, upper)
        if len(mono) < upper - lower:
            raise CorruptSampleError(f"{self._name}: ends early; fetch it again")
        if not bool(np.isfinite(mono).all()):
            raise CorruptSampleError(f"{self._name}: holds NaN or infinite samples; remove it")
        signal = np.pad(mono, (lower - first, last - upper))
        return _outputs(signal, first, start, stop, self._up, self._down)

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            # miniaudio's errors carry a number after the words.
            said = error.args[0] if isinstance(error, self._errors[0]) else error
            reason = " ".join(str(said).split())[:200]
            raise CorruptSampleError(f"{self._name}: cannot be decoded ({reason})") from error

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()


class _Decoder:
    """Frames of a file at its own rate, the mean of its channels.

    What overlapping windows share is kept, so that reading on decodes every frame once.

    Attributes:
        frames: How many the file's header promises.
        sample_rate_hz: Of the file.
    """

    def __init__(self, library: Any, path: Path) -> None:
        self._library = library
        self._path = str(path.absolute())  # miniaudio would take a leading ~ for a home folder
        info = self._library.get_file_info(self._path)
        self.frames, self.sample_rate_hz = int(info.num_frames), int(info.sample_rate)
        self._channels = int(info.nchannels)
        if self._channels < 1 or not 0 < self.sample_rate_hz <= _HIGHEST_RATE_HZ:
            raise ValueError(f"says {self._channels} channels at {self.sample_rate_hz} Hz")
        self._stream: Generator[Any, int, None] | None = None
        self._begin, self._held = 0, np.zeros(0, np.float32)

    def read(self, lower: int, upper: int) -> NDArray[np.float32]:
        """Frames ``lower`` to ``upper``, fewer if the file ends before: ``(frames,)``."""
        stream, ahead = self._stream, lower - self._begin - len(self._held)
        if stream is None or lower < self._begin or ahead > _MOST_SKIPPED:
            stream = self._open(lower)
        parts, end = [self._held], self._begin + len(self._held)
        while end < upper:
            block = next(stream, None)
            if block is None:
                break
            mono = np.asarray(block).reshape(-1, self._channels).mean(axis=1, dtype=np.float32)
            if end + len(mono) <= lower:
                parts = []
            parts.append(mono)
            end += len(mono)
        joined = np.concatenate(parts)
        self._begin = min(lower, end)
        self._held = joined[len(joined) - (end - self._begin) :].copy()  # the rest may go
        return self._held[: upper - lower]

    def _open(self, frame: int) -> Generator[Any, int, None]:
        self.close()
        stream: Generator[Any, int, None] = self._library.stream_file(
            self._path,
            output_format=self._library.SampleFormat.FLOAT32,
            nchannels=self._channels,
            sample_rate=self.sample_rate_hz,
            frames_to_read=_BLOCK,
            seek_frame=frame,
        )
        self._stream, self._begin, self._held = stream, frame, np.zeros(0, np.float32)
        return stream

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def resample(signal: NDArray[np.float32], rate_hz: int, new_rate_hz: int) -> NDArray[np.float32]:
    """Change the sample rate: y[n] = Σ_k x[k] h[n down - k up], h a windowed sinc.

    Args:
        signal: ``(T,)``.
        rate_hz: Its sample rate.
        new_rate_hz: The rate wanted.

    Returns:
        ``(ceil(T new_rate / rate),)`` float32.

    Source: the filter of `scipy.signal.resample_poly` (Kaiser window, beta 5, 10 zero crossings).
    """
    common = math.gcd(rate_hz, new_rate_hz)
    up, down = new_rate_hz // common, rate_hz // common
    count = -(-len(signal) * up // down)
    first, last = _needed(0, count, up, down)
    padded = np.pad(signal, (-first, max(0, last - len(signal))))
    return _outputs(padded, first, 0, count, up, down)


def _needed(start: int, stop: int, up: int, down: int) -> tuple[int, int]:
    """Range of input samples that outputs ``start`` to ``stop`` are made of."""
    if up == down:
        return start, stop
    half = _half_length(up, down)
    return -((half - start * down) // up), ((stop - 1) * down + half) // up + 1


def _outputs(
    signal: NDArray[np.float32], first: int, start: int, stop: int, up: int, down: int
) -> NDArray[np.float32]:
    """Outputs ``start`` to ``stop`` from the input samples that begin at number ``first``."""
    if up == down:
        return signal
    phases, offset = _phases(up, down)
    taps = phases.shape[1]
    result = np.empty(stop - start, np.float32)
    # The filters of some phases reach one sample further than their last weight that counts.
    padded = np.pad(signal.astype(np.float64), (taps, taps))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    for begin in range(start, stop, _BLOCK):
        places = np.arange(begin, min(begin + _BLOCK, stop)) * down
        rows = windows[places // up - offset - first + taps]
        result[begin - start : begin - start + len(places)] = np.einsum(
            "nt,nt->n", rows, phases[places % up]
        )
    return result


def _half_length(up: int, down: int) -> int:
    return _ZERO_CROSSINGS * max(up, down)


@lru_cache(maxsize=8)
def _phases(up: int, down: int) -> tuple[NDArray[Any], int]:
    """Filter of each of the ``up`` phases, ``(up, taps)``, and how far back its first tap is.

    Output n with n down = q up + p takes x[q - offset + t] with weight h[p + (offset - t) up].
    """
    half = _half_length(up, down)
    cutoff = 1.0 / max(up, down)
    place = np.arange(-half, half + 1)
    filter_ = np.sinc(cutoff * place) * np.kaiser(2 * half + 1, _KAISER_BETA)
    filter_ *= up / filter_.sum()
    offset = half // up
    ahead = (half + up - 1) // up
    taps = offset + ahead + 1
    distance = np.arange(up)[:, None] + (offset - np.arange(taps)) * up
    inside = np.abs(distance) <= half
    return np.where(inside, filter_[np.clip(distance + half, 0, 2 * half)], 0.0), offset
