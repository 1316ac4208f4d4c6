"""The same numbers for a run, its ONNX file and its bundle; labels where they are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgessl.compiler import compile_model
from edgessl.errors import DataError, ModelError, UsageError
from edgessl.evaluation import evaluate
from edgessl.exporting import export
from edgessl.models import build_encoder, save_encoder
from edgessl.preprocessing import ImageInput


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images whose bright quarter is their class."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 150, (count, 40, 40), dtype=np.uint8)
    labels = np.arange(count) % 4
    for image, label in zip(images, labels, strict=False):
        row, column = divmod(int(label), 2)
        image[20 * row : 20 * row + 20, 20 * column : 20 * column + 20] += 60
    return images, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "labelled.npz"
    (x_train, y_train), (x_test, y_test) = blobs(80, 0), blobs(60, 1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = ImageInput(channels=1, height=32, width=32, mean=(0.5,), std=(0.25,))
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_encoder(build_encoder("test_resnet", spec), path, lineage={})
    return path


def test_run_and_onnx_have_the_same_scores(encoder: Path, data: Path, tmp_path: Path) -> None:
    export(encoder, out=tmp_path / "model.onnx")
    export(encoder, out=tmp_path / "one.onnx", overrides={"dynamic_batch": False, "batch_size": 7})
    export(encoder, out=tmp_path / "folded.onnx", overrides={"fold_preprocessing": True})
    wanted = evaluate(encoder, data)
    for name in ("model.onnx", "one.onnx", "folded.onnx"):
        given = evaluate(tmp_path / name, data)
        assert given.scores == pytest.approx(wanted.scores, abs=5e-4)
        assert given.effective_rank == pytest.approx(wanted.effective_rank, rel=1e-3)


def test_bundle_has_the_same_scores(encoder: Path, data: Path, tmp_path: Path) -> None:
    export(encoder, out=tmp_path / "model.onnx")
    inputs = np.random.default_rng(0).standard_normal((32, 1, 32, 32), dtype=np.float32)
    compile_model(
        tmp_path / "model.onnx",
        target="host",
        calibration={"images": inputs},
        out=tmp_path / "model.edge",
        overrides={"precision": "fp32", "engine": "onnxruntime", "threads": 1},
    )
    wanted, given = evaluate(encoder, data), evaluate(tmp_path / "model.edge", data)
    assert given.scores == pytest.approx(wanted.scores, abs=5e-4)


def test_json_has_scores_and_their_deviations(encoder: Path, data: Path) -> None:
    values = evaluate(encoder, data, overrides={"shots": [1, 5], "draws": 4}).to_json()
    for name in ("knn", "linear", "fewshot_1", "fewshot_5"):
        assert 0 <= values[f"{name}_accuracy"] <= 1
        assert 0 <= values[f"{name}_accuracy_std"] <= 0.5
    assert values["train_samples"] == 80
    assert values["test_samples"] == 60
    assert values["split"] == "declared"


def test_easy_pixels_are_told_apart(data: Path) -> None:
    report = evaluate("pixels", data, overrides={"image_size": 8})
    assert report.scores["linear_accuracy"] == 1.0
    assert report.embedding_dim == 64


def test_protocols_are_chosen(encoder: Path, data: Path) -> None:
    assert set(evaluate(encoder, data, protocols=["knn"]).scores) == {
        "knn_accuracy",
        "knn_accuracy_std",
    }


def test_random_backbone_depends_on_the_seed_only(data: Path) -> None:
    scores = [
        evaluate(
            "random:test_vit", data, protocols=["knn"], overrides={"image_size": 32, "seed": seed}
        ).effective_rank
        for seed in (0, 0, 1)
    ]
    assert scores[0] == scores[1] != scores[2]


def test_undeclared_split_is_drawn_and_said(encoder: Path, data: Path, tmp_path: Path) -> None:
    images, labels = blobs(40, 2)
    np.savez(tmp_path / "all.npz", x=images, y=labels)
    report = evaluate(encoder, tmp_path / "all.npz", protocols=["knn"])
    assert report.split == "drawn"
    assert (report.train_samples, report.test_samples) == (28, 12)


def test_mistakes_are_named(encoder: Path, data: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", x=blobs(8, 0)[0])
    with pytest.raises(DataError, match="no labels"):
        evaluate(encoder, tmp_path / "bare.npz")
    with pytest.raises(UsageError, match="fewshot"):
        evaluate(encoder, data, protocols=["fewshots"])
    with pytest.raises(UsageError, match="knn_k"):
        evaluate(encoder, data, overrides={"knn": 3})
    with pytest.raises(UsageError, match="no such file"):
        evaluate(tmp_path / "none.onnx", data)
    with pytest.raises(UsageError, match="random:"):
        evaluate("resnet", data)
    with pytest.raises(ModelError, match="resnet18"):
        evaluate("random:resnt18", data)


def test_nan_embeddings_are_refused(encoder: Path, data: Path, tmp_path: Path) -> None:
    spec = ImageInput(channels=1, height=32, width=32, mean=(0.5,), std=(0.25,))
    broken = build_encoder("test_resnet", spec)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    save_encoder(broken, tmp_path / "encoder.safetensors", lineage={})
    with pytest.raises(DataError, match="NaN"):
        evaluate(tmp_path / "encoder.safetensors", data)
