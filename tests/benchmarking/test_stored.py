"""Stored results: judged again, set side by side, refused where they mean nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.benchmark_results import environment, recording, result
from contracts.stored_results import stored, write_result
from edgessl.benchmarking.gate import judge
from edgessl.benchmarking.options import GateOptions
from edgessl.benchmarking.recording import save_recording
from edgessl.benchmarking.result import BenchmarkResult, Harness
from edgessl.benchmarking.stored import compare_stored, load_result, load_samples, rejudge
from edgessl.errors import DataError, UnavailableError, UsageError

GATE = GateOptions()


def slower_machine(made: BenchmarkResult, factor: float) -> BenchmarkResult:
    """The same session on a machine that takes this much longer for everything."""
    arms = tuple(
        arm.model_copy(
            update={
                "latency_p90_ms": factor * arm.latency_p90_ms,
                "block_p50_ms": tuple(
                    tuple(None if p is None else factor * p for p in blocks)
                    for blocks in arm.block_p50_ms
                ),
            }
        )
        for arm in made.arms
    )
    control = tuple(factor * ms for ms in made.harness.control_p50_ms)
    harness = made.harness.model_copy(update={"control_p50_ms": control})
    return made.model_copy(update={"arms": arms, "harness": harness})


# Judging again


def test_judging_again_is_the_gate_on_the_same_samples() -> None:
    made = result()
    judged = rejudge(made, recording(), GATE)
    (found,) = judge(recording(), [("head.edge", "base.edge")], GATE)
    assert judged.comparisons[0].metrics == found.metrics
    assert judged.comparisons[0].min_cosine == made.comparisons[0].min_cosine
    assert (judged.verdict, judged.comparisons[0].verdict) == ("FAIL", "FAIL")
    assert judged.arms == made.arms


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "FAIL"),
        ({"fail_above": 1.2, "pass_below": 1.3}, "PASS"),
        ({"metrics": ("size",)}, "PASS"),
        ({"metrics": ()}, None),
        ({"fail_above": 1.0999, "pass_below": 1.1001}, "INCONCLUSIVE"),
    ],
)
def test_other_margins_give_other_verdicts(changes: dict[str, Any], verdict: str | None) -> None:
    gate = GATE.model_copy(update=changes)
    judged = rejudge(result(), recording(), gate)
    assert judged.verdict == verdict
    assert judged.protocol.gate == gate


def test_an_invalid_run_stays_invalid() -> None:
    made = result()
    harness = made.harness.model_copy(update={"problems": ("it throttled",)})
    judged = rejudge(made.model_copy(update={"harness": harness}), recording((1.0, 1.0)), GATE)
    assert (judged.verdict, judged.comparisons[0].verdict) == ("INVALID", "INVALID")


def test_a_result_without_comparisons_cannot_be_judged() -> None:
    with pytest.raises(UsageError, match="measure with --against"):
        rejudge(result().model_copy(update={"comparisons": ()}), recording(), GATE)


def test_samples_of_other_arms_are_refused() -> None:
    with pytest.raises(DataError, match=r"'head-2\.edge' is not among the recorded arms"):
        rejudge(result((1.1, 1.2, 1.0)), recording((1.1, 1.0)), GATE)


# Two sessions


def test_what_the_machine_does_alone_cancels() -> None:
    made = stored(result((1.2, 1.0), seed=1))
    drifted = slower_machine(made, 1.14)
    found = compare_stored(drifted, made)
    assert found.control_ratio == pytest.approx(1.14)
    assert [(p.arm, p.base) for p in found.pairs] == [
        ("head.edge", "head.edge"),
        ("base.edge", "base.edge"),
    ]
    for pair in found.pairs:
        p50, p90, size, memory = pair.metrics
        assert p50.ratio == pytest.approx(1.0)
        assert p90.ratio == pytest.approx(1.0)
        assert p90.ratio_low is None
        assert (size.ratio, size.ratio_low, size.ratio_high) == (1.0, 1.0, 1.0)
        assert memory.ratio == pytest.approx(1.0, rel=1e-6)
    assert all(m.verdict is None for pair in found.pairs for m in pair.metrics)
    assert "one job" in found.remark


def test_a_slower_artifact_shows() -> None:
    found = compare_stored(stored(result((1.1, 1.0))), stored(result((1.0, 1.0), seed=2)))
    p50 = found.pairs[0].metrics[0]
    assert p50.ratio == pytest.approx(1.1, rel=0.01)
    assert p50.ratio_low is not None
    assert p50.ratio_high is not None
    assert 1.08 < p50.ratio_low < 1.1 < p50.ratio_high < 1.12


def test_the_interval_is_welch_s() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with edgessl[train]")
    rng = np.random.default_rng(0)

    def session(center: float, spread: float) -> BenchmarkResult:
        made = stored(result())
        p50 = center * np.exp(rng.normal(0, spread, 6))
        control = tuple((1.5 * np.exp(rng.normal(0, 0.01, 6))).tolist())
        blocks = tuple((float(value),) for value in p50)
        arm = made.arms[0].model_copy(update={"block_p50_ms": blocks})
        harness = made.harness.model_copy(update={"control_p50_ms": control})
        return made.model_copy(update={"arms": (arm,), "harness": harness})

    a, b = session(1.1, 0.03), session(1.0, 0.01)
    found = compare_stored(a, b, confidence=0.99).pairs[0].metrics[0]

    def logs(r: BenchmarkResult) -> Any:
        medians = np.array([blocks[0] for blocks in r.arms[0].block_p50_ms])
        return np.log(medians / np.array(r.harness.control_p50_ms))

    welch = stats.ttest_ind(logs(a), logs(b), equal_var=False)
    exact = welch.confidence_interval(0.99)
    # The degrees of freedom are rounded down, which only widens.
    floor = stats.t.ppf(0.995, int(welch.df)) / stats.t.ppf(0.995, welch.df)
    half = (exact.high - exact.low) / 2 * floor
    mean = logs(a).mean() - logs(b).mean()
    assert found.ratio == pytest.approx(np.exp(mean))
    assert found.ratio_low == pytest.approx(np.exp(mean - half), rel=1e-9)
    assert found.ratio_high == pytest.approx(np.exp(mean + half), rel=1e-9)
    assert found.restarts == 6


def test_single_restarts_have_no_interval() -> None:
    made = stored(result())
    arms = tuple(
        a.model_copy(update={"block_p50_ms": a.block_p50_ms[:1], "peak_memory_by_restart": (None,)})
        for a in made.arms
    )
    harness = made.harness.model_copy(update={"control_p50_ms": (1.5,)})
    once = made.model_copy(update={"arms": arms, "harness": harness})
    p50, _, _, memory = compare_stored(once, made).pairs[0].metrics
    assert p50.ratio is not None
    assert (p50.ratio_low, p50.ratio_high) == (None, None)
    assert "single restart" in str(p50.reason)
    assert (memory.ratio, memory.reason) == (None, "one of the results does not tell")


def test_sole_arms_are_compared_whatever_they_are_called() -> None:
    made = stored(result())
    one = made.model_copy(update={"arms": made.arms[:1]})
    other = made.model_copy(update={"arms": made.arms[1:]})
    (pair,) = compare_stored(one, other).pairs
    assert (pair.arm, pair.base) == ("head.edge", "base.edge")
    renamed = tuple(a.model_copy(update={"name": f"other {a.name}"}) for a in made.arms)
    with pytest.raises(UsageError, match=r"share no arm: head\.edge, base\.edge here"):
        compare_stored(made, made.model_copy(update={"arms": renamed}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"governor": "powersave"}, "governor: 'performance' and 'powersave'"),
        ({"cpu": "Another CPU"}, "cpu: 'Some CPU' and 'Another CPU'"),
        ({"packages": {"numpy": "2.3.0"}}, "packages: "),
    ],
)
def test_other_environments_are_refused_by_name(changes: dict[str, Any], words: str) -> None:
    made = stored(result())
    other = stored(result(), environment=environment(**changes))
    with pytest.raises(UnavailableError, match=re.escape(words)) as caught:
        compare_stored(made, other)
    assert caught.value.exit_code == 4
    assert "one job" in str(caught.value)


def test_what_changes_by_itself_does_not_refuse() -> None:
    warm = environment(load_average=3.0, temperatures_c={"package": 70.0}, steal_percent=1.0)
    made = stored(result())
    assert compare_stored(made, stored(result(), environment=warm)).pairs


def other_protocol(made: BenchmarkResult, **changes: Any) -> BenchmarkResult:
    return made.model_copy(update={"protocol": made.protocol.model_copy(update=changes)})


def other_harness(made: BenchmarkResult, **changes: Any) -> BenchmarkResult:
    harness: Harness = made.harness.model_copy(update=changes)
    return made.model_copy(update={"harness": harness})


def test_other_conditions_are_refused_by_name() -> None:
    made = stored(result())
    scenario = made.protocol.scenario
    paced = scenario.model_copy(update={"scenario": "paced"})
    arms = tuple(a.model_copy(update={"threads": 4}) for a in made.arms)
    cases = {
        "scenario: 'SingleStream' and 'paced'": other_protocol(made, scenario=paced),
        "samples per query: 1 and 4": other_protocol(
            made, scenario=scenario.model_copy(update={"samples_per_query": 4})
        ),
        "affinity of the arms: () and (0,)": other_protocol(made, affinity=(0,)),
        "control arm: 'control-1' and 'control-2'": other_harness(made, control="control-2"),
        "threads of head.edge: 1 and 4": made.model_copy(update={"arms": arms}),
        "env_hash: ": made.model_copy(update={"env_hash": "f" * 64}),
    }
    for words, other in cases.items():
        with pytest.raises(UnavailableError, match=re.escape(words)):
            compare_stored(made, other)


def test_an_invalid_session_is_refused() -> None:
    made = stored(result())
    bad = other_harness(made, problems=("the governor changed",))
    with pytest.raises(UnavailableError, match="second result is invalid: the governor changed"):
        compare_stored(made, bad)


@pytest.mark.parametrize("control", [(), (1.5,), (0.0,) * 6, (float("inf"),) * 6])
def test_unsound_figures_are_refused(control: tuple[float, ...]) -> None:
    made = stored(result())
    with pytest.raises(DataError, match="no sound figure"):
        compare_stored(made, other_harness(made, control_p50_ms=control))


# Files


def test_a_result_is_read_back(tmp_path: Path) -> None:
    path = write_result(tmp_path)
    found = load_result(path)
    assert found.model_copy(update={"samples": None}) == stored(result())
    assert list(load_samples(found, path).arms) == ["head.edge", "base.edge"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[1]", "is not a result"),
        (b'{"a": 1}', "is not a result"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"schema_version": 1, "arms": []}', "schema version 1, this edgessl reads 2"),
        (b'{"schema_version": 3, "arms": []}', "schema version 3, this edgessl reads 2"),
        (b'{"schema_version": 2, "arms": []}', "edgessl_version: Field required"),
        (b'{"schema_version": 2, "arms": NaN}', "NaN is no JSON number"),
    ],
)
def test_wrong_files_are_one_line_errors(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_result(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_huge_files_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        load_result(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        load_result(tmp_path)
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(DataError, match="larger than 64 MiB"):
        load_result(tmp_path / "huge.json")


def test_samples_must_be_those_of_the_result(tmp_path: Path) -> None:
    path = write_result(tmp_path)
    made = load_result(path)
    with pytest.raises(DataError, match="names no samples"):
        load_samples(made.model_copy(update={"samples": None}), path)
    assert made.samples is not None
    outside = made.samples.model_copy(update={"file": "../r.samples.json.gz"})
    with pytest.raises(DataError, match="another folder"):
        load_samples(made.model_copy(update={"samples": outside}), path)
    save_recording(recording(seed=9), tmp_path / "r.samples.json.gz")
    with pytest.raises(DataError, match="is not the file that the result names"):
        load_samples(made, path)
    (tmp_path / "r.samples.json.gz").unlink()
    with pytest.raises(DataError, match="is missing, and judging"):
        load_samples(made, path)
