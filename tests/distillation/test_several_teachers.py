"""Several teachers with objectives each; the state of a distillation; teachers that run along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgessl.config import nest_tables, parse_overrides
from edgessl.data.loader import Batch
from edgessl.distillation import distill
from edgessl.distillation.feature_table import FeatureTable
from edgessl.distillation.objective import Distillation, DistillationOptions, TaughtBy
from edgessl.errors import ModelError, RunError, UsageError
from edgessl.models import build_encoder, save_encoder
from edgessl.preprocessing import ImageInput
from edgessl.pretraining import StepContext
from edgessl.progress import ProgressEvent
from edgessl.recipe import Recipe, plan
from edgessl.run_directory import RunDirectory

SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "batch_size": 16,
    "epochs": 2,
    "log_steps": 1,
    "probe_epochs": 0,
    "view_seeds": 2,
    "num_workers": 0,
    "threads": 1,
    "device": "cpu",
    "account": False,
}
EVERYTHING = {
    "similarity": {"queue_size": 32, "weight": 0.5},
    "cosine": 1.0,
    "smooth_l1": 1.0,
    "relational_distance": 1.0,
    "relational_angle": 1.0,
    "prototypes": {"prototypes": 8},
    "feature_maps": 0.5,
    "tokens": 0.5,
}


def encoder_file(path: Path, backbone: str, channels: int = 1) -> Path:
    torch.manual_seed(0)
    spec = ImageInput(
        channels=channels, height=32, width=32, mean=(0.5,) * channels, std=(0.25,) * channels
    )
    save_encoder(build_encoder(backbone, spec), path, lineage={})
    return path


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A convolutional one and a transformer."""
    folder = tmp_path_factory.mktemp("teachers")
    return (
        encoder_file(folder / "resnet.safetensors", "test_resnet"),
        encoder_file(folder / "vit.safetensors", "test_vit"),
    )


def curve(run: RunDirectory) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.items() if k != "samples_per_second"} for m in run.metrics()]


def step_context(epoch: int = 0) -> StepContext:
    return StepContext(step=0, total_steps=10, epoch=epoch, seed=0)


def tables() -> tuple[FeatureTable, FeatureTable]:
    generator = np.random.default_rng(0)
    plain = generator.normal(size=(2, 40, 12)).astype(np.float16)
    mapped = generator.normal(size=(2, 40, 6 + 5 * 2 * 2)).astype(np.float16)
    return (
        FeatureTable(list(plain), dim=12, name="plain"),
        FeatureTable(list(mapped), dim=6, map_shape=(5, 2, 2), name="mapped"),
    )


