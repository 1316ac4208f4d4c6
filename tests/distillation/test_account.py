"""An account of a real, tiny run: its page, its picture, what it does without a teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from edgessl.cli.main import main
from edgessl.data.source import Source, open_source
from edgessl.distillation import distill
from edgessl.distillation.account import account, write_account_schema
from edgessl.distillation.account.samples import choose_parts
from edgessl.distillation.teachers.encoder import EncoderTeacher
from edgessl.errors import DataError, ModelError, RunError, UsageError
from edgessl.exporting import export
from edgessl.models import build_encoder, load_encoder, save_encoder
from edgessl.preprocessing import ImageInput
from edgessl.progress import ProgressEvent, silent
from edgessl.run_directory import RunDirectory

SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "batch_size": 8,
    "epochs": 6,
    "log_steps": 1,
    "probe_epochs": 0,
    "view_seeds": 2,
    "num_workers": 0,
    "threads": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, data with a test part and labels, a run with its account, the exported student."""
    folder = tmp_path_factory.mktemp("account")
    torch.manual_seed(0)
    spec = ImageInput(channels=1, height=32, width=32, mean=(0.5,), std=(0.25,))
    save_encoder(build_encoder("test_resnet", spec), folder / "teacher.safetensors", lineage={})
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (70, 8, 8), dtype=np.uint8)
    images = np.kron(coarse, np.ones((1, 4, 4), dtype=np.uint8))
    labels = np.arange(70) % 2
    parts = {"x_train": images[:40], "y_train": labels[:40]}
    np.savez(folder / "data.npz", **parts, x_test=images[40:], y_test=labels[40:])
    distill(
        str(folder / "teacher.safetensors"),
        "test_efficientnet",
        folder / "data.npz",
        out=folder / "run",
        overrides=SETTINGS,
    )
    export(folder / "run", out=folder / "student.onnx")
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change, with the account that distill left."""
    return Path(shutil.copytree(place / "run", tmp_path / "run"))


def test_distill_leaves_a_page_a_picture_and_figures(place: Path, root: Path) -> None:
    folder = place / "run" / "account"
    page = (folder / "account.md").read_text(encoding="utf-8")
    assert "## Where the loss happened" in page
    assert "](account.png)" in page
    with Image.open(folder / "account.png") as picture:
        assert picture.size == (1400, 1000)
    figures = json.loads((folder / "account.json").read_text(encoding="utf-8"))
    schema = json.loads((root / "docs/schemas/account-1.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(figures)
    assert [s["role"] for s in figures["subjects"]] == ["teacher", "float"]
    assert figures["held_out"] == "declared"
    assert figures["samples"] == 30
    assert figures["scores"] == {}
    assert figures["missing"] == []
    assert figures["convergence"][0]["phase"] == "float"


def test_the_published_schema_is_current(root: Path, tmp_path: Path) -> None:
    write_account_schema(tmp_path / "schema.json")
    published = root / "docs/schemas/account-1.json"
    assert published.read_text(encoding="utf-8") == (tmp_path / "schema.json").read_text(
        encoding="utf-8"
    ), "write_account_schema('docs/schemas/account-1.json')"


def test_the_same_account_twice_is_the_same_file(place: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        account(place / "run", place / "data.npz", out=tmp_path / name)
    for file in ("account.json", "account.md", "account.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    first = json.loads((place / "run/account/account.json").read_text(encoding="utf-8"))
    again = json.loads((tmp_path / "a/account.json").read_text(encoding="utf-8"))
    assert {**again, "subjects": []} == {**first, "subjects": []}


def test_kept_features_stand_for_a_teacher_that_is_gone(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded name leads nowhere, and nothing runs the teacher."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the teacher ran")

    monkeypatch.setattr(EncoderTeacher, "features", refuse)
    kept = account(run, place / "data.npz")
    assert kept.loss("float") is not None


def test_without_teacher_and_features_the_rest_is_still_said(place: Path, run: Path) -> None:
    (run / "account" / "teacher-features.npz").unlink()
    found = account(run, place / "data.npz", bundle=place / "student.onnx")
    assert found.losses == ()
    assert found.readable is None
    assert "teacher.safetensors" in found.missing[0]
    assert found.agreement("float", "bundle", "held-out") is not None
    page = (run / "account" / "account.md").read_text(encoding="utf-8")
    assert "Not looked at: the teacher" in page
    named = account(run, place / "data.npz", teachers=[place / "teacher.safetensors"])
    assert named.missing == ()
    assert named.losses
    (run / "account" / "teacher-features.npz").unlink()
    with pytest.raises(ModelError, match="not what taught this run"):
        account(run, place / "data.npz", teachers=[run])


def test_other_samples_are_not_judged_by_kept_features(place: Path, run: Path) -> None:
    few = account(run, place / "data.npz", overrides={"samples": 20})
    assert few.samples == 20
    assert few.losses == ()


def test_a_faithful_export_loses_nothing(place: Path, run: Path) -> None:
    """As bundle and in the place of trained integers."""
    shutil.copy(place / "student.onnx", run / "exported" / "student.onnx")
    found = account(run, place / "data.npz", bundle=place / "student.onnx")
    assert [s.role for s in found.subjects] == ["teacher", "float", "integers", "bundle"]
    for role in ("integers", "bundle"):
        loss = found.loss(role)
        assert loss is not None
        assert loss.quantization is not None
        assert loss.quantization.value == pytest.approx(0.0, abs=1e-3)
    assert [d.cosine_p1 > 0.99999 for d in found.drifts] == [True, True]
    assert found.drifts[0].worst[0][0].startswith("x_test[")
    assert found.agreement("integers", "bundle", "train") is None


def test_advice_knows_what_the_student_was_trained_for(place: Path, run: Path) -> None:
    """Without a teacher, integers that are far off are all there is to advise on."""
    (run / "account" / "teacher-features.npz").unlink()
    model = onnx.load(place / "student.onnx")
    generator = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:
            noise = generator.normal(size=values.shape) * values.std()
            changed = (values + noise).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    onnx.save(model, run / "exported" / "student.onnx")
    afterwards = account(run, place / "data.npz").advice
    assert "edgessl distill --for-target" in afterwards[0]
    (run / "integers").mkdir()
    (run / "integers" / "config.toml").write_text('integer_precision = "int8"\n', encoding="utf-8")
    trained = account(run, place / "data.npz").advice
    assert "trained for int8 already" in trained[0]


def test_labels_are_read_only_if_they_are_given(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    kind = type(open_source(place / "data.npz").train)
    labels = kind.labels

    def watch(self: Source) -> Any:
        read.append(self.path)
        return labels(self)

    monkeypatch.setattr(kind, "labels", watch)
    account(run, place / "data.npz")
    assert read == []
    found = account(
        run,
        place / "data.npz",
        labels=place / "data.npz",
        teachers=[place / "teacher.safetensors"],
    )
    assert read
    assert set(found.scores) == {"teacher teacher.safetensors", "float"}
    assert 0 <= found.scores["float"]["knn_accuracy"] <= 1
    assert "accuracies" in (run / "account" / "account.md").read_text(encoding="utf-8")


def test_fresh_views_are_held_out_where_nothing_else_is(
    place: Path, data: Path, tmp_path: Path
) -> None:
    student, _ = load_encoder(place / "run")
    config = RunDirectory(place / "run").config()
    from edgessl.data.image import ImageModality, ImageOptions

    modality = ImageModality(ImageOptions.model_validate(config["modality"]))
    how = {"samples": 24, "seed": 0, "view_seed": 0, "progress": silent}
    train, held, kind = choose_parts(open_source(data), modality, student.spec, **how)
    assert kind == "fresh views"
    assert train.keys == held.keys
    assert len(train.keys) == 24
    rows = np.arange(4)
    assert np.any(train.view(rows, student.spec) != held.view(rows, student.spec))
    assert train.identity != held.identity


def test_views_are_those_of_the_training(place: Path) -> None:
    """Rounded to whole pixel values, which is all that a device is given."""
    student, _ = load_encoder(place / "run")
    config = RunDirectory(place / "run").config()
    from edgessl.data.image import ImageModality, ImageOptions
    from edgessl.preprocessing import normalize

    modality = ImageModality(ImageOptions.model_validate(config["modality"]))
    train, _, _ = choose_parts(
        open_source(place / "data.npz"),
        modality,
        student.spec,
        samples=1000,
        seed=0,
        view_seed=0,
        progress=silent,
    )
    rows = np.arange(5)
    wanted = modality.views("distill", student.spec, seed=0)(train.store.fetch(rows), 0)[0]
    given = normalize(train.view(rows, student.spec), student.spec)
    step = 1 / 255 / min(student.spec.std)
    assert np.abs(given - wanted.numpy()).max() <= 0.51 * step


def test_mistakes_are_one_error(place: Path, run: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=np.zeros((9, 32, 32), dtype=np.uint8))
    with pytest.raises(DataError, match="found 9"):
        account(run, tmp_path / "few.npz")
    with pytest.raises(UsageError, match="compiled model"):
        account(run, place / "data.npz", bundle=place / "data.npz")
    with pytest.raises(UsageError, match="neighbours"):
        account(run, place / "data.npz", overrides={"neighbors": 3})
    config = (run / "config.toml").read_text(encoding="utf-8")
    (run / "config.toml").write_text(config.replace('"distill"', '"pretrain"'), encoding="utf-8")
    with pytest.raises(RunError, match="run of pretrain"):
        account(run, place / "data.npz")


def test_other_data_are_said(place: Path, run: Path, data: Path) -> None:
    found = account(run, data, teachers=[place / "teacher.safetensors"])
    assert "not the data of the run" in " ".join(found.missing)


def test_a_failing_account_does_not_fail_the_training(place: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=np.zeros((9, 32, 32), dtype=np.uint8))
    said: list[str] = []

    def listen(event: ProgressEvent) -> None:
        if event.warning and event.message:
            said.append(event.message)

    settings = {**SETTINGS, "epochs": 1}
    arguments = (str(place / "teacher.safetensors"), "test_efficientnet", tmp_path / "few.npz")
    distill(*arguments, out=tmp_path / "a", overrides=settings, progress=listen)
    assert "no account" in " ".join(said)
    off = {**settings, "account": False}
    run = distill(*arguments, out=tmp_path / "b", overrides=off, progress=listen)
    assert len(said) == 1
    assert not (run.path / "account").exists()
    assert "account" not in run.config()["settings"]


def test_the_verb(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["account", str(run), "--data", str(place / "data.npz")]
    assert main([*words, "--json", "draws=50"]) == 0
    assert json.loads(capsys.readouterr().out)["draws"] == 50
    bundle = ["--bundle", str(place / "student.onnx"), "--out", str(run / "elsewhere")]
    assert main([*words, *bundle]) == 0
    shown = capsys.readouterr().out
    assert "quantization" in shown
    assert (run / "elsewhere" / "account.md").is_file()
