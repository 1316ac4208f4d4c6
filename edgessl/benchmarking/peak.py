"""What this CPU does at best, measured in a process of its own.

``python -m edgessl.benchmarking.peak THREADS [CPU,CPU…]`` prints JSON. The parent sets the
variables that numpy's threads go by, since numpy reads them when it is imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from edgessl.benchmarking.probing import text

__all__ = ["main"]

_MATRIX = 1024
_SECONDS = 0.6
_LEAST_RUNS = 5
_CHUNK = 1 << 15  # 128 KiB of float32, so that the product of a chunk stays in the cache
_LEAST_BYTES, _MEMORY_SHARE, _ARRAYS = 32 << 20, 16, 3

Floats = NDArray[np.float32]


def main() -> None:
    """Measure and answer on the standard output."""
    threads = int(sys.argv[1])
    cpus = [int(word) for word in "".join(sys.argv[2:]).split(",") if word]
    if cpus:
        os.sched_setaffinity(0, cpus)
    found = {"flops_per_s": _matrix_product(), "bytes_per_s": _triad(threads)}
    sys.stdout.write(json.dumps(found) + "\n")


def _matrix_product() -> float:
    """Operations a second of a square float32 product."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_MATRIX, _MATRIX), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)

    def product() -> None:
        np.matmul(a, b, out=out)

    return 2 * _MATRIX**3 / _least_seconds(product)


def _triad(threads: int) -> float:
    """Bytes a second of ``a = b + 3 c``: two arrays are read and one is written.

    Source: McCalpin: STREAM. Arrays are four times the cache where the memory allows it.
    """
    size = max(_LEAST_BYTES, 4 * _cache_bytes())
    size = min(size, psutil.virtual_memory().available // _MEMORY_SHARE)
    count = max(1, int(size) // 4 // threads // _CHUNK) * _CHUNK
    parts = [tuple(np.full(count, n, np.float32) for n in range(_ARRAYS)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def triad() -> None:
            list(pool.map(_one_triad, parts))

        return threads * count * 4 * _ARRAYS / _least_seconds(triad)


def _one_triad(arrays: tuple[Floats, ...]) -> None:
    a, b, c = arrays
    scaled = np.empty(_CHUNK, np.float32)
    for start in range(0, a.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        np.multiply(c[chunk], np.float32(3), out=scaled)
        np.add(b[chunk], scaled, out=a[chunk])


def _cache_bytes() -> int:
    """Of the last level of the first CPU; 0 where the system does not say."""
    sizes = [0]
    for place in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        word = (text(place) or "").upper()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(word[-1:], 0)
        if unit and word[:-1].isdecimal():
            sizes.append(int(word[:-1]) * unit)
    return max(sizes)


def _least_seconds(call: Callable[[], None]) -> float:
    """Of one call. A peak is what the CPU reaches when nobody else slows it down."""
    call()  # threads start, pages are mapped
    times: list[float] = []
    while sum(times) < _SECONDS or len(times) < _LEAST_RUNS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
