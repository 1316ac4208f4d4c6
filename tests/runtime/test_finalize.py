"""`finalize`: the fastest setting goes into the bundle, and nothing bad is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgessl
from contracts.tiny_bundle import expected, samples, write_bundle
from edgessl.bundle.archive import open_bundle
from edgessl.cli.main import main
from edgessl.errors import BundleError, GateError, UsageError
from edgessl.files import sha256_file
from edgessl.runtime import finalize, verify
from edgessl.runtime.finalize.measuring import Setting, choose
from edgessl.runtime.finalize.strategies import thread_counts


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_portable_bundle_becomes_native(tmp_path: Path, engine: str) -> None:
    path = write_bundle(tmp_path / "tiny.edge", engine=engine, kind="portable")
    before = sha256_file(path)
    report = finalize(path, tmp_path / "native.edge", threads=[1, 2], rounds=1)
    assert sha256_file(path) == before
    assert {s.options["threads"] for s in report.settings} == {1, 2}
    assert report.chosen in report.settings
    with open_bundle(tmp_path / "native.edge") as bundle:
        manifest = bundle.manifest
    assert manifest.kind == "native"
    assert manifest.engine.options == report.chosen.options
    assert manifest.provenance.lineage["finalized_from"] == before
    tried = [c for c in manifest.candidates if c.name.startswith("finalize ")]
    assert len(tried) == len(report.settings)
    assert [c.status for c in tried].count("chosen") == 1
    assert verify(tmp_path / "native.edge").passed
    with edgessl.load(tmp_path / "native.edge") as model:
        np.testing.assert_allclose(model(samples(3)), expected(samples(3)), rtol=1e-4, atol=1e-6)


def test_in_place_and_again(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "tiny.edge")
    finalize(path, threads=[1, 2], rounds=1)
    finalize(path, threads=[1], rounds=1)
    with open_bundle(path) as bundle:
        names = [c.name for c in bundle.manifest.candidates]
        assert names == ["finalize intra_op_spinning=false threads=1"]
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.edge"]


def test_a_device_that_computes_something_else_writes_nothing(tmp_path: Path) -> None:
    wrong = -expected(samples(4)).astype(np.float32)
    path = write_bundle(tmp_path / "tiny.edge", canary_outputs=wrong)
    before = sha256_file(path)
    with pytest.raises(GateError, match="nothing was written"):
        finalize(path, threads=[1], rounds=1)
    assert sha256_file(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.edge"]


def test_without_canaries_it_cannot_measure(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no canaries"):
        finalize(write_bundle(tmp_path / "tiny.edge", canaries=None))


@pytest.mark.parametrize(("threads", "rounds"), [([0], 1), ([-1], 1), ([1], 0)])
def test_nonsense_is_refused(tmp_path: Path, threads: list[int], rounds: int) -> None:
    with pytest.raises(UsageError):
        finalize(tmp_path / "tiny.edge", threads=threads, rounds=rounds)


def setting(threads: int, p50: float) -> Setting:
    return Setting(options={"threads": threads}, latency_p50_ms=p50, latency_p90_ms=p50, runs=9)


@pytest.mark.parametrize(
    ("figures", "threads"),
    [
        ([(1, 10.0), (2, 6.0), (4, 5.0)], 4),
        ([(1, 10.0), (2, 5.1), (4, 5.0)], 2),
        ([(1, 5.0), (2, 4.9), (4, 9.0)], 1),
    ],
)
def test_more_threads_must_be_worth_it(figures: list[tuple[int, float]], threads: int) -> None:
    assert choose([setting(*f) for f in figures]).options["threads"] == threads


def test_thread_counts() -> None:
    found = [thread_counts(n) for n in (1, 2, 6, 8)]
    assert found == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bundle(tmp_path / "tiny.edge", engine="openvino")
    out = tmp_path / "out.edge"
    words = ["finalize", str(path), "--out", str(out), "--threads", "1", "--rounds", "1"]
    assert main(words) == 0
    assert "chosen" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert capsys.readouterr().out.startswith("{")