def student(backbone: str = "test_efficientnet", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    spec = ImageInput(channels=1, height=32, width=32, mean=(0.0,), std=(1.0,))
    return build_encoder(backbone, spec)


def test_the_loss_is_the_weighted_sum_over_teachers_and_objectives() -> None:
    plain, mapped = tables()
    both = [
        TaughtBy(plain, 2.0, {"cosine": 3.0, "relational_distance": 0.5}),
        TaughtBy(mapped, 0.25, {"tokens": {"weight": 4.0}, "smooth_l1": 1}),
    ]
    objective = Distillation(student(), both, DistillationOptions()).eval()
    loss, metrics = objective(
        Batch((torch.randn(6, 1, 32, 32),), torch.arange(6)), step_context(epoch=1)
    )
    wanted = 2.0 * (3.0 * metrics["cosine_loss_1"] + 0.5 * metrics["relational_distance_loss_1"])
    wanted += 0.25 * (4.0 * metrics["tokens_loss_2"] + metrics["smooth_l1_loss_2"])
    torch.testing.assert_close(loss.detach(), wanted)
    assert {"teacher_cosine_1", "teacher_cosine_2"} < set(metrics)
    assert loss.requires_grad
    loss.backward()
    unused = [name for name, p in objective.named_parameters() if p.grad is None]
    assert unused == [], "several processes wait for every gradient"


def test_the_view_of_the_epoch_is_compared() -> None:
    plain, _ = tables()
    first, second = (plain.features(seed, torch.arange(4)).embedding for seed in (0, 1))
    assert not torch.equal(first, second)
    taught = [TaughtBy(plain, 1.0, {"cosine": 1.0})]
    objective = Distillation(student(), taught, DistillationOptions()).eval()
    batch = Batch((torch.randn(4, 1, 32, 32),), torch.arange(4))
    losses = [float(objective(batch, step_context(epoch)).loss.detach()) for epoch in range(4)]
    assert losses[0] == losses[2] != losses[1] == losses[3]


def test_another_student_goes_on_with_the_state_of_the_first() -> None:
    """As the phase for a target's integers does: no maps, other weights, the same heads."""
    plain, mapped = tables()
    settings = {"similarity": {"queue_size": 16}, "prototypes": {"prototypes": 4}, "tokens": 1.0}
    options = DistillationOptions.model_validate({"objectives": settings})
    taught = [TaughtBy(plain, 1.0, {"cosine": 1.0}), TaughtBy(mapped)]
    first = Distillation(student(seed=1), taught, options)
    first(Batch((torch.randn(6, 1, 32, 32),), torch.arange(6)), step_context())
    first.after_step(step_context())
    second = Distillation(student(seed=2), taught, options, maps=False)
    assert second.left_out == ["tokens"]
    second.load_agreements(first.state_dict())
    ours, theirs = second.state_dict(), first.state_dict()
    heads = [name for name in ours if not name.startswith("encoder.")]
    assert any("queue" in n for n in heads)
    assert any("centre" in n for n in heads)
    assert any("projector" in n for n in heads)
    assert all(torch.equal(ours[name], theirs[name]) for name in heads)
    assert not any("tokens" in name for name in heads)
    other = Distillation(student("test_vit"), taught, options)
    with pytest.raises(RunError, match="keep teachers, objectives and student"):
        other.load_agreements(first.state_dict())
    with pytest.raises(UsageError, match="only tokens is trained"):
        Distillation(student(), [TaughtBy(mapped, 1.0, {"tokens": 1.0})], options, maps=False)


def test_maps_that_are_not_there_are_said() -> None:
    plain, mapped = tables()
    with pytest.raises(ModelError, match="teacher plain: has no feature maps"):
        Distillation(student(), [TaughtBy(plain, 1.0, {"tokens": 1.0})], DistillationOptions())
    bare = student()
    bare.backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, bare.dim))
    with pytest.raises(ModelError, match="the student test_efficientnet has no feature maps"):
        Distillation(bare, [TaughtBy(mapped, 1.0, {"tokens": 1.0})], DistillationOptions())
    taught = [TaughtBy(mapped, 1.0, {"cosine": 1.0})]
    Distillation(bare, taught, DistillationOptions())


class Killed(BaseException):
    """Stands for a kill."""


