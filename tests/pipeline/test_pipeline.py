from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from edgessl.errors import OutputError, RunError, UsageError
from edgessl.pipeline import PipelineReport, run_recipe
from edgessl.progress import ProgressEvent
from edgessl.registry import Registry
from edgessl.stages import Verb

Verbs = Registry[type[Verb]]
EVERYTHING = ["teacher from 0", "large.edge", "student from 0", "small.edge", "scores.json"]


@pytest.fixture
def learn(verbs: Verbs) -> Any:
    """The verb that can be interrupted."""
    return verbs.get("learn")


def run(recipe: Path, verbs: Verbs, **more: Any) -> PipelineReport:
    return run_recipe(recipe, out=recipe.parent / "out", verbs=verbs, **more)


def statuses(report: PipelineReport) -> dict[str, str]:
    return {stage.name: stage.status for stage in report.stages}


def test_the_first_time_everything_is_made(recipe: Path, verbs: Verbs, log: list[str]) -> None:
    report = run(recipe, verbs)
    assert log == EVERYTHING
    assert set(statuses(report).values()) == {"made"}
    bundles = json.loads(report.output("scores").read_text())
    assert bundles[1].endswith("fp32")
    assert str(recipe.parent / "out" / "teacher") in bundles[0]


def test_the_second_time_nothing_runs(recipe: Path, verbs: Verbs, log: list[str]) -> None:
    first = run(recipe, verbs)
    log.clear()
    second = run(recipe, verbs)
    assert log == []
    assert set(statuses(second).values()) == {"cached"}
    assert [s.sha256 for s in second.stages] == [s.sha256 for s in first.stages]


def test_a_changed_setting_reruns_what_depends_on_it(
    recipe: Path, verbs: Verbs, log: list[str]
) -> None:
    run(recipe, verbs)
    log.clear()
    report = run(recipe, verbs, overrides={"student.epochs": 5})
    assert log == ["student from 0", "small.edge", "scores.json"]
    reasons = {stage.name: stage.reason for stage in report.stages}
    assert reasons["student"] == "epochs changed"
    assert reasons["small"] == "model changed"


def test_what_does_not_decide_the_result_reruns_nothing(
    recipe: Path, verbs: Verbs, log: list[str]
) -> None:
    run(recipe, verbs)
    log.clear()
    run(recipe, verbs, overrides={"threads": 2})
    assert log == []


def test_changed_data_rerun_everything(recipe: Path, verbs: Verbs, log: list[str]) -> None:
    run(recipe, verbs)
    log.clear()
    (recipe.parent / "data.npz").write_bytes(b"other")
    report = run(recipe, verbs)
    # The stand-ins do not look at the data, so their outputs stay, and so does what follows.
    assert log == ["teacher from 0", "student from 0"]
    assert statuses(report)["scores"] == "cached"


def test_another_version_of_edgessl_reruns_everything(
    recipe: Path, verbs: Verbs, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recipe, verbs)
    log.clear()
    monkeypatch.setattr("edgessl.pipeline.__version__", "99")
    assert {s.reason for s in run(recipe, verbs).stages} == {"edgessl changed"}
    assert log == EVERYTHING


def test_a_forced_stage_runs_and_equal_outputs_stop_the_wave(
    recipe: Path, verbs: Verbs, log: list[str]
) -> None:
    run(recipe, verbs)
    log.clear()
    report = run(recipe, verbs, force=["student"])
    assert log == ["student from 0"]
    assert statuses(report)["small"] == "cached"


@pytest.mark.parametrize(
    ("place", "again"),
    [
        ("small.edge", ["small.edge"]),
        ("teacher/exported/encoder.safetensors", ["teacher from 0"]),
    ],
)
def test_a_damaged_output_is_made_again(
    recipe: Path, verbs: Verbs, log: list[str], place: str, again: list[str]
) -> None:
    first = run(recipe, verbs)
    log.clear()
    damaged = recipe.parent / "out" / place
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    second = run(recipe, verbs)
    assert log == again
    assert [s.sha256 for s in second.stages] == [s.sha256 for s in first.stages]


