"""The exported graph computes what PyTorch computes, and says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgessl.errors import GateError, RunError, UsageError
from edgessl.exporting import export
from edgessl.models import Encoder, build_encoder, save_encoder
from edgessl.onnx_metadata import decode
from edgessl.preprocessing import ImageInput, normalize


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    torch.manual_seed(0)
    spec = ImageInput(
        channels=3, height=32, width=32, mean=(0.48, 0.45, 0.4), std=(0.22, 0.23, 0.24)
    )
    built = build_encoder("test_efficientnet", spec).eval()
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_encoder(built, path, lineage={"data": "abc"})
    return built, path


def run(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": inputs})[0]


@pytest.mark.parametrize(
    ("overrides", "batches"),
    [({}, [1, 5]), ({"dynamic_batch": False, "batch_size": 3}, [3]), ({"opset": 20}, [2])],
)
def test_embeddings_agree(
    overrides: dict[str, Any], batches: list[int], encoder: tuple[Encoder, Path], tmp_path: Path
) -> None:
    built, source = encoder
    report = export(source, out=tmp_path / "model.onnx", overrides=overrides)
    assert report.max_abs_difference < 1e-4
    for count in batches:
        images = torch.randn(count, 3, 32, 32)
        with torch.inference_mode():
            wanted = built(images).numpy()
        np.testing.assert_allclose(
            run(tmp_path / "model.onnx", images.numpy()), wanted, rtol=1e-3, atol=1e-4
        )


def test_folded_graph_takes_the_picture_itself(
    encoder: tuple[Encoder, Path], tmp_path: Path
) -> None:
    built, source = encoder
    export(source, out=tmp_path / "model.onnx", overrides={"fold_preprocessing": True})
    pictures = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        wanted = built(torch.from_numpy(normalize(pictures, built.spec))).numpy()
    np.testing.assert_allclose(run(tmp_path / "model.onnx", pictures), wanted, rtol=1e-3, atol=1e-4)
    model = onnx.load(tmp_path / "model.onnx")
    facts = decode({p.key: p.value for p in model.metadata_props}, where="test")
    assert facts.preprocessing is not None
    assert facts.preprocessing.folded


def test_file_says_what_it_is_and_nothing_of_the_machine(
    encoder: tuple[Encoder, Path], tmp_path: Path
) -> None:
    built, source = encoder
    report = export(source, out=tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    facts = decode({p.key: p.value for p in model.metadata_props}, where="test")
    assert facts.preprocessing == built.spec
    assert facts.embedding_dim == report.embedding_dim == built.dim
    assert facts.lineage["data"] == "abc"
    assert len(facts.lineage["encoder"]) == 64
    assert b"site-packages" not in (tmp_path / "model.onnx").read_bytes()
    assert [f.name for f in tmp_path.iterdir()] == ["model.onnx"]


def test_same_encoder_same_bytes(encoder: tuple[Encoder, Path], tmp_path: Path) -> None:
    first, second = (
        export(encoder[1], out=tmp_path / name).sha256 for name in ("a.onnx", "b.onnx")
    )
    assert first == second


def test_reparameterisable_blocks_are_fused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ImageInput(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    built = build_encoder("repvit_m0_9", spec)
    save_encoder(built, tmp_path / "encoder.safetensors", lineage={})
    export(tmp_path / "encoder.safetensors", out=tmp_path / "model.onnx")
    convolutions = sum(n.op_type == "Conv" for n in onnx.load(tmp_path / "model.onnx").graph.node)
    unfused = sum(isinstance(m, torch.nn.Conv2d) for m in built.modules())
    assert 0 < convolutions < unfused - 10


def test_a_graph_that_differs_is_not_written(encoder: tuple[Encoder, Path], tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"the old one")
    with pytest.raises(GateError, match="nothing was written"):
        export(encoder[1], out=out, overrides={"max_abs_difference": 1e-12})
    assert out.read_bytes() == b"the old one"
    assert [f.name for f in tmp_path.iterdir()] == ["model.onnx"]


def test_mistakes_are_named(encoder: tuple[Encoder, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="opset"):
        export(encoder[1], out=tmp_path / "m.onnx", overrides={"opsett": 18})
    with pytest.raises(RunError, match="not a run directory"):
        export(tmp_path, out=tmp_path / "m.onnx")
