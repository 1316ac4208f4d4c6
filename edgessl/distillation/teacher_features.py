"""Teacher embeddings on the disk: the teacher runs once per sample and view seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgessl.data.modality import Modality
from edgessl.data.store import SampleStore
from edgessl.files import atomic_path
from edgessl.models import Encoder
from edgessl.progress import Progress, ProgressEvent

__all__ = ["teacher_features"]

_BATCH = 64


def teacher_features(
    teacher: Encoder,
    store: SampleStore,
    modality: Modality,
    *,
    seed: int,
    view_seeds: int,
    folder: Path | None,
    progress: Progress,
) -> Tensor:
    """Embed every view that the student is going to see.

    A table per view seed holds rows of (content hash, float16 embedding); samples that a table
    knows are not embedded again, whatever file or data set they come from.

    Args:
        teacher: The frozen teacher, in eval mode, on the device where it is to run.
        store: The decoded samples.
        modality: Makes the views, the same for teacher and student.
        seed: Of the views.
        view_seeds: K, how many views of each sample.
        folder: Where the tables of this teacher and these views are; None keeps nothing.
        progress: Told how far it is.

    Returns:
        (K, N, D) float16 on the CPU, in the store's order.
    """
    views = modality.views("distill", teacher.spec, seed=seed)
    hashes = np.array([bytes.fromhex(text) for text in store.content_hashes], dtype="S32")
    device = next(teacher.parameters()).device
    all_rows = []
    for view_seed in range(view_seeds):
        path = None if folder is None else folder / f"view-{view_seed:04d}.npy"
        table = _read_table(path, teacher.dim)
        known = {bytes(key).ljust(32, b"\0"): row for row, key in enumerate(table["hash"])}
        missing = [i for i, key in enumerate(hashes) if bytes(key).ljust(32, b"\0") not in known]
        parts = [np.empty((0, teacher.dim), dtype=np.float16)]
        for start in range(0, len(missing), _BATCH):
            batch = store.fetch(np.asarray(missing[start : start + _BATCH], dtype=np.int64))
            with torch.inference_mode():
                embedded = teacher(views(batch, view_seed)[0].to(device))
            parts.append(embedded.float().cpu().numpy().astype(np.float16))
            done = view_seed * len(store) + len(store) - len(missing) + start
            progress(ProgressEvent("teacher", done, view_seeds * len(store), "samples"))
        if missing:
            table = _append(table, hashes[missing], np.concatenate(parts))
            _write_table(path, table)
            known = {bytes(key).ljust(32, b"\0"): row for row, key in enumerate(table["hash"])}
        rows = [known[bytes(key).ljust(32, b"\0")] for key in hashes]
        all_rows.append(np.ascontiguousarray(table["embedding"][rows]))
    total = view_seeds * len(store)
    progress(ProgressEvent("teacher", total, total, "samples"))
    return torch.from_numpy(np.stack(all_rows))


def _row_type(dim: int) -> np.dtype[np.void]:
    return np.dtype([("hash", "S32"), ("embedding", "<f2", (dim,))])


def _read_table(path: Path | None, dim: int) -> NDArray[np.void]:
    """A damaged or foreign table is as good as none: it is rebuilt."""
    empty: NDArray[np.void] = np.empty(0, dtype=_row_type(dim))
    if path is None or not path.is_file():
        return empty
    try:
        table: NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return empty
    return table if table.dtype == empty.dtype and table.ndim == 1 else empty


def _append(
    table: NDArray[np.void], hashes: NDArray[np.bytes_], embeddings: NDArray[np.float16]
) -> NDArray[np.void]:
    added: NDArray[np.void] = np.empty(len(hashes), dtype=table.dtype)
    added["hash"], added["embedding"] = hashes, embeddings
    return np.concatenate([table, added])


def _write_table(path: Path | None, table: NDArray[np.void]) -> None:
    if path is not None:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, table, allow_pickle=False)
