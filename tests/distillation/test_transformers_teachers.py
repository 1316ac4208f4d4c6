"""Vision models of transformers, random and tiny, as `save_pretrained` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgessl.distillation.options import TeacherOptions
from edgessl.distillation.teachers import Teacher, open_teacher
from edgessl.errors import ModelError

transformers = pytest.importorskip("transformers")

_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTModel", _VIT),
    "dinov2": ("Dinov2Config", "Dinov2Model", {**_VIT, "mlp_ratio": 2}),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", _VIT),
    "convnext": ("ConvNextConfig", "ConvNextModel", {"hidden_sizes": [8, 12], "depths": [1, 1],
                                                     "num_stages": 2}),
    "resnet": ("ResNetConfig", "ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 12],
                                               "depths": [1, 1], "layer_type": "basic"}),
    "swin": ("SwinConfig", "SwinModel", {"image_size": 32, "embed_dim": 8, "depths": [1, 1],
                                         "num_heads": [1, 2], "window_size": 4}),
}  # fmt: skip
PROCESSOR = {
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "size": {"height": 32, "width": 32},
}


def saved(path: Path, kind: str, **processor: Any) -> Any:
    config, model, settings = KINDS[kind]
    torch.manual_seed(0)
    built = getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()
    built.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **processor}))
    return built


def opened(path: Path, **settings: Any) -> Teacher:
    return open_teacher(TeacherOptions(name=str(path), **settings))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_gives_what_transformers_gives(tmp_path: Path, kind: str) -> None:
    model = saved(tmp_path, kind)
    teacher = opened(tmp_path)
    assert (teacher.spec.height, teacher.spec.channels) == (32, 3)
    assert teacher.spec.mean == pytest.approx((0.5, 0.4, 0.3))
    views = torch.randn(3, 3, 32, 32)
    given = teacher.features(views, maps=True)
    with torch.inference_mode():
        wanted = model(pixel_values=views)
    pooled = wanted.pooler_output.flatten(1)
    torch.testing.assert_close(given.embedding, pooled, rtol=1e-4, atol=1e-5)
    hidden = wanted.last_hidden_state
    if hidden.ndim == 3:
        hidden = hidden[:, 1:] if kind in ("vit", "dinov2", "clip") else hidden
        side = round(hidden.shape[1] ** 0.5)
        hidden = hidden.transpose(1, 2).reshape(3, -1, side, side)
    torch.testing.assert_close(given.maps, hidden, rtol=1e-4, atol=1e-5)
    assert teacher.map_shape() == hidden.shape[1:]
    assert teacher.dim == pooled.shape[1]


def test_a_full_clip_teaches_with_its_vision_tower(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 24, "vocab_size": 50}  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=_VIT)
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    views = torch.randn(2, 3, 32, 32)
    given = opened(tmp_path).features(views, maps=False).embedding
    with torch.inference_mode():
        wanted = model.vision_model(pixel_values=views).pooler_output
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


def test_without_a_pooler_in_the_file_the_class_token_is_taken(tmp_path: Path) -> None:
    """transformers would leave a pooler with random weights in its place."""
    config, model, settings = KINDS["vit"]
    torch.manual_seed(0)
    built = getattr(transformers, model)(
        getattr(transformers, config)(**settings), add_pooling_layer=False
    ).eval()
    built.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    views = torch.randn(2, 3, 32, 32)
    given = opened(tmp_path).features(views, maps=False).embedding
    with torch.inference_mode():
        wanted = built(pixel_values=views).last_hidden_state[:, 0]
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


def test_the_processor_decides_size_and_scale(tmp_path: Path) -> None:
    saved(tmp_path, "convnext", size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40},
          do_center_crop=True, rescale_factor=2 / 255)  # fmt: skip
    teacher = opened(tmp_path)
    assert (teacher.spec.height, teacher.spec.width) == (40, 40)
    assert teacher.spec.mean == pytest.approx((0.25, 0.2, 0.15))
    assert teacher.spec.std == pytest.approx((0.1, 0.15, 0.2))
    assert opened(tmp_path, image_size=24).spec.height == 24


def test_a_position_embedding_is_interpolated(tmp_path: Path) -> None:
    saved(tmp_path, "dinov2")
    teacher = opened(tmp_path, image_size=48)
    assert teacher.map_shape() == (16, 6, 6)


def test_what_cannot_teach_is_said_in_one_line(tmp_path: Path) -> None:
    saved(tmp_path / "a", "vit")
    (tmp_path / "a" / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"has no preprocessor_config\.json"):
        opened(tmp_path / "a")
    saved(tmp_path / "b", "vit")
    file = tmp_path / "b" / "model.safetensors"
    tensors = load_file(file)
    lost = next(name for name in tensors if "layernorm" in name)
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"its file lacks '.*{lost[-20:]}'"):
        opened(tmp_path / "b")
    saved(tmp_path / "c", "vit")
    torch.save({}, tmp_path / "c" / "pytorch_model.bin")
    (tmp_path / "c" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be opened"):
        opened(tmp_path / "c")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "d")
    with pytest.raises(ModelError, match="BertModel takes no images"):
        opened(tmp_path / "d")
