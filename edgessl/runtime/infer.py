"""Embed files and arrays with a bundle; corrupt files are named, not fatal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgessl.bundle.arrays import load_arrays
from edgessl.errors import (
    BundleError,
    CorruptSampleError,
    DataError,
    EdgeSSLError,
    UsageError,
)
from edgessl.files import atomic_path
from edgessl.images import IMAGE_SUFFIXES, read_image
from edgessl.preprocessing import ImageInput, RawImage, SoundInput, fit
from edgessl.progress import Progress, ProgressEvent, silent
from edgessl.runtime.model import Model, load, stack_images
from edgessl.runtime.session import Array
from edgessl.sounds import SOUND_SUFFIXES

__all__ = ["Embeddings", "infer", "write_embeddings"]

_ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
_MAX_ARRAY_BYTES = 64 * 1024**3
_BATCH = 32


@dataclass(frozen=True)
class Embeddings:
    """What came out.

    Attributes:
        values: ``(N, D)`` float32, one row per readable sample.
        names: What each row is: a path, or ``batch.npy[3]``.
        corrupt: Path and reason of each file that could not be read.
    """

    values: NDArray[np.float32]
    names: tuple[str, ...]
    corrupt: tuple[tuple[str, str], ...]

    def to_json(self, written: Path | None = None) -> dict[str, object]:
        """One JSON object; the embeddings themselves only if no file holds them."""
        values = {"embeddings": self.values.tolist()} if written is None else {"out": str(written)}
        corrupt = [{"path": path, "reason": reason} for path, reason in self.corrupt]
        return {
            "names": list(self.names),
            "dim": self.values.shape[1],
            "corrupt": corrupt,
            **values,
        }

    def require_complete(self) -> None:
        """Raise if anything was corrupt.

        Raises:
            DataError: It names the first file and counts the rest.
        """
        if self.corrupt:
            _, reason = self.corrupt[0]
            raise DataError(
                f"{len(self.corrupt)} of {len(self.corrupt) + len(self.names)} inputs "
                f"could not be read and have no row; first: {reason}"
            )


def infer(
    path: str | Path,
    inputs: Sequence[str | Path],
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> Embeddings:
    """Embed images or sounds, folders of them, and arrays.

    Args:
        path: The ``.edge`` file.
        inputs: Image files, or sound files if the model takes sounds; folders, searched through in
            sorted order; ``.npy`` with a batch as `Model.__call__` takes it; ``.npz`` with one
            such array, or one array per input. A sound has a row for each of its windows.
        threads: Engine threads instead of the bundle's own setting.
        progress: Told after each group of samples.

    Raises:
        DataError: No input, a path that does not exist, a folder without any, an array that
            the model does not take, or nothing readable at all.
    """
    if not inputs:
        raise DataError("nothing to embed; name images, sounds, folders or arrays")
    parts: list[NDArray[np.float32]] = []
    names: list[str] = []
    corrupt: list[tuple[str, str]] = []
    done = 0
    with load(path, threads=threads) as model:
        sounds = isinstance(model.manifest.preprocessing, SoundInput)
        files = [file for item in inputs for file in _expand(Path(item), sounds=sounds)]
        for group in _groups(files, size=1 if sounds else _BATCH):
            if group[0].suffix.lower() in _ARRAY_SUFFIXES:
                rows = _embed_array(model, group[0])
                parts.append(rows)
                names += [f"{group[0]}[{row}]" for row in range(len(rows))]
            elif sounds:
                embedded = _embed_sound(model, group[0], corrupt)
                if embedded is not None:
                    parts.append(embedded)
                    names += [f"{group[0]}[{row}]" for row in range(len(embedded))]
            else:
                good, images = _read_images(model, group, corrupt)
                parts += [model(stack_images(images))] if images else []
                names += good
            done += len(group)
            progress(ProgressEvent("infer", done, len(files), unit="files"))
    if not parts:
        raise DataError(f"none of {len(files)} inputs could be read; first: {corrupt[0][1]}")
    return Embeddings(np.concatenate(parts), tuple(names), tuple(corrupt))


def write_embeddings(path: Path, values: NDArray[np.float32]) -> None:
    """Write an ``.npy`` file atomically."""
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array(file, values, allow_pickle=False)


def _expand(item: Path, *, sounds: bool) -> list[Path]:
    if item.is_dir():
        kind, suffixes = ("sounds", SOUND_SUFFIXES) if sounds else ("images", IMAGE_SUFFIXES)
        found = sorted(
            p
            for p in item.rglob("*")
            if p.suffix.lower() in suffixes and not _hidden(p.relative_to(item))
        )
        if not found:
            raise DataError(
                f"{item}: no {kind} below this folder; looked for " + " ".join(sorted(suffixes))
            )
        return found
    if not item.exists():
        raise DataError(f"{item}: no such file or folder; check the path")
    return [item]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _groups(files: Sequence[Path], *, size: int) -> Iterator[list[Path]]:
    """Images or sounds by the batch, arrays one file at a time."""
    group: list[Path] = []
    for file in files:
        is_array = file.suffix.lower() in _ARRAY_SUFFIXES
        if group and (is_array or len(group) == size):
            yield group
            group = []
        if is_array:
            yield [file]
        else:
            group.append(file)
    if group:
        yield group


def _read_images(
    model: Model, files: Sequence[Path], corrupt: list[tuple[str, str]]
) -> tuple[list[str], list[RawImage]]:
    spec = model.media_input()
    if not isinstance(spec, ImageInput):
        raise UsageError("the model takes sounds, not images")
    names: list[str] = []
    images: list[RawImage] = []
    for file in files:
        try:
            images.append(fit(read_image(file, name=str(file)), spec))
        except CorruptSampleError as error:
            corrupt.append((str(file), str(error)))
        else:
            names.append(str(file))
    return names, images


def _embed_sound(
    model: Model, file: Path, corrupt: list[tuple[str, str]]
) -> NDArray[np.float32] | None:
    try:
        return model.embed_sound(file)
    except CorruptSampleError as error:
        corrupt.append((str(file), str(error)))
        return None


def _embed_array(model: Model, file: Path) -> NDArray[np.float32]:
    arrays = _load(file)
    expected = {spec.name for spec in model.manifest.inputs}
    try:
        if set(arrays) == expected and len(expected) > 1:
            outputs = model.run(arrays)
            first = outputs[model.manifest.outputs[0].name]
            return np.ascontiguousarray(first.reshape(len(first), -1), dtype=np.float32)
        if len(arrays) == 1:
            return model(next(iter(arrays.values())))
    except EdgeSSLError as error:
        raise type(error)(f"{file}: {error}") from error
    raise DataError(
        f"{file}: holds arrays {sorted(arrays)}, the model takes {sorted(expected)}; "
        "name them alike"
    )


def _load(file: Path) -> Mapping[str, Array]:
    try:
        if file.suffix.lower() == ".npz":
            return load_arrays(file.read_bytes(), where=str(file), max_bytes=_MAX_ARRAY_BYTES)
        return {"": np.load(file, allow_pickle=False)}
    except BundleError as error:
        raise DataError(str(error)) from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{file}: not a readable array ({error}); write it with numpy.save"
        ) from error
