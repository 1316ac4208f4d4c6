"""MLPerf's load generator as the one that sends the queries, and its logs."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from edgessl.config import Options
from edgessl.errors import UnavailableError, UsageError
from edgessl.files import atomic_path
from edgessl.optional import require

__all__ = ["LoadgenSummary", "read_detail", "run_loadgen"]

_LEAST_QUERIES = 64
"""Source: MLPerf Inference rules, early stopping: least queries for a 90th percentile."""
_MOST_QUERIES = 1_000_000
"""LoadGen makes all queries before it sends the first, at about 300 bytes each."""
_TRIAL_SECONDS = 0.2
_TRIAL_RUNS = 3
_PAUSE_S = 0.01
_SEEDS = 1 << 64
_DETAIL = "mlperf_log_detail.txt"
_LOGS = ("mlperf_log_summary.txt", _DETAIL, "mlperf_log_accuracy.json")
_MARK = ":::MLLOG "

Query = Callable[[Sequence[int]], None]


class LoadgenSummary(Options):
    """What the logs say; an unofficial figure, as only MLCommons makes results of MLPerf.

    Attributes:
        version: Of LoadGen.
        valid: Whether LoadGen found enough queries and a long enough run.
        queries: Queries of SingleStream; samples of Offline, which is one query.
        p50_ms: Of SingleStream; None for Offline, as are the other latencies.
        p90_early_stopping_ms: What MLPerf reports for SingleStream: an upper confidence limit of
            the 90th percentile; None with fewer than 64 queries.
        samples_per_s: Of Offline what MLPerf reports, of SingleStream with LoadGen's overhead.
        files: Names of the logs.
    """

    scenario: Literal["SingleStream", "Offline"]
    version: str
    valid: bool
    queries: int
    p50_ms: float | None
    p90_ms: float | None
    p90_early_stopping_ms: float | None
    mean_ms: float | None
    samples_per_s: float
    files: tuple[str, ...] = _LOGS


def run_loadgen(
    query: Query,
    *,
    scenario: Literal["SingleStream", "Offline"],
    sample_count: int,
    folder: Path,
    seconds: float,
    seed: int,
) -> LoadgenSummary:
    """Have LoadGen query a system and write its logs.

    It calls from this thread, prints nothing and sets no signal handler. The run takes at least
    64 queries, and fewer seconds than asked for where a million queries take less.

    Args:
        query: Computes the samples of these indices, each below `sample_count`; on return the
            outputs are complete.
        scenario: ``SingleStream``: one sample after the other. ``Offline``: all in one query.
        sample_count: How many different samples there are.
        folder: The logs go here, over those of an earlier run.
        seconds: Least duration.
        seed: Of the order of samples.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
        UnavailableError: LoadGen is not installed, or wrote no result.
        UsageError: No sample, or no time.

    What `query` raises is raised again when LoadGen has ended, after `seconds` at the latest.

    Source: https://github.com/mlcommons/inference/tree/master/loadgen
    """
    if sample_count < 1 or seconds <= 0:
        raise UsageError(
            f"LoadGen takes samples and time, found {sample_count} samples and {seconds:g} s"
        )
    loadgen = require("mlperf_loadgen", extra="mlperf")
    latency_s = _trial(query, sample_count)
    system = _System(loadgen, query)
    with tempfile.TemporaryDirectory(prefix="edgessl-", ignore_cleanup_errors=True) as scratch:
        log_settings = loadgen.LogSettings()
        log_settings.enable_trace = False
        log_settings.log_output.outdir = scratch
        log_settings.log_output.copy_summary_to_stdout = False
        settings = _settings(loadgen, scenario, seconds, latency_s, seed)
        sut = loadgen.ConstructSUT(system.issue, _nothing)
        qsl = loadgen.ConstructQSL(sample_count, sample_count, _nothing, _nothing)
        try:
            # By default it would obey an audit.config in the current folder.
            audit = str(Path(scratch) / "no-audit.config")
            loadgen.StartTestWithLogSettings(sut, qsl, settings, log_settings, audit)
        finally:
            loadgen.DestroyQSL(qsl)
            loadgen.DestroySUT(sut)
        if system.error is not None:
            raise system.error
        summary = _summary(read_detail(Path(scratch) / _DETAIL), scenario)
        for name in _LOGS:
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(Path(scratch) / name, temporary)
    return summary


def read_detail(path: Path) -> dict[str, Any]:
    """Key → value of LoadGen's detailed log; of keys that come again, the last.

    Raises:
        UnavailableError: The file is missing or is no such log.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        events = [json.loads(line[len(_MARK) :]) for line in lines if line.startswith(_MARK)]
        return {event["key"]: event["value"] for event in events}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnavailableError(
            f"{path.name}: LoadGen's log cannot be read ({error}); run again"
        ) from error


