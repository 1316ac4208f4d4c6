from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgessl.errors import UsageError
from edgessl.recipe import PlannedStage, plan, read_recipe
from edgessl.registry import Registry
from edgessl.stages import Verb

Verbs = Registry[type[Verb]]


def planned(path: Path, verbs: Verbs, **overrides: Any) -> dict[str, PlannedStage]:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    stages = plan(read_recipe(path), folder=path.parent, overrides=named, verbs=verbs)
    return {stage.name: stage for stage in stages}


def test_references_give_the_order(recipe: Path, verbs: Verbs) -> None:
    assert list(planned(recipe, verbs)) == ["teacher", "large", "student", "small", "scores"]


def test_seed_and_data_are_defaults_of_the_stages_that_know_them(
    recipe: Path, verbs: Verbs
) -> None:
    stages = planned(recipe, verbs)
    assert stages["teacher"].settings["seed"] == 7
    assert stages["small"].settings["seed"] == 7
    assert "seed" not in stages["scores"].settings
    assert stages["teacher"].inputs["data"] == str(recipe.parent / "data.npz")


def test_an_override_goes_to_all_stages_that_know_the_key(recipe: Path, verbs: Verbs) -> None:
    stages = planned(recipe, verbs, epochs=9)
    assert stages["teacher"].settings["epochs"] == stages["student"].settings["epochs"] == 9
    assert "epochs" not in stages["small"].settings


def test_an_override_of_one_stage_wins_over_one_for_all(recipe: Path, verbs: Verbs) -> None:
    stages = planned(recipe, verbs, teacher__epochs=4, epochs=9)
    assert stages["teacher"].settings["epochs"] == 4
    assert stages["student"].settings["epochs"] == 9


def test_paths_of_the_command_line_are_relative_to_the_working_directory(
    recipe: Path, verbs: Verbs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    stages = planned(recipe, verbs, data="mine.npz")
    assert stages["teacher"].inputs["data"] == str(other / "mine.npz")


def test_free_text_that_is_no_file_is_passed_on(recipe: Path, verbs: Verbs) -> None:
    stages = planned(recipe, verbs, student__teacher="timm:resnet18")
    assert stages["student"].inputs["teacher"] == "timm:resnet18"
    assert stages["student"].references == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('verb = "report"', 'verb = "reprot"', r"stage 'scores': unknown verb 'reprot'.*report"),
        ('verb = "report"', "", r"stage 'scores': 'verb' is missing"),
        ("epochs = 2", "epoch = 2", r"stage 'student': unknown key 'epoch'; did you mean epochs"),
        ("epochs = 2", 'epochs = "two"', r"stage 'student': epochs: .*integer"),
        ('method = "fancy"', 'method = "fncy"', r"stage 'teacher': unknown method; .*fancy"),
        ('"@small"', '"@smal"', r"stage 'scores': bundles: unknown stage '@smal'; .*small"),
        ('"@small"', '"@teacher"', r"'@teacher' makes a run; name a stage that makes edge"),
        ('"@small"', '"none.edge"', r"scores': bundles: .*none.edge: no such file"),
        ('bundles = ["@small", "@large"]', "", r"stage 'scores': 'bundles' is missing"),
        ('bundles = ["@small", "@large"]', "bundles = 3", r"takes a list of paths or @stages"),
        ('method = "fancy"', 'teacher = "@student"', r"wait for each other: .*student.*teacher"),
        ('data = "data.npz"', "", r"stage 'student': 'data' is missing"),
        ('data = "data.npz"', 'dta = "data.npz"', r"unknown key 'dta'; did you mean data"),
        ("[stages.small]", "[stages.'../small']", r"stages"),
        ('name = "test"', 'name = "test', r"not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_one_line(
    recipe: Path, verbs: Verbs, old: str, new: str, said: str
) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert old in text
    recipe.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError, match=said) as caught:
        planned(recipe, verbs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"epoch": 1}, r"command line: unknown key 'epoch'; did you mean epochs"),
        ({"small.epochs": 1}, r"unknown key 'small.epochs'"),
        ({"techer.epochs": 1}, r"unknown stage 'techer'; did you mean teacher"),
    ],
)
def test_a_wrong_override_names_the_nearest(
    recipe: Path, verbs: Verbs, overrides: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        plan(read_recipe(recipe), folder=recipe.parent, overrides=overrides, verbs=verbs)


def test_a_missing_recipe_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_recipe(tmp_path / "none.toml")
