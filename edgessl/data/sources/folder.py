"""A folder of image files, at any depth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgessl.data.source import EncodedSource, Source, Splits, stat_signature
from edgessl.data.sources.label_table import LabelTable
from edgessl.errors import CorruptSampleError, DataError
from edgessl.images import IMAGE_SUFFIXES

__all__ = ["SPLIT_NAMES", "FolderFormat", "FolderSource", "split_folders"]

#: Folder name → part of the split.
SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class FolderSource(EncodedSource):
    """Image files under one folder, sorted by path.

    Labels come from ``labels.csv`` if there is one, else from the first folder level if it has at
    least two folders.

    Args:
        root: The folder that keys are relative to.
        files: Paths relative to ``root``, with ``/``.
        table: The label table that covers the files, if there is one.
        prefix: What to put before a key to find it in the table (``"train/"``).
        class_folders: Names of the class folders of all parts, so that the parts agree.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        *,
        table: LabelTable | None = None,
        prefix: str = "",
        class_folders: Sequence[str] = (),
    ) -> None:
        self.path = str(root)
        self._root = root
        self._files = list(files)
        self._table = table
        self._prefix = prefix
        # A single folder is where the images lie, not a class.
        self._class_folders = tuple(sorted(class_folders)) if len(class_folders) > 1 else ()

    def __len__(self) -> int:
        return len(self._files)

    def key(self, index: int) -> str:
        """Path relative to the folder."""
        return self._files[index]

    def encoded(self, index: int) -> bytes:
        """The bytes of one file."""
        path = self._root / self._files[index]
        try:
            return path.read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            raise CorruptSampleError(f"{self._files[index]}: cannot be read ({reason})") from error

    def signature(self) -> str | None:
        """Hash of names, sizes and time stamps."""
        return stat_signature([self._root / f for f in self._files], self._files)

    def labels(self) -> NDArray[np.int64] | None:
        """From ``labels.csv``, else from the first folder level."""
        if self._table is not None:
            return self._table.labels([self._prefix + f for f in self._files])
        if not self._class_folders:
            return None
        self._refuse_files_beside_folders()
        order = {name: i for i, name in enumerate(self._class_folders)}
        return np.array([order[f.partition("/")[0]] for f in self._files], dtype=np.int64)

    def _refuse_files_beside_folders(self) -> None:
        loose = [f for f in self._files if "/" not in f]
        if loose:
            raise DataError(
                f"{self.path}: {len(loose)} images lie beside the class folders ({loose[0]}); "
                "move each into the folder of its class, or add a labels.csv"
            )

    @cached_property
    def _names(self) -> tuple[str, ...] | None:
        if self._table is not None:
            return self._table.class_names
        return self._class_folders or None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names from the table or the folders."""
        return self._names


class FolderFormat:
    """Any folder that nothing more particular recognises."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """A folder."""
        return path.is_dir()

    @staticmethod
    def open(path: Path) -> Splits:
        """Index the images of a folder, by part if it holds ``train/`` and ``test/``."""
        table = LabelTable.find(path)
        parts = split_folders(path)
        if parts:
            return _open_parts(path, parts, table)
        files = sorted(_image_files(path))
        if not files:
            raise DataError(
                f"{path}: no images found at any depth; looked for "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        if table is not None and table.has_splits:
            return _open_table_parts(path, files, table)
        classes = {f.partition("/")[0] for f in files if "/" in f}
        return Splits(FolderSource(path, files, table=table, class_folders=sorted(classes)))


def split_folders(path: Path) -> dict[str, Path]:
    """Part → folder, if there is a ``train`` and one to hold it against."""
    found: dict[str, Path] = {}
    for child in sorted(path.iterdir()):
        part = SPLIT_NAMES.get(child.name.lower())
        if part is None or not child.is_dir():
            continue
        if part in found:
            raise DataError(
                f"{path}: both {found[part].name}/ and {child.name}/ are a {part} part; keep one"
            )
        found[part] = child
    return found if "train" in found and len(found) > 1 else {}


def _open_parts(path: Path, parts: dict[str, Path], table: LabelTable | None) -> Splits:
    files = {part: sorted(_image_files(folder)) for part, folder in parts.items()}
    for part, names in files.items():
        if not names:
            raise DataError(f"{parts[part]}: no images found; fill it or remove the folder")
    classes = sorted({f.partition("/")[0] for names in files.values() for f in names if "/" in f})
    sources: dict[str, Source] = {}
    for part, folder in parts.items():
        own = LabelTable.find(folder)
        sources[part] = FolderSource(
            folder,
            files[part],
            table=own or table,
            prefix="" if own else f"{folder.name}/",
            class_folders=classes,
        )
    return Splits(sources["train"], sources.get("val"), sources.get("test"), declared=True)


def _open_table_parts(path: Path, files: list[str], table: LabelTable) -> Splits:
    """Parts from the ``split`` column of ``labels.csv``."""
    assigned = table.splits(files)
    sources: dict[str, Source] = {}
    for part in ("train", "val", "test"):
        names = [f for f, word in zip(files, assigned, strict=True) if SPLIT_NAMES[word] == part]
        if names:
            sources[part] = FolderSource(path, names, table=table)
    if "train" not in sources:
        raise DataError(f"{table.path}: no image has split 'train'; mark some")
    return Splits(
        sources["train"], sources.get("val"), sources.get("test"), declared=len(sources) > 1
    )


def _image_files(root: Path) -> Iterator[str]:
    """Image files at any depth, relative to ``root``; hidden ones are left out.

    Linked folders are followed, each folder once, so that a loop of links ends.
    """
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield (Path(folder) / name).relative_to(root).as_posix()


def _raise(error: OSError) -> None:
    raise error
