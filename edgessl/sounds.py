"""Decode sound files in windows of the length and rate that a model takes.

Calibration and the device call the same code, so both see the same samples. A clip is never held
whole: of a file of hours no more than one window is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgessl.errors import CorruptSampleError
from edgessl.optional import require
from edgessl.preprocessing import SoundInput

__all__ = ["SOUND_SUFFIXES", "Clip", "resample"]

SOUND_SUFFIXES = frozenset({".aif", ".aiff", ".flac", ".ogg", ".wav"})

_ZERO_CROSSINGS = 10
_KAISER_BETA = 5.0
_BLOCK = 16_384


class Clip:
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
        soundfile = require("soundfile", extra="compile")
        self._spec, self._name, self._errors = spec, name, soundfile.SoundFileError
        with self._decoding():
            self._file = soundfile.SoundFile(path)
        frames, rate = int(self._file.frames), int(self._file.samplerate)
        if frames <= 0:
            self._file.close()
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
            self._file.seek(lower)
            taken = self._file.read(upper - lower, dtype="float32", always_2d=True)
        if len(taken) < upper - lower:
            raise CorruptSampleError(f"{self._name}: ends early; fetch it again")
        mono = taken.mean(axis=1, dtype=np.float32)
        if not bool(np.isfinite(mono).all()):
            raise CorruptSampleError(f"{self._name}: holds NaN or infinite samples; remove it")
        signal = np.pad(mono, (lower - first, last - upper))
        return _outputs(signal, first, start, stop, self._up, self._down)

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except (self._errors, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorruptSampleError(f"{self._name}: cannot be decoded ({reason})") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
