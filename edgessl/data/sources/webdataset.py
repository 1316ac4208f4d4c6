"""WebDataset tar shards, read at random by member offset and never unpacked to disk.

Members of one sample share the name up to the first dot: ``0001.jpg`` and ``0001.cls``.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgessl.data.source import EncodedSource, Splits, stat_signature
from edgessl.data.sources.braces import expand_braces
from edgessl.data.sources.class_words import ClassWords, agree
from edgessl.data.sources.folder import SPLIT_NAMES
from edgessl.errors import CorruptSampleError, DataError
from edgessl.images import IMAGE_SUFFIXES

__all__ = ["TarSource", "WebDatasetFormat"]

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_MAX_SHARDS = 100_000
_SPLIT_PREFIX = re.compile(rf"^({'|'.join(SPLIT_NAMES)})(?=[-_.])", re.IGNORECASE)
_LABEL_KEYS = ("label", "cls", "class")


@dataclass(frozen=True)
class _Member:
    offset: int
    size: int


@dataclass
class _Sample:
    shard: Path
    name: str
    image: _Member
    label: tuple[str, _Member] | None


class TarSource(EncodedSource):
    """The images of some tar files, in the order of the files and of their members.

    Labels come from ``.cls`` members (a whole number or a name) or from the ``label`` or ``cls``
    entry of ``.json`` members.

    Args:
        path: What was asked for, for messages.
        shards: The tar files.
    """

    def __init__(self, path: Path, shards: Sequence[Path]) -> None:
        self.path = str(path)
        self._shards = list(shards)
        self.words = ClassWords(self._written)
        self._samples = [sample for shard in shards for sample in _index(shard)]
        if not self._samples:
            raise DataError(
                f"{path}: no images in {len(self._shards)} tar file(s); members must end in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}"
            )

    def __len__(self) -> int:
        return len(self._samples)

    def key(self, index: int) -> str:
        """``shard.tar::member``."""
        sample = self._samples[index]
        return f"{sample.shard.name}::{sample.name}"

    def encoded(self, index: int) -> bytes:
        """The bytes of one member."""
        sample = self._samples[index]
        try:
            return _read_member(sample.shard, sample.image)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CorruptSampleError(f"{self.key(index)}: cannot be read ({reason})") from error

    def signature(self) -> str | None:
        """Hash of the shards' sizes and time stamps and of the members' names."""
        return stat_signature(self._shards, [self.key(i) for i in range(len(self))])

    def labels(self) -> NDArray[np.int64] | None:
        """From ``.cls`` or ``.json`` members."""
        return self.words.indices

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The distinct labels of all parts."""
        return self.words.names

    def _written(self) -> NDArray[np.generic] | None:
        """The label of each sample as it is written, read from the shards now."""
        without = [i for i, sample in enumerate(self._samples) if sample.label is None]
        if len(without) == len(self._samples):
            return None
        if without:
            raise DataError(
                f"{self.path}: {len(without)} samples have no .cls or .json member, first "
                f"{self.key(without[0])}; label all or none"
            )
        words = [self._word(index) for index in range(len(self._samples))]
        if all(word is None for word in words):
            return None
        return np.array([self._known(word) for word in words])

    def _word(self, index: int) -> int | str | None:
        sample = self._samples[index]
        if sample.label is None:
            return None
        extension, member = sample.label
        try:
            text = _read_member(sample.shard, member).decode("utf-8").strip()
            value = text if extension == "cls" else _label_of(json.loads(text))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.key(index)}: its .{extension} member cannot be read ({error}); rewrite it"
            ) from error
        if isinstance(value, str) and value.isdigit():
            return int(value)
        return value

    def _known(self, word: int | str | None) -> int | str:
        if word is None:
            raise DataError(
                f"{self.path}: some .json members hold a label and some do not; label all or none"
            )
        return word


