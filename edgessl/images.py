"""Decode image files: Pillow, and imagecodecs or tifffile for what Pillow would reduce to 8 bits.

Training and the device call the same function, so both see the same pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgessl.errors import CorruptSampleError
from edgessl.optional import require
from edgessl.preprocessing import RawImage

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "read_image"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 89_478_485
"""Largest image that is decoded, in pixels: Pillow's own guard against decompression bombs."""

_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_CONVERSIONS = {
    "1": "L",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
}
_ORIENTATIONS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


def read_image(source: Path | bytes, *, name: str) -> RawImage:
    """Decode one image file: JPEG, PNG, WebP, TIFF or BMP, 8 or 16 bit, the right way up.

    Palettes, CMYK and 1-bit images become RGB or grey; alpha stays as a last channel, for
    `edgessl.preprocessing.convert_channels` to composite. Of an animation the first frame counts.

    Args:
        source: A path, or the encoded bytes.
        name: What errors call the sample.

    Returns:
        ``(H, W, C)`` uint8 or uint16.

    Raises:
        CorruptSampleError: Not an image of these formats, truncated, of size zero, larger than
            `MAX_PIXELS`, or with pixels that are not 8 or 16 bit unsigned.
        UnavailableError: 16-bit colour or more than 4 channels, and the package that decodes it
            is not installed; the message holds the command that installs it.
    """
    data = source if isinstance(source, bytes) else _read_bytes(source, name)
    if not data:
        raise CorruptSampleError(f"{name}: the file is empty; delete it or fetch it again")
    if data[:8] == _PNG_MAGIC and 0 in struct.unpack(">II", data[16:24].ljust(8, b"\1")):
        raise CorruptSampleError(f"{name}: the image has size zero; delete it or fetch it again")
    try:
        if data[:4] in _TIFF_MAGIC:
            array = _read_tiff(data, name)
        elif _is_deep_colour_png(data):
            array = _read_deep_png(data, name)
        else:
            array = _read_pillow(data, name)
    except _DECODE_ERRORS as error:
        raise CorruptSampleError(f"{name}: cannot be decoded ({_reason(error)})") from error
    if 0 in array.shape:
        raise CorruptSampleError(f"{name}: the image has size zero; delete it or fetch it again")
    return np.ascontiguousarray(array)


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CorruptSampleError(f"{name}: cannot be read ({error.strerror})") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG, WebP, TIFF or BMP image"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise CorruptSampleError(
            f"{name}: {width}x{height} pixels are more than {MAX_PIXELS}; scale it down first"
        )


def _read_pillow(data: bytes, name: str) -> NDArray[Any]:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_pixels(image.width, image.height, name)
        image.load()
        return _pillow_array(ImageOps.exif_transpose(image), name)


def _pillow_array(image: Image.Image, name: str) -> NDArray[Any]:
    transparent = "transparency" in image.info
    if image.mode == "P":
        image = image.convert("RGBA" if transparent else "RGB")
    elif transparent and image.mode in ("1", "L", "RGB"):
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    image = image.convert(_CONVERSIONS.get(image.mode, image.mode))
    array = np.asarray(image)
    if image.mode == "I":
        if array.min(initial=0) < 0 or array.max(initial=0) > np.iinfo(np.uint16).max:
            raise CorruptSampleError(
                f"{name}: has pixels outside 0 to 65535; convert it to 8 or 16 bit"
            )
        array = array.astype(np.uint16)
    return _as_raw(array if array.ndim == 3 else array[:, :, None], name)


def _as_raw(array: NDArray[Any], name: str) -> NDArray[Any]:
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype not in (np.uint8, np.uint16):
        raise CorruptSampleError(
            f"{name}: has {native.dtype} pixels; convert it to 8 or 16 bit unsigned"
        )
    return native


def _is_deep_colour_png(data: bytes) -> bool:
    """True for 16 bits per sample and more than one channel, which Pillow cuts to 8 bits."""
    return data[:8] == _PNG_MAGIC and data[24:25] == b"\x10" and data[25:26] in b"\2\4\6"


def _read_deep_png(data: bytes, name: str) -> NDArray[Any]:
    width, height = struct.unpack(">II", data[16:24])
    _check_pixels(width, height, name)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.load()  # Pillow checks the checksums, and an eXIf chunk may follow the pixels
        orientation = image.getexif().get(0x0112, 1)
    array = np.asarray(require("imagecodecs", extra="train").png_decode(data))
    return _orient(_as_raw(array, name), orientation)


def _read_tiff(data: bytes, name: str) -> NDArray[Any]:
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            _check_pixels(image.width, image.height, name)
            bits = image.tag_v2.get(258, (1,))
            deep = max(bits) > 8 and len(bits) > 1
            if not deep and getattr(image, "n_frames", 1) == 1:
                return _read_pillow(data, name)
    except UnidentifiedImageError:
        pass  # a layout that Pillow has no mode for, like 5 channels: tifffile judges it
    return _read_tifffile(data, name)


def _read_tifffile(data: bytes, name: str) -> NDArray[Any]:
    tifffile = require("tifffile", extra="train")
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            sizes = dict(zip(series.axes, series.shape, strict=True))
            _check_pixels(sizes["X"], sizes["Y"], name)
            array = np.asarray(series.asarray())
            orientation = int(series.pages[0].tags.valueof(274, default=1))
    except tifffile.TiffFileError as error:
        raise CorruptSampleError(f"{name}: cannot be decoded ({_reason(error)})") from error
    used = {axis: size for axis, size in sizes.items() if size > 1 or axis in "YX"}
    channel = "".join(used).replace("Y", "").replace("X", "") or "S"
    if channel not in ("S", "C"):
        raise CorruptSampleError(
            f"{name}: a TIFF with axes {series.axes} {tuple(series.shape)} has no channel axis; "
            "save the channels as samples per pixel"
        )
    used.setdefault(channel, 1)
    array = array.reshape(list(used.values()))
    order = [list(used).index(axis) for axis in ("Y", "X", channel)]
    return _orient(_as_raw(array.transpose(order), name), orientation)


def _orient(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn ``(H, W, C)`` the right way up, as EXIF's tag 274 says."""
    turn = _ORIENTATIONS.get(orientation)
    return array if turn is None else turn(array)
