"""Crop, resize, flip and blur as two matrices per sample.

All four are linear and act on rows and columns apart, so a view is ``R X Cᵀ`` with R of
``(H, S)`` and C of ``(W, S)``: one product instead of four passes over the pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "apply_matrices",
    "blur_matrices",
    "multiply_spans",
    "multiply_whole",
    "resize_matrices",
]

_CHUNK = 256


def resize_matrices(
    starts: NDArray[np.float64],
    lengths: NDArray[np.float64],
    flips: NDArray[np.bool_],
    *,
    canvas: int,
    size: int,
    device: torch.device,
) -> Tensor:
    """Matrices that cut a span out of ``canvas`` pixels and resize it to ``size``, antialiased.

    The filter is the triangle that Pillow and torchvision call bilinear: output pixel o looks at
    ``c = start + (o + ½) length / size`` with weights ``max(0, 1 - |i + ½ - c| / max(1, length /
    size))`` over the pixels i of the span, normalised to 1.

    Args:
        starts: Start of each span in pixels, ``(N,)``.
        lengths: Its length in pixels, ``(N,)``.
        flips: True to reverse the outputs, ``(N,)``.
        canvas: Pixels S of the input.
        size: Pixels of the output.
        device: Where the matrices are made.

    Returns:
        ``(N, size, S)`` float32; columns outside a span are zero.
    """
    scales = lengths / size
    steps = np.arange(size) + 0.5
    steps = np.where(flips[:, None], steps[::-1], steps)
    widths = np.maximum(scales, 1.0)[:, None]
    # Distances in units of the filter's width: |i / width - centre|.
    centres = (starts[:, None] + steps * scales[:, None] - 0.5) / widths
    pixels = np.arange(canvas) / widths
    weights = _tensor(pixels, device)[:, None, :] - _tensor(centres, device)[:, :, None]
    weights.abs_().neg_().add_(1.0).clamp_(min=0.0)
    first, last = _span(starts, lengths)
    inside = (np.arange(canvas) >= first[:, None]) & (np.arange(canvas) < last[:, None])
    weights.mul_(_tensor(inside, device)[:, None, :])
    return weights.div_(weights.sum(dim=2, keepdim=True))


def blur_matrices(sigmas: NDArray[np.float64], *, size: int, device: torch.device) -> Tensor:
    """Matrices of Gaussian blurs with mirrored edges.

    Args:
        sigmas: Standard deviations in pixels, ``(N,)``, above 0.
        size: Pixels of a row.
        device: Where the matrices are made.

    Returns:
        ``(N, size, size)`` float32, rows sum to 1.
    """
    distances = np.arange(size)
    taps = _tensor(np.exp(-0.5 * (distances / sigmas[:, None]) ** 2), device)
    none = torch.zeros(len(sigmas), size - 1, device=device)
    # Every entry of K[o, i] is a tap: of |o - i|, and of o + i and 2 (size - 1) - o - i where the
    # edges mirror it. Windows that slide over the taps hold them without an index per entry.
    near = torch.cat([taps, none], dim=1).unfold(1, size, 1)
    far = torch.cat([none, taps.flip(1)], dim=1).unfold(1, size, 1)
    centre = torch.cat([taps[:, 1:].flip(1), taps], dim=1).unfold(1, size, 1).flip(1)
    weights = centre + near + far
    # The edge pixels are not mirrored themselves.
    weights[:, :, 0] -= taps
    weights[:, :, -1] -= taps.flip(1)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def apply_matrices(
    samples: Tensor,
    rows: Tensor,
    columns: Tensor,
    row_spans: tuple[NDArray[np.float64], NDArray[np.float64]],
    column_spans: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Tensor:
    """Products ``R X Cᵀ``.

    Args:
        samples: ``(N, C, S, S)`` uint8 or uint16.
        rows: ``(N, H, S)``.
        columns: ``(N, W, S)``.
        row_spans: Starts and lengths of what ``rows`` looks at; the rest of its columns is zero.
        column_spans: Likewise for ``columns``.

    Returns:
        ``(N, C, H, W)`` float32 in the samples' units.
    """
    if samples.device.type == "cpu":
        return multiply_spans(samples, rows, columns, _span(*row_spans), _span(*column_spans))
    return multiply_whole(samples, rows, columns)


def multiply_spans(
    samples: Tensor,
    rows: Tensor,
    columns: Tensor,
    row_spans: tuple[NDArray[np.int64], NDArray[np.int64]],
    column_spans: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> Tensor:
    """The products sample by sample, without the zeros: a mean crop is half of the canvas."""
    channels, height, width = samples.shape[1], rows.shape[1], columns.shape[1]
    out = torch.empty(len(samples), channels, height, width)
    bounds = zip(*(b.tolist() for b in (*row_spans, *column_spans)), strict=True)
    for i, (top, bottom, left, right) in enumerate(bounds):
        crop = samples[i, :, top:bottom, left:right].to(torch.float32)
        across = crop.reshape(-1, right - left) @ columns[i, :, left:right].t()
        across = across.view(channels, bottom - top, width)
        torch.matmul(rows[i, :, top:bottom], across, out=out[i])
    return out


def multiply_whole(samples: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The products as batches, zeros and all: what an accelerator does fastest."""
    parts = []
    for i in range(0, len(samples), _CHUNK):
        part = slice(i, i + _CHUNK)
        across = samples[part].to(torch.float32) @ columns[part, None].transpose(2, 3)
        parts.append(rows[part, None] @ across)
    return torch.cat(parts)


def _span(
    starts: NDArray[np.float64], lengths: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel of a span and the one after its last."""
    first = np.floor(starts + 1e-6).astype(np.int64)
    return first, np.maximum(np.ceil(starts + lengths - 1e-6).astype(np.int64), first + 1)


def _tensor(values: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)
