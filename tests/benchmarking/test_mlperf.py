"""MLPerf's LoadGen sends the queries: what its logs say is what the queried function saw."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from edgessl.benchmarking.mlperf import LoadgenSummary, read_detail, run_loadgen
from edgessl.errors import UnavailableError, UsageError
from edgessl.optional import is_available

LOGS = {"mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json"}

IN_LOADGEN = 40
"""Of queries that take 20 ms, ten at most are tried before LoadGen sends at least 64."""

needs_loadgen = pytest.mark.skipif(
    not is_available("mlperf_loadgen"), reason="mlcommons-loadgen is not installed"
)


class Sleeper:
    """Sleeps, and keeps what it was asked and how long that took."""

    def __init__(self, seconds: float = 0.002) -> None:
        self.seconds = seconds
        self.asked: list[list[int]] = []
        self.took_ms: list[float] = []
        self.threads: set[int] = set()

    def __call__(self, indices: Sequence[int]) -> None:
        start = time.perf_counter()
        time.sleep(self.seconds * len(indices))
        self.took_ms.append((time.perf_counter() - start) * 1e3)
        self.asked.append(list(indices))
        self.threads.add(threading.get_ident())


def run(
    query: Sleeper,
    folder: Path,
    *,
    scenario: Literal["SingleStream", "Offline"] = "SingleStream",
    seed: int = 3,
) -> LoadgenSummary:
    return run_loadgen(
        query, scenario=scenario, sample_count=5, folder=folder, seconds=0.4, seed=seed
    )


@needs_loadgen
def test_single_stream_agrees_with_what_was_queried(tmp_path: Path) -> None:
    query = Sleeper()
    summary = run(query, tmp_path / "logs")
    timed = query.took_ms[-summary.queries :]
    assert 64 <= summary.queries < len(query.asked)
    assert summary.valid
    assert all(len(indices) == 1 and 0 <= indices[0] < 5 for indices in query.asked)
    assert summary.p50_ms is not None
    assert summary.p90_ms is not None
    assert summary.p50_ms == pytest.approx(statistics.median(timed), rel=0.05)
    assert summary.p50_ms >= 2
    assert summary.p90_ms >= summary.p50_ms
    assert summary.p90_early_stopping_ms is not None
    assert summary.p90_early_stopping_ms >= summary.p90_ms
    assert summary.samples_per_s == pytest.approx(1e3 / statistics.mean(timed), rel=0.1)
    assert query.threads == {threading.get_ident()}


@needs_loadgen
def test_offline_is_one_query_of_all_samples(tmp_path: Path) -> None:
    query = Sleeper(0.001)
    summary = run(query, tmp_path, scenario="Offline")
    assert len(query.asked[-1]) == summary.queries
    assert max(len(indices) for indices in query.asked[:-1]) == 1
    assert set(query.asked[-1]) == set(range(5))
    assert summary.p50_ms is None
    assert summary.samples_per_s == pytest.approx(
        1e3 * summary.queries / query.took_ms[-1], rel=0.1
    )


@needs_loadgen
def test_the_logs_are_kept_and_are_loadgen_s_own(tmp_path: Path) -> None:
    query = Sleeper()
    run(query, tmp_path)
    summary = run(query, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == LOGS == set(summary.files)
    text = (tmp_path / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    assert "Scenario : SingleStream" in text
    assert "Result is : VALID" in text
    assert summary.p50_ms is not None
    assert f"50.00 percentile latency (ns)   : {round(summary.p50_ms * 1e6)}" in text
    assert read_detail(tmp_path / "mlperf_log_detail.txt")["requested_qsl_rng_seed"] == 3


@needs_loadgen
def test_slow_arms_get_the_queries_that_a_percentile_takes(tmp_path: Path) -> None:
    summary = run(Sleeper(0.02), tmp_path)
    assert summary.queries == 64
    assert summary.p90_early_stopping_ms is not None


@needs_loadgen
def test_the_order_comes_from_the_seed(tmp_path: Path) -> None:
    def order(seed: int) -> list[list[int]]:
        query = Sleeper()
        summary = run(query, tmp_path, seed=seed)
        return query.asked[-summary.queries :][:60]

    assert order(1) == order(1) != order(2)


@needs_loadgen
def test_an_error_in_a_query_comes_back_after_the_run(tmp_path: Path) -> None:
    class Failing(Sleeper):
        def __call__(self, indices: Sequence[int]) -> None:
            if len(self.asked) == IN_LOADGEN:
                raise UnavailableError("the device is gone")
            super().__call__(indices)

    query = Failing(0.02)
    with pytest.raises(UnavailableError, match="the device is gone"):
        run(query, tmp_path / "logs")
    assert len(query.asked) == IN_LOADGEN
    assert not (tmp_path / "logs").exists()
    assert run(Sleeper(), tmp_path / "logs").valid  # LoadGen is still whole


@needs_loadgen
def test_a_system_that_is_too_fast_ends_early(tmp_path: Path) -> None:
    asked: list[int] = []
    summary = run_loadgen(
        asked.extend,
        scenario="SingleStream",
        sample_count=1,
        folder=tmp_path,
        seconds=3600,
        seed=0,
    )
    assert 64 <= summary.queries <= 1_000_000


@needs_loadgen
def test_it_prints_nothing_and_obeys_no_audit_file(tmp_path: Path) -> None:
    (tmp_path / "audit.config").write_text("*.*.min_query_count = 300\n", encoding="utf-8")
    code = (
        "import signal, time\nfrom pathlib import Path\n"
        "from edgessl.benchmarking.mlperf import run_loadgen\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "run_loadgen(lambda i: time.sleep(0.002), scenario='SingleStream', sample_count=2,\n"
        "    folder=Path('logs'), seconds=0.2, seed=5)\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    detail = read_detail(tmp_path / "logs/mlperf_log_detail.txt")
    assert detail["effective_min_query_count"] == 64


@needs_loadgen
def test_ctrl_c_ends_the_run(tmp_path: Path) -> None:
    class Interrupted(Sleeper):
        def __call__(self, indices: Sequence[int]) -> None:
            super().__call__(indices)
            if len(self.asked) == IN_LOADGEN:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(0.02), tmp_path)


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    for count, seconds in ((0, 1.0), (1, 0.0)):
        with pytest.raises(UsageError, match="LoadGen takes samples and time"):
            run_loadgen(
                Sleeper(),
                scenario="Offline",
                sample_count=count,
                folder=tmp_path,
                seconds=seconds,
                seed=0,
            )


def test_without_loadgen_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(UnavailableError, match=r"pip install 'edgessl\[mlperf\]'"):
        run(Sleeper(), tmp_path)


def test_a_damaged_log_is_one_error(tmp_path: Path) -> None:
    log = tmp_path / "mlperf_log_detail.txt"
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_detail(log)
    log.write_text(":::MLLOG {cut", encoding="utf-8")
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_detail(log)
