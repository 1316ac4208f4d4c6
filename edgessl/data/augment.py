"""Random views of images, made in batches on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgessl.data.batch import RawBatch
from edgessl.data.colour import ColourChange, colour_matrices
from edgessl.data.modality import Views
from edgessl.data.random import uniform
from edgessl.data.resample import apply_matrices, blur_matrices, resize_matrices
from edgessl.preprocessing import ImageInput

__all__ = ["Augmentation", "Crop", "ImageViews", "draw_crops"]

_TRIES = 10
_RATIOS = (3 / 4, 4 / 3)
# Draws of a sample: 2 per crop try, then one each, in this order.
_SLOTS = (
    "top", "left", "flip", "vertical_flip", "jitter", "brightness", "contrast", "saturation",
    "hue", "grayscale", "blur", "sigma", "solarize",
)  # fmt: skip
_DRAWS = 2 * _TRIES + len(_SLOTS)
_CHUNK = 32


@dataclass(frozen=True)
class Augmentation:
    """How one view differs from its sample; probabilities and strengths as in `ImageOptions`.

    Attributes:
        sigma: Least and greatest blur, in pixels of the view.
    """

    crop_scale: tuple[float, float]
    flip: float = 0.0
    vertical_flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0

    @property
    def changes_colour(self) -> bool:
        """False if views keep the colours of their samples."""
        return self.jitter > 0 or self.grayscale > 0


@dataclass(frozen=True)
class Crop:
    """Boxes in units of the canvas, each field ``(N,)``."""

    top: NDArray[np.float64]
    left: NDArray[np.float64]
    height: NDArray[np.float64]
    width: NDArray[np.float64]


class ImageViews(Views):
    """Views of images, one per augmentation.

    Args:
        augmentations: One per view.
        spec: Size, mean and deviation of a view.
        seed: Seed of the run.
    """

    def __init__(
        self, augmentations: Sequence[Augmentation], spec: ImageInput, *, seed: int
    ) -> None:
        self.count = len(augmentations)
        self._augmentations = tuple(augmentations)
        self._spec = spec
        self._seed = seed

    def __call__(self, batch: RawBatch, epoch: int) -> tuple[Tensor, ...]:
        """Make the views of a batch."""
        identities = batch.identities.numpy()
        aspects = batch.aspects.numpy().astype(np.float64)
        views = []
        for number, augmentation in enumerate(self._augmentations):
            draws = uniform(self._seed, epoch, number, identities, _DRAWS)
            size = (len(identities), self._spec.channels, self._spec.height, self._spec.width)
            out = torch.empty(size, device=batch.samples.device)
            # Small parts stay in the processor's cache from the first pass to the last.
            step = _CHUNK if out.device.type == "cpu" else len(identities)
            for i in range(0, len(identities), step):
                part = slice(i, i + step)
                self._make(augmentation, batch.samples[part], aspects[part], draws[part], out[part])
            views.append(out)
        return tuple(views)

    def _make(
        self,
        augmentation: Augmentation,
        samples: Tensor,
        aspects: NDArray[np.float64],
        draws: NDArray[np.float64],
        out: Tensor,
    ) -> None:
        drawn = dict(zip(_SLOTS, draws[:, 2 * _TRIES :].T, strict=True))
        tries = draws[:, : 2 * _TRIES].reshape(-1, _TRIES, 2)
        target = self._spec.width / self._spec.height
        crop = draw_crops(
            tries, drawn["top"], drawn["left"], aspects, augmentation.crop_scale, target
        )
        cut = self._resample(augmentation, samples, crop, drawn)
        self._colour(augmentation, cut, drawn, float(torch.iinfo(samples.dtype).max))
        if augmentation.solarize > 0:
            chosen = torch.from_numpy(np.flatnonzero(drawn["solarize"] < augmentation.solarize))
            some = cut[chosen.to(cut.device)]
            cut[chosen.to(cut.device)] = torch.where(some >= 0.5, 1.0 - some, some)
        std = torch.tensor(self._spec.std, device=cut.device)[:, None, None]
        mean = torch.tensor(self._spec.mean, device=cut.device)[:, None, None]
        torch.addcmul(-mean / std, cut, 1.0 / std, out=out)

    def _resample(
        self,
        augmentation: Augmentation,
        samples: Tensor,
        crop: Crop,
        drawn: dict[str, NDArray[np.float64]],
    ) -> Tensor:
        canvas, device = samples.shape[-1], samples.device
        row_spans = crop.top * canvas, crop.height * canvas
        column_spans = crop.left * canvas, crop.width * canvas
        rows = resize_matrices(
            *row_spans,
            drawn["vertical_flip"] < augmentation.vertical_flip,
            canvas=canvas,
            size=self._spec.height,
            device=device,
        )
        columns = resize_matrices(
            *column_spans,
            drawn["flip"] < augmentation.flip,
            canvas=canvas,
            size=self._spec.width,
            device=device,
        )
        chosen = np.flatnonzero(drawn["blur"] < augmentation.blur)
        if len(chosen):
            low, high = augmentation.sigma
            sigmas = low + (high - low) * drawn["sigma"][chosen]
            where = torch.from_numpy(chosen).to(device)
            blur = blur_matrices(sigmas, size=self._spec.height, device=device)
            rows[where] = blur @ rows[where]
            if self._spec.width != self._spec.height:
                blur = blur_matrices(sigmas, size=self._spec.width, device=device)
            columns[where] = blur @ columns[where]
        return apply_matrices(samples, rows, columns, row_spans, column_spans)

    def _colour(
        self,
        augmentation: Augmentation,
        views: Tensor,
        drawn: dict[str, NDArray[np.float64]],
        top: float,
    ) -> None:
        """Scale to [0, 1] and change colours, in place."""
        if not augmentation.changes_colour:
            views.div_(top)
            return
        flat = views.flatten(2)
        change, pull = (
            torch.from_numpy(matrices.astype(np.float32)).to(views.device)
            for matrices in colour_matrices(_draw_colours(augmentation, drawn), self._spec.channels)
        )
        offset = (pull @ flat.mean(dim=2, keepdim=True)).div_(top)
        flat.copy_(torch.baddbmm(offset, change.div_(top), flat).clamp_(0.0, 1.0))


def draw_crops(
    tries: NDArray[np.float64],
    top: NDArray[np.float64],
    left: NDArray[np.float64],
    aspects: NDArray[np.float64],
    scale: tuple[float, float],
    target: float,
) -> Crop:
    """Boxes of a random area and aspect ratio, as torchvision's RandomResizedCrop draws them.

    The area is uniform in ``scale``; the ratio is log-uniform between 3/4 and 4/3 times that of
    the view. The first of ten tries that fits counts; if none does, the largest centred box of
    the nearest allowed ratio.

    Args:
        tries: Uniform draws for area and ratio, ``(N, T, 2)``.
        top: Uniform draws for the vertical place, ``(N,)``.
        left: Uniform draws for the horizontal place, ``(N,)``.
        aspects: Width over height of the samples, ``(N,)``.
        scale: Least and greatest share of the area.
        target: Width over height of a view.
    """
    area = scale[0] + (scale[1] - scale[0]) * tries[:, :, 0]
    low, high = np.log(_RATIOS[0]), np.log(_RATIOS[1])
    # In units of the canvas, which is the sample squashed to a square.
    ratio = np.exp(low + (high - low) * tries[:, :, 1]) * target / aspects[:, None]
    widths, heights = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (widths <= 1.0) & (heights <= 1.0)
    first = np.argmax(fits, axis=1)
    some = np.arange(len(first))
    width, height = widths[some, first], heights[some, first]
    whole = np.clip(1.0, _RATIOS[0] * target / aspects, _RATIOS[1] * target / aspects)
    none = ~fits.any(axis=1)
    width = np.where(none, np.minimum(1.0, whole), width)
    height = np.where(none, np.minimum(1.0, 1.0 / whole), height)
    return Crop(
        np.where(none, 0.5, top) * (1.0 - height),
        np.where(none, 0.5, left) * (1.0 - width),
        height,
        width,
    )


def _draw_colours(
    augmentation: Augmentation, drawn: dict[str, NDArray[np.float64]]
) -> ColourChange:
    jittered = drawn["jitter"] < augmentation.jitter

    def factor(name: str, strength: float) -> NDArray[np.float64]:
        low, high = max(0.0, 1.0 - strength), 1.0 + strength
        return np.where(jittered, low + (high - low) * drawn[name], 1.0)

    return ColourChange(
        brightness=factor("brightness", augmentation.brightness),
        contrast=factor("contrast", augmentation.contrast),
        saturation=factor("saturation", augmentation.saturation),
        hue=np.where(jittered, augmentation.hue * (2.0 * drawn["hue"] - 1.0), 0.0),
        grayscale=drawn["grayscale"] < augmentation.grayscale,
    )
