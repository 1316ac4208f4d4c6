"""What an account looks at: samples as the training showed them, and as it never did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgessl.data.modality import Modality
from edgessl.data.source import Source, Splits
from edgessl.data.store import SampleStore
from edgessl.errors import DataError
from edgessl.evaluation.embedders import Embedder
from edgessl.evaluation.neighbours import unit_rows
from edgessl.files import sha256_json
from edgessl.preprocessing import ImageInput, RawImage
from edgessl.progress import Progress, ProgressEvent

__all__ = ["FEWEST", "PartSamples", "choose_parts", "embed", "embed_teachers"]

FEWEST = 16
"""Fewer samples than this say nothing."""

_FRESH = 1 << 20
"""An epoch that no training reaches, so that its views were never drawn."""


@dataclass(frozen=True)
class PartSamples:
    """Samples of one part, shown through one view each.

    Attributes:
        store: The decoded samples.
        rows: (N,) those of the store that are looked at.
        modality: Makes the views.
        view_seed: The training's seed, by which its views were drawn.
        epoch: Which of the views.
    """

    store: SampleStore
    rows: NDArray[np.int64]
    modality: Modality
    view_seed: int
    epoch: int

    @property
    def keys(self) -> list[str]:
        """Names of the samples."""
        return [self.store.keys[row] for row in self.rows]

    @property
    def identity(self) -> str:
        """Hash of everything that decides what a model is shown, but for its input."""
        hashes = [self.store.content_hashes[row] for row in self.rows]
        options = self.modality.options.model_dump(mode="json")
        return sha256_json([hashes, options, self.view_seed, self.epoch])

    def view(self, rows: NDArray[np.int64], spec: ImageInput) -> RawImage:
        """Views at a model's size, rounded to whole pixel values as a device is given them."""
        plain = {"mean": (0.0,) * spec.channels, "std": (1.0,) * spec.channels}
        bare = {"value_range": (0.0, 1.0), "channel_order": "rgb", "layout": None, "folded": False}
        views = self.modality.views(
            "distill", spec.model_copy(update={**plain, **bare}), seed=self.view_seed
        )
        dtype = self.store.samples.dtype
        values = views(self.store.fetch(rows), self.epoch)[0].numpy()
        raw: RawImage = np.rint(values.clip(0.0, 1.0) * np.iinfo(dtype).max).astype(dtype)
        return np.ascontiguousarray(raw.transpose(0, 2, 3, 1))


def choose_parts(
    splits: Splits,
    modality: Modality,
    spec: ImageInput,
    *,
    samples: int,
    seed: int,
    view_seed: int,
    progress: Progress,
) -> tuple[PartSamples, PartSamples, Literal["declared", "fresh views"]]:
    """Choose as many samples of the training part as of the held-out part.

    Held out is the data's own validation part, else its test part; labels are not read. Where
    the data declare neither, or too little of it, the training samples are shown again in views
    that no epoch drew.

    Args:
        splits: The data that the run was trained on.
        modality: With the settings of the training.
        spec: The student's input.
        samples: How many of each part, at most.
        seed: Chooses them.
        view_seed: Seed of the training's views.
        progress: Told of decoding.

    Raises:
        DataError: Fewer than `FEWEST` samples.
    """
    held = next((s for s in (splits.val, splits.test) if s is not None and len(s) >= FEWEST), None)
    count = min(samples, len(splits.train), len(held) if held is not None else samples)
    stores = [
        _decode(source, modality, spec, count, seed, progress)
        for source in (splits.train, held)
        if source is not None
    ]
    count = min(len(store) for store in stores)
    if count < FEWEST:
        raise DataError(
            f"{splits.path}: an account needs {FEWEST} samples or more, found {count}; give more"
        )
    rows = np.arange(count)
    train = PartSamples(stores[0], rows, modality, view_seed, 0)
    if len(stores) == 2:
        return train, PartSamples(stores[1], rows, modality, view_seed, 0), "declared"
    return train, PartSamples(stores[0], rows, modality, view_seed, _FRESH), "fresh views"


def _decode(
    source: Source, modality: Modality, spec: ImageInput, count: int, seed: int, progress: Progress
) -> SampleStore:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:count])
    return modality.prepare(
        source.subset(chosen),
        spec,
        cache_dir=None,
        num_workers=0,
        max_corrupt=1.0,
        progress=progress,
    )


def embed(
    embedder: Embedder, part: PartSamples, *, batch_size: int, progress: Progress
) -> NDArray[np.float32]:
    """Embed a part: (N, D) float32.

    Raises:
        DataError: An embedding is not finite.
    """
    parts = []
    for start in range(0, len(part.rows), batch_size):
        progress(ProgressEvent(f"account {embedder.name}", start, len(part.rows), "samples"))
        rows = part.rows[start : start + batch_size]
        parts.append(np.asarray(embedder.embed(part.view(rows, embedder.spec)), dtype=np.float32))
    progress(ProgressEvent(f"account {embedder.name}", len(part.rows), len(part.rows), "samples"))
    embeddings = np.concatenate(parts)
    if not np.isfinite(embeddings).all():
        raise DataError(
            f"{embedder.name}: embeddings are NaN or infinite; train or compile it again in fp32"
        )
    return embeddings


def embed_teachers(
    teachers: Sequence[Embedder], part: PartSamples, **how: Any
) -> NDArray[np.float16]:
    """Embed a part with all teachers at once: (N, ΣD) float16.

    Each teacher's embedding is brought to unit length and all are put side by side, so that the
    cosine of two samples is the mean of the teachers' cosines. Half precision is what the training
    was given.
    """
    sides = [unit_rows(embed(teacher, part, **how)) for teacher in teachers]
    joint: NDArray[np.float16] = (np.concatenate(sides, axis=1) / len(sides) ** 0.5).astype(
        np.float16
    )
    return joint