def test_a_missing_output_is_made_again(recipe: Path, verbs: Verbs, log: list[str]) -> None:
    report = run(recipe, verbs)
    log.clear()
    report.output("small").unlink()
    assert {s.name: s.reason for s in run(recipe, verbs).stages}["small"] == "its output is gone"
    assert log == ["small.edge"]


def test_ctrl_c_keeps_what_is_finished_and_goes_on(
    recipe: Path, verbs: Verbs, log: list[str], learn: Any
) -> None:
    learn.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(recipe, verbs)
    learn.stop_after = None
    report = run(recipe, verbs)
    assert log == ["teacher from 0", "teacher from 2", *EVERYTHING[1:]]
    assert statuses(report)["teacher"] == "resumed"
    log.clear()
    run(recipe, verbs)
    assert log == []


def test_an_interrupted_stage_with_new_settings_starts_anew(
    recipe: Path, verbs: Verbs, log: list[str], learn: Any
) -> None:
    learn.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(recipe, verbs)
    learn.stop_after = None
    report = run(recipe, verbs, overrides={"teacher.batch_size": 2})
    assert log[:2] == ["teacher from 0", "teacher from 0"]
    assert statuses(report)["teacher"] == "made"


def test_an_old_run_is_not_taken_for_the_beginning_of_a_new_one(
    recipe: Path, verbs: Verbs, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before the verb touched the old run: its steps belong to other settings."""
    run(recipe, verbs)
    learn = verbs.get("learn")

    def stop(self: Verb, call: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(learn, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, verbs, overrides={"teacher.batch_size": 2})
    log.clear()
    run(recipe, verbs, overrides={"teacher.batch_size": 2})
    assert log[0] == "teacher from 0"


def test_a_failed_stage_keeps_the_stages_before_it(
    recipe: Path, verbs: Verbs, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Verb, call: object) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(verbs.get("pack"), "run", fail)
        with pytest.raises(OutputError, match=r"^stage 'large': the disk is full$"):
            run(recipe, verbs)
    log.clear()
    report = run(recipe, verbs)
    assert log == EVERYTHING[1:]
    assert statuses(report)["teacher"] == "cached"


def test_what_the_recipe_did_not_make_is_not_replaced(
    recipe: Path, verbs: Verbs, log: list[str]
) -> None:
    mine = recipe.parent / "out" / "large.edge"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"not made by this recipe.*--force large"):
        run(recipe, verbs)
    assert mine.read_text() == "mine"
    run(recipe, verbs, force=["large"])
    assert mine.read_text() != "mine"


def test_a_damaged_note_is_reported_and_the_stage_made_again(
    recipe: Path, verbs: Verbs, log: list[str]
) -> None:
    run(recipe, verbs)
    log.clear()
    (recipe.parent / "out" / ".edgessl" / "small.json").write_text("{")
    events: list[ProgressEvent] = []
    run(recipe, verbs, progress=events.append)
    assert log == ["small.edge"]
    assert [e.message for e in events if e.warning] != []


def test_a_wrong_recipe_runs_nothing_and_writes_nothing(
    recipe: Path, verbs: Verbs, log: list[str]
) -> None:
    with pytest.raises(UsageError, match="unknown key"):
        run(recipe, verbs, overrides={"precison": 1})
    with pytest.raises(UsageError, match="--force: unknown stage 'smal'; did you mean small"):
        run(recipe, verbs, force=["smal"])
    assert log == []
    assert not (recipe.parent / "out").exists()


def test_two_processes_do_not_write_to_one_folder(
    recipe: Path, verbs: Verbs, log: list[str]
) -> None:
    lock = recipe.parent / "out" / ".edgessl" / "lock"
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            run(recipe, verbs)
    assert log == []


def test_events_carry_the_stage(recipe: Path, verbs: Verbs, log: list[str]) -> None:
    events: list[ProgressEvent] = []
    run(recipe, verbs, progress=events.append)
    assert [e.completed for e in events if e.stage == "recipe"] == [0, 1, 2, 3, 4, 5]
    assert {e.stage for e in events if e.message} == {
        *("teacher", "large", "student", "small", "scores")
    }
