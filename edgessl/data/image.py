"""Images: options, decoding and the views that each kind of method asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from edgessl.config import Options
from edgessl.data.decoding import guess_channels
from edgessl.data.evaluation import fit_images
from edgessl.data.modality import Modality, Statistics, ViewKind, Views
from edgessl.data.source import Source
from edgessl.data.store import SampleStore, channel_statistics, choose_canvas, decode_store
from edgessl.preprocessing import ImageInput
from edgessl.progress import Progress, silent

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ImageModality", "ImageOptions"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=0.0, le=2.0)]
Side = Annotated[int, Field(ge=8, le=4096)]

_STATISTICS_SAMPLES = 500
_STATISTICS_CANVAS = 64


class ImageOptions(Options):
    """Settings of images and of their views.

    The defaults are SimCLR's for photographs at half colour strength. Saturation, hue and
    grayscale need 3 channels and are left out for any other number.

    Attributes:
        image_size: Side of a view in pixels, or (height, width).
        channels: Channels of the model's input; "auto" looks at the samples.
        crop_scale: Least and greatest share of the area that a crop keeps.
        flip: Probability of a horizontal flip; 0 for letters, digits and traffic signs.
        vertical_flip: Probability of a vertical flip; for images from above.
        strength: Factor on the four colour settings below.
        jitter: Probability that colours change at all.
        brightness: Brightness is scaled by 1 ± brightness * strength.
        contrast: Contrast, likewise.
        saturation: Saturation, likewise.
        hue: Hue turns by ± hue * strength of the colour circle.
        grayscale: Probability that colour is dropped.
        blur: Probability of a Gaussian blur, deviation from 0.1 to 2 pixels for a view of 224
            pixels and
            in proportion for others; asymmetric views use 2 * blur (at most 1) and blur / 5.
        solarize: Probability that the second of two asymmetric views is solarized.
    """

    image_size: Side | tuple[Side, Side] = 224
    channels: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    crop_scale: tuple[Probability, Probability] = (0.2, 1.0)
    flip: Probability = 0.5
    vertical_flip: Probability = 0.0
    strength: Strength = 0.5
    jitter: Probability = 0.8
    brightness: Strength = 0.8
    contrast: Strength = 0.8
    saturation: Strength = 0.8
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.2
    grayscale: Probability = 0.2
    blur: Probability = 0.5
    solarize: Probability = 0.2

    @field_validator("crop_scale")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("crop_scale is (least, greatest) with 0 < least <= greatest <= 1")
        return value

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a view."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size


class ImageModality(Modality):
    """Still images of any number of channels, 8 or 16 bit."""

    name = "image"
    Options: ClassVar[type[Options]] = ImageOptions
    options: ImageOptions

    def input_spec(self, source: Source, *, mean_std: Statistics | None) -> ImageInput:
        """Channels as the samples have them; ImageNet's statistics for colour, else their own."""
        channels = self.options.channels
        channels = guess_channels(source) if channels == "auto" else channels
        height, width = self.options.size
        if mean_std is None or len(mean_std[0]) != channels:
            mean_std = self._statistics(source, channels)
        mean, std = mean_std
        return ImageInput(channels=channels, height=height, width=width, mean=mean, std=std)

    def _statistics(self, source: Source, channels: int) -> Statistics:
        if channels == 3:
            return IMAGENET_MEAN, IMAGENET_STD
        count = min(len(source), _STATISTICS_SAMPLES)
        some = source.subset(np.unique(np.linspace(0, len(source) - 1, count).astype(np.int64)))
        store = decode_store(
            some,
            channels=channels,
            canvas=_STATISTICS_CANVAS,
            cache_dir=None,
            num_workers=1,
            max_corrupt=1.0,
        )
        return channel_statistics(store)

    def prepare(
        self,
        source: Source,
        spec: ImageInput,
        *,
        cache_dir: Path | None,
        num_workers: int,
        max_corrupt: float = 0.01,
        progress: Progress = silent,
    ) -> SampleStore:
        """Decode all samples to a canvas somewhat larger than a view."""
        canvas = choose_canvas(source, max(spec.height, spec.width))
        return decode_store(
            source,
            channels=spec.channels,
            canvas=canvas,
            cache_dir=cache_dir,
            num_workers=num_workers,
            max_corrupt=max_corrupt,
            progress=progress,
        )

    def views(self, kind: ViewKind, spec: ImageInput, *, seed: int) -> Views:
        """One or two views of each sample."""
        from edgessl.data.augment import ImageViews
        from edgessl.data.image_views import augmentations

        return ImageViews(augmentations(self.options, kind), spec, seed=seed)

    def fitted(
        self,
        source: Source,
        spec: ImageInput,
        *,
        num_workers: int,
        max_corrupt: float = 0.01,
        progress: Progress = silent,
    ) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.int64]]:
        """Images fitted to the model's input, and the index of each in the source."""
        return fit_images(
            source, spec, num_workers=num_workers, max_corrupt=max_corrupt, progress=progress
        )
