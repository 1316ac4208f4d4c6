"""What a model expects at its input, and how a raw image gets there: numpy and Pillow only.

The same code serves training-side evaluation and the device, so both see the same numbers.
A decoded image is ``(H, W, C)`` uint8 or uint16; `fit` brings it to the model's size in the same
dtype; `normalize` turns a batch of fitted images into the model's float32 input.
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

__all__ = ["ImageInput", "RawImage", "convert_channels", "fit", "model_input", "normalize"]

RawImage = NDArray[np.uint8] | NDArray[np.uint16]


class ImageInput(Options):
    """The image that a model takes.

    Attributes:
        channels: Channels C of the model's input.
        height: Height H in pixels.
        width: Width W in pixels.
        mean: Per-channel mean that is subtracted after scaling to [0, 1].
        std: Per-channel deviation that is divided by.
        resize: ``"crop"`` scales the shorter side and crops the centre, ``"squash"`` ignores the
            aspect ratio.
        folded: True if the graph itself scales, normalises and transposes: then its input is
            ``(N, H, W, C)`` uint8, else ``(N, C, H, W)`` float32, already normalised.
    """

    modality: Literal["image"] = "image"
    channels: Annotated[int, Field(ge=1, le=1024)]
    height: Annotated[int, Field(ge=1, le=8192)]
    width: Annotated[int, Field(ge=1, le=8192)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["crop", "squash"] = "crop"
    folded: bool = False

    @model_validator(mode="after")
    def _per_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        if any(s <= 0 for s in self.std):
            raise ValueError("std must be positive")
        return self


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
    """Resize (bicubic, antialiased) and crop a decoded image to the model's size.

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
    box = (0.0, 0.0, float(width), float(height))
    if spec.resize == "crop":
        scale = min(height / spec.height, width / spec.width)
        crop_h, crop_w = spec.height * scale, spec.width * scale
        top, left = (height - crop_h) / 2, (width - crop_w) / 2
        box = (left, top, left + crop_w, top + crop_h)
    size = (spec.width, spec.height)
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        resized = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=box))
        return resized.reshape(spec.height, spec.width, image.shape[2])
    planes = [
        np.asarray(
            Image.fromarray(image[:, :, c].astype(np.float32)).resize(
                size, Image.Resampling.BICUBIC, box=box
            )
        )
        for c in range(image.shape[2])
    ]
    stacked = np.stack(planes, axis=2)
    return _rounded(stacked, image)


def _rounded(values: NDArray[Any], like: RawImage) -> RawImage:
    """Values as integers of another image's dtype."""
    limited: NDArray[Any] = np.clip(np.rint(values), 0, np.iinfo(like.dtype).max)
    if like.dtype == np.uint8:
        return limited.astype(np.uint8)
    return limited.astype(np.uint16)


def normalize(images: RawImage, spec: ImageInput) -> NDArray[np.float32]:
    """Turn fitted images into the model's float input.

    Args:
        images: ``(N, H, W, C)`` uint8 or uint16.
        spec: The model's input.

    Returns:
        ``(N, C, H, W)`` float32, contiguous: value / maximum of the dtype, minus mean, over std.
    """
    scale = 1.0 / (np.iinfo(images.dtype).max * np.asarray(spec.std))
    shift = np.asarray(spec.mean) / np.asarray(spec.std)
    values = images * scale.astype(np.float32) - shift.astype(np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def model_input(images: RawImage, spec: ImageInput) -> NDArray[np.uint8] | NDArray[np.float32]:
    """What the graph takes for fitted images.

    Args:
        images: ``(N, H, W, C)`` uint8 or uint16.
        spec: The model's input.

    Returns:
        ``(N, H, W, C)`` uint8 if the graph normalises itself, else ``(N, C, H, W)`` float32.
    """
    if not spec.folded:
        return normalize(images, spec)
    taken: NDArray[np.uint8] = (images if images.dtype == np.uint8 else images // 257).astype(
        np.uint8
    )
    return taken
