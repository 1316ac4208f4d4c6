"""Encoders by name, and the file they are kept in."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgessl.errors import ModelError, OutputError, RunError, UnavailableError
from edgessl.models import Encoder, build_encoder, load_encoder, load_teacher, save_encoder
from edgessl.models.weights import weights_sha256
from edgessl.preprocessing import ImageInput


def spec(side: int = 32, channels: int = 3) -> ImageInput:
    return ImageInput(
        channels=channels, height=side, width=side, mean=(0.5,) * channels, std=(0.25,) * channels
    )


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Encoder, Path]:
    torch.manual_seed(0)
    encoder = build_encoder("test_efficientnet", spec(channels=1)).eval()
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path, lineage={"data": "abc"})
    return encoder, path


@pytest.mark.parametrize(
    ("name", "channels", "side"),
    [
        ("test_resnet", 1, 32),
        ("test_vit", 5, 48),
        ("test_convnext", 3, 64),
        ("mobilenetv3_small_050", 3, 32),  # its embedding is not timm's num_features
        ("timm:test_byobnet", 2, 32),
    ],
)
def test_any_backbone_embeds(name: str, channels: int, side: int) -> None:
    encoder = build_encoder(name, spec(side, channels)).eval()
    output = encoder(torch.zeros(2, channels, side, side))
    assert output.shape == (2, encoder.dim)


@pytest.mark.parametrize(
    ("typo", "right"),
    [("resnt18", "resnet18"), ("dinov2", "vit_base_patch14_dinov2"), ("", "unknown backbone")],
)
def test_unknown_backbone_names_the_nearest(typo: str, right: str) -> None:
    with pytest.raises(ModelError, match=right):
        build_encoder(typo, spec())


def test_impossible_size_is_named() -> None:
    with pytest.raises(ModelError, match=r"3x24x24.*image_size"):
        build_encoder("efficientformer_l1", spec(24))


def test_saved_encoder_comes_back(saved: tuple[Encoder, Path]) -> None:
    encoder, path = saved
    again, facts = load_encoder(path)
    images = torch.randn(3, 1, 32, 32)
    assert torch.equal(again(images), encoder(images))
    assert facts.lineage == {"data": "abc"}
    assert again.spec == encoder.spec
    assert weights_sha256(again) == weights_sha256(encoder)


def test_damage_and_strangers_are_refused(saved: tuple[Encoder, Path], tmp_path: Path) -> None:
    _, path = saved
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ModelError, match="not a readable safetensors"):
        load_encoder(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="no edgessl facts"):
        load_encoder(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"edgessl.encoder": '{"backbone": 5}'})
    with pytest.raises(ModelError, match="not valid"):
        load_encoder(path)
    with pytest.raises(ModelError, match="no such file"):
        load_encoder(tmp_path / "none.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="not a run directory"):
        load_encoder(tmp_path / "folder")


def test_missing_tensor_is_named(saved: tuple[Encoder, Path]) -> None:
    _, path = saved
    facts = (
        '{"backbone": "test_efficientnet", "dim": 256, "preprocessing": '
        '{"channels": 1, "height": 32, "width": 32, "mean": [0.5], "std": [0.25]}}'
    )
    tensors = load_file(path)
    del tensors["conv_stem.weight"]
    save_file(tensors, path, metadata={"edgessl.encoder": facts})
    with pytest.raises(ModelError, match=r"lacks 'conv_stem\.weight'"):
        load_encoder(path)


def test_a_limit_on_file_sizes_keeps_the_old_file(saved: tuple[Encoder, Path]) -> None:
    """Stands for a full disk, which reaches us from safetensors as the same kind of error."""
    encoder, path = saved
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match="larger than the limit"):
            save_encoder(encoder, path, lineage={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_unreachable_hub_says_what_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("edgessl.models.encoder.timm.create_model", unreachable)
    with pytest.raises(UnavailableError, match="--teacher-weights"):
        load_teacher("resnet18", weights=None, image_size=None, largest=224)
