"""Benchmarks of arms whose answer is known, of bundles, and what a broken arm becomes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from contracts.tiny_bundle import write_bundle, write_model
from edgessl.benchmarking import ArmSpec, BenchmarkOptions, BenchmarkResult, benchmark, measure
from edgessl.benchmarking.environment import fingerprint, peak_memory_bytes
from edgessl.benchmarking.tables import to_markdown
from edgessl.cli.main import main
from edgessl.errors import BundleError, ModelError, UnavailableError, UsageError
from edgessl.progress import ProgressEvent

QUICK = BenchmarkOptions(rounds=2, block_seconds=0.02)


@pytest.fixture(autouse=True)
def arms_are_importable(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Workers are new interpreters; give them the path that pytest gives this one."""
    monkeypatch.setenv("PYTHONPATH", str(root / "tests"))


def arm(name: str, factory: str, *, threads: int = 1, **arguments: float) -> ArmSpec:
    where = f"contracts.benchmark_arms:{factory}"
    return ArmSpec(name=name, factory=where, arguments=dict(arguments), threads=threads)


def test_known_durations_and_their_ratio() -> None:
    events: list[ProgressEvent] = []
    slow, fast = (arm(n, "sleeping_arm", milliseconds=m) for n, m in (("slow", 6), ("fast", 2)))
    options = BenchmarkOptions(rounds=4, block_seconds=0.05)
    result = measure([slow], against=[fast], options=options, progress=events.append)
    assert [a.name for a in result.arms] == ["slow", "fast"]
    for found, least in zip(result.arms, (6, 2), strict=True):
        assert found.latency_min_ms >= least
        assert found.latency_min_ms <= found.latency_p50_ms <= found.latency_p90_ms
        assert found.throughput_per_s == pytest.approx(1e3 / found.latency_mean_ms)
        assert found.warm_up_runs >= 10
        assert found.warm_up_s >= 0.5
        assert len(found.block_p50_ms) == 4
        assert found.runs >= 20
        assert found.outputs_finite
    (comparison,) = result.comparisons
    assert comparison.ratio_low <= comparison.ratio <= (comparison.ratio_high or 0)
    # Sleeping takes at least as long as asked for: 6 over 2, less what sleeping itself costs.
    assert 1.5 < comparison.ratio < 3.5
    assert comparison.min_cosine == pytest.approx(1.0)
    assert [e.completed for e in events] == list(range(1, 9))


def test_nan_is_reported() -> None:
    good = arm("good", "sleeping_arm", milliseconds=1)
    result = measure([arm("bad", "nan_arm")], against=[good], options=QUICK)
    assert not result.arm("bad").outputs_finite
    assert any("bad: outputs hold NaN" in remark for remark in result.remarks)
    assert result.comparisons[0].min_cosine is None


def test_threads_are_set_before_imports_and_differences_remarked() -> None:
    # The arm itself compares its threads with OMP_NUM_THREADS.
    arms = [arm(str(n), "sleeping_arm", threads=n, milliseconds=1) for n in (1, 3)]
    result = measure(arms, options=QUICK)
    assert [a.threads for a in result.arms] == [1, 3]
    assert "arms use different numbers of threads" in result.remarks


def test_an_arm_that_dies_is_named_and_no_process_stays() -> None:
    before = set(psutil.Process().children(recursive=True))
    good = arm("good", "sleeping_arm", milliseconds=1)
    with pytest.raises(UnavailableError, match="dying: the worker process ended with code 7"):
        measure([good, arm("dying", "dying_arm")], options=QUICK)
    assert set(psutil.Process().children(recursive=True)) == before


def test_an_arms_error_keeps_its_kind() -> None:
    with pytest.raises(ModelError, match="the weights are missing"):
        measure([arm("x", "raising_arm")], options=QUICK)


@pytest.mark.parametrize("factory", ["contracts.nothing:f", "contracts.benchmark_arms:nothing"])
def test_a_factory_that_is_not_there(factory: str) -> None:
    with pytest.raises(UsageError, match="cannot be imported"):
        measure([ArmSpec(name="x", factory=factory, threads=1)], options=QUICK)


def test_bundles_and_a_model_side_by_side(tmp_path: Path) -> None:
    first = write_bundle(tmp_path / "ort.edge")
    second = write_bundle(tmp_path / "ov.edge", engine="openvino")
    model = write_model(tmp_path / "tiny.onnx")
    result = benchmark([first, model], against=[second], options=QUICK)
    assert [a.name for a in result.arms] == [
        "ort.edge",
        "tiny.onnx onnxruntime",
        "tiny.onnx openvino",
        "ov.edge",
    ]
    assert [a.input for a in result.arms] == ["canaries", "shared", "shared", "shared"]
    assert [a.engine for a in result.arms] == ["onnxruntime", "onnxruntime", "openvino", "openvino"]
    assert result.arms[0].size_bytes == first.stat().st_size
    assert result.arms[1].size_bytes == model.stat().st_size
    assert all(a.samples_per_run == 1 and a.load_ms > 0 for a in result.arms)
    assert [c.min_cosine for c in result.comparisons] == [pytest.approx(1.0, abs=1e-5)] * 3
    assert result.environment.packages["onnxruntime"]
    again = BenchmarkResult.model_validate_json(result.model_dump_json())
    assert again == result
    assert "ov.edge" in to_markdown(result)


def test_the_same_bundle_twice_is_two_arms(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "x.edge")
    result = benchmark([path], against=[path], options=QUICK)
    assert [a.name for a in result.arms] == ["x.edge #1", "x.edge #2"]
    assert len(result.comparisons) == 1


def test_peak_memory_is_the_workers_own(tmp_path: Path) -> None:
    if peak_memory_bytes() is None:
        pytest.skip("this system does not say VmHWM")
    ballast = bytearray(os.urandom(1 << 20) * 300)  # in this process, not in the worker's
    result = benchmark([write_bundle(tmp_path / "x.edge")], options=QUICK)
    peak = result.arms[0].peak_memory_bytes
    assert peak is not None
    assert 20e6 < peak < len(ballast)
    assert peak < (peak_memory_bytes() or 0)


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        benchmark([], options=QUICK)
    with pytest.raises(UsageError, match="neither a bundle"):
        benchmark([tmp_path / "x.pt"], options=QUICK)
    with pytest.raises(BundleError, match="cannot be read"):
        benchmark([tmp_path / "none.edge"], options=QUICK)
    with pytest.raises(BundleError, match="finalize"):
        benchmark([write_bundle(tmp_path / "p.edge", kind="portable")], options=QUICK)


def test_the_environment_names_no_host() -> None:
    text = fingerprint().model_dump_json()
    assert os.uname().nodename not in json.loads(text).values()
    assert fingerprint().cores_usable >= 1


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bundle(tmp_path / "x.edge")
    quick = ["--rounds", "1", "--block-seconds", "0.01", "--threads", "1"]
    out, table = tmp_path / "b.json", tmp_path / "b.md"
    words = ["benchmark", str(path), *quick]
    assert main([*words, "--json", str(out), "--markdown", str(table)]) == 0
    assert "x.edge" in capsys.readouterr().out
    assert BenchmarkResult.model_validate_json(out.read_text()).arms[0].name == "x.edge"
    assert table.read_text().startswith("| arm |")
    assert main([*words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["schema_version"] == 1
    assert main(["benchmark", str(path), "--rounds", "0"]) == 2
