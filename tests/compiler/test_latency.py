"""The measured choice: remembered, preferring precision, surviving a bad contender."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler.calibration import ArrayCalibration, store
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.latency import Contender, Ranking, rank
from edgessl.files import cache_directory, sha256_file
from edgessl.progress import ProgressEvent


class Bench:
    """Two engines' worth of files and a place to measure them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "prepared.onnx"
        info = prepare_graph(write_cnn(folder / "cnn.onnx"), self.model, batch_size=1)
        self.events: list[ProgressEvent] = []
        self._samples = store(
            ArrayCalibration({"images": cnn_inputs(16)}),
            np.arange(16),
            info,
            folder / "samples",
            progress=self.events.append,
        )

    def contender(
        self, name: str, *, eligible: bool = True, model: Path | None = None
    ) -> Contender:
        path = model or self.model
        digest = sha256_file(path) if path.exists() else "0" * 64
        return Contender(name, "onnxruntime", "1", path, {"threads": 1}, digest, eligible)

    def rank(self, *contenders: Contender, remeasure: bool = False) -> Ranking:
        return rank(
            contenders,
            samples=self._samples.folder,
            folder=self.folder,
            remeasure=remeasure,
            progress=self.events.append,
        )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edgessl.compiler.latency._WARM_UP_MS", 1.0)
    monkeypatch.setattr("edgessl.compiler.latency._BLOCK_MS", 1.0)
    return Bench(tmp_path)


def test_a_measurement_is_remembered_until_asked_anew(bench: Bench) -> None:
    pair = bench.contender("a"), bench.contender("b")
    first = bench.rank(*pair)
    assert set(first.latencies) == {"a", "b"}
    assert all(0 < x.p50_ms <= x.p90_ms for x in first.latencies.values())
    assert bench.rank(*pair) == first
    assert bench.rank(*pair, remeasure=True) != first


def test_another_file_is_measured_anew(bench: Bench) -> None:
    bench.rank(bench.contender("a"), bench.contender("b"))
    other = write_cnn(bench.folder / "other.onnx", batch=1, seed=5)
    bench.rank(bench.contender("a"), bench.contender("b", model=other))
    assert len(list(cache_directory("measurements").iterdir())) == 2


def test_a_damaged_memory_is_measured_again(bench: Bench) -> None:
    pair = bench.contender("a"), bench.contender("b")
    bench.rank(*pair)
    (place,) = cache_directory("measurements").iterdir()
    place.write_text("{")
    bench.rank(*pair)
    assert any("measuring again" in (e.message or "") for e in bench.events)
    assert set(json.loads(place.read_text())["latencies"]) == {"a", "b"}


def test_only_the_eligible_win(bench: Bench) -> None:
    ranking = bench.rank(bench.contender("rejected", eligible=False), bench.contender("passed"))
    assert ranking.winner == "passed"
    assert "rejected" in ranking.latencies


def test_of_equals_the_first_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgessl.compiler.latency._MIN_GAIN", 0.9)
    ranking = bench.rank(*(bench.contender(name) for name in "abc"))
    assert ranking.winner == "a"


def test_a_contender_that_fails_is_left_out(bench: Bench) -> None:
    missing = bench.contender("missing", model=bench.folder / "none.onnx")
    ranking = bench.rank(bench.contender("a"), missing, bench.contender("b"))
    assert set(ranking.latencies) == {"a", "b"}
    assert any("missing fails" in (e.message or "") for e in bench.events)


def test_an_unwritable_cache_is_a_warning(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESSL_CACHE", str(bench.model))
    ranking = bench.rank(bench.contender("a"), bench.contender("b"))
    assert ranking.winner in ("a", "b")
    assert any("not remembered" in (e.message or "") for e in bench.events)
