"""`--preprocess`: what it means, what it takes from the graph, and one line for each mistake."""

from __future__ import annotations

import pytest

from edgessl.errors import UsageError
from edgessl.preprocess_option import parse_preprocess
from edgessl.preprocessing import ImageInput, MediaInput, SoundInput

Shape = tuple[int | str, ...]


def image(text: str, shape: Shape = (1, 3, 240, 320), dtype: str = "float32") -> MediaInput:
    return parse_preprocess(text, name="x", shape=shape, dtype=dtype)


def sound(text: str, shape: Shape = (1, 576), dtype: str = "float32") -> MediaInput:
    return parse_preprocess(text, name="x", shape=shape, dtype=dtype)


def expected(**changes: object) -> ImageInput:
    values = {"channels": 3, "height": 240, "width": 320, "mean": (0,) * 3, "std": (1,) * 3}
    return ImageInput.model_validate({**values, "layout": "nchw", **changes})


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("size=240x320", {}),
        (
            "size=240x320,mean=127,std=128,layout=nchw,range=0-255",
            {"mean": (127,) * 3, "std": (128,) * 3, "value_range": (0, 255)},
        ),
        (
            "mean=0.485,0.456,0.406,std=0.229,0.224,0.225",
            {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        ),
        ("range=-1..1", {"value_range": (-1, 1)}),
        ("range=-1-1", {"value_range": (-1, 1)}),
        ("range=0..255", {"value_range": (0, 255)}),
        ("range=-0.5:0.5", {"value_range": (-0.5, 0.5)}),
        (" order=BGR , resize=pad", {"channel_order": "bgr", "resize": "pad"}),
        ("interpolation=bilinear", {"interpolation": "bilinear"}),
    ],
)
def test_an_image(text: str, changes: dict[str, object]) -> None:
    assert image(text) == expected(**changes)


@pytest.mark.parametrize(
    ("shape", "dtype", "changes"),
    [
        ((1, 240, 320, 3), "float32", {"layout": "nhwc"}),
        (("N", 240, 320, 3), "uint8", {"layout": "nhwc", "folded": True}),
        ((1, 3, 240, 320), "uint8", {"folded": True}),
        ((1, 3, "H", "W"), "float16", {}),
        (("N", "C", "H", "W"), "float32", {}),
    ],
)
def test_the_graph_says_layout_and_channels(
    shape: Shape, dtype: str, changes: dict[str, object]
) -> None:
    assert image("size=240x320", shape, dtype) == expected(**changes)


def test_metadata_fill_what_is_missing() -> None:
    described = expected(mean=(0.5,) * 3, std=(0.2,) * 3, resize="squash")
    found = parse_preprocess(
        "std=0.3", name="x", shape=(1, 3, "H", "W"), dtype="float32", described=described
    )
    assert found == expected(mean=(0.5,) * 3, std=(0.3,) * 3, resize="squash")
    heard = SoundInput(sample_rate_hz=16_000, samples=100)
    louder = parse_preprocess(
        "range=-32768..32767", name="x", shape=(1, "T"), dtype="float32", described=heard
    )
    assert louder == heard.model_copy(update={"value_range": (-32768.0, 32767.0)})


@pytest.mark.parametrize(
    ("text", "shape", "wanted"),
    [
        ("rate=16000", (1, 576), {"samples": 576}),
        ("rate=16000,samples=576", ("N", "T"), {"samples": 576}),
        ("rate=16000,samples=576,hop=512", (1, 1, 576), {"hop": 512, "layout": "n1t"}),
        ("rate=16000,layout=nt,range=0-1", (1, 576), {"value_range": (0, 1)}),
    ],
)
def test_a_sound(text: str, shape: Shape, wanted: dict[str, object]) -> None:
    values = {"sample_rate_hz": 16_000, "samples": 576, **wanted}
    assert sound(text, shape) == SoundInput.model_validate(values)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sise=240", "unknown key 'sise'; did you mean size"),
        ("rat=16000", "unknown key 'rat'; did you mean rate"),
        ("", "is not a setting; write key=value"),
        ("size=1,size=2", "'size' is given twice"),
        ("size=big", "size=big is not understood; write size=224"),
        ("size=320x240", "size=320x240 .* is fixed at 240x320"),
        ("mean=a", "mean=a is not a number"),
        ("mean=nan", "mean=nan is not a number"),
        ("mean=1,2", "mean has 2 values, the input has 3 channels"),
        ("std=0", "std must be positive"),
        ("layout=nhcw", "layout=nhcw is not known; did you mean"),
        ("layout=nhwc", "layout=nhwc, but input 'x' is .*; write layout=nchw"),
        ("range=255", "range=255 is not understood; write range=0-1, 0-255 or"),
        ("range=1-0", "lower to a higher"),
        ("order=gbr", "order=gbr is not known"),
        ("resize=crop,pad", "resize takes one value, found crop,pad"),
        ("rate=16000,mean=0.5", "'mean' is for images, rate for sounds"),
        ("rate=16000", "sounds are float32 NxT or Nx1xT"),
    ],
)
def test_a_mistake_for_an_image_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"--preprocess: .*{reason}") as caught:
        image(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "reason"),
    [
        ("samples=576", (1, 576), "float32", "add rate=16000"),
        ("rate=16000,samples=500", (1, 576), "float32", "is fixed at 576"),
        ("rate=16000", (1, "T"), "float32", "any length; say how many samples"),
        ("rate=16k", (1, 576), "float32", "rate=16k is not a whole number"),
        ("rate=16000,layout=n1t", (1, 576), "float32", "layout=n1t, but input 'x' is"),
        ("rate=16000,hop=600", (1, 576), "float32", "hop must not be more"),
        ("rate=16000", (1, 2, 576), "float32", "sounds are float32"),
        ("size=24", (1, 576), "float32", "images are 4 dimensions"),
        ("size=24", (1, 3, 24, 24), "int64", "images are 4 dimensions"),
        ("mean=0", (1, 24, 24, 3), "uint8", "takes raw uint8 pixels; leave mean out"),
        ("mean=0", (1, 3, "H", "W"), "float32", "takes any size; say which"),
    ],
)
def test_a_mistake_for_other_inputs(text: str, shape: Shape, dtype: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_preprocess(text, name="x", shape=shape, dtype=dtype)
