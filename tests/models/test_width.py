"""``NAME@WIDTH``: narrower students by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from edgessl.errors import ModelError
from edgessl.models import build_encoder, load_encoder, load_teacher, save_encoder
from edgessl.preprocessing import ImageInput


def spec(side: int = 32) -> ImageInput:
    return ImageInput(channels=3, height=side, width=side, mean=(0.5,) * 3, std=(0.25,) * 3)


def parameters(name: str) -> int:
    return sum(p.numel() for p in build_encoder(name, spec()).parameters())


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("resnet18@0.25", 128),
        ("timm:resnet18@0.5", 256),
        ("resnet50@0.125", 256),  # bottlenecks: four times the planes
        ("resnet18d@0.5", 256),  # a deep stem
        ("vit_tiny_patch16_224@0.34", 64),  # one head of 64
        ("convnext_atto@0.5", 160),
        ("repvit_m1@0.25", 96),
    ],
)
def test_a_width_scales_every_channel(name: str, dim: int) -> None:
    encoder = build_encoder(name, spec()).eval()
    assert encoder.dim == dim
    assert encoder.name == name.removeprefix("timm:")
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, dim)
    widths = {m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)}
    assert all(width % 8 == 0 or name.startswith("repvit") for width in widths)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_atto", "repvit_m1"])
def test_width_one_is_the_model_itself(name: str) -> None:
    plain = timm.create_model(name, num_classes=0).state_dict()
    scaled = build_encoder(f"{name}@1", spec()).backbone.state_dict()
    assert {k: v.shape for k, v in scaled.items()} == {k: v.shape for k, v in plain.items()}


def test_a_quarter_resnet_has_a_sixteenth_of_the_weights() -> None:
    """All convolutions scale with the square of the width, the stem's with the width itself."""
    assert parameters("resnet18@0.25") == pytest.approx(parameters("resnet18") / 16, rel=0.02)
    stem = build_encoder("resnet18@0.25", spec()).backbone.conv1
    assert isinstance(stem, nn.Conv2d)
    assert stem.out_channels == 16


def test_a_narrow_student_comes_back_from_its_file(tmp_path: Path) -> None:
    encoder = build_encoder("resnet18@0.125", spec()).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors", lineage={})
    again, facts = load_encoder(tmp_path / "encoder.safetensors")
    assert facts.backbone == "resnet18@0.125"
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), encoder(images))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("resnet18@", "is no width"),
        ("resnet18@half", "'half' is no width"),
        ("resnet18@0", "'0' is no width"),
        ("resnet18@nan", "is no width"),
        ("resnet18@9", "from 0.05 to 4"),
        ("resnt18@0.5", "resnet18"),
        ("mobilenetv3_small_100@0.5", "mobilenetv3_small_050"),
        ("regnety_002@0.5", "takes no width"),
        ("resnext50_32x4d@0.5", "take no width"),
        ("resnetblur18@0.5", "takes no width"),
    ],
)
def test_what_is_no_width_is_said_in_a_line(name: str, line: str) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        build_encoder(name, spec())
    assert "\n" not in str(caught.value)


def test_a_teacher_has_no_width() -> None:
    with pytest.raises(ModelError, match="no weights are published"):
        load_teacher("resnet18@0.5", weights=None, image_size=None, largest=224)
