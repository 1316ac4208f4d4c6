"""The real verbs, as far as a recipe sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgessl.errors import UsageError
from edgessl.pipeline import run_recipe
from edgessl.recipe import Recipe, plan, read_recipe
from edgessl.stages import VERBS

pytest.importorskip("torch")


def planned(tmp_path: Path, **stages: dict[str, Any]) -> dict[str, Any]:
    recipe = Recipe(name="test", data="data", stages=stages)
    return {s.name: s for s in plan(recipe, folder=tmp_path)}


PRETRAIN = {"verb": "pretrain", "backbone": "resnet10t"}


def test_every_recipe_that_ships_is_right(root: Path) -> None:
    paths = [*(root / "edgessl").rglob("*recipe*.toml"), *(root / "benchmarks").rglob("*.toml")]
    assert paths
    for path in paths:
        recipe = read_recipe(path)
        named = {} if recipe.data else {"data": "given on the command line"}
        assert plan(recipe, folder=path.parent, overrides=named)


def test_the_stages_of_the_main_job_fit_together(tmp_path: Path) -> None:
    stages = planned(
        tmp_path,
        latency={"verb": "benchmark", "bundles": ["@bundle", "@model"], "against": ["@model"]},
        scores={"verb": "evaluate", "subject": "@bundle"},
        bundle={"verb": "compile", "model": "@model"},
        layers={"verb": "sensitivity", "model": "@model"},
        model={"verb": "export", "run": "@student"},
        student={"verb": "distill", "teacher": "@teacher", "student": "resnet10t"},
        teacher=PRETRAIN,
    )
    order = list(stages)
    assert order[:4] == ["teacher", "student", "model", "bundle"]
    assert set(order[4:]) == {"layers", "latency", "scores"}
    assert {s.verb_name for s in stages.values()} == set(VERBS.names())


def test_a_method_brings_its_own_keys(tmp_path: Path) -> None:
    stages = planned(tmp_path, a={**PRETRAIN, "method": "simclr", "temperature": 0.3})
    assert stages["a"].identity["temperature"] == 0.3
    with pytest.raises(UsageError, match="stage 'a': unknown key 'temperature'"):
        planned(tmp_path, a={**PRETRAIN, "method": "byol", "temperature": 0.3})


def test_where_a_run_computes_is_not_part_of_its_identity(tmp_path: Path) -> None:
    one = planned(tmp_path, a={**PRETRAIN, "threads": 1, "num_workers": 0})["a"]
    two = planned(tmp_path, a={**PRETRAIN, "threads": 2, "checkpoint_minutes": 9.0})["a"]
    assert one.identity == two.identity
    assert planned(tmp_path, a={**PRETRAIN, "epochs": 3})["a"].identity != one.identity


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({**PRETRAIN, "method": "simclrr"}, "unknown method 'simclrr'; did you mean simclr"),
        ({**PRETRAIN, "epohcs": 3}, "unknown key 'epohcs'; did you mean epochs"),
        ({**PRETRAIN, "epochs": 0}, "epochs: .*greater than or equal to 1, found 0"),
        ({"verb": "distill", "teacher": "timm:resnet10t"}, "'student' is missing"),
        ({"verb": "evaluate", "subject": "pixels", "protocol": ["knnn"]}, "did you mean knn"),
        ({"verb": "compile", "model": "m.onnx", "target": "hsot"}, "unknown target .*host"),
        ({"verb": "compile", "model": "m.onnx", "precision": "int7"}, "precision: .*int7"),
        ({"verb": "export", "run": "nowhere"}, "no such file"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    tmp_path: Path, stage: dict[str, Any], said: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=said):
        planned(tmp_path, a=stage)


def images(folder: Path, *, labels: str) -> Path:
    """Two classes of 8x8 noise, dark and bright, named by ``labels.csv``."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for index in range(12):
        bright = 128 * (index % 2)
        pixels = rng.integers(bright, bright + 100, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    names = [f"{i:02}.png,{labels[i % len(labels)]}" for i in range(12)]
    (folder / "labels.csv").write_text("file,label\n" + "\n".join(names) + "\n", encoding="utf-8")
    return folder


def test_a_real_stage_runs_and_new_labels_rerun_it(tmp_path: Path) -> None:
    images(tmp_path / "data", labels="ab")
    recipe = Recipe(
        name="test",
        data="data",
        stages={
            "scores": {
                **{"verb": "evaluate", "subject": "pixels", "protocol": "knn"},
                **{"image_size": 8, "knn_k": 3},
            }
        },
    )

    def run() -> str:
        report = run_recipe(recipe, out=tmp_path / "out", folder=tmp_path)
        assert 0.0 <= json.loads(report.output("scores").read_text())["knn_accuracy"] <= 1.0
        return report.stages[0].status

    assert [run(), run()] == ["made", "cached"]
    images(tmp_path / "data", labels="aab")
    assert [run(), run()] == ["made", "cached"]
