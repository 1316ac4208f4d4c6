"""Batches of views for the trainer: step s is the same batch in every run, rank and worker."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from edgessl.data.batch import Batch, RawBatch
from edgessl.data.modality import Views
from edgessl.data.random import permutation
from edgessl.data.store import SampleStore
from edgessl.errors import DataError, UnavailableError, UsageError

__all__ = ["Batch", "TrainingLoader"]

_PREFETCH = 2

_Drawn = Generator[tuple[int, "RawBatch | Batch"], None, None]


class TrainingLoader:
    """Draws batches from a store and makes their views.

    With workers, views are made in them, or on ``device`` if that is a GPU; without, in this
    process.

    Args:
        store: Decoded samples.
        views: Makes the views.
        batch_size: Samples per step over all ranks.
        seed: Decides the order of the samples.
        rank: This process, from 0.
        world_size: Number of processes; each takes its share of every batch.
        num_workers: Worker processes; 0 is none.
        views_cycle: Repeat the views after so many epochs; None never repeats them.
        device: Where views are made if it is a GPU.

    Attributes:
        steps_per_epoch: Batches per pass; an incomplete last one is left out.

    Raises:
        DataError: The store has fewer samples than a batch.
        UsageError: ``batch_size`` is not a multiple of ``world_size``.
    """

    def __init__(
        self,
        store: SampleStore,
        views: Views,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        views_cycle: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        if batch_size % world_size:
            raise UsageError(
                f"batch_size {batch_size} cannot be shared by {world_size} processes; choose a "
                f"multiple of {world_size}"
            )
        if len(store) < batch_size:
            raise DataError(
                f"{len(store)} samples are fewer than one batch of {batch_size}; set "
                f"batch_size={_largest_power_of_two(len(store))} or give more data"
            )
        self.steps_per_epoch = len(store) // batch_size
        order = _Order(len(store), batch_size, seed, rank, world_size)
        on_gpu = device is not None and device.type != "cpu"
        self._device = device if on_gpu else None
        self._num_workers = num_workers
        self._finish = _ViewMaker(views, views_cycle)
        self._items = _Items(store, order, None if on_gpu else self._finish)

    def batches(self, start_step: int) -> Generator[Batch, None, None]:
        """Batches from a step on, without end; close the iterator to end its workers.

        Args:
            start_step: Step of the first batch, from 0; its epoch is step // steps_per_epoch.

        Raises:
            UnavailableError: A worker process died.
        """
        with closing(self._draw(start_step)) as items:
            for epoch, item in items:
                if isinstance(item, Batch):
                    yield item
                else:
                    yield self._finish(item.to(self._device or item.samples.device), epoch)

    def _draw(self, start_step: int) -> _Drawn:
        if self._num_workers == 0:
            yield from map(self._items.__getitem__, count(start_step))
        else:
            yield from self._draw_with_workers(start_step)

    def _draw_with_workers(self, start_step: int) -> _Drawn:
        loader = DataLoader(
            self._items,
            batch_size=None,
            sampler=_StepsFrom(start_step),
            num_workers=self._num_workers,
            prefetch_factor=_PREFETCH,
            # Its own generator: the loader must not draw from the one that training uses.
            generator=torch.Generator().manual_seed(0),
        )
        iterator = _MultiProcessingDataLoaderIter(loader)
        try:
            yield from iterator
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise UnavailableError(
                f"a loader process died ({reason}); set num_workers=0, or give the machine or "
                "container more memory and shared memory"
            ) from error
        finally:
            # Not left to the garbage collector: no process outlives its iterator.
            iterator._shutdown_workers()


class _Order:
    """Which samples make up this rank's part of each step."""

    def __init__(self, samples: int, batch_size: int, seed: int, rank: int, ranks: int) -> None:
        self._samples, self._batch_size, self._seed = samples, batch_size, seed
        share = batch_size // ranks
        self._part = slice(rank * share, (rank + 1) * share)
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __call__(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Epoch of a step, and store indices of its samples."""
        epoch, position = divmod(step, self._samples // self._batch_size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = permutation(self._seed, epoch, self._samples)
        start = position * self._batch_size
        return epoch, self._permutation[start : start + self._batch_size][self._part]


class _ViewMaker:
    """Views of a batch, repeating after a number of epochs."""

    def __init__(self, views: Views, cycle: int | None) -> None:
        self._views, self._cycle = views, cycle

    def __call__(self, batch: RawBatch, epoch: int) -> Batch:
        epoch = epoch if self._cycle is None else epoch % self._cycle
        return Batch(self._views(batch, epoch), batch.indices)


class _Items(Dataset[tuple[int, "RawBatch | Batch"]]):
    """Step → its epoch and batch; the views are made here if there is something to make them."""

    def __init__(self, store: SampleStore, order: _Order, finish: _ViewMaker | None) -> None:
        self._store, self._order, self._finish = store, order, finish

    def __getitem__(self, step: int) -> tuple[int, RawBatch | Batch]:
        epoch, indices = self._order(step)
        batch = self._store.fetch(indices)
        return epoch, batch if self._finish is None else self._finish(batch, epoch)


class _StepsFrom(Sampler[int]):
    """All steps from one on."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __iter__(self) -> Iterator[int]:
        return count(self._start)


def _largest_power_of_two(number: int) -> int:
    return 1 << max(number.bit_length() - 1, 0)
