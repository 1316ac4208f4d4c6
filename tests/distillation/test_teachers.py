"""Teachers of every kind give what their own library gives, and say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgessl.distillation.options import TeacherOptions
from edgessl.distillation.teachers import Teacher, open_teacher
from edgessl.errors import ModelError, UsageError
from edgessl.exporting import export
from edgessl.models import build_encoder, save_encoder
from edgessl.preprocessing import ImageInput, model_input

SPEC = ImageInput(channels=3, height=32, width=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def opened(name: str | Path, **settings: Any) -> Teacher:
    return open_teacher(TeacherOptions(name=str(name), **settings))


def views_of(images: np.ndarray, spec: ImageInput) -> torch.Tensor:
    """(N, H, W, C) uint8 as the views of a teacher: (N, C, H, W) float32."""
    return torch.from_numpy(model_input(images, spec))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_an_encoder_gives_its_embedding_and_the_map_before_its_pooling(
    tmp_path: Path, images: np.ndarray, backbone: str
) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(backbone, SPEC).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors", lineage={})
    teacher = opened(tmp_path / "encoder.safetensors")
    views = views_of(images, SPEC)
    given = teacher.features(views, maps=True)
    with torch.inference_mode():
        torch.testing.assert_close(given.embedding, encoder(views), rtol=1e-5, atol=1e-5)
        hidden = encoder.backbone.forward_features(views)
    assert given.maps is not None
    assert given.maps.shape[1:] == teacher.map_shape()
    if backbone == "test_vit":
        grid = hidden[:, encoder.backbone.num_prefix_tokens :].unflatten(1, given.maps.shape[2:])
        torch.testing.assert_close(given.maps[:, :, 1, 0], grid[:, 1, 0], rtol=1e-5, atol=1e-5)
    else:
        torch.testing.assert_close(given.maps, hidden, rtol=1e-5, atol=1e-5)


def convolution(
    path: Path,
    *,
    shape: list[Any],
    outputs: dict[str, str],
    batch_norm: np.ndarray | None = None,
) -> np.ndarray:
    """A 4x4 convolution; ``map`` is spatial, ``pooled`` is (N, 6). Gives its weights."""
    weight = np.random.default_rng(1).normal(size=(6, 3, 4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["map"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["pooled"]),
        helper.make_node("Softmax", ["pooled"], ["shares"], axis=1),
    ]
    shapes = {"map": ["N", 6, 8, 8], "pooled": ["N", 6], "shares": ["N", 6]}
    shapes = {k: [shape[0], *v[1:]] for k, v in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in outputs],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return weight


def reference(images: np.ndarray, weight: np.ndarray, *, bgr: bool) -> np.ndarray:
    """(N, 6, 8, 8) in float64 of pixels − 127 over 64."""
    values = (images.astype(np.float64) - 127) / 64
    values = values[..., ::-1] if bgr else values
    cells = values.reshape(len(values), 8, 4, 8, 4, 3)
    return np.einsum("nhiwjc,kcij->nkhw", cells, weight.astype(np.float64))


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_an_onnx_file_of_others_takes_its_own_preprocessing(
    tmp_path: Path, images: np.ndarray, batch: int | str, order: str
) -> None:
    path = tmp_path / "third.onnx"
    weight = convolution(path, shape=[batch, 3, 32, 32], outputs={"map": ""})
    teacher = opened(path, preprocess=f"mean=127,std=64,range=0-255,order={order}")
    given = teacher.features(views_of(images, teacher.spec), maps=True)
    wanted = reference(images, weight, bgr=order == "bgr")
    assert given.maps is not None
    np.testing.assert_allclose(given.maps.numpy(), wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(given.embedding.numpy(), wanted.mean(axis=(2, 3)), atol=1e-3)
    assert teacher.dim == 6


def test_an_output_is_chosen_or_named(tmp_path: Path, images: np.ndarray) -> None:
    path, preprocess = tmp_path / "third.onnx", "mean=127,std=64,range=0-255"
    weight = convolution(path, shape=["N", 3, 32, 32], outputs={"map": "", "pooled": ""})
    wanted = reference(images, weight, bgr=False)
    for output in (None, "map"):
        teacher = opened(path, preprocess=preprocess, output=output)
        given = teacher.features(views_of(images, teacher.spec), maps=output is not None)
        np.testing.assert_allclose(given.embedding.numpy(), wanted.mean(axis=(2, 3)), atol=1e-3)
    assert opened(path, preprocess=preprocess).sha256 != teacher.sha256
    with pytest.raises(UsageError, match="no output 'pool'; did you mean pooled"):
        opened(path, preprocess=preprocess, output="pool")
    with pytest.raises(ModelError, match="'pooled' is an embedding and no feature map"):
        opened(path, preprocess=preprocess).map_shape()
    with pytest.raises(UsageError, match="does not say how its input is made"):
        opened(path)
    convolution(path, shape=["N", 3, 32, 32], outputs={"pooled": "", "shares": ""})
    with pytest.raises(ModelError, match=r"no usable output among pooled .Nx6., shares .Nx6."):
        opened(path, preprocess=preprocess)


def test_an_exported_run_teaches_as_the_run(tmp_path: Path, images: np.ndarray) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("test_resnet", SPEC).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors", lineage={})
    export(tmp_path / "encoder.safetensors", out=tmp_path / "model.onnx")
    teacher = opened(tmp_path / "model.onnx")
    given = teacher.features(views_of(images, teacher.spec), maps=False).embedding
    with torch.inference_mode():
        wanted = encoder(views_of(images, SPEC))
    torch.testing.assert_close(given, wanted, rtol=1e-3, atol=1e-3)


def test_a_teacher_of_sounds_is_refused(tmp_path: Path) -> None:
    shape = ["N", 1600]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["sound"], ["same"])],
        "sound",
        [helper.make_tensor_value_info("sound", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "sound.onnx")
    with pytest.raises(ModelError, match="takes sounds, the student takes images"):
        opened(tmp_path / "sound.onnx", preprocess="rate=16000")


def test_settings_of_another_kind_of_teacher_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'preprocess' is for ONNX files"):
        opened("timm:test_vit", preprocess="size=32")
    with pytest.raises(UsageError, match="weights from a file are for timm:NAME"):
        opened(tmp_path, weights_file=Path("x.safetensors"))
    with pytest.raises(ModelError, match="no such file or folder"):
        opened("runs/nothing")
    with pytest.raises(ModelError, match=r"no such file or folder"):
        opened("teacher.onnx")


def test_json_of_a_processor_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="cannot be opened"):
        opened(tmp_path)
