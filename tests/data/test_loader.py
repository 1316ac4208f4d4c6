from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from edgessl.data.batch import RawBatch
from edgessl.data.image import ImageModality, ImageOptions
from edgessl.data.loader import Batch, TrainingLoader
from edgessl.data.modality import Views
from edgessl.data.source import open_source
from edgessl.data.store import SampleStore
from edgessl.errors import DataError, UnavailableError, UsageError

from .conftest import smooth_images


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[SampleStore, Views]:
    """A store of 21 mapped samples and its contrastive views."""
    root = tmp_path_factory.mktemp("loader")
    np.savez(root / "a.npz", x=smooth_images(21, 32, 32))
    source = open_source(root / "a.npz").train
    modality = ImageModality(ImageOptions(image_size=16))
    spec = modality.input_spec(source, mean_std=None)
    store = modality.prepare(source, spec, cache_dir=root, num_workers=1)
    return store, modality.views("contrastive", spec, seed=3)


def take(
    parts: tuple[SampleStore, Views], count: int, *, start: int = 0, **settings: Any
) -> list[Batch]:
    loader = TrainingLoader(*parts, **({"batch_size": 8, "seed": 5} | settings))
    with closing(loader.batches(start)) as batches:
        return list(islice(batches, count))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert one.indices.tolist() == two.indices.tolist()
        for a, b in zip(one.views, two.views, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_an_epoch_holds_each_sample_at_most_once(parts: tuple[SampleStore, Views]) -> None:
    loader = TrainingLoader(*parts, batch_size=8, seed=5)
    assert loader.steps_per_epoch == 2
    epochs = [take(parts, 2, start=2 * epoch) for epoch in range(2)]
    orders = [torch.cat([batch.indices for batch in epoch]).tolist() for epoch in epochs]
    assert all(len(set(order)) == 16 for order in orders)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("start", [1, 2, 5])
def test_resuming_repeats_what_would_have_come(
    parts: tuple[SampleStore, Views], start: int
) -> None:
    assert_same(take(parts, 7)[start:], take(parts, 7 - start, start=start))


def test_ranks_share_the_batch_of_one_process(parts: tuple[SampleStore, Views]) -> None:
    whole = take(parts, 4)
    ranks = [take(parts, 4, rank=rank, world_size=2) for rank in range(2)]
    joined = [
        Batch(
            tuple(torch.cat(pair) for pair in zip(a.views, b.views, strict=True)),
            torch.cat([a.indices, b.indices]),
        )
        for a, b in zip(*ranks, strict=True)
    ]
    assert_same(joined, whole)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(parts: tuple[SampleStore, Views], num_workers: int) -> None:
    assert_same(take(parts, 5, num_workers=num_workers), take(parts, 5))


def test_workers_leave_the_global_generator_alone(parts: tuple[SampleStore, Views]) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    take(parts, 2, num_workers=1)
    assert torch.equal(torch.rand(3), expected)


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def test_workers_end_with_their_iterator(parts: tuple[SampleStore, Views]) -> None:
    before = children()
    batches = TrainingLoader(*parts, batch_size=8, seed=5, num_workers=2).batches(0)
    next(batches)
    assert len(children() - before) >= 2
    batches.close()
    assert children() - before == set()


def fail_after_a_batch(loader: TrainingLoader) -> None:
    with closing(loader.batches(0)) as batches:
        next(batches)
        raise ZeroDivisionError


def test_workers_end_when_the_consumer_fails(parts: tuple[SampleStore, Views]) -> None:
    before = children()
    with pytest.raises(ZeroDivisionError):
        fail_after_a_batch(TrainingLoader(*parts, batch_size=8, seed=5, num_workers=2))
    assert children() - before == set()


def test_views_repeat_after_their_cycle(parts: tuple[SampleStore, Views]) -> None:
    batches = take(parts, 8, views_cycle=2)
    seen: dict[tuple[int, int], list[Tensor]] = {}
    for step, batch in enumerate(batches):
        for row, index in enumerate(batch.indices.tolist()):
            seen.setdefault((index, (step // 2) % 2), []).append(batch.views[0][row])
    repeated = [views for views in seen.values() if len(views) == 2]
    assert len(repeated) > 10
    for first, second in repeated:
        torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_too_few_samples(parts: tuple[SampleStore, Views]) -> None:
    with pytest.raises(
        DataError, match=r"21 samples are fewer than one batch of 32.*batch_size=16"
    ):
        TrainingLoader(*parts, batch_size=32, seed=0)


def test_a_batch_that_cannot_be_shared(parts: tuple[SampleStore, Views]) -> None:
    with pytest.raises(UsageError, match="multiple of 3"):
        TrainingLoader(*parts, batch_size=8, seed=0, world_size=3)


class FailingViews(Views):
    count = 1

    def __call__(self, batch: RawBatch, epoch: int) -> tuple[Tensor, ...]:
        raise DataError("sample 7 cannot be augmented")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_worker_arrives(parts: tuple[SampleStore, Views], num_workers: int) -> None:
    with pytest.raises(DataError, match="sample 7 cannot be augmented"):
        take((parts[0], FailingViews()), 1, num_workers=num_workers)


class DyingViews(Views):
    count = 1

    def __call__(self, batch: RawBatch, epoch: int) -> tuple[Tensor, ...]:
        os.kill(os.getpid(), signal.SIGKILL)
        return ()


def test_a_worker_that_dies_is_named(parts: tuple[SampleStore, Views]) -> None:
    with pytest.raises(UnavailableError, match=r"a loader process died.*num_workers=0"):
        take((parts[0], DyingViews()), 1, num_workers=1)


def test_interruption_ends_all_processes(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group, as in a terminal."""
    np.savez(tmp_path / "a.npz", x=smooth_images(8, 16, 16))
    script = textwrap.dedent(
        f"""
        from contextlib import closing
        from edgessl.data.image import ImageModality, ImageOptions
        from edgessl.data.loader import TrainingLoader
        from edgessl.data.source import open_source
        source = open_source({str(tmp_path / "a.npz")!r}).train
        modality = ImageModality(ImageOptions(image_size=16))
        spec = modality.input_spec(source, mean_std=None)
        store = modality.prepare(source, spec, cache_dir=None, num_workers=1)
        views = modality.views("crop", spec, seed=0)
        loader = TrainingLoader(store, views, batch_size=4, seed=0, num_workers=2)
        try:
            with closing(loader.batches(0)) as batches:
                for _ in batches:
                    print("batch", flush=True)
        except KeyboardInterrupt:
            print("stopped", flush=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "batch\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "stopped"
    # A thread of multiprocessing, which hands batches over, may find a worker gone in the middle of
    # a handshake and say so; that is no interruption that nobody has caught.
    assert "KeyboardInterrupt" not in errors
    deadline = time.monotonic() + 30
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(child.is_running() for child in children)