class _System:
    """What LoadGen calls. An exception must not cross LoadGen: it does not survive that."""

    def __init__(self, loadgen: Any, query: Query) -> None:
        self._loadgen = loadgen
        self._query = query
        self.error: BaseException | None = None

    def issue(self, samples: Sequence[Any]) -> None:
        if self.error is None:
            try:
                self._query([sample.index for sample in samples])
            except BaseException as error:  # Ctrl-C as well; raised again by run_loadgen
                self.error = error
        else:
            time.sleep(_PAUSE_S)  # until LoadGen's time is over, without filling its log
        response = self._loadgen.QuerySampleResponse
        self._loadgen.QuerySamplesComplete([response(sample.id, 0, 0) for sample in samples])


def _trial(query: Query, sample_count: int) -> float:
    """Least time of one sample, in seconds, which LoadGen wants to know beforehand."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < _TRIAL_RUNS or time.perf_counter() - begin < _TRIAL_SECONDS:
        start = time.perf_counter()
        query([len(times) % sample_count])
        times.append(time.perf_counter() - start)
    return min(times)


def _settings(loadgen: Any, scenario: str, seconds: float, latency_s: float, seed: int) -> Any:
    # LoadGen makes twice the queries that it expects to need.
    seconds = min(seconds, _MOST_QUERIES / 2 * latency_s)
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = max(1, round(seconds * 1e3))
    settings.min_query_count = _LEAST_QUERIES if scenario == "SingleStream" else 1
    settings.single_stream_expected_latency_ns = max(1, int(latency_s * 1e9))
    settings.offline_expected_qps = 1 / latency_s
    for place, name in enumerate(("qsl", "sample_index", "schedule")):
        setattr(settings, f"{name}_rng_seed", (seed + place) % _SEEDS)
    return settings


def _summary(found: dict[str, Any], scenario: Literal["SingleStream", "Offline"]) -> LoadgenSummary:
    def milliseconds(key: str) -> float | None:
        value = found.get(key)
        return None if scenario == "Offline" or not value else value / 1e6

    try:
        alone = scenario == "SingleStream"
        return LoadgenSummary(
            scenario=scenario,
            version=found["loadgen_version"],
            valid=found["result_validity"] == "VALID",
            queries=found["result_query_count" if alone else "generated_samples_per_query"],
            p50_ms=milliseconds("result_50.00_percentile_latency_ns"),
            p90_ms=milliseconds("result_90.00_percentile_latency_ns"),
            p90_early_stopping_ms=milliseconds("early_stopping_latency_ss"),
            mean_ms=milliseconds("result_mean_latency_ns"),
            samples_per_s=found[
                "result_qps_with_loadgen_overhead" if alone else "result_samples_per_second"
            ],
        )
    except KeyError as error:
        raise UnavailableError(f"LoadGen wrote no {error} into its log; run again") from error


def _nothing(*samples: Any) -> None:
    """Samples lie in memory, and nothing waits to be sent."""
