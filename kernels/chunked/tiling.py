"""Tiles of the matrix of logits: their sizes, their walk, and the diagonals that cross them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edgessl.kernels.problem import Pairs

__all__ = ["Diagonal", "Masks", "Tile", "TileShape", "spans", "strips", "tile_shape", "tiles"]

_CPU_SHAPE = (512, 1024)
_CUDA_BYTES = 64 * 2**20
_CUDA_LEAST = 1024 * 1024


@dataclass(frozen=True)
class TileShape:
    """Largest number of rows and columns of a tile."""

    rows: int
    columns: int


def tile_shape(rows: Tensor, columns: int) -> TileShape:
    """A shape for rows (A, D) against so many columns.

    On a CPU a tile and its spare (2 × 2 MB) stay in the caches, and last long enough that threads
    need not meet all the time. On a GPU a tile has
    to fill the chip and is to add little to what the rows take: a tenth of rows and gradient, at
    most 64 MB, at least 1024 × 1024 logits.
    """
    count = rows.shape[0]
    if not rows.is_cuda:
        high, wide = _CPU_SHAPE
        return TileShape(min(count, high), max(1, min(columns, wide)))
    rows_bytes = 2 * rows.numel() * rows.element_size()
    # A logit is 4 bytes in the tile and 2 or 4 in its weights.
    logits = max(min(_CUDA_BYTES, rows_bytes // 10) // 8, _CUDA_LEAST)
    high = min(2048, 1 << (logits.bit_length() - 1) // 2)
    return TileShape(min(count, high), max(1, min(columns, logits // high // 128 * 128)))


@dataclass(frozen=True)
class Tile:
    """Rows ``row`` to ``row_stop`` against columns ``column`` to ``column_stop``."""

    row: int
    row_stop: int
    column: int
    column_stop: int

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.row_stop - self.row, self.column_stop - self.column

    @property
    def own_rows(self) -> slice:
        """Of vectors with one element for each row."""
        return slice(self.row, self.row_stop)

    @property
    def own_columns(self) -> slice:
        """Of vectors with one element for each column."""
        return slice(self.column, self.column_stop)

    def of(self, buffer: Tensor) -> Tensor:
        """The start of a flat buffer as a contiguous tile."""
        high, wide = self.shape
        return buffer[: high * wide].view(high, wide)


def spans(start: int, stop: int, length: int) -> Iterator[slice]:
    """Consecutive slices of a length; the last may be shorter."""
    for first in range(start, stop, length):
        yield slice(first, min(first + length, stop))


def strips(rows: Tensor, shape: TileShape) -> Iterator[slice]:
    """Slices of rows that tiles share."""
    return spans(0, rows.shape[0], shape.rows)


def tiles(
    strip: slice, columns: Tensor, shape: TileShape, *, upper: bool = False
) -> Iterator[Tile]:
    """A strip's tiles from left to right.

    ``upper`` leaves out what is below the diagonal: the first tile is the square that it crosses.
    """
    stop = columns.shape[0]
    if upper:
        yield Tile(strip.start, strip.stop, strip.start, strip.stop)
    for own in spans(strip.stop if upper else 0, stop, shape.columns):
        yield Tile(strip.start, strip.stop, own.start, own.stop)


@dataclass(frozen=True)
class Diagonal:
    """Entries (i, i + shift) for ``start`` ≤ i < ``stop``."""

    start: int
    stop: int
    shift: int

    def within(self, tile: Tile) -> tuple[slice, slice] | None:
        """Rows and columns, counted from the matrix' first, of the entries in a tile."""
        start = max(self.start, tile.row, tile.column - self.shift)
        stop = min(self.stop, tile.row_stop, tile.column_stop - self.shift)
        if start >= stop:
            return None
        return slice(start, stop), slice(start + self.shift, stop + self.shift)

    def view(self, values: Tensor, tile: Tile) -> Tensor | None:
        """The entries in a tile's values; None if the diagonal does not cross it."""
        place = self.within(tile)
        if place is None:
            return None
        rows, columns = place
        corner = values[rows.start - tile.row :, columns.start - tile.column :]
        return corner.diagonal()[: rows.stop - rows.start]


@dataclass(frozen=True)
class Masks:
    """Which entries of (A, B) logits are rows against themselves, and which are positives."""

    pairs: Pairs
    count: int
    itself: tuple[Diagonal, ...]
    positives: tuple[Diagonal, ...]
    row_labels: Tensor | None = None
    column_labels: Tensor | None = None

    @staticmethod
    def of(pairs: Pairs, count: int) -> Masks:
        """Of ``count`` rows."""
        own = Diagonal(0, count, pairs.offset)
        if pairs.kind == "towers":
            return Masks(pairs, count, (), (own,))
        if pairs.kind == "labels":
            labels = [
                None if one is None else one.contiguous()
                for one in (pairs.row_labels, pairs.column_labels)
            ]
            return Masks(pairs, count, (own,), (), *labels)
        half = count // 2
        first = Diagonal(0, half, pairs.offset + half)
        second = Diagonal(half, count, pairs.offset - half)
        return Masks(pairs, count, (own,), (first, second))

    def same_label(self, tile: Tile, out: Tensor | None = None) -> Tensor | None:
        """(rows, columns) bool: positives by label; None where labels do not matter."""
        if self.row_labels is None or self.column_labels is None:
            return None
        rows = self.row_labels[tile.own_rows, None]
        same = torch.eq(rows, self.column_labels[None, tile.own_columns], out=out)
        for diagonal in self.itself:
            view = diagonal.view(same, tile)
            if view is not None:
                view.fill_(False)
        return same
