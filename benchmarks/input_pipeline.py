"""SimCLR views per second: edgessl's loader and lightly's SimCLRTransform, side by side.

Both make two views per image of the same files with the same settings and the same number of
worker processes, in blocks that alternate in random order. Each block starts its workers anew, so
that nothing prefetched in one block is counted in another, and is timed after the queue is warm.

    python benchmarks/input_pipeline.py ../shared/data/trashnet-192/train
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.transforms.simclr_transform import SimCLRTransform
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder

from edgessl.benchmarking.environment import fingerprint
from edgessl.data.augment import Augmentation, ImageViews
from edgessl.data.image import IMAGENET_MEAN, IMAGENET_STD
from edgessl.data.loader import TrainingLoader
from edgessl.data.source import Source, open_source
from edgessl.data.store import SampleStore, choose_canvas, decode_store
from edgessl.files import write_json
from edgessl.preprocessing import ImageInput

RESULT = Path(__file__).parent / "results" / "input_pipeline.json"
VIEWS = 2
WARM_UP = 8  # more than the workers prefetch, so that the timed batches are made while timed

# The defaults of lightly's SimCLRTransform, written out for both.
CROP = (0.08, 1.0)
COLOUR = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
SIGMA = (0.1, 2.0)


def reference_batches(arguments: argparse.Namespace, seed: int) -> Iterator[Any]:
    """Endless batches of lightly's views, decoded and augmented per sample in the workers."""
    transform = SimCLRTransform(
        input_size=arguments.image_size,
        cj_prob=0.8,
        cj_strength=1.0,
        cj_bright=COLOUR["brightness"],
        cj_contrast=COLOUR["contrast"],
        cj_sat=COLOUR["saturation"],
        cj_hue=COLOUR["hue"],
        min_scale=CROP[0],
        random_gray_scale=0.2,
        gaussian_blur=0.5,
        sigmas=SIGMA,
    )
    dataset = ImageFolder(str(arguments.data), transform)
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(dataset, replacement=True, num_samples=1 << 30, generator=generator)
    loader = DataLoader(
        dataset,
        batch_size=arguments.batch_size,
        sampler=sampler,
        num_workers=arguments.workers,
        prefetch_factor=2,
    )
    yield from loader  # its workers end when this generator is closed and lets go of them


