"""What a model expects at its input, and how a raw image or sound gets there: numpy and Pillow.

The same code serves training-side evaluation and the device, so both see the same numbers.
A decoded image is ``(H, W, C)`` uint8 or uint16; `fit` brings it to the model's size in the same
dtype; `normalize` turns a batch of fitted images into the model's float32 input. Sounds are cut
into windows by `edgessl.sounds`; `sound_input` turns those into the model's input.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from typing_extensions import Self

from edgessl.config import Options
from edgessl.errors import DataError

__all__ = [
    "ImageInput",
    "MediaInput",
    "RawImage",
    "SoundInput",
    "convert_channels",
    "fit",
    "model_input",
    "normalize",
    "sound_input",
]

RawImage = NDArray[np.uint8] | NDArray[np.uint16]
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


def _check_range(value_range: tuple[float, float]) -> None:
    if not value_range[0] < value_range[1]:
        raise ValueError("the value range must go from a lower to a higher value")


class ImageInput(Options):
    """The image that a model takes.

    Attributes:
        channels: Channels C of the model's input.
        height: Height H in pixels.
        width: Width W in pixels.
        mean: Per-channel mean that is subtracted after scaling to ``value_range``.
        std: Per-channel deviation that is divided by.
        resize: ``"crop"`` scales the shorter side and crops the centre, ``"squash"`` ignores the
            aspect ratio, ``"pad"`` scales the longer side and adds black borders.
        folded: True if the graph itself scales and normalises: then its input is uint8, else
            float32, already normalised.
        layout: Order of the input's dimensions; None means ``"nhwc"`` where ``folded``, else
            ``"nchw"``.
        value_range: What the least and the largest pixel value become before ``mean`` and ``std``.
        channel_order: ``"bgr"`` for models that take blue first; mean and std are in that order.
        interpolation: Filter of the resizing, antialiased except for ``"nearest"``.
    """

    modality: Literal["image"] = "image"
    channels: Annotated[int, Field(ge=1, le=1024)]
    height: Annotated[int, Field(ge=1, le=8192)]
    width: Annotated[int, Field(ge=1, le=8192)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["crop", "squash", "pad"] = "crop"
    folded: bool = False
    layout: Literal["nchw", "nhwc"] | None = None
    value_range: tuple[float, float] = (0.0, 1.0)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_range(self.value_range)
        if self.channel_order == "bgr" and self.channels != 3:
            raise ValueError(f"bgr needs 3 channels, not {self.channels}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        if any(s <= 0 for s in self.std):
            raise ValueError("std must be positive")
        return self


class SoundInput(Options):
    """The window of mono sound that a model takes.

    Attributes:
        sample_rate_hz: Samples per second.
        samples: Length T of a window.
        hop: Samples from the start of one window of a clip to the next, at most ``samples``, which
            is what None means.
        layout: ``"nt"`` for an input ``(N, T)``, ``"n1t"`` for ``(N, 1, T)``.
        value_range: What digital full scale, -1 to 1, becomes.
    """

    modality: Literal["sound"] = "sound"
    sample_rate_hz: Annotated[int, Field(ge=100, le=768_000)]
    samples: Annotated[int, Field(ge=1, le=2**28)]
    hop: Annotated[int, Field(ge=1, le=2**28)] | None = None
    layout: Literal["nt", "n1t"] = "nt"
    value_range: tuple[float, float] = (-1.0, 1.0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_range(self.value_range)
        if self.hop is not None and self.hop > self.samples:
            raise ValueError(f"hop must not be more than the {self.samples} samples of a window")
        return self


MediaInput = Annotated[ImageInput | SoundInput, Field(discriminator="modality")]


def convert_channels(image: RawImage, channels: int) -> RawImage:
    """Bring a decoded image to a number of channels.

    Grey becomes colour by repetition, colour becomes grey by ITU-R BT.601 luma, and an alpha
    channel is composited on white.

    Args:
        image: ``(H, W, C)`` uint8 or uint16.
        channels: Channels wanted.

    Raises:
        DataError: There is no meaningful conversion (5 channels to 3, say).
    """
    have = image.shape[2]
    if have == channels:
        return image
    top = float(np.iinfo(image.dtype).max)
    if have in (2, 4):
        alpha = image[:, :, -1:].astype(np.float32) / top
        opaque = image[:, :, :-1].astype(np.float32) * alpha + top * (1.0 - alpha)
        return convert_channels(_rounded(opaque, image), channels)
    if have == 1 and channels == 3:
        return _rounded(np.repeat(image, 3, axis=2), image)
    if have == 3 and channels == 1:
        luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return _rounded(luma[:, :, None], image)
    raise DataError(
        f"an image with {have} channels cannot become one with {channels}; "
        f"choose channels={have} or convert the files"
    )


def fit(image: RawImage, spec: ImageInput) -> RawImage:
    """Resize (antialiased) a decoded image to the model's size, cropping or padding as it says.

    Args:
        image: ``(H, W, C)`` uint8 or uint16.
        spec: The model's input.

    Returns:
        ``(spec.height, spec.width, spec.channels)``, dtype as given.
    """
    image = convert_channels(image, spec.channels)
    height, width = image.shape[:2]
    if (height, width) == (spec.height, spec.width):
        return image
    if spec.resize == "pad":
        return _padded(image, spec)
    box = (0.0, 0.0, float(width), float(height))
    if spec.resize == "crop":
        scale = min(height / spec.height, width / spec.width)
        crop_h, crop_w = spec.height * scale, spec.width * scale
        top, left = (height - crop_h) / 2, (width - crop_w) / 2
        box = (left, top, left + crop_w, top + crop_h)
    return _resized(image, (spec.width, spec.height), box, spec.interpolation)


def _padded(image: RawImage, spec: ImageInput) -> RawImage:
    height, width = image.shape[:2]
    scale = max(height / spec.height, width / spec.width)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    inner = _resized(image, size, (0.0, 0.0, float(width), float(height)), spec.interpolation)
    top, left = (spec.height - size[1]) // 2, (spec.width - size[0]) // 2
    result = np.zeros((spec.height, spec.width, spec.channels), dtype=image.dtype)
    result[top : top + size[1], left : left + size[0]] = inner
    return result


def _resized(
    image: RawImage, size: tuple[int, int], box: tuple[float, float, float, float], filter_: str
) -> RawImage:
    """Scale a box of the image to ``size``, which is width and height."""
    resample = _FILTERS[filter_]
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        resized = np.asarray(picture.resize(size, resample, box=box))
        return resized.reshape(size[1], size[0], image.shape[2])
    planes = [
        np.asarray(
            Image.fromarray(image[:, :, c].astype(np.float32)).resize(size, resample, box=box)
        )
        for c in range(image.shape[2])
    ]
    return _rounded(np.stack(planes, axis=2), image)


def _rounded(values: NDArray[Any], like: RawImage) -> RawImage:
    """Values as integers of another image's dtype."""
    limited: NDArray[Any] = np.clip(np.rint(values), 0, np.iinfo(like.dtype).max)
    if like.dtype == np.uint8:
        return limited.astype(np.uint8)
    return limited.astype(np.uint16)


