"""Colour changes as one affine map per sample.

Brightness, contrast, saturation, hue and greyscale are linear in the channels (contrast up to the
view's mean), so they fold into ``M x + o`` with M of ``(C, C)``. Hue turns the chroma plane of
YIQ, as NVIDIA DALI's ColorTwist does, where torchvision goes through HSV.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ColourChange", "colour_matrices"]

LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class ColourChange:
    """What is done to each sample; every array is ``(N,)``.

    Attributes:
        brightness: Factor on all values.
        contrast: Factor on the distance from the view's mean luma.
        saturation: Factor on the distance from each pixel's luma.
        hue: Turns of the colour circle, in [-0.5, 0.5].
        grayscale: True to keep the luma only.
    """

    brightness: NDArray[np.float64]
    contrast: NDArray[np.float64]
    saturation: NDArray[np.float64]
    hue: NDArray[np.float64]
    grayscale: NDArray[np.bool_]


def colour_matrices(
    change: ColourChange, channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrices that do brightness, contrast, saturation, hue and greyscale, in this order.

    With other than 3 channels there are brightness and contrast only, contrast about each
    channel's own mean.

    Args:
        change: What to do to each of N samples.
        channels: Channels C.

    Returns:
        M and P, each ``(N, C, C)``: a pixel x of a view with mean m becomes M x + P m.
    """
    gain = (change.brightness * change.contrast)[:, None, None]
    pull = ((1.0 - change.contrast) * change.brightness)[:, None, None]
    if channels != 3:
        return gain * np.eye(channels), pull * np.eye(channels)
    to_luma = np.broadcast_to(LUMA, (3, 3))
    matrix = gain * (_hue(change.hue) @ _saturation(change))
    matrix = np.where(change.grayscale[:, None, None], to_luma @ matrix, matrix)
    # Grey is left alone by saturation, hue and greyscale, so contrast's offset passes through.
    return matrix, pull * to_luma


def _saturation(change: ColourChange) -> NDArray[np.float64]:
    factor = change.saturation[:, None, None]
    mixed: NDArray[np.float64] = factor * np.eye(3) + (1.0 - factor) * np.broadcast_to(LUMA, (3, 3))
    return mixed


def _hue(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = 2 * np.pi * turns
    turn = np.zeros((len(turns), 3, 3))
    turn[:, 0, 0] = 1.0
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2] = -np.sin(angle)
    turn[:, 2, 1] = np.sin(angle)
    turned: NDArray[np.float64] = _FROM_YIQ @ turn @ _TO_YIQ
    return turned
