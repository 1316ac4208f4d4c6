"""Arms that crash, hang, raise or give nonsense: never a PASS, and nothing measured is lost."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from contracts.benchmark_arms import QUICK, arm, sleeping
from edgessl.benchmarking import ArmSpec, GateOptions, Measurement, measure
from edgessl.errors import ModelError, UnavailableError, UsageError

GATED = QUICK.model_copy(
    update={"gate": GateOptions(metrics=("p50",), looks=(2, 3), max_control_ratio=1e9)}
)


@pytest.fixture(autouse=True)
def arms_are_importable(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root / "tests"))


def test_nan_is_reported() -> None:
    result = measure([arm("bad", "nan_arm")], against=[sleeping("good")], options=QUICK).result
    assert not result.arm("bad").outputs_finite
    assert any("bad: outputs hold NaN" in remark for remark in result.remarks)
    assert result.comparisons[0].min_cosine is None


def test_nan_fails_and_a_base_with_nan_is_no_base() -> None:
    bad, good = arm("bad", "nan_arm"), sleeping("good", 6)
    failed = measure([bad], against=[good], options=GATED).result
    assert failed.comparisons[0].metric("p50").verdict == "PASS"  # it is faster
    assert failed.verdict == "FAIL"
    assert failed.comparisons[0].problem == "outputs of bad hold NaN or infinity"
    assert measure([good], against=[bad], options=GATED).result.verdict == "INVALID"


def test_another_shape_fails() -> None:
    result = measure([arm("long", "longer_arm")], against=[sleeping("x", 6)], options=GATED).result
    assert result.verdict == "FAIL"
    assert result.comparisons[0].problem == "outputs have the shape 4x6, those of the base 4x3"


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("later_dying_arm", "worker process ended with code 7"),
        ("later_hanging_arm", "took more than 8 s during first and was ended"),
    ],
)
def test_what_was_measured_before_an_arm_broke_is_kept(
    factory: str, said: str, tmp_path: Path
) -> None:
    # One process finds the inputs and one is the first restart.
    broken = arm("broken", factory, marks=str(tmp_path / "marks"), lives=2)
    options = GATED.model_copy(update={"timeout_s": 8.0})
    seen: list[Measurement] = []
    before = set(psutil.Process().children(recursive=True))
    measurement = measure(
        [broken], against=[sleeping("good", 6)], options=options, checkpoint=seen.append
    )
    assert set(psutil.Process().children(recursive=True)) == before
    result = measurement.result
    assert result.failure is not None
    assert f"broken: {said}" in result.failure or f"broken: the {said}" in result.failure
    assert result.verdict == "INVALID"
    assert result.protocol.restarts == 1
    assert result.harness.null_p50_us is None
    assert result.arm("broken").runs > 0
    assert len(seen) == 1
    assert seen[0].result.verdict == "INVALID"
    measurement.write(tmp_path / "partial.json")
    assert (
        "ended early"
        in json.loads((tmp_path / "partial.json").read_text())["harness"]["problems"][-1]
    )


def test_an_arm_that_dies_is_named_and_no_process_stays() -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(UnavailableError, match="dying: the worker process ended with code 7"):
        measure([sleeping("good"), arm("dying", "dying_arm")], options=QUICK)
    assert set(psutil.Process().children(recursive=True)) == before


def test_an_arms_error_keeps_its_kind() -> None:
    with pytest.raises(ModelError, match="the weights are missing"):
        measure([arm("x", "raising_arm")], options=QUICK)


@pytest.mark.parametrize("factory", ["contracts.nothing:f", "contracts.benchmark_arms:nothing"])
def test_a_factory_that_is_not_there(factory: str) -> None:
    with pytest.raises(UsageError, match="cannot be imported"):
        measure([ArmSpec(name="x", factory=factory, threads=1)], options=QUICK)
