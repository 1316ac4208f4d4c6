"""Training for a target's integers: what is trained is what is exported, compiled and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgessl.distillation import distill
from edgessl.errors import OutputError, RunError, TargetError, UsageError
from edgessl.exporting import export
from edgessl.models import build_encoder, load_encoder, save_encoder
from edgessl.preprocessing import ImageInput, normalize
from edgessl.progress import ProgressEvent
from edgessl.run_directory import RunDirectory
from edgessl.runtime import open_session

TARGET = "cpu-x86-64"
SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "batch_size": 16,
    "epochs": 4,
    "objectives": {"cosine": 0.01},  # the float student is most of what the integers learn from
    "integer_epochs": 40,
    "integer_samples": 16,
    "log_steps": 1,
    "probe_epochs": 0,
    "view_seeds": 2,
    "num_workers": 0,
    "threads": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = ImageInput(channels=1, height=32, width=32, mean=(0.5,), std=(0.25,))
    path = tmp_path_factory.mktemp("teacher") / "encoder.safetensors"
    save_encoder(build_encoder("test_resnet", spec), path, lineage={})
    return path


@pytest.fixture(scope="module")
def float_run(teacher: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    out = tmp_path_factory.mktemp("float") / "run"
    return distill(str(teacher), "test_resnet", data, out=out, overrides=SETTINGS)


@pytest.fixture(scope="module")
def run(
    teacher: Path, data: Path, float_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    out = tmp_path_factory.mktemp("integers") / "run"
    return distill(
        str(teacher),
        "test_resnet",
        data,
        out=out,
        overrides=SETTINGS,
        for_target=TARGET,
        float_run=float_run.path,
    )


def images(count: int = 16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((count, 1, 32, 32), dtype=np.float32)


def embed(model: Path, **options: Any) -> np.ndarray[Any, Any]:
    with open_session("onnxruntime", model, options) as session:
        return session.run({session.inputs[0].name: images()})["embedding"]


def mean_cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).mean())


def curve(run: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in m.items() if k != "samples_per_second"}
        for m in RunDirectory(run).metrics()
    ]


def integers(model: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}


def test_float_phase_is_taken_over_and_left_alone(
    run: RunDirectory, float_run: RunDirectory
) -> None:
    assert run.encoder_path.read_bytes() == float_run.encoder_path.read_bytes()
    assert curve(run.path) == curve(float_run.path)
    assert not float_run.student_path.exists()


def test_one_run_of_both_phases_is_the_same(
    run: RunDirectory, teacher: Path, data: Path, tmp_path: Path
) -> None:
    whole = distill(
        str(teacher),
        "test_resnet",
        data,
        out=tmp_path / "run",
        overrides=SETTINGS,
        for_target=TARGET,
    )
    assert curve(whole.integers_path) == curve(run.integers_path)
    mine, theirs = integers(whole.student_path), integers(run.student_path)
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_training_brings_the_integers_closer_to_the_float_student(
    run: RunDirectory, data: Path
) -> None:
    student, _ = load_encoder(run.path)
    inputs = normalize(np.load(data)["x"][..., None], student.spec)
    with torch.inference_mode():
        wanted = student(torch.from_numpy(inputs)).numpy()

    def error(model: Path) -> float:
        with open_session("onnxruntime", model, {"fuse_qdq": False}) as session:
            given = session.run({"images": inputs})["embedding"]
        return float(np.square(given - wanted).sum() / np.square(wanted).sum())

    assert error(run.student_path) < error(run.path / "graph" / "integers.onnx")


def test_export_hands_the_integers_out(run: RunDirectory, tmp_path: Path) -> None:
    report = export(run.path, out=tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == run.student_path.read_bytes()
    assert report.min_cosine > 0.999
    with pytest.raises(UsageError, match="takes no 'opset'"):
        export(run.path, out=tmp_path / "n.onnx", overrides={"opset": 20})
    plain = export(run.encoder_path, out=tmp_path / "float.onnx")
    assert plain.embedding_dim == report.embedding_dim
    assert mean_cosine(embed(tmp_path / "m.onnx"), embed(tmp_path / "float.onnx")) > 0.9


def test_resume_in_the_integer_phase_is_exact(
    run: RunDirectory, float_run: RunDirectory, teacher: Path, data: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {
        "out": tmp_path / "cut",
        "overrides": {**SETTINGS, "checkpoint_steps": 2},
        "for_target": TARGET,
    }

    class Killed(BaseException):
        """Stands for a kill."""

    def kill(event: ProgressEvent) -> None:
        # In the last 30 steps no range moves.
        if event.stage == "integers" and event.completed == 100 and event.total == 120:
            raise Killed

    with pytest.raises(Killed):
        distill(
            str(teacher),
            "test_resnet",
            data,
            float_run=float_run.path,
            progress=kill,
            **arguments,
        )
    with pytest.raises(RunError, match="not finished; go on with --resume"):
        export(tmp_path / "cut", out=tmp_path / "early.onnx")
    resumed = distill(str(teacher), "test_resnet", data, resume=True, **arguments)
    assert curve(resumed.integers_path) == curve(run.integers_path)
    mine, theirs = integers(resumed.student_path), integers(run.student_path)
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)


def test_ranges_rest_in_the_last_share(
    float_run: RunDirectory, teacher: Path, data: Path, tmp_path: Path
) -> None:
    """With all of the phase frozen, the calibrated scales of activations stay."""
    run = distill(
        str(teacher),
        "test_resnet",
        data,
        out=tmp_path / "run",
        overrides={**SETTINGS, "frozen_share": 1.0, "integer_epochs": 1},
        for_target=TARGET,
        float_run=float_run.path,
    )
    model = onnx.load(run.student_path)
    before, after = integers(run.path / "graph" / "integers.onnx"), integers(run.student_path)
    weights = {t.name for t in model.graph.initializer}
    activations = [
        node.input[1]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in weights
    ]
    assert activations
    assert all(np.array_equal(before[name], after[name]) for name in activations)
    changed = [n for n in before if before[n].dtype == np.int8 and before[n].ndim > 1]
    assert any(not np.array_equal(before[name], after[name]) for name in changed)


def test_target_without_integers_is_refused_before_training(
    teacher: Path, data: Path, tmp_path: Path
) -> None:
    target = tmp_path / "floats.toml"
    target.write_text(
        'name = "floats"\ndescription = "no integers"\nfamily = "cpu"\narch = "x86_64"\n'
        '[[candidates]]\nengine = "onnxruntime"\nprecision = "fp32"\n'
    )
    with pytest.raises(TargetError, match="has no integer support"):
        distill(
            str(teacher),
            "test_resnet",
            data,
            out=tmp_path / "run",
            overrides=SETTINGS,
            for_target=target,
        )
    assert not (tmp_path / "run").exists()


def test_nothing_of_another_run_is_overwritten(
    float_run: RunDirectory, teacher: Path, data: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "run"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a run"):
        distill(
            str(teacher),
            "test_resnet",
            data,
            out=taken,
            overrides=SETTINGS,
            for_target=TARGET,
            float_run=float_run.path,
            overwrite=True,
        )
    assert (taken / "notes.txt").read_text() == "mine"


def test_the_float_run_itself_is_not_replaced(
    float_run: RunDirectory, teacher: Path, data: Path
) -> None:
    before = float_run.encoder_path.read_bytes()
    with pytest.raises(OutputError, match="choose another --out"):
        distill(
            str(teacher),
            "test_resnet",
            data,
            out=float_run.path,
            overrides=SETTINGS,
            for_target=TARGET,
            float_run=float_run.path,
            overwrite=True,
        )
    assert float_run.encoder_path.read_bytes() == before


def test_other_settings_than_the_float_run_are_named(
    float_run: RunDirectory, teacher: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"trainer\.epochs was 4 and is 5 now"):
        distill(
            str(teacher),
            "test_resnet",
            data,
            out=tmp_path / "run",
            overrides={**SETTINGS, "epochs": 5},
            for_target=TARGET,
            float_run=float_run.path,
        )


def test_facts_beside_the_student(run: RunDirectory) -> None:
    facts = json.loads(run.student_path.with_suffix(".json").read_text())
    assert facts["target"] == TARGET
    assert facts["precision"] == "int8"
    assert facts["mean_cosine"] > 0.999
    config = RunDirectory(run.integers_path).config()
    assert config["scheme"] == facts["scheme"]
