"""How the settings of images become the augmentations of each kind of view."""

from __future__ import annotations

from edgessl.data.augment import Augmentation
from edgessl.data.image import ImageOptions
from edgessl.data.modality import ViewKind

__all__ = ["augmentations"]


def augmentations(options: ImageOptions, kind: ViewKind) -> tuple[Augmentation, ...]:
    """One augmentation per view of a kind; see `ViewKind`."""
    if kind == "contrastive":
        strong = _strong(options, 1.0)
        return strong, strong
    if kind == "asymmetric":
        # Source: arXiv:2006.07733, appendix B: half the saturation and hue of SimCLR.
        first = _strong(options, 0.5, blur=min(1.0, 2 * options.blur), solarize=0.0)
        second = _strong(options, 0.5, blur=options.blur / 5, solarize=options.solarize)
        return first, second
    if kind == "crop":
        return (Augmentation(options.crop_scale, options.flip, options.vertical_flip),)
    mild = options.strength / 2
    return (
        Augmentation(
            options.crop_scale,
            options.flip,
            options.vertical_flip,
            jitter=options.jitter,
            brightness=mild * options.brightness,
            contrast=mild * options.contrast,
            saturation=mild * options.saturation,
            hue=mild * options.hue / 2,
        ),
    )


def _strong(
    options: ImageOptions, colour: float, *, blur: float | None = None, solarize: float = 0.0
) -> Augmentation:
    return Augmentation(
        options.crop_scale,
        options.flip,
        options.vertical_flip,
        jitter=options.jitter,
        brightness=options.strength * options.brightness,
        contrast=options.strength * options.contrast,
        saturation=options.strength * options.saturation * colour,
        hue=options.strength * options.hue * colour,
        grayscale=options.grayscale,
        blur=options.blur if blur is None else blur,
        sigma=(0.1, max(0.5, 2.0 * max(options.size) / 224)),
        solarize=solarize,
    )
