"""Views against torchvision, one operation at a time, and their independence of the batch."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from edgessl.data.augment import Augmentation, ImageViews, draw_crops
from edgessl.data.batch import RawBatch
from edgessl.data.colour import ColourChange, colour_matrices
from edgessl.data.resample import apply_matrices, blur_matrices, multiply_whole, resize_matrices
from edgessl.preprocessing import ImageInput

from .conftest import smooth_images

CPU = torch.device("cpu")
STRONG = Augmentation(
    crop_scale=(0.2, 1.0), flip=0.5, vertical_flip=0.2, jitter=0.8, brightness=0.4, contrast=0.4,
    saturation=0.4, hue=0.1, grayscale=0.2, blur=0.5, sigma=(0.1, 2.0), solarize=0.2,
)  # fmt: skip
SPEC = ImageInput(channels=3, height=24, width=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def raw_batch(indices: NDArray[np.int64], *, dtype: type = np.uint8) -> RawBatch:
    canvas = smooth_images(32, 48, 48).transpose(0, 3, 1, 2)[indices % 32]
    if dtype is np.uint16:
        canvas = canvas.astype(np.uint16) * 257
    aspects = np.linspace(0.5, 2.0, 32, dtype=np.float32)[indices % 32]
    return RawBatch.from_arrays(canvas, aspects, indices, indices)


def resampled(
    samples: Tensor, box: tuple[float, float, float, float], size: tuple[int, int],
    *, flip: bool = False,
) -> Tensor:  # fmt: skip
    """Crop (top, left, height, width in pixels) and resize one canvas through the matrices."""
    canvas = samples.shape[-1]
    rows, columns = (
        (np.array([box[0]]), np.array([box[2]])),
        (np.array([box[1]]), np.array([box[3]])),
    )
    no, yes = np.array([False]), np.array([flip])
    return apply_matrices(
        samples[None],
        resize_matrices(*rows, no, canvas=canvas, size=size[0], device=CPU),
        resize_matrices(*columns, yes, canvas=canvas, size=size[1], device=CPU),
        rows,
        columns,
    )[0]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(24, 24), (17, 40), (64, 64)])
@pytest.mark.parametrize("box", [(0, 0, 48, 48), (3, 10, 30, 37), (40, 1, 8, 9), (20, 20, 2, 1)])
def test_crop_and_resize_as_torchvision(
    box: tuple[int, int, int, int], size: tuple[int, int], flip: bool
) -> None:
    sample = torch.from_numpy(smooth_images(1, 48, 48)[0].transpose(2, 0, 1).copy())
    expected = reference.resized_crop(
        sample.float(),
        *box,
        size=list(size),
        interpolation=InterpolationMode.BILINEAR,
        antialias=True,
    )
    expected = expected.flip(-1) if flip else expected
    found = resampled(sample, box, size, flip=flip)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_a_fractional_box_is_the_mean_of_its_neighbours() -> None:
    """On a linear ramp the resized value is the ramp's value at the box's centre."""
    ramp = torch.arange(48, dtype=torch.uint8).expand(1, 48, 48).contiguous()
    found = resampled(ramp, (0.0, 10.25, 48.0, 20.5), (1, 1))
    assert found.item() == pytest.approx(10.25 + 20.5 / 2 - 0.5, abs=0.2)


def test_both_ways_to_multiply_agree() -> None:
    """What an accelerator does in batches equals what a CPU does sample by sample."""
    samples = torch.from_numpy(smooth_images(300, 48, 48).transpose(0, 3, 1, 2).copy())
    generator = np.random.default_rng(0)
    lengths = generator.uniform(5, 40, (2, 300))
    starts = generator.uniform(0, 1, (2, 300)) * (48 - lengths)
    flips = generator.random(300) < 0.5
    rows, columns = (
        resize_matrices(start, length, flips, canvas=48, size=24, device=CPU)
        for start, length in zip(starts, lengths, strict=True)
    )
    spans = [(starts[i], lengths[i]) for i in range(2)]
    expected = multiply_whole(samples, rows, columns)
    found = apply_matrices(samples, rows, columns, spans[0], spans[1])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_as_torchvision(sigma: float) -> None:
    image = torch.rand(3, 24, 24)
    matrix = blur_matrices(np.array([sigma]), size=24, device=CPU)[0]
    expected = reference.gaussian_blur(image, [21, 21], [sigma, sigma])
    torch.testing.assert_close(matrix @ image @ matrix.T, expected, atol=1e-5, rtol=0)


def changed(image: Tensor, **values: float) -> Tensor:
    """Apply one colour change to an image in [0, 1] without clamping."""
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    arrays = {name: np.array([values.get(name, value)]) for name, value in neutral.items()}
    gray = np.array([bool(values.get("grayscale", False))])
    change = ColourChange(**arrays, grayscale=gray)
    matrix, pull = (torch.from_numpy(m[0]).float() for m in colour_matrices(change, len(image)))
    flat = image.flatten(1)
    return (matrix @ flat + pull @ flat.mean(dim=1, keepdim=True)).view_as(image)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_and_contrast_as_torchvision(factor: float, channels: int) -> None:
    image = torch.rand(channels, 20, 20)
    brighter = changed(image, brightness=factor).clamp(0, 1)
    torch.testing.assert_close(brighter, reference.adjust_brightness(image, factor))
    # torchvision rounds the luma weights to four digits.
    contrasted = changed(image, contrast=factor).clamp(0, 1)
    torch.testing.assert_close(
        contrasted, reference.adjust_contrast(image, factor), atol=5e-4, rtol=0
    )


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.7])
def test_saturation_as_torchvision(factor: float) -> None:
    image = torch.rand(3, 20, 20)
    expected = reference.adjust_saturation(image, factor)
    found = changed(image, saturation=factor).clamp(0, 1)
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)


def test_grayscale_as_torchvision() -> None:
    image = torch.rand(3, 20, 20)
    expected = reference.rgb_to_grayscale(image, num_output_channels=3)
    torch.testing.assert_close(changed(image, grayscale=True), expected, atol=5e-4, rtol=0)


def test_order_is_brightness_contrast_saturation() -> None:
    image = torch.rand(3, 20, 20) * 0.3 + 0.3
    expected = reference.adjust_saturation(
        reference.adjust_contrast(reference.adjust_brightness(image, 1.2), 0.8), 0.5
    )
    found = changed(image, brightness=1.2, contrast=0.8, saturation=0.5)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_hue_turns_the_hue_and_keeps_luma_and_grey() -> None:
    image = torch.rand(3, 20, 20)
    weights = torch.tensor([0.299, 0.587, 0.114])
    luma = torch.tensordot(weights, image, dims=1)
    turned = changed(image, hue=0.2)
    torch.testing.assert_close(torch.tensordot(weights, turned, dims=1), luma, atol=1e-5, rtol=0)
    grey = torch.full((3, 4, 4), 0.4)
    torch.testing.assert_close(changed(grey, hue=0.3), grey, atol=2e-3, rtol=0)
    torch.testing.assert_close(changed(image, hue=1.0), image, atol=1e-4, rtol=0)
    red = changed(torch.tensor([0.6, 0.4, 0.4])[:, None, None], hue=1 / 3)[:, 0, 0]
    # A third of the circle from red is green or blue, depending on the direction.
    degrees = colorsys.rgb_to_hsv(*red.tolist())[0] * 360
    assert min(abs(degrees - 120), abs(degrees - 240)) < 25


def views_of(
    augmentation: Augmentation, batch: RawBatch, *, seed: int = 0, epoch: int = 0
) -> Tensor:
    return ImageViews([augmentation], SPEC, seed=seed)(batch, epoch)[0]


def unnormalised(views: Tensor) -> Tensor:
    return views * torch.tensor(SPEC.std)[:, None, None] + torch.tensor(SPEC.mean)[:, None, None]


def test_no_augmentation_is_a_resize() -> None:
    batch = raw_batch(np.arange(4))
    whole = Augmentation(crop_scale=(1.0, 1.0))
    batch.aspects.fill_(1.0)
    views = unnormalised(views_of(whole, batch))
    # The ratio is drawn even so; only boxes of ratio 1 cover everything, hence the fallback.
    expected = reference.resize(batch.samples.float() / 255, [24, 24], antialias=True)
    torch.testing.assert_close(views, expected, atol=1e-4, rtol=0)


def test_solarize_inverts_bright_values() -> None:
    batch = raw_batch(np.arange(4))
    plain = unnormalised(views_of(Augmentation(crop_scale=(0.5, 1.0)), batch))
    solarized = unnormalised(views_of(Augmentation(crop_scale=(0.5, 1.0), solarize=1.0), batch))
    expected = torch.where(plain >= 0.5, 1 - plain, plain)
    clear = (plain - 0.5).abs() > 1e-4
    torch.testing.assert_close(solarized[clear], expected[clear], atol=1e-5, rtol=0)


def test_values_stay_in_range() -> None:
    loud = replace(STRONG, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, jitter=1.0)
    views = unnormalised(views_of(loud, raw_batch(np.arange(32))))
    assert views.min() >= -1e-5
    assert views.max() <= 1 + 1e-5


def test_sixteen_bits_give_the_same_views() -> None:
    indices = np.arange(8)
    torch.testing.assert_close(
        views_of(STRONG, raw_batch(indices, dtype=np.uint16)),
        views_of(STRONG, raw_batch(indices)),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_numbers_of_channels(channels: int) -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (6, channels, 48, 48), dtype=np.uint8)
    batch = RawBatch.from_arrays(canvas, np.ones(6, np.float32), np.arange(6), np.arange(6))
    spec = ImageInput(
        channels=channels, height=24, width=32, mean=(0.5,) * channels, std=(0.2,) * channels
    )
    (views,) = ImageViews([STRONG], spec, seed=0)(batch, 0)
    assert views.shape == (6, channels, 24, 32)
    assert views.isfinite().all()


def test_a_view_depends_on_its_own_sample_only() -> None:
    """The same view alone, in another order, beside others and in another part of the batch."""
    together = views_of(STRONG, raw_batch(np.arange(70)))
    order = np.random.default_rng(0).permutation(70)
    shuffled = views_of(STRONG, raw_batch(order))
    torch.testing.assert_close(shuffled, together[torch.from_numpy(order)], atol=1e-6, rtol=0)
    alone = views_of(STRONG, raw_batch(np.array([37])))
    torch.testing.assert_close(alone[0], together[37], atol=1e-6, rtol=0)


def test_seed_epoch_and_view_change_it() -> None:
    batch = raw_batch(np.arange(4))
    first = views_of(STRONG, batch)
    assert not torch.allclose(first, views_of(STRONG, batch, seed=1))
    assert not torch.allclose(first, views_of(STRONG, batch, epoch=1))
    one, two = ImageViews([STRONG, STRONG], SPEC, seed=0)(batch, 0)
    assert torch.equal(one, first)
    assert not torch.allclose(one, two)


def test_crops_are_distributed_as_torchvisions() -> None:
    """Area, shape and centre of 4,000 boxes against RandomResizedCrop on a 300 x 200 image."""
    generator = np.random.default_rng(0)
    count, scale = 4000, (0.08, 1.0)
    crop = draw_crops(
        generator.random((count, 10, 2)), generator.random(count), generator.random(count),
        np.full(count, 300 / 200), scale, 1.0,
    )  # fmt: skip
    assert (crop.top >= 0).all()
    assert (crop.left + crop.width <= 1 + 1e-12).all()
    image = torch.zeros(3, 200, 300)
    boxes = np.array(
        [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(count)],
        dtype=np.float64,
    )
    top, left, height, width = boxes.T
    pairs = {
        "area": (crop.height * crop.width, height * width / 60_000),
        "shape": (np.log(crop.width * 300 / (crop.height * 200)), np.log(width / height)),
        "vertical": (crop.top + crop.height / 2, (top + height / 2) / 200),
        "horizontal": (crop.left + crop.width / 2, (left + width / 2) / 300),
    }
    for name, (ours, theirs) in pairs.items():
        assert two_sample_distance(ours, theirs) < 0.045, name


def two_sample_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov statistic; 0.045 is beyond the 1e-3 quantile for 4,000 against 4,000."""
    points = np.sort(np.concatenate([first, second]))
    below = [np.searchsorted(np.sort(x), points, side="right") / len(x) for x in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


@pytest.mark.parametrize("aspect", [0.05, 20.0])
def test_very_long_samples_fall_back_to_the_centre(aspect: float) -> None:
    count = 200
    crop = draw_crops(
        np.random.default_rng(1).random((count, 10, 2)), np.zeros(count), np.zeros(count),
        np.full(count, aspect), (0.9, 1.0), 1.0,
    )  # fmt: skip
    ratio = crop.width * aspect / crop.height
    assert np.allclose(ratio, 3 / 4 if aspect < 1 else 4 / 3)
    assert np.allclose(crop.top + crop.height / 2, 0.5)
    assert np.allclose(crop.left + crop.width / 2, 0.5)
    assert np.allclose(np.maximum(crop.width, crop.height), 1.0)
