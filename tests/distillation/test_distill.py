"""Distillation: it learns the teacher, runs it once per view, and resumes exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from edgessl.distillation import distill
from edgessl.errors import ModelError, UsageError
from edgessl.models import Encoder, build_encoder, load_encoder, load_teacher, save_encoder
from edgessl.preprocessing import ImageInput
from edgessl.progress import ProgressEvent
from edgessl.run_directory import RunDirectory

SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "batch_size": 16,
    "epochs": 3,
    "log_steps": 1,
    "probe_epochs": 0,
    "objectives": {"similarity": {"queue_size": 32}, "cosine": 1},
    "view_seeds": 2,
    "account": False,
    "num_workers": 0,
    "threads": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of 1-channel images: distillation needs no good teacher to be tested."""
    torch.manual_seed(0)
    spec = ImageInput(channels=1, height=32, width=32, mean=(0.5,), std=(0.25,))
    path = tmp_path_factory.mktemp("teacher") / "encoder.safetensors"
    save_encoder(build_encoder("test_resnet", spec), path, lineage={})
    return path


def curve(run: RunDirectory) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.items() if k != "samples_per_second"} for m in run.metrics()]


def test_student_comes_close_to_the_teacher(teacher: Path, data: Path, tmp_path: Path) -> None:
    run = distill(
        str(teacher),
        "test_efficientnet",
        data,
        out=tmp_path / "run",
        overrides={**SETTINGS, "epochs": 40, "learning_rate": 0.01},
    )
    cosine = [m["teacher_cosine"] for m in run.metrics()]
    assert cosine[-1] > 0.9 > cosine[0] + 0.3
    student, facts = load_encoder(run.path)
    assert facts.backbone == "test_efficientnet"
    assert facts.lineage["teacher"]
    assert student(torch.zeros(1, 1, 32, 32)).shape[1] != load_encoder(teacher)[0].dim


def test_teacher_runs_once_per_sample_and_view_seed(
    teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
    seen: list[int] = []
    forward = Encoder.forward

    def count(self: Encoder, inputs: torch.Tensor) -> torch.Tensor:
        if self.name == "test_resnet":
            seen.append(len(inputs))
        return forward(self, inputs)

    monkeypatch.setattr(Encoder, "forward", count)
    first = distill(str(teacher), "test_efficientnet", data, out=tmp_path / "a", overrides=SETTINGS)
    assert sum(seen) == 48 * 2
    seen.clear()
    second = distill(
        str(teacher), "test_efficientnet", data, out=tmp_path / "b", overrides=SETTINGS
    )
    assert sum(seen) == 0
    assert curve(first) == curve(second)

    more = tmp_path / "more.npz"
    images = np.load(data)["x"]
    np.savez(more, x=np.concatenate([255 - images[:8], images]))
    distill(str(teacher), "test_efficientnet", more, out=tmp_path / "c", overrides=SETTINGS)
    assert sum(seen) == 8 * 2, "only the new samples go through the teacher"
    seen.clear()
    overrides = {**SETTINGS, "crop_scale": (0.9, 1.0)}
    distill(str(teacher), "test_efficientnet", data, out=tmp_path / "d", overrides=overrides)
    assert sum(seen) == 48 * 2, "other views are other embeddings"


def test_cached_features_equal_fresh_ones(
    teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample's view must not depend on its neighbours in the set."""
    subset = tmp_path / "subset.npz"
    np.savez(subset, x=np.load(data)["x"][5:40])
    curves = []
    for name, warm in (("cold", False), ("warm", True)):
        monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / name))
        if warm:
            distill(str(teacher), "test_efficientnet", data, out=tmp_path / "w", overrides=SETTINGS)
        run = distill(
            str(teacher),
            "test_efficientnet",
            subset,
            out=tmp_path / f"{name}-run",
            overrides=SETTINGS,
        )
        curves.append([m["loss"] for m in run.metrics()])
    assert curves[0] == pytest.approx(curves[1], abs=2e-3)


class Killed(BaseException):
    """Stands for a kill."""


def test_resume_equals_an_uninterrupted_run(teacher: Path, data: Path, tmp_path: Path) -> None:
    overrides = {**SETTINGS, "checkpoint_steps": 2}
    arguments = {"overrides": overrides}
    whole = distill(str(teacher), "test_vit", data, out=tmp_path / "whole", **arguments)

    def kill(event: ProgressEvent) -> None:
        if event.stage == "distill" and event.completed == 5:
            raise Killed

    with pytest.raises(Killed):
        distill(str(teacher), "test_vit", data, out=tmp_path / "cut", progress=kill, **arguments)
    resumed = distill(
        str(teacher), "test_vit", data, out=tmp_path / "cut", resume=True, **arguments
    )
    assert curve(resumed) == curve(whole)


def test_named_teacher_with_weights_from_a_file(data: Path, tmp_path: Path) -> None:
    """Grey data meet a colour teacher, whose own input size and statistics are used."""
    torch.manual_seed(1)
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), weights)
    run = distill(
        "timm:test_vit",
        "test_efficientnet",
        data,
        out=tmp_path / "run",
        teacher_weights=weights,
        overrides={**SETTINGS, "teacher_image_size": 64},
    )
    assert load_encoder(run.path)[0].spec.channels == 3
    model = load_teacher("test_vit", weights=weights, image_size=None, largest=96)
    ours = timm.create_model("test_vit", img_size=96)
    ours.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(load_file(weights), ours)
    )
    images = torch.randn(2, 3, 96, 96)
    wanted = ours.eval().forward_head(ours.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model.eval()(images), wanted)
    with pytest.raises(ModelError, match="safetensors"):
        distill(
            "timm:test_vit",
            "test_efficientnet",
            data,
            out=tmp_path / "b",
            teacher_weights=tmp_path / "vit.pth",
            overrides=SETTINGS,
        )
    with pytest.raises(ModelError, match="no such file"):
        distill(
            "timm:test_vit",
            "test_efficientnet",
            data,
            out=tmp_path / "b",
            teacher_weights=tmp_path / "none.safetensors",
            overrides=SETTINGS,
        )
    with pytest.raises(ModelError, match="test_resnet"):
        distill(
            "timm:test_resnet",
            "test_efficientnet",
            data,
            out=tmp_path / "b",
            teacher_weights=weights,
            overrides=SETTINGS,
        )


def test_unknown_names_are_named(teacher: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dinov2"):
        distill("timm:vit_small_dinov2", "resnet18", data, out=tmp_path / "a", overrides=SETTINGS)
    with pytest.raises(ModelError, match="mobilenetv3_small_050"):
        distill(str(teacher), "mobilenetv3_small_05", data, out=tmp_path / "a", overrides=SETTINGS)
    with pytest.raises(UsageError, match="view_seeds"):
        distill(str(teacher), "resnet18", data, out=tmp_path / "a", overrides={"viewseeds": 5})
