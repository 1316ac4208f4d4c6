"""A Hugging Face dataset that ``save_to_disk`` wrote; nothing is fetched from a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.data.source import EncodedSource, Splits, stat_signature
from edgessl.data.sources.class_words import ClassWords, agree
from edgessl.data.sources.folder import SPLIT_NAMES
from edgessl.errors import CorruptSampleError, DataError
from edgessl.optional import require

__all__ = ["HuggingFaceFormat", "HuggingFaceSource"]

_LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label")


class HuggingFaceSource(EncodedSource):
    """One ``datasets.Dataset`` with a column of images.

    The image column is found by its feature type; the label column is the ``ClassLabel``, or a
    whole-number or text column called ``label``, ``class`` or ``target``.

    Args:
        path: The folder, for messages.
        dataset: The opened dataset.
        name: Name of the part, used in keys.
    """

    def __init__(self, path: Path, dataset: Any, name: str) -> None:
        datasets = require("datasets", extra="train")
        self.path = str(path)
        self._name = name
        self._files = sorted({Path(entry["filename"]) for entry in dataset.cache_files})
        features = dataset.features
        images = [c for c, f in features.items() if isinstance(f, datasets.Image)]
        if not images:
            raise DataError(
                f"{path}: no column of images, found {', '.join(features)}; cast one with "
                "dataset.cast_column(name, datasets.Image())"
            )
        if len(dataset) == 0:
            raise DataError(f"{path}: part '{name}' holds no samples; fill it")
        self._column = images[0]
        self._label_column = _label_column(features, datasets.ClassLabel)
        self._feature = features[self._label_column] if self._label_column else None
        self._dataset = dataset
        self.words = ClassWords(self._written)
        # Only the image column, undecoded: labels must not be touched while training.
        self._images = dataset.select_columns([self._column]).cast_column(
            self._column, datasets.Image(decode=False)
        )

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        """``train[7]``."""
        return f"{self._name}[{index}]"

    def encoded(self, index: int) -> bytes:
        """The bytes of one image."""
        entry = self._images[index][self._column]
        if entry is None:
            raise CorruptSampleError(f"{self.key(index)}: the row has no image")
        if entry.get("bytes"):
            return bytes(entry["bytes"])
        try:
            return Path(entry["path"] or "").read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            raise CorruptSampleError(
                f"{self.key(index)}: {entry['path']} cannot be read ({reason})"
            ) from error

    def signature(self) -> str | None:
        """Hash of the arrow files' sizes and time stamps; none if images lie elsewhere."""
        compute = require("pyarrow.compute", extra="train")
        column = self._images.data.column(self._column)
        inside = compute.struct_field(column, "bytes").null_count == column.null_count
        if not self._files or not inside:
            return None
        return stat_signature(self._files, [self._name, self._column, str(len(self))])

    def labels(self) -> NDArray[np.int64] | None:
        """From the label column."""
        if self._named is None:
            return self.words.indices
        values = self._written()
        if values is None:
            return None
        if values.dtype.kind not in "iu" or values.min() < 0:
            raise DataError(
                f"{self.path}: part '{self._name}' has samples without a label; label all or none"
            )
        return values.astype(np.int64)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the ``ClassLabel``, else the distinct labels of all parts."""
        return self._named or self.words.names

    @property
    def _named(self) -> tuple[str, ...] | None:
        names = getattr(self._feature, "names", None)
        return tuple(names) if names else None

    def _written(self) -> NDArray[np.generic] | None:
        """The label column as it is stored, read now."""
        if self._label_column is None:
            return None
        values = self._dataset.with_format(None)[self._label_column]
        array: NDArray[np.generic] = np.asarray(list(values))
        if array.dtype.kind not in "iuU":
            raise DataError(
                f"{self.path}: column '{self._label_column}' holds {array.dtype} values or gaps; "
                "labels are whole numbers or text"
            )
        return array


class HuggingFaceFormat:
    """A folder with ``dataset_dict.json``, or with ``state.json`` and ``dataset_info.json``."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """The files that ``save_to_disk`` leaves."""
        one = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
        return one or (path / "dataset_dict.json").is_file()

    @staticmethod
    def open(path: Path) -> Splits:
        """Open the arrow files; nothing is decoded."""
        datasets = require("datasets", extra="train")
        try:
            opened = datasets.load_from_disk(str(path))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DataError(
                f"{path}: not a readable Hugging Face dataset ({_first_line(error)}); write it "
                "again with save_to_disk"
            ) from error
        if not isinstance(opened, Mapping):
            return Splits(HuggingFaceSource(path, opened, "row"))
        parts: dict[str, HuggingFaceSource] = {}
        for name, dataset in opened.items():
            part = SPLIT_NAMES.get(str(name).lower())
            if part is not None and part not in parts:
                parts[part] = HuggingFaceSource(path, dataset, str(name))
        agree([part.words for part in parts.values()])
        if "train" not in parts:
            raise DataError(
                f"{path}: no part 'train', found {', '.join(map(str, opened))}; name one so"
            )
        return Splits(parts["train"], parts.get("val"), parts.get("test"), declared=len(parts) > 1)


def _label_column(features: Mapping[str, Any], class_label: type) -> str | None:
    for name, feature in features.items():
        if isinstance(feature, class_label):
            return name
    return next((name for name in _LABEL_COLUMNS if name in features), None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
