"""A whole run: what it leaves behind, exact resume, several processes, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgessl.errors import (
    DataError,
    ModelError,
    OutputError,
    RunError,
    UnavailableError,
    UsageError,
)
from edgessl.models import load_encoder
from edgessl.pretraining import pretrain
from edgessl.progress import ProgressEvent
from edgessl.run_directory import RunDirectory

SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "channels": 1,
    "batch_size": 16,
    "epochs": 2,
    "log_steps": 1,
    "probe_samples": 16,
    "num_workers": 0,
    "threads": 1,
    "device": "cpu",
}
BACKBONES = {"simclr": "test_efficientnet", "byol": "test_resnet", "mae": "test_vit"}


def curve(run: RunDirectory) -> list[dict[str, Any]]:
    """All logged figures but the speed, which is the machine's."""
    return [{k: v for k, v in m.items() if k != "samples_per_second"} for m in run.metrics()]


def losses(run: RunDirectory) -> list[float]:
    return [m["loss"] for m in run.metrics() if "loss" in m]


@pytest.mark.parametrize("method", sorted(BACKBONES))
def test_run_leaves_what_the_design_promises(method: str, data: Path, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    run = pretrain(
        data,
        method=method,
        backbone=BACKBONES[method],
        out=tmp_path / "run",
        overrides=SETTINGS,
        monitor=data,
        progress=events.append,
    )
    assert run.config()["method"] == method
    assert len(losses(run)) == 2 * 64 // 16
    assert all(torch.isfinite(torch.tensor(losses(run))))
    probes = [m for m in run.metrics() if "effective_rank" in m]
    assert [p["step"] for p in probes] == [0, 4, 8]
    assert all(0 <= p["knn_accuracy"] <= 1 and p["effective_rank"] >= 1 for p in probes)
    assert list(run.tensorboard_path.glob("events.*"))
    assert "finished" in run.log_path.read_text()
    steps = [e for e in events if e.stage == "pretrain" and e.message is None]
    assert steps[-1].completed == steps[-1].total == 8
    encoder, facts = load_encoder(run.path)
    assert encoder(torch.zeros(2, 1, 32, 32)).shape == (2, facts.dim)


def test_training_learns_the_kinds(data: Path, tmp_path: Path) -> None:
    overrides = {**SETTINGS, "epochs": 25, "batch_size": 32, "crop_scale": (0.8, 1.0), "flip": 0}
    run = pretrain(
        data,
        method="simclr",
        backbone="test_efficientnet",
        out=tmp_path / "run",
        overrides=overrides,
        monitor=data,
    )
    probes = [m for m in run.metrics() if "knn_accuracy" in m]
    assert losses(run)[-1] < losses(run)[0] - 0.3
    assert probes[-1]["knn_accuracy"] >= 0.9


def test_same_seed_same_weights_other_seed_other_weights(data: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = pretrain(
            data,
            method="simclr",
            backbone="test_efficientnet",
            out=tmp_path / name,
            overrides={**SETTINGS, "seed": seed, "epochs": 1},
        )
        weights.append(load_file(run.encoder_path))
    key = next(k for k in weights[0] if k.endswith("weight"))
    assert torch.equal(weights[0][key], weights[1][key])
    assert not torch.equal(weights[0][key], weights[2][key])


class Killed(BaseException):
    """Stands for a kill: no handler of the library catches it."""


@pytest.mark.parametrize("method", sorted(BACKBONES))
@pytest.mark.parametrize("extra", [{}, {"ema_decay": 0.9, "accumulate": 2}], ids=["plain", "ema"])
def test_resume_equals_an_uninterrupted_run(
    method: str, extra: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    overrides = {**SETTINGS, **extra, "checkpoint_steps": 3}
    arguments = {"method": method, "backbone": BACKBONES[method], "overrides": overrides}
    whole = pretrain(data, out=tmp_path / "whole", **arguments)

    def kill(event: ProgressEvent) -> None:
        if event.stage == "pretrain" and event.completed == 5:
            raise Killed

    with pytest.raises(Killed):
        pretrain(data, out=tmp_path / "cut", progress=kill, **arguments)
    resumed = pretrain(data, out=tmp_path / "cut", resume=True, **arguments)
    assert curve(resumed) == curve(whole)
    ours, theirs = load_file(resumed.encoder_path), load_file(whole.encoder_path)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_ctrl_c_keeps_the_step(data: Path, tmp_path: Path) -> None:
    arguments = {"method": "simclr", "backbone": "test_efficientnet", "overrides": SETTINGS}
    whole = pretrain(data, out=tmp_path / "whole", **arguments)
    said: list[str] = []

    def press(event: ProgressEvent) -> None:
        said.append(event.message or "")
        if event.stage == "pretrain" and event.completed == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pretrain(data, out=tmp_path / "cut", progress=press, **arguments)
    assert "interrupted, step 5 is saved; go on with --resume" in said
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = pretrain(data, out=tmp_path / "cut", resume=True, **arguments)
    assert curve(resumed) == curve(whole)


def command(data: Path, out: Path, method: str, **changes: Any) -> list[str]:
    settings = [f"{key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    return [
        "-m", "edgessl", "pretrain", "--data", str(data), "--method", method, "--backbone",
        BACKBONES[method], "--out", str(out), *settings,
    ]  # fmt: skip


def test_resume_after_sigkill(data: Path, tmp_path: Path) -> None:
    """The operating system kills the process at whatever step it is in."""
    changes = {"checkpoint_steps": 2, "epochs": 12}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    cut = RunDirectory(tmp_path / "cut")
    process = subprocess.Popen(
        [sys.executable, *command(data, cut.path, "byol", **changes)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not cut.checkpoint_path.is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for out, more in ((cut.path, ["--resume"]), (tmp_path / "whole", [])):
        subprocess.run(
            [sys.executable, *command(data, out, "byol", **changes), *more],
            env=environment, check=True, capture_output=True,
        )  # fmt: skip
    assert curve(cut) == curve(RunDirectory(tmp_path / "whole"))


@pytest.mark.parametrize("method", sorted(BACKBONES))
def test_two_processes_equal_one(method: str, data: Path, tmp_path: Path) -> None:
    """One process with two threads adds in the order of two processes with one thread each.

    With one thread, rounding alone moves the curves further apart: training amplifies it tenfold
    per step on data this small, whether it comes from threads or from processes.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    changes = {"batch_size": 32, "epochs": 4, "learning_rate": 3e-4}
    one = [sys.executable, *command(data, tmp_path / "one", method, **changes, threads=2)]
    two = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        *command(data, tmp_path / "two", method, **changes),
    ]  # fmt: skip
    for words in (one, two):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    first, second = (losses(RunDirectory(tmp_path / name)) for name in ("one", "two"))
    assert len(first) == 8
    assert second == pytest.approx(first, abs=1e-4)


def test_init_from_starts_with_the_weights_of_a_run(data: Path, tmp_path: Path) -> None:
    first = pretrain(
        data,
        method="simclr",
        backbone="test_efficientnet",
        out=tmp_path / "first",
        overrides={**SETTINGS, "epochs": 1},
    )
    second = pretrain(
        data,
        method="byol",
        backbone="test_efficientnet",
        out=tmp_path / "second",
        overrides={**SETTINGS, "epochs": 1, "learning_rate": 1e-12, "weight_decay": 0},
        init_from=first.path,
    )
    ours, theirs = load_file(second.encoder_path), load_file(first.encoder_path)
    trained = [k for k in ours if k.endswith("weight")]
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-6) for k in trained)
    with pytest.raises(ModelError, match="same backbone"):
        pretrain(
            data,
            method="byol",
            backbone="test_resnet",
            out=tmp_path / "third",
            overrides=SETTINGS,
            init_from=first.path,
        )


def test_bf16_trains(data: Path, tmp_path: Path) -> None:
    run = pretrain(
        data,
        method="simclr",
        backbone="test_vit",
        out=tmp_path / "run",
        overrides={**SETTINGS, "precision": "bf16"},
    )
    assert all(torch.isfinite(torch.tensor(losses(run))))


def test_existing_things_are_safe(data: Path, tmp_path: Path) -> None:
    arguments = {"method": "simclr", "backbone": "test_efficientnet", "overrides": SETTINGS}
    with pytest.raises(RunError, match="no run to resume"):
        pretrain(data, out=tmp_path / "none", resume=True, **arguments)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not a run"):
            pretrain(data, out=photos, overwrite=overwrite, **arguments)
    assert (photos / "mine.txt").read_text() == "mine"
    run = pretrain(data, out=tmp_path / "run", **arguments)
    with pytest.raises(OutputError, match="--resume"):
        pretrain(data, out=run.path, **arguments)
    changed = {**arguments, "overrides": {**SETTINGS, "learning_rate": 0.5}}
    with pytest.raises(RunError, match=r"trainer\.learning_rate"):
        pretrain(data, out=run.path, resume=True, **changed)
    before = run.metrics()
    again = pretrain(data, out=run.path, resume=True, **arguments)
    assert again.metrics() == before
    assert curve(pretrain(data, out=run.path, overwrite=True, **arguments)) == curve(again)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"method": "simcl"}, UsageError, "simclr"),
        ({"backbone": "resnt18"}, ModelError, "resnet18"),
        ({"overrides": {"batchsize": 3}}, UsageError, "batch_size"),
        ({"overrides": {"temperature": -1}}, UsageError, "temperature"),
        ({"overrides": {"mask_ratio": 0.5}}, UsageError, "mask_ratio"),
        ({"overrides": {**SETTINGS, "batch_size": 4096}}, DataError, "batch_size"),
        ({"overrides": {**SETTINGS, "optimizer": "adamm"}}, UsageError, "adamw"),
        ({"overrides": {**SETTINGS, "precision": "fp16"}}, UnavailableError, "bf16"),
        ({"method": "mae", "overrides": SETTINGS}, UsageError, "vision transformer"),
    ],
)
def test_mistakes_are_named(
    change: dict[str, Any], error: type[Exception], text: str, data: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {
        "method": "simclr", "backbone": "test_efficientnet", "overrides": SETTINGS, **change
    }  # fmt: skip
    with pytest.raises(error, match=text):
        pretrain(data, out=tmp_path / "run", **arguments)


def test_divergence_stops_the_run_and_keeps_the_checkpoint(data: Path, tmp_path: Path) -> None:
    overrides = {**SETTINGS, "learning_rate": 1e30, "warmup_epochs": 0, "clip_norm": 0}
    with pytest.raises(RunError, match="lower learning_rate"):
        pretrain(data, method="mae", backbone="test_vit", out=tmp_path / "run", overrides=overrides)
    assert not RunDirectory(tmp_path / "run").encoder_path.exists()


def test_damaged_checkpoint_is_refused(data: Path, tmp_path: Path) -> None:
    arguments = {"method": "simclr", "backbone": "test_efficientnet", "overrides": SETTINGS}
    run = pretrain(data, out=tmp_path / "run", **arguments)
    content = run.checkpoint_path.read_bytes()
    run.checkpoint_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="checkpoint cannot be read"):
        pretrain(data, out=run.path, resume=True, **arguments)


def test_metrics_are_json_lines(data: Path, tmp_path: Path) -> None:
    run = pretrain(
        data,
        method="simclr",
        backbone="test_efficientnet",
        out=tmp_path / "run",
        overrides={**SETTINGS, "epochs": 1},
    )
    for line in run.metrics_path.read_text().splitlines():
        assert {"step"} < set(json.loads(line))