class WebDatasetFormat:
    """``shard-{000..009}.tar``, one ``.tar``, or a folder of them."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """A tar name, a brace pattern, or a folder whose files are tars."""
        name = path.name.lower()
        if _is_pattern(path) or (not path.is_dir() and name.endswith((".tar", *_COMPRESSED))):
            return True
        return path.is_dir() and bool(_shards_of(path) or _part_folders(path))

    @staticmethod
    def open(path: Path) -> Splits:
        """Index the members of all shards; parts come from folder or shard names."""
        if _is_pattern(path):
            return Splits(TarSource(path, _expand(path)))
        if not path.is_dir():
            return Splits(TarSource(path, [path]))
        parts = {part: _shards_of(folder) for part, folder in _part_folders(path).items()}
        parts = parts or _parts_by_name(_shards_of(path))
        if not parts:
            return Splits(TarSource(path, _shards_of(path)))
        sources = {part: TarSource(path, shards) for part, shards in parts.items()}
        agree([source.words for source in sources.values()])
        return Splits(sources["train"], sources.get("val"), sources.get("test"), declared=True)


def _is_pattern(path: Path) -> bool:
    return "{" in str(path) and not path.exists()


def _expand(path: Path) -> list[Path]:
    try:
        shards = [Path(name) for name in islice(expand_braces(str(path)), _MAX_SHARDS + 1)]
    except ValueError as error:
        raise DataError(f"{path}: {error}; write shard-{{000..009}}.tar") from error
    if len(shards) > _MAX_SHARDS:
        raise DataError(f"{path}: the braces name more than {_MAX_SHARDS} shards; correct them")
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(shards)} shards are missing, first {missing[0]}; "
            "correct the numbers in the braces"
        )
    return shards


def _shards_of(folder: Path) -> list[Path]:
    """Tar files directly in a folder; the compressed ones too, so that they are refused aloud."""
    return sorted(
        child
        for child in folder.iterdir()
        if child.name.lower().endswith((".tar", *_COMPRESSED)) and not child.name.startswith(".")
    )


def _part_folders(path: Path) -> dict[str, Path]:
    found = {
        SPLIT_NAMES[child.name.lower()]: child
        for child in sorted(path.iterdir())
        if child.name.lower() in SPLIT_NAMES and child.is_dir() and _shards_of(child)
    }
    return found if "train" in found and len(found) > 1 else {}


def _parts_by_name(shards: Sequence[Path]) -> dict[str, list[Path]]:
    """Part → shards, where every name begins with a part's name (``train-000.tar``)."""
    found: dict[str, list[Path]] = {}
    for shard in shards:
        match = _SPLIT_PREFIX.match(shard.name)
        if match is None:
            return {}
        found.setdefault(SPLIT_NAMES[match[1].lower()], []).append(shard)
    return found if "train" in found and len(found) > 1 else {}


def _index(shard: Path) -> list[_Sample]:
    """The samples of one tar, from its headers alone."""
    if shard.name.lower().endswith(_COMPRESSED):
        raise DataError(
            f"{shard}: a compressed tar cannot be read at random; unpack the compression "
            f"(gunzip, for one) and give the .tar"
        )
    images: dict[str, tuple[str, _Member]] = {}
    labels: dict[str, tuple[str, _Member]] = {}
    try:
        size, end = shard.stat().st_size, 0
        with tarfile.open(shard, mode="r:") as archive:
            for info in archive:
                end = info.offset_data + (0 if info.issparse() else -(-info.size // 512) * 512)
                if not info.isreg() or info.issparse():
                    continue
                if info.offset_data + info.size > size:
                    raise DataError(f"{shard}: the tar ends inside {info.name}; fetch it again")
                _sort_in(info, images, labels)
        _refuse_open_end(shard, end)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{shard}: not a readable tar ({error}); fetch it again") from error
    except FileNotFoundError:
        raise DataError(f"{shard}: no such file; check --data") from None
    return [_Sample(shard, name, member, labels.get(k)) for k, (name, member) in images.items()]


def _refuse_open_end(shard: Path, end: int) -> None:
    """A tar ends with blocks of zeros; one that was cut off is not noticed by its reader."""
    with open(shard, "rb") as file:
        file.seek(end)
        if file.read(512) != bytes(512):
            raise DataError(f"{shard}: the tar ends before its end mark; fetch it again")


def _sort_in(
    info: tarfile.TarInfo,
    images: dict[str, tuple[str, _Member]],
    labels: dict[str, tuple[str, _Member]],
) -> None:
    path = PurePosixPath(info.name)
    if path.name.startswith("."):
        return
    stem, _, extension = path.name.partition(".")
    key = str(path.parent / stem)
    member = _Member(info.offset_data, info.size)
    extension = extension.lower()
    if f".{extension}" in IMAGE_SUFFIXES:
        images[key] = (info.name, member)
    elif f".{extension.rpartition('.')[2]}" in IMAGE_SUFFIXES:
        # 0001.mask.png beside 0001.jpg is not the sample; alone it is.
        images.setdefault(key, (info.name, member))
    elif extension == "cls" or (extension == "json" and key not in labels):
        labels[key] = (extension, member)


def _read_member(shard: Path, member: _Member) -> bytes:
    with open(shard, "rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


def _label_of(value: object) -> int | str | None:
    if isinstance(value, dict):
        for key in _LABEL_KEYS:
            found = value.get(key)
            if isinstance(found, (int, str)):
                return found
    return None