def test_two_teachers_with_all_objectives_resume_exactly(
    teachers: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    two = [
        {"name": str(teachers[0]), "objectives": EVERYTHING},
        {"name": str(teachers[1]), "weight": 0.5, "objectives": {"tokens": 1, "cosine": 1}},
    ]
    overrides = {**SETTINGS, "teachers": two, "checkpoint_steps": 2}
    whole = distill(None, "test_efficientnet", data, out=tmp_path / "whole", overrides=overrides)

    def kill(event: ProgressEvent) -> None:
        if event.stage == "distill" and event.completed == 5:
            raise Killed

    arguments = {"overrides": overrides, "out": tmp_path / "cut"}
    with pytest.raises(Killed):
        distill(None, "test_efficientnet", data, progress=kill, **arguments)
    resumed = distill(None, "test_efficientnet", data, resume=True, **arguments)
    assert curve(resumed) == curve(whole)
    ours, theirs = load_file(resumed.encoder_path), load_file(whole.encoder_path)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    names = set(whole.metrics()[0])
    assert {f"{name}_loss_1" for name in EVERYTHING} <= names
    assert {"tokens_loss_2", "teacher_cosine_2"} <= names
    first, last = whole.metrics()[0]["loss"], whole.metrics()[-1]["loss"]
    assert last < first


def test_two_processes_equal_one(teachers: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    """Queues, centres, distances and angles are those of the whole batch."""
    recipe = tmp_path / "objectives.toml"
    lines = [f"{name} = {_toml(value)}" for name, value in EVERYTHING.items()]
    recipe.write_text("\n".join(["[objectives]", *lines]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EDGESSL_CACHE": str(tmp_path / "cache")}
    changes = {**SETTINGS, "learning_rate": 3e-4, "account": "false", "threads": 1}

    def words(name: str, **more: Any) -> list[str]:
        settings = [f"{key}={value}" for key, value in {**changes, **more}.items()]
        return [
            "-m", "edgessl", "distill", "--teacher", str(teachers[0]), "--student",
            "test_efficientnet", "--data", str(data), "--recipe", str(recipe), "--out",
            str(tmp_path / name), *settings,
        ]  # fmt: skip

    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in (words("one", threads=2), [*launcher, *words("two")]):
        done = subprocess.run(
            [sys.executable, *command],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (RunDirectory(tmp_path / name).metrics() for name in ("one", "two"))
    assert len(one) >= 6
    for name in ("loss", *(f"{key}_loss" for key in EVERYTHING)):
        first, second = ([m[name] for m in run if name in m] for run in (one, two))
        assert second == pytest.approx(first, abs=2e-4), name


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {v}" for k, v in value.items()) + "}"
    return str(value)


def test_a_teacher_that_does_not_fit_the_cache_runs_along(
    teachers: tuple[Path, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the run is the same but for rounding: its batches are others than those of a table."""
    overrides = {**SETTINGS, "objectives": {"cosine": 1, "feature_maps": 1}}
    said: list[str] = []
    curves = []
    for limit in ("1", "0"):
        monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / f"cache-{limit}"))
        monkeypatch.setenv("EDGESSL_TEACHER_CACHE_GB", limit)
        run = distill(
            str(teachers[0]),
            "test_efficientnet",
            data,
            out=tmp_path / f"run-{limit}",
            overrides=overrides,
            progress=lambda event: said.append(event.message or ""),
        )
        curves.append([m["loss"] for m in run.metrics()])
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)
    assert sum("do not fit into the cache" in message for message in said) == 1
    assert not list((tmp_path / "cache-0").rglob("*.rows"))


def test_teachers_data_and_student_must_have_the_same_channels(
    teachers: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    colour = encoder_file(tmp_path / "colour.safetensors", "test_resnet", channels=3)
    five = encoder_file(tmp_path / "five.safetensors", "test_resnet", channels=5)

    def attempt(*names: Path, **changes: Any) -> None:
        distill(
            [str(name) for name in names],
            "test_efficientnet",
            data,
            out=tmp_path / "run",
            overrides={**SETTINGS, **changes},
        )

    with pytest.raises(ModelError, match=r"takes 3 channels, resnet.safetensors 1"):
        attempt(teachers[0], colour)
    with pytest.raises(UsageError, match="takes 3 channels, the student 1; leave channels out"):
        attempt(colour, channels=1)
    with pytest.raises(UsageError, match="takes 5 channels, the samples have 1"):
        attempt(five)
    assert not (tmp_path / "run").exists()


def test_teachers_are_given_in_one_place(
    teachers: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    def attempt(names: Any, weights: Path | None = None, **changes: Any) -> None:
        distill(
            names,
            "test_efficientnet",
            data,
            out=tmp_path / "run",
            teacher_weights=weights,
            overrides={**SETTINGS, **changes},
        )

    with pytest.raises(UsageError, match="found neither"):
        attempt(None)
    with pytest.raises(UsageError, match="found both"):
        attempt(str(teachers[0]), teachers=[{"name": str(teachers[1])}])
    with pytest.raises(UsageError, match="is for one teacher, found 2"):
        attempt([str(t) for t in teachers], weights=tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"teachers\.0\.weigth"):
        attempt(None, teachers=[{"name": str(teachers[1]), "weigth": 1}])


def test_dotted_settings_are_tables() -> None:
    words = ["objectives.cosine=2", "objectives.similarity.queue_size=64", "epochs=3"]
    assert nest_tables(parse_overrides(words)) == {
        "objectives": {"cosine": 2, "similarity": {"queue_size": 64}},
        "epochs": 3,
    }
    for wrong in (["objectives=1", "objectives.cosine=2"], ["objectives.cosine=2", "objectives=1"]):
        with pytest.raises(UsageError, match="both a value and a table"):
            nest_tables(parse_overrides(wrong))


def test_a_recipe_names_teachers_as_stages_and_files(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"x")
    stage = {
        "verb": "distill",
        "student": "resnet10t",
        "teachers": [
            {"name": "@teacher", "weight": 2.0},
            {"name": "timm:test_vit", "weights_file": "w.safetensors", "objectives": {"cosine": 1}},
        ],
    }
    stages = {"student": stage, "teacher": {"verb": "pretrain", "backbone": "resnet10t"}}
    recipe = Recipe.model_validate({"name": "test", "data": "data", "stages": stages})
    first, second = plan(recipe, folder=tmp_path)
    assert first.name == "teacher"
    assert second.inputs["teacher"] == ["@teacher", "timm:test_vit"]
    assert second.inputs["teacher_weights"] == [str(tmp_path / "w.safetensors")]
    both = Recipe.model_validate(
        {"name": "test", "data": "data", "stages": {**stages, "student": {**stage, "teacher": "x"}}}
    )
    with pytest.raises(UsageError, match="stage 'student': teachers are given by teacher and by"):
        plan(both, folder=tmp_path)
