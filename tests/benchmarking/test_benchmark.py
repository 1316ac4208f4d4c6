"""Benchmarks of arms whose answer is known, of bundles, and what a broken arm becomes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from contracts.benchmark_arms import QUICK, arm, sleeping
from contracts.tiny_bundle import write_bundle, write_model
from edgessl.benchmarking import (
    BenchmarkOptions,
    BenchmarkResult,
    GateOptions,
    benchmark,
    measure,
)
from edgessl.benchmarking.environment import peak_memory_bytes
from edgessl.benchmarking.recording import load_recording
from edgessl.cli.main import main
from edgessl.errors import BundleError, UsageError
from edgessl.files import sha256_file
from edgessl.progress import ProgressEvent

PACED = {"scenario": "paced", "period_ms": 10.0}


@pytest.fixture(autouse=True)
def arms_are_importable(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Workers are new interpreters; give them the path that pytest gives this one."""
    monkeypatch.setenv("PYTHONPATH", str(root / "tests"))


def test_known_durations_and_their_ratio(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    options = QUICK.model_copy(update={"restarts": 2, "blocks": 3, "cold_starts": 3})
    measurement = measure(
        [sleeping("slow", 6)],
        against=[sleeping("fast", 2)],
        options=options,
        progress=events.append,
    )
    result = measurement.result
    assert [a.name for a in result.arms] == ["slow", "fast"]
    for found, least in zip(result.arms, (6, 2), strict=True):
        assert found.latency_min_ms >= least
        assert found.latency_min_ms <= found.latency_p50_ms <= found.latency_p90_ms
        assert found.throughput_per_s == pytest.approx(1e3 / found.latency_mean_ms)
        assert found.warm_up_runs >= 2 * 10
        assert [len(blocks) for blocks in found.block_p50_ms] == [3, 3]
        assert found.runs >= 2 * 64
        assert found.cold_start.processes == 3
        assert found.cold_start.first_inference_ms.minimum >= least
        assert found.cold_start.import_ms.median > 10  # an interpreter and numpy
        assert found.outputs_finite
        assert found.sustained.value is None
        assert found.sustained.reason
    (comparison,) = result.comparisons
    p50 = comparison.metric("p50")
    # Sleeping takes at least as long as asked for: 6 over 2, less what sleeping itself costs.
    assert p50.ratio is not None
    assert 1.5 < p50.ratio < 3.5
    assert p50.verdict is None
    assert result.verdict is None
    assert comparison.min_cosine == pytest.approx(1.0)
    blocks = [e for e in events if e.stage == "benchmark"]
    assert [e.completed for e in blocks] == list(range(1, 19))  # 2 restarts, 3 rounds, 3 arms
    assert blocks[-1].table[0][0] == "arm"
    assert [row[0] for row in blocks[-1].table[1:]] == ["slow", "fast"]

    path = tmp_path / "r.json"
    written = measurement.write(path)
    assert BenchmarkResult.model_validate_json(path.read_text()) == written
    assert written.samples is not None
    again = load_recording(tmp_path / written.samples.file, sha256=written.samples.sha256)
    for name in ("slow", "fast"):
        times = measurement.recording.arms[name].times_ms()
        np.testing.assert_allclose(again.arms[name].times_ms(), times, atol=1e-6)
        assert np.quantile(times, 0.5) == pytest.approx(result.arm(name).latency_p50_ms)


def test_every_arm_takes_every_place_and_the_control_arm_takes_part() -> None:
    options = QUICK.model_copy(update={"blocks": 6, "block_seconds": 0.01})
    result = measure([sleeping("a"), sleeping("b")], options=options).result
    ((*rounds,),) = result.protocol.orders
    assert len(rounds) == 6
    for place in range(3):
        assert sorted(r[place] for r in rounds) == [0, 0, 1, 1, 2, 2]
    assert len(result.harness.control_p50_ms) == 1
    assert result.harness.control_p50_ms[0] > 0
    assert 0 < result.harness.null_p50_us < 1000


def test_a_gate_stops_at_the_look_that_decides() -> None:
    gate = GateOptions(metrics=("p50",), looks=(2, 3, 50), max_control_ratio=1e9)
    options = QUICK.model_copy(update={"gate": gate})
    result = measure([sleeping("slow", 9)], against=[sleeping("fast", 1)], options=options).result
    assert result.verdict == "FAIL"
    assert result.protocol.restarts in (2, 3)
    assert result.comparisons[0].metric("p50").verdict == "FAIL"
    assert result.comparisons[0].metric("size").verdict is None


def test_a_machine_that_changed_makes_the_run_invalid() -> None:
    # No two medians differ by less than this.
    gate = GateOptions(metrics=("p50",), looks=(3,), max_control_ratio=1.0 + 1e-12)
    options = QUICK.model_copy(update={"gate": gate})
    result = measure([sleeping("a", 9)], against=[sleeping("b", 1)], options=options).result
    assert result.verdict == "INVALID"
    assert "control" in result.harness.problems[0]


@pytest.mark.parametrize(("scenario", "size"), [("MultiStream", 8), ("Offline", 32)])
def test_a_query_of_many_samples_runs_a_fixed_batch_as_often(scenario: str, size: int) -> None:
    options = BenchmarkOptions.model_validate({**QUICK.model_dump(), "scenario": scenario})
    (found,) = measure([sleeping("x", 1)], options=options).result.arms
    assert (found.samples_per_run, found.samples_per_query) == (1, size)
    assert found.latency_min_ms >= size
    assert found.throughput_per_s == pytest.approx(1e3 * size / found.latency_mean_ms)
    assert found.input_bytes == size * 3 * 4


def test_a_free_batch_runs_once_per_query(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny.onnx", batch="n")
    options = BenchmarkOptions.model_validate({**QUICK.model_dump(), "samples_per_query": 5})
    for found in benchmark([model], options=options).result.arms:
        assert (found.samples_per_run, found.samples_per_query) == (5, 5)


def test_paced_queries_keep_their_distance() -> None:
    options = BenchmarkOptions.model_validate({**QUICK.model_dump(), **PACED})
    result = measure([sleeping("x", 1)], options=options).result
    assert result.protocol.scenario.scenario == "paced"
    # 64 queries in 2 blocks of 32, 10 ms apart: the arm alone would be through in a tenth.
    assert result.arms[0].latency_p50_ms < 10
    assert result.arms[0].late <= result.arms[0].runs


def test_a_period_shorter_than_the_work_is_said() -> None:
    options = BenchmarkOptions.model_validate({**QUICK.model_dump(), **PACED, "period_ms": 1.0})
    result = measure([sleeping("x", 4)], options=options).result
    assert result.arms[0].late > 0
    assert any("began late" in remark for remark in result.remarks)


def test_cpus_that_are_bound_and_cpus_that_are_not_there() -> None:
    here = sorted(os.sched_getaffinity(0))
    options = BenchmarkOptions.model_validate({**QUICK.model_dump(), "affinity": here[:1]})
    result = measure([arm("x", "bound_arm", cpu=here[0])], options=options).result
    assert result.protocol.affinity == (here[0],)
    wrong = BenchmarkOptions.model_validate({**QUICK.model_dump(), "affinity": [4095]})
    with pytest.raises(UsageError, match=r"CPUs \[4095\] are not among"):
        measure([sleeping("x")], options=wrong)


def test_a_long_pass_shows_an_arm_that_gets_slower() -> None:
    options = QUICK.model_copy(update={"sustained_seconds": 1.0})
    result = measure([arm("x", "tiring_arm")], options=options).result
    sustained = result.arms[0].sustained
    assert sustained.value is not None
    assert sustained.value > 1.5
    assert sustained.source == "1 s, medians of 0.5 s windows"


def test_threads_are_set_before_imports_and_differences_remarked() -> None:
    # The arm itself compares its threads with OMP_NUM_THREADS.
    result = measure([sleeping(str(n), threads=n) for n in (1, 3)], options=QUICK).result
    assert [a.threads for a in result.arms] == [1, 3]
    assert "arms use different numbers of threads" in result.remarks


def test_bundles_and_a_model_side_by_side(tmp_path: Path) -> None:
    first = write_bundle(tmp_path / "ort.edge")
    second = write_bundle(tmp_path / "ov.edge", engine="openvino")
    model = write_model(tmp_path / "tiny.onnx")
    result = benchmark([first, model], against=[second], options=QUICK).result
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
    assert all(a.samples_per_run == 1 and a.cold_start.load_ms.minimum > 0 for a in result.arms)
    assert result.arms[0].artifact is not None
    assert result.arms[0].artifact.sha256 == sha256_file(first)
    assert len({a.input_bytes for a in result.arms}) == 1
    assert [c.min_cosine for c in result.comparisons] == [pytest.approx(1.0, abs=1e-5)] * 3
    assert result.environment.packages["onnxruntime"]


def test_the_same_bundle_twice_is_two_arms(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "x.edge")
    result = benchmark([path], against=[path], options=QUICK).result
    assert [a.name for a in result.arms] == ["x.edge #1", "x.edge #2"]
    assert len(result.comparisons) == 1


def test_peak_memory_is_the_workers_own(tmp_path: Path) -> None:
    if peak_memory_bytes() is None:
        pytest.skip("this system does not say VmHWM")
    ballast = bytearray(os.urandom(1 << 20) * 300)  # in this process, not in the worker's
    result = benchmark([write_bundle(tmp_path / "x.edge")], options=QUICK).result
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


QUICKLY = [
    "--restarts",
    "1",
    "--blocks",
    "1",
    "--block-seconds",
    "0.01",
    "--cold-starts",
    "1",
    "--warm-up",
    "0.02",
]


def test_the_verb_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bundle(tmp_path / "x.edge")
    places = {
        option: tmp_path / name
        for option, name in {
            "--json": "b.json",
            "--markdown": "b.md",
            "--junit": "b.xml",
            "--github-benchmark": "gh.json",
            "--bencher": "bmf.json",
            "--history": "h.jsonl",
        }.items()
    }
    words = ["benchmark", str(path), "--against", str(path), "--gate", "none", *QUICKLY]
    outputs = [str(word) for pair in places.items() for word in pair]
    assert main([*words, *outputs]) == 0
    assert "x.edge #1" in capsys.readouterr().out
    for place in places.values():
        assert place.stat().st_size
    result = BenchmarkResult.model_validate_json(places["--json"].read_text())
    assert result.samples is not None
    assert (tmp_path / result.samples.file).exists()
    assert main([*words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["schema_version"] == 2


def test_the_verb_ends_with_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = write_bundle(tmp_path / "small.edge")
    large = write_bundle(tmp_path / "large.edge", canary_count=64)
    words = ["benchmark", *QUICKLY, "--gate", "size", "--looks", "2"]
    assert main([*words, str(small), "--against", str(large)]) == 0
    assert main([*words, str(large), "--against", str(small)]) == 1
    captured = capsys.readouterr()
    assert "FAIL" in captured.out
    assert captured.err.splitlines()[-1].startswith("error: FAIL")
    assert "size" in captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--restarts", "0"], "restarts"),
        (["--gate", "p51"], "gate"),
        (["--looks", "6,3"], "looks must increase"),
        (["--fail-above", "1.2"], "fail_above must be less"),
        (["--scenario", "Server"], "scenario"),
        (["--affinity", "x"], "affinity"),
    ],
)
def test_options_that_make_no_sense(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", str(tmp_path / "x.edge"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
