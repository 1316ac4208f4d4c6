"""``labels.csv``: a column of paths, one of labels, and perhaps one that names the split."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgessl.errors import DataError, nearest

__all__ = ["LabelTable"]

_PATH_COLUMNS = ("path", "file", "filename", "image")
_LABEL_COLUMNS = ("label", "class", "category")
_SPLIT_WORDS = ("train", "val", "valid", "validation", "test")


class LabelTable:
    """The rows of a ``labels.csv``, read when they are first needed.

    Args:
        path: The file; its paths are relative to its own folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def find(folder: Path) -> LabelTable | None:
        """The table of a folder, if it has one."""
        path = folder / "labels.csv"
        return LabelTable(path) if path.is_file() else None

    @cached_property
    def has_splits(self) -> bool:
        """True if there is a ``split`` column; reads the first line only."""
        return "split" in self._header

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The distinct labels: in numeric order if all are whole numbers, else sorted."""
        distinct = set(self._column(_LABEL_COLUMNS).values())
        if all(name.lstrip("-").isdigit() for name in distinct):
            return tuple(sorted(distinct, key=int))
        return tuple(sorted(distinct))

    def labels(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Class index of each key.

        Raises:
            DataError: A key has no row.
        """
        rows = self._column(_LABEL_COLUMNS)
        order = {name: i for i, name in enumerate(self.class_names)}
        return np.array([order[self._of(rows, key)] for key in keys], dtype=np.int64)

    def splits(self, keys: Sequence[str]) -> list[str]:
        """Split word of each key.

        Raises:
            DataError: A key has no row, or its word is unknown.
        """
        rows = self._column(("split",))
        words = [self._of(rows, key).lower() for key in keys]
        for key, word in zip(keys, words, strict=True):
            if word not in _SPLIT_WORDS:
                raise DataError(f"{self.path}: {key} has split '{word}'; use train, val or test")
        return words

    def _of(self, rows: dict[str, str], key: str) -> str:
        try:
            return rows[key]
        except KeyError:
            raise DataError(
                f"{self.path}: no row for {key}; {nearest(key, rows) or 'add one'}"
            ) from None

    @cached_property
    def _header(self) -> list[str]:
        rows = self._read(limit=1)
        return [cell.strip().lower() for cell in rows[0]] if rows else []

    def _column(self, names: Sequence[str]) -> dict[str, str]:
        """Key → cell of the first of ``names`` that the header has."""
        key_column = self._position(_PATH_COLUMNS)
        column = self._position(names)
        cells: dict[str, str] = {}
        for number, row in enumerate(self._read()[1:], start=2):
            if not row:
                continue
            if len(row) != len(self._header):
                raise DataError(
                    f"{self.path}: line {number} has {len(row)} cells, the header "
                    f"{len(self._header)}; quote cells that hold a comma"
                )
            cells[PurePosixPath(row[key_column].strip()).as_posix()] = row[column].strip()
        return cells

    def _position(self, names: Sequence[str]) -> int:
        for name in names:
            if name in self._header:
                return self._header.index(name)
        raise DataError(
            f"{self.path}: no column '{names[0]}', found {', '.join(self._header) or 'nothing'}; "
            f"name one of its columns {' or '.join(names)}"
        )

    def _read(self, *, limit: int | None = None) -> list[list[str]]:
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file)
                return [row for row, _ in zip(reader, range(limit or 1 << 62), strict=False)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{self.path}: cannot be read ({error}); save it as UTF-8 CSV"
            ) from error
