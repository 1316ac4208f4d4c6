"""Decoding: exact pixels for lossless formats, the right way up, one line for what is broken."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgessl.errors import CorruptSampleError, UnavailableError
from edgessl.images import read_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (9, 7, 3), dtype=np.uint16)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(array: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossless_formats_are_exact(kind: str, mode: str) -> None:
    picture = Image.fromarray(RGB).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    found = read_image(encoded(picture, kind, **options), name="x")
    want = np.asarray(picture).reshape(9, 7, -1)
    if kind == "WEBP" and mode == "L":
        want = np.repeat(want, 3, axis=2)  # WebP has no grey
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, want)


def test_jpeg_is_near() -> None:
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    found = read_image(encoded(Image.fromarray(smooth), "JPEG", quality=95), name="x")
    assert found.shape == (64, 64, 1)
    assert np.abs(found[:, :, 0].astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_exact(channels: int) -> None:
    array = RNG.integers(0, 65536, (9, 7, channels), dtype=np.uint16)
    data = bytes(imagecodecs.png_encode(array[:, :, 0] if channels == 1 else array))
    found = read_image(data, name="x")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("array", "options", "axes"),
    [
        (DEEP, {"photometric": "rgb"}, (0, 1, 2)),
        (DEEP.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}, (1, 2, 0)),
        (
            RNG.integers(0, 256, (9, 7, 5), dtype=np.uint8),
            {"photometric": "minisblack", "planarconfig": "contig"},
            (0, 1, 2),
        ),
        (
            RNG.integers(0, 65536, (6, 9, 7), dtype=np.uint16),
            {"photometric": "minisblack", "planarconfig": "separate"},
            (1, 2, 0),
        ),
        (DEEP, {"photometric": "rgb", "byteorder": ">"}, (0, 1, 2)),
        (DEEP, {"photometric": "rgb", "bigtiff": True}, (0, 1, 2)),
    ],
)
def test_tiff_with_many_or_deep_channels_is_exact(
    array: NDArray[Any], options: dict[str, Any], axes: tuple[int, ...]
) -> None:
    found = read_image(tiff(array, **options), name="x")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array.transpose(axes))


def test_16_bit_grey_tiff_is_exact() -> None:
    for order in "<>":
        found = read_image(tiff(DEEP[:, :, 0], byteorder=order), name="x")
        np.testing.assert_array_equal(found[:, :, 0], DEEP[:, :, 0])
        assert found.dtype == np.uint16


def test_palette_and_bits_and_cmyk_and_alpha() -> None:
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(
        read_image(encoded(palette, "PNG"), name="x"), np.asarray(palette.convert("RGB"))
    )
    assert read_image(encoded(palette, "PNG", transparency=0), name="x").shape == (9, 7, 4)
    bits = Image.fromarray(RGB).convert("1")
    found = read_image(encoded(bits, "PNG"), name="x")
    np.testing.assert_array_equal(found[:, :, 0], np.asarray(bits).astype(np.uint8) * 255)
    cmyk = Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).convert("CMYK")
    found = read_image(encoded(cmyk, "JPEG", quality=95), name="x")
    assert np.abs(found.astype(int) - 200).max() <= 3
    for mode, channels in (("LA", 2), ("RGBA", 4)):
        picture = Image.fromarray(RGB).convert(mode)
        found = read_image(encoded(picture, "PNG"), name="x")
        assert found.shape == (9, 7, channels)
        np.testing.assert_array_equal(found, np.asarray(picture))
    key = encoded(Image.fromarray(RGB), "PNG", transparency=(0, 0, 0))
    assert read_image(key, name="x").shape == (9, 7, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RGB), "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        want = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(read_image(data, name="x"), want)
    tag = [(274, 3, 1, orientation, True)]
    for array in (RGB, DEEP):
        found = read_image(tiff(array, photometric="rgb", extratags=tag), name="x")
        turned = read_image(tiff(array, photometric="rgb"), name="x")
        if array is RGB:
            np.testing.assert_array_equal(found, want)
        assert sorted(found.ravel()) == sorted(turned.ravel())
        assert found.shape[:2] == ((9, 7) if orientation < 5 else (7, 9))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"rubbish", "not a JPEG"),
        (b"GIF89a" + bytes(20), "not a JPEG"),
        (b"%!PS-Adobe", "not a JPEG"),
        (encoded(Image.fromarray(RGB), "PNG")[:60], "decoded"),
        (encoded(Image.fromarray(np.tile(RGB, (40, 40, 1))), "JPEG")[:4000], "truncated"),
        (tiff(DEEP, photometric="rgb")[:300], "decoded"),
        (png(0, 5), "size zero"),
        (png(20_000, 20_000), "exceeds limit"),
        (png(10_000, 10_000), "scale it down"),
        (png(10_000, 10_000, depth=16), "pixels"),
        (tiff(RNG.random((9, 7)).astype(np.float32)), "float32"),
        (tiff(RNG.integers(-9, 9, (9, 7), dtype=np.int16)), "outside 0 to 65535"),
        (tiff(np.zeros((5, 9, 7), np.uint8), photometric="minisblack"), "no channel axis"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as for a user
def test_what_cannot_be_used_is_one_line(data: bytes, word: str) -> None:
    with pytest.raises(CorruptSampleError, match=rf"^some/x\.png: .*{word}") as caught:
        read_image(data, name="some/x.png")
    assert "\n" not in str(caught.value)


def test_flipped_bits_never_escape_as_another_error() -> None:
    rng = np.random.default_rng(1)
    files = [
        encoded(Image.fromarray(RGB), "PNG"),
        encoded(Image.fromarray(RGB), "JPEG"),
        encoded(Image.fromarray(RGB), "WEBP"),
        encoded(Image.fromarray(RGB), "TIFF"),
        bytes(imagecodecs.png_encode(DEEP)),
    ]
    broken = 0
    for _ in range(60):
        for good in files:
            bad = bytearray(good)
            for position in rng.integers(0, len(good), 3):
                bad[position] ^= 1 << int(rng.integers(8))
            try:
                read_image(bytes(bad), name="x")
            except (CorruptSampleError, UserWarning):  # Pillow warns about odd metadata
                broken += 1
    assert broken > 100


def test_a_path_is_read_and_a_missing_one_named(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", name="x"), RGB)
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(CorruptSampleError, match="cannot be read"):
            read_image(path, name="none.png")


@pytest.mark.parametrize(
    ("package", "data"),
    [
        ("imagecodecs", bytes(imagecodecs.png_encode(DEEP))),
        ("tifffile", tiff(DEEP, photometric="rgb")),
    ],
)
def test_a_missing_decoder_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, package: str, data: bytes
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnavailableError, match=rf"{package}.*pip install"):
        read_image(data, name="x")


def test_real_photographs(shared: Path) -> None:
    files = sorted((shared / "data" / "trashnet-192").rglob("*.jpg"))[:20]
    if not files:
        pytest.skip("trashnet-192 is not on this machine")
    for file in files:
        with Image.open(file) as opened:
            want = np.asarray(opened.convert("RGB"))
        np.testing.assert_array_equal(read_image(file, name=file.name), want)