def normalize(images: RawImage, spec: ImageInput) -> NDArray[np.float32]:
    """Turn fitted images into the model's float input.

    With values scaled so that 0 becomes ``low`` and the dtype's maximum ``high`` of
    ``spec.value_range``: (value - mean) / std.

    Args:
        images: ``(N, H, W, C)`` uint8 or uint16.
        spec: The model's input.

    Returns:
        ``(N, C, H, W)`` float32, contiguous; ``(N, H, W, C)`` where the model says so.
    """
    low, high = spec.value_range
    std = np.asarray(spec.std)
    scale = (high - low) / (np.iinfo(images.dtype).max * std)
    shift = (np.asarray(spec.mean) - low) / std
    values = _ordered(images, spec) * scale.astype(np.float32) - shift.astype(np.float32)
    if spec.layout != "nhwc":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, dtype=np.float32)


def model_input(images: RawImage, spec: ImageInput) -> NDArray[np.uint8] | NDArray[np.float32]:
    """What the graph takes for fitted images.

    Args:
        images: ``(N, H, W, C)`` uint8 or uint16.
        spec: The model's input.

    Returns:
        uint8 if the graph normalises itself (``(N, H, W, C)`` unless it says ``"nchw"``), else
        what `normalize` gives.
    """
    if not spec.folded:
        return normalize(images, spec)
    if images.dtype != np.uint8:
        images = np.rint(images / np.float32(257))  # 257 = 65535 / 255
    taken = _ordered(images, spec).astype(np.uint8, copy=False)
    return np.ascontiguousarray(taken.transpose(0, 3, 1, 2)) if spec.layout == "nchw" else taken


def _ordered(images: RawImage, spec: ImageInput) -> RawImage:
    return images[..., ::-1] if spec.channel_order == "bgr" else images


def sound_input(windows: NDArray[np.float32], spec: SoundInput) -> NDArray[np.float32]:
    """What the graph takes for windows of sound.

    Args:
        windows: ``(N, T)`` float32 in [-1, 1].
        spec: The model's input.

    Returns:
        ``(N, T)`` or ``(N, 1, T)`` float32, scaled to ``spec.value_range``.
    """
    low, high = spec.value_range
    if (low, high) != (-1.0, 1.0):
        half = np.float32((high - low) / 2)
        windows = windows * half + np.float32((high + low) / 2)
    return windows[:, None] if spec.layout == "n1t" else windows
