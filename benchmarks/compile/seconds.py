"""How long ``edgessl compile`` takes: at first, from the cache, and after an interruption.

    python benchmarks/compile/seconds.py MODELS [--data IMAGES] [--model mobilenetv3_small_100]

MODELS is a folder that `timm_models.py` wrote. The command line compiles for ``host`` with 300
calibration images and 200 held out: with an empty cache (goal: under 90 s), again (under 3 s), and
with an empty cache once more, interrupted by Ctrl-C in the middle and started again. All three
bundles must be the same bytes but for what was measured: the cache of measurements is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from model_names import DATA

from edgessl.benchmarking.environment import fingerprint
from edgessl.files import write_json

RESULTS = Path(__file__).parents[1] / "results" / "compile_seconds.json"
PACKAGES = ("nncf", "onnx", "onnxruntime", "onnxslim", "openvino")
SAMPLES, HELD_OUT = 300, 200


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--model", default="mobilenetv3_small_100")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "cache"
        command = [sys.executable, "-m", "edgessl", "compile"]
        command += [str(arguments.models / f"{arguments.model}.onnx"), "--target", "host"]
        command += ["--calibration", str(arguments.data)]
        command += [f"samples={SAMPLES}", f"held_out={HELD_OUT}", "--out"]
        first = _compile(command, folder / "first.edge", cache)
        second = _compile(command, folder / "second.edge", cache)
        _forget(cache)
        half = _interrupt(command, folder / "third.edge", cache, after=first / 2)
        resumed = _compile(command, folder / "third.edge", cache)
        hashes = {
            hashlib.sha256((folder / f"{n}.edge").read_bytes()).hexdigest()
            for n in ("first", "second", "third")
        }
    result = {
        "schema_version": 1,
        "what": "seconds of edgessl compile --target host",
        "model": arguments.model,
        "calibration_samples": SAMPLES,
        "held_out_samples": HELD_OUT,
        "environment": fingerprint().model_dump(mode="json"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "first_s": round(first, 1),
        "from_cache_s": round(second, 2),
        "interrupted_after_s": round(half, 1),
        "resumed_s": round(resumed, 1),
        "same_bytes": len(hashes) == 1,
    }
    write_json(arguments.json, result)
    print(
        f"first {first:.1f} s (goal 90), from the cache {second:.2f} s (goal 3), interrupted after "
        f"{half:.1f} s and resumed in {resumed:.1f} s; same bytes: {result['same_bytes']}"
    )
    sys.exit(0 if first < 90 and second < 3 and result["same_bytes"] else 1)


def _compile(command: list[str], out: Path, cache: Path) -> float:
    start = time.perf_counter()
    subprocess.run(
        [*command, str(out)],
        env={**os.environ, "EDGESSL_CACHE": str(cache)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def _interrupt(command: list[str], out: Path, cache: Path, *, after: float) -> float:
    process = subprocess.Popen(
        [*command, str(out)],
        env={**os.environ, "EDGESSL_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    process.wait()
    if process.returncode == 0 or out.exists():
        raise SystemExit("it was done before it could be interrupted; use a larger model")
    return after


def _forget(cache: Path) -> None:
    """Everything but the measurements, which decide between candidates that are nearly equal."""
    for place in cache.iterdir():
        if place.name != "measurements":
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
