"""Every way to describe an input, against the formula in float64."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pydantic
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgessl.bundle.manifest import Manifest
from edgessl.onnx_metadata import INPUT_KEY, ModelFacts, decode, encode
from edgessl.preprocessing import (
    ImageInput,
    SoundInput,
    fit,
    model_input,
    normalize,
    sound_input,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (3, 6, 5, 3)).astype(np.uint16)


def image_input(**changes: Any) -> ImageInput:
    values = {"channels": 3, "height": 6, "width": 5, "mean": (0.5, 0.4, 0.3), "std": (0.2,) * 3}
    return ImageInput.model_validate({**values, **changes})


@pytest.mark.parametrize("images", [IMAGES, DEEP], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("layout", [None, "nchw", "nhwc"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("low_high", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_normalize_is_the_formula(
    images: NDArray[Any], layout: str | None, order: str, low_high: tuple[float, float]
) -> None:
    spec = image_input(layout=layout, channel_order=order, value_range=low_high)
    low, high = low_high
    top = float(np.iinfo(images.dtype).max)
    values = images.astype(np.float64) / top * (high - low) + low
    if order == "bgr":
        values = values[..., [2, 1, 0]]
    values = (values - np.array(spec.mean)) / np.array(spec.std)
    expected = values if layout == "nhwc" else values.transpose(0, 3, 1, 2)
    found = normalize(images, spec)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(model_input(images, spec), found)


def test_a_graph_that_normalises_itself_takes_pixels() -> None:
    np.testing.assert_array_equal(model_input(IMAGES, image_input(folded=True)), IMAGES)
    first = model_input(IMAGES, image_input(folded=True, layout="nchw", channel_order="bgr"))
    np.testing.assert_array_equal(first, IMAGES[..., ::-1].transpose(0, 3, 1, 2))
    deep = model_input(DEEP, image_input(folded=True))
    assert deep.dtype == np.uint8
    np.testing.assert_array_equal(deep, np.rint(DEEP / 257.0).astype(np.uint8))


def test_padding_keeps_the_aspect_ratio() -> None:
    image = np.full((10, 20, 3), 200, np.uint8)
    fitted = fit(image, image_input(height=16, width=16, resize="pad"))
    assert fitted.shape == (16, 16, 3)
    np.testing.assert_array_equal(fitted[4:12], 200)
    np.testing.assert_array_equal(fitted[[0, 3, 12, 15]], 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_that_is_extremely_long_is_padded(dtype: Any) -> None:
    image = np.full((1, 4000, 3), 9, dtype)
    fitted = fit(image, image_input(height=8, width=8, resize="pad"))
    assert fitted.shape == (8, 8, 3)
    assert fitted.dtype == dtype
    assert fitted.sum() == 9 * 8 * 3


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_interpolation_is_pillows(interpolation: str) -> None:
    spec = image_input(height=3, width=4, resize="squash", interpolation=interpolation)
    expected = Image.fromarray(IMAGES[0]).resize((4, 3), Image.Resampling[interpolation.upper()])
    np.testing.assert_array_equal(fit(IMAGES[0], spec), np.asarray(expected))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"std": (0.0, 1.0, 1.0)}, "std must be positive"),
        ({"value_range": (1.0, 1.0)}, "lower to a higher"),
        ({"channels": 1, "mean": (0,), "std": (1,), "channel_order": "bgr"}, "bgr needs 3"),
    ],
)
def test_an_input_that_makes_no_sense_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=reason):
        image_input(**changes)


@pytest.mark.parametrize("low_high", [(-1.0, 1.0), (0.0, 1.0), (-32768.0, 32767.0)])
@pytest.mark.parametrize("layout", ["nt", "n1t"])
def test_sound_is_scaled_and_shaped(low_high: tuple[float, float], layout: str) -> None:
    spec = SoundInput.model_validate(
        {"sample_rate_hz": 16_000, "samples": 4, "layout": layout, "value_range": low_high}
    )
    windows = np.array([[-1.0, 0.0, 0.5, 1.0]], np.float32)
    low, high = low_high
    expected = low + (windows.astype(np.float64) + 1) / 2 * (high - low)
    found = sound_input(windows, spec)
    assert found.dtype == np.float32
    assert found.shape == ((1, 1, 4) if layout == "n1t" else (1, 4))
    np.testing.assert_allclose(found.reshape(1, 4), expected, rtol=1e-6, atol=1e-6)


def test_a_hop_beyond_the_window_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="hop must not be more"):
        SoundInput(sample_rate_hz=8000, samples=10, hop=11)


OLD = {
    "modality": "image",
    "channels": 1,
    "height": 8,
    "width": 9,
    "mean": [0.1],
    "std": [0.3],
    "resize": "squash",
    "folded": True,
}
"""An input as edgessl wrote it before layouts, ranges and orders."""


def test_what_older_versions_wrote_is_read() -> None:
    facts = decode({INPUT_KEY: json.dumps(OLD)}, where="m.onnx")
    assert isinstance(facts.preprocessing, ImageInput)
    images = np.zeros((2, 8, 9, 1), np.uint8)
    assert model_input(images, facts.preprocessing).shape == (2, 8, 9, 1)
    manifest = Manifest.model_validate(
        {
            "kind": "native",
            "target": "host",
            "precision": "fp32",
            "engine": {"name": "onnxruntime", "version": "1"},
            "model": "m.onnx",
            "inputs": [],
            "outputs": [],
            "batch_size": 1,
            "embedding_dim": None,
            "preprocessing": OLD,
            "fidelity": None,
            "canaries": None,
            "provenance": {
                "edgessl_version": "0",
                "model_sha256": "0" * 64,
                "calibration_sha256": None,
                "calibration_samples": 0,
                "seed": 0,
                "toolchain": {},
            },
        }
    )
    assert manifest.preprocessing == facts.preprocessing
    assert manifest.constants == {}


@pytest.mark.parametrize(
    "spec",
    [
        image_input(layout="nhwc", value_range=(-1.0, 1.0), channel_order="bgr", resize="pad"),
        SoundInput(sample_rate_hz=16_000, samples=576, hop=512, layout="n1t"),
    ],
)
def test_inputs_come_back_from_metadata(spec: ImageInput | SoundInput) -> None:
    assert decode(encode(ModelFacts(spec)), where="m.onnx").preprocessing == spec
