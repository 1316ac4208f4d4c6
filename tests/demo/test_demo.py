"""The demo with very short training: everything that it promises is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from edgessl.demo import DemoReport, run_demo
from edgessl.progress import ProgressEvent
from edgessl.runtime import verify

SHORT = {
    "epochs": 1,
    "probe_epochs": 0,
    "view_seeds": 1,
    "threads": 1,
    "draws": 2,
    "restarts": 1,
    "blocks": 2,
    "block_seconds": 0.02,
    "warm_up_seconds": 0.05,
    "cold_starts": 1,
    "samples": 16,
    "held_out": 32,
    "min_fidelity": 0.1,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoReport, Path]:
    out = tmp_path_factory.mktemp("demo")
    return run_demo(out, overrides=SHORT), out


def test_scores_and_engines_are_all_there(demo: tuple[DemoReport, Path]) -> None:
    report, _ = demo
    assert [score.name for score in report.scores][:2] == ["raw pixels", "random features"]
    assert len(report.scores) == 6
    assert all(0.1 < score.accuracy <= 1 for score in report.scores)
    assert len(report.engines) == 5
    for row in report.engines:
        assert 0 < row.latency_p50_ms <= row.latency_p90_ms
        assert row.runs > 0
    by_name = {row.name: row for row in report.engines}
    for engine in ("onnxruntime", "OpenVINO"):
        assert by_name[f"{engine} INT8"].size_bytes < 0.5 * by_name[f"{engine} fp32"].size_bytes


def test_the_digits_are_those_of_scikit_learn(demo: tuple[DemoReport, Path]) -> None:
    _, out = demo
    with np.load(out / "digits.npz") as arrays:
        images = np.concatenate([arrays["x_train"], arrays["x_test"]])
    wanted = load_digits().images.reshape(len(images), -1)
    given = np.rint(images.reshape(len(images), -1) / 255 * 16)
    assert np.array_equal(given[np.lexsort(given.T)], wanted[np.lexsort(wanted.T)])


def test_the_picture_is_a_picture(demo: tuple[DemoReport, Path]) -> None:
    with Image.open(demo[0].picture) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1400, 560)
        assert np.asarray(picture.convert("RGB")).std() > 10


def test_the_bundle_proves_itself(demo: tuple[DemoReport, Path]) -> None:
    assert verify(Path(demo[0].bundle)).passed


def test_again_everything_is_cached(demo: tuple[DemoReport, Path]) -> None:
    first, out = demo
    said: list[ProgressEvent] = []
    again = run_demo(out, overrides=SHORT, progress=said.append)
    remarks = [event.message for event in said if event.message]
    assert remarks.count("unchanged, taken from the cache") == 17
    assert again == first
