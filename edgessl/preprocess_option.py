"""``--preprocess size=240x320,mean=127,std=128,range=0-255``: what a model takes, in one option.

Keys stand between commas; a value of several numbers has commas too, ``mean=0.48,0.46,0.41``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from edgessl.config import describe_validation
from edgessl.errors import UsageError, nearest
from edgessl.preprocessing import ImageInput, MediaInput, SoundInput

__all__ = ["IMAGE_KEYS", "SOUND_KEYS", "parse_preprocess"]

Shape = Sequence[int | str]

IMAGE_KEYS = ("size", "mean", "std", "layout", "range", "order", "resize", "interpolation")
SOUND_KEYS = ("rate", "samples", "hop", "layout", "range")

_FEW = (1, 3, 4)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})(?:\.\.|-|:)({_NUMBER})")
_SIZE = re.compile(r"(\d+)(?:x(\d+))?")
_WORDS = {
    "layout": ("nchw", "nhwc"),
    "order": ("rgb", "bgr"),
    "resize": ("crop", "squash", "pad"),
    "interpolation": ("bicubic", "bilinear", "nearest"),
}


def parse_preprocess(
    text: str,
    *,
    name: str,
    shape: Shape,
    dtype: str,
    described: MediaInput | None = None,
    where: str = "--preprocess",
) -> MediaInput:
    """Read the option for one input of a model.

    The keys ``rate`` and ``samples`` make it a sound, anything else an image. A key that is
    missing keeps what the model's metadata say; without metadata the size, the layout and the
    window length are those of the input's shape, the range is 0-1 for images and -1..1 for
    sounds, mean 0, std 1, order rgb, resize crop, interpolation bicubic.

    Args:
        text: The option.
        name: The input's name, for messages.
        shape: The input's shape with its batch; symbolic dimensions are names.
        dtype: The input's numpy dtype name.
        described: What the model's metadata say.
        where: How messages call the option.

    Raises:
        UsageError: An unknown key (with the nearest right one), a value that is not one, or one
            that contradicts the input's shape or dtype.
    """
    values = _split(text, where)
    only_sound = set(SOUND_KEYS) - set(IMAGE_KEYS)
    sound = bool(only_sound & set(values)) or (
        isinstance(described, SoundInput) and set(values) <= set(SOUND_KEYS)
    )
    for key in values:
        if key not in (*IMAGE_KEYS, *SOUND_KEYS):
            raise UsageError(
                f"{where}: unknown key '{key}'; {nearest(key, (*IMAGE_KEYS, *SOUND_KEYS))}"
            )
        if sound and key not in SOUND_KEYS:
            raise UsageError(
                f"{where}: '{key}' is for images, {' and '.join(sorted(only_sound & set(values)))} "
                "for sounds; give the keys of one kind"
            )
    option = _Option(values, name, shape, dtype, where)
    try:
        if sound:
            return option.sound(described if isinstance(described, SoundInput) else None)
        return option.image(described if isinstance(described, ImageInput) else None)
    except pydantic.ValidationError as error:
        raise UsageError(f"{where}: {describe_validation(error)}") from error


def _split(text: str, where: str) -> dict[str, list[str]]:
    """Key → its values as words."""
    found: dict[str, list[str]] = {}
    key = None
    for word in text.split(","):
        before, equals, after = (part.strip() for part in word.partition("="))
        if equals:
            key = before
            if key in found:
                raise UsageError(f"{where}: '{key}' is given twice; give it once")
            found[key] = [after]
        elif key is None:
            raise UsageError(
                f"{where}: '{word}' is not a setting; write key=value, like size=240x320,mean=0.5"
            )
        else:
            found[key].append(before)
    return found


class _Option:
    """The words of the option beside the input that they are about."""

    def __init__(
        self, values: Mapping[str, list[str]], name: str, shape: Shape, dtype: str, where: str
    ) -> None:
        self._values, self._name, self._shape = values, name, shape
        self._dtype, self._where = dtype, where

    def image(self, described: ImageInput | None) -> ImageInput:
        """The image that the input takes."""
        if len(self._shape) != 4 or self._dtype not in ("uint8", "float16", "float32"):
            raise self._error(
                f"input '{self._name}' is {self._dtype} {_dims(self._shape)}, images are 4 "
                "dimensions of float32 or uint8; give an .npz of arrays, or rate=… and samples=… "
                "for sounds"
            )
        folded = self._dtype == "uint8"
        for key in ("mean", "std", "range"):
            if folded and key in self._values:
                raise self._error(f"input '{self._name}' takes raw uint8 pixels; leave {key} out")
        default = (described.layout or ("nhwc" if folded else "nchw")) if described else None
        layout = self._word("layout", default or _layout(self._shape))
        axes = (1, 2, 3) if layout == "nchw" else (3, 1, 2)
        if self._shape[axes[0]] not in _FEW and self._shape[4 - axes[0]] in _FEW:
            other = "nhwc" if layout == "nchw" else "nchw"
            raise self._error(
                f"layout={layout}, but input '{self._name}' is {_dims(self._shape)}; "
                f"write layout={other}"
            )
        channels, height, width = (self._shape[axis] for axis in axes)
        if isinstance(channels, str):
            channels = described.channels if described else 3
        changes: dict[str, Any] = {"layout": layout, "folded": folded, "channels": channels}
        changes["height"], changes["width"] = self._size((height, width), described)
        for key, neutral in (("mean", 0.0), ("std", 1.0)):
            if key in self._values or described is None:
                changes[key] = self._per_channel(key, channels, neutral)
        if "range" in self._values:
            changes["value_range"] = self._range()
        for key, field in (("order", "channel_order"), ("resize",) * 2, ("interpolation",) * 2):
            if key in self._values:
                changes[field] = self._word(key, "")
        base = described.model_dump() if described else {}
        return ImageInput.model_validate({**base, **changes})

    def sound(self, described: SoundInput | None) -> SoundInput:
        """The window of sound that the input takes."""
        shape, middle = self._shape, tuple(self._shape[1:-1])
        floats = self._dtype in ("float16", "float32")
        if not floats or len(shape) < 2 or middle not in ((), (1,)):
            raise self._error(
                f"input '{self._name}' is {self._dtype} {_dims(shape)}, sounds are float32 NxT or "
                "Nx1xT; give an .npz of arrays"
            )
        layout = "n1t" if middle else "nt"
        if self._values.get("layout", [layout]) != [layout]:
            raise self._error(
                f"layout={','.join(self._values['layout'])}, but input '{self._name}' is "
                f"{_dims(shape)}; leave it out"
            )
        if "rate" not in self._values and described is None:
            raise self._error("a sound needs its sample rate; add rate=16000")
        changes: dict[str, Any] = {"layout": layout}
        for key, field in (("rate", "sample_rate_hz"), ("samples", "samples"), ("hop", "hop")):
            if key in self._values:
                changes[field] = self._number(key, int, self._one(key))
        length = shape[-1]
        if isinstance(length, int):
            if changes.setdefault("samples", length) != length:
                raise self._error(
                    f"samples={changes['samples']}, but input '{self._name}' is fixed at {length}; "
                    "leave samples out"
                )
        elif "samples" not in changes and described is None:
            raise self._error(
                f"input '{self._name}' takes any length; say how many samples, like samples=16000"
            )
        if "range" in self._values:
            changes["value_range"] = self._range()
        base = described.model_dump() if described else {}
        return SoundInput.model_validate({**base, **changes})

    def _size(
        self, fixed: tuple[int | str, int | str], described: ImageInput | None
    ) -> tuple[int, int]:
        if "size" in self._values:
            match = _SIZE.fullmatch(self._one("size"))
            if match is None:
                raise self._bad("size", "224 or, height first, 240x320")
            height = int(match[1])
            size = (height, int(match[2] or height))
        elif described is not None:
            size = (described.height, described.width)
        elif isinstance(fixed[0], int) and isinstance(fixed[1], int):
            return fixed[0], fixed[1]
        else:
            raise self._error(
                f"input '{self._name}' takes any size; say which, like size=224 or size=240x320"
            )
        if any(isinstance(f, int) and f != s for f, s in zip(fixed, size, strict=True)):
            raise self._error(
                f"size={size[0]}x{size[1]} (height first), but input '{self._name}' is fixed at "
                f"{fixed[0]}x{fixed[1]}; leave size out"
            )
        return size

    def _per_channel(self, key: str, channels: int, neutral: float) -> list[float]:
        words = self._values.get(key, [str(neutral)])
        numbers = [self._number(key, float, word) for word in words]
        if len(numbers) not in (1, channels):
            raise self._error(
                f"{key} has {len(numbers)} values, the input has {channels} channels; give one "
                f"or {channels}"
            )
        return numbers * channels if len(numbers) == 1 else numbers

    def _range(self) -> tuple[float, float]:
        match = _RANGE.fullmatch(self._one("range"))
        if match is None:
            raise self._bad("range", "0-1, 0-255 or -1..1")
        return float(match[1]), float(match[2])

    def _word(self, key: str, default: str) -> str:
        if key not in self._values:
            return default
        word = self._one(key).lower()
        if word not in _WORDS[key]:
            raise self._error(f"{key}={word} is not known; {nearest(word, _WORDS[key])}")
        return word

    def _number(self, key: str, kind: Callable[[str], Any], word: str) -> Any:
        try:
            number = kind(word)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            what = "a whole number" if kind is int else "a number"
            raise self._error(f"{key}={word} is not {what}")
        return number

    def _one(self, key: str) -> str:
        if len(self._values[key]) > 1:
            raise self._error(f"{key} takes one value, found {','.join(self._values[key])}")
        return self._values[key][0]

    def _bad(self, key: str, right: str) -> UsageError:
        return self._error(f"{key}={self._one(key)} is not understood; write {key}={right}")

    def _error(self, message: str) -> UsageError:
        return UsageError(f"{self._where}: {message}")


def _layout(shape: Shape) -> str:
    """The channels are the axis of size 1, 3 or 4; the first of them where both are."""
    return "nhwc" if shape[3] in _FEW and shape[1] not in _FEW else "nchw"


def _dims(shape: Shape) -> str:
    return "[" + "x".join(str(d) for d in shape) + "]"