def our_views(arguments: argparse.Namespace) -> ImageViews:
    """The same augmentation as ours."""
    one = Augmentation(CROP, flip=0.5, jitter=0.8, **COLOUR, grayscale=0.2, blur=0.5, sigma=SIGMA)
    side = arguments.image_size
    spec = ImageInput(channels=3, height=side, width=side, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return ImageViews([one, one], spec, seed=arguments.seed)


def our_batches(store: SampleStore, arguments: argparse.Namespace, seed: int) -> Iterator[Any]:
    """Endless batches of our views."""
    loader = TrainingLoader(
        store,
        our_views(arguments),
        batch_size=arguments.batch_size,
        seed=seed,
        num_workers=arguments.workers,
    )
    yield from loader.batches(0)


def decode(source: Source, arguments: argparse.Namespace, cache: Path) -> SampleStore:
    """Decode every file once, into a file."""
    return decode_store(
        source,
        channels=3,
        canvas=choose_canvas(source, arguments.image_size),
        cache_dir=cache,
        num_workers=arguments.workers,
    )


def views_per_second(batches: Iterator[Any], count: int, batch_size: int) -> float:
    """Rate over ``count`` batches after the warm-up."""
    for _ in islice(batches, WARM_UP):
        pass
    start = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return count * batch_size * VIEWS / (time.perf_counter() - start)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, extremes and count."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Geometric mean of the paired ratios with a 95 % t-interval."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    quantile = {5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
    half = quantile.get(len(logs) - 1, 2.0) * statistics.stdev(logs) / math.sqrt(len(logs))
    mean = statistics.mean(logs)
    return {
        "mean": math.exp(mean),
        "low95": math.exp(mean - half),
        "high95": math.exp(mean + half),
        "min": math.exp(min(logs)),
        "max": math.exp(max(logs)),
    }


def profile_views(store: SampleStore, arguments: argparse.Namespace) -> dict[str, Any]:
    """Where one core's time goes: microseconds per view of each operation, one thread."""
    views = our_views(arguments)
    batch = store.fetch(np.arange(min(256, len(store))))
    made = len(batch.indices) * VIEWS
    views(batch, 0)
    start = time.perf_counter()
    for epoch in range(5):
        views(batch, epoch)
    total = (time.perf_counter() - start) / 5 / made * 1e6
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        views(batch, 0)
    operations = {
        row.key: row.self_cpu_time_total / made
        for row in sorted(recorded.key_averages(), key=lambda r: -r.self_cpu_time_total)[:10]
    }
    return {"us_per_view": total, "us_per_view_by_operation": operations}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "data",
        type=Path,
        nargs="?",
        default=Path(__file__).parents[2] / "shared" / "data" / "trashnet-192" / "train",
        help="a folder with one folder of images per class",
    )
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"{arguments.data}: no such folder; left out. Pass a folder of images")
        return
    torch.set_num_threads(1)
    source = open_source(arguments.data).train
    environment = fingerprint().model_dump()

    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for repeat in range(3):
            start = time.perf_counter()
            store = decode(source, arguments, Path(folder) / str(repeat))
            seconds.append(time.perf_counter() - start)
        rates = measure(store, arguments)
        profiled = profile_views(store, arguments)

    result = report(rates, seconds, len(store))
    settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "data")}
    result |= {
        "data": {"name": arguments.data.resolve().parent.name, "files": len(store)},
        "settings": settings | {"augmentation": {"crop": CROP, "sigma": SIGMA, **COLOUR}},
        "profile": profiled,
        "environment": environment,
        "versions": {n: version(n) for n in ("lightly", "torch", "torchvision", "pillow", "numpy")},
    }
    write_json(arguments.out, result)
    ratio = result["ratio"]
    print(
        f"edgessl {result['edgessl_views_per_s']['median']:.0f} views/s, lightly "
        f"{result['lightly_views_per_s']['median']:.0f}, ratio {ratio['mean']:.2f} "
        f"({ratio['low95']:.2f} to {ratio['high95']:.2f}); decoding once takes "
        f"{result['decode_once_s']['median']:.2f} s"
    )


def measure(store: SampleStore, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Rates of both, one pair of blocks per repeat, each pair in random order."""
    # About two seconds per block for either.
    arms: dict[str, tuple[int, Callable[[int], Iterator[Any]]]] = {
        "edgessl": (48, lambda seed: our_batches(store, arguments, seed)),
        "lightly": (16, lambda seed: reference_batches(arguments, seed)),
    }
    order = random.Random(arguments.seed)
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(arguments.repeats):
        for name in order.sample(sorted(arms), len(arms)):
            count, start = arms[name]
            with closing(start(arguments.seed + repeat)) as batches:  # type: ignore[type-var]
                rates[name].append(views_per_second(batches, count, arguments.batch_size))
    return rates


def report(
    rates: dict[str, list[float]], decode_seconds: list[float], files: int
) -> dict[str, Any]:
    """Rates, their ratio, and the ratio with the one-time decoding counted in."""
    ours, theirs = (statistics.median(rates[name]) for name in ("edgessl", "lightly"))
    once = statistics.median(decode_seconds)

    def with_decoding(epochs: int) -> float:
        views = files * VIEWS * epochs
        return (views / theirs) / (views / ours + once)

    return {
        "edgessl_views_per_s": spread(rates["edgessl"]),
        "lightly_views_per_s": spread(rates["lightly"]),
        "ratio": ratio_interval(rates["edgessl"], rates["lightly"]),
        "decode_once_s": spread(decode_seconds),
        "ratio_with_decoding_by_epochs": {str(e): with_decoding(e) for e in (1, 2, 10, 100)},
    }


if __name__ == "__main__":
    main()
