"""Narrower students: ``NAME@WIDTH`` is a timm model with its channels scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.repvit import RepVit
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from edgessl.errors import ModelError

__all__ = ["narrow_stem", "split_width", "width_arguments"]

_SMALLEST, _LARGEST = 0.05, 4.0
_MULTIPLE = 8
"""Widths are rounded to multiples of this: what integer kernels are written for."""


def split_width(name: str) -> tuple[str, float | None]:
    """Split ``resnet18@0.25`` into the timm name and the width; None is the model as it is.

    Raises:
        ModelError: What follows ``@`` is no width.
    """
    base, at, text = name.partition("@")
    if not at:
        return name, None
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not _SMALLEST <= width <= _LARGEST:  # nan too
        raise ModelError(
            f"'{name}': '{text}' is no width; give a factor from {_SMALLEST} to {_LARGEST:g}, "
            f"for example {base or 'resnet18'}@0.5"
        )
    return base, width


def width_arguments(name: str, width: float) -> dict[str, Any]:
    """Keyword arguments with which timm builds ``name`` at that width.

    Channels are rounded to multiples of 8. A vision transformer keeps its head dimension, so
    that its width moves in whole heads.

    Raises:
        ModelError: The architecture takes no width (its variants, if any, have names).
    """
    with torch.device("meta"):  # shapes only
        model = timm.create_model(name, num_classes=0)
    for kind, arguments in _ARGUMENTS.items():
        if type(model) is kind:
            return arguments(model, width)
    stem = name.rstrip("0123456789")
    variants = [known for known in timm.list_models(f"{stem}*") if known != name][:4]
    others = f"{', '.join(variants)}, or " if stem != name and variants else ""
    raise ModelError(
        f"{name} takes no width in timm; choose {others}a ResNet, ViT, ConvNeXt or RepViT with "
        "@WIDTH"
    )


def narrow_stem(backbone: nn.Module, width: float) -> None:
    """Scale a ResNet's plain stem in place; timm leaves it at 64 channels whatever ``channels``.

    Otherwise the 7x7 stem of a quarter-width ResNet costs more than the rest. Other
    architectures, and deep stems, follow their arguments and are left alone.
    """
    if not isinstance(backbone, ResNet) or not isinstance(backbone.conv1, nn.Conv2d):
        return
    resnet: Any = backbone  # timm's attributes have no types
    stem = _rounded(resnet.conv1.out_channels * width)
    resnet.conv1 = _convolution(resnet.conv1, outputs=stem)
    resnet.bn1 = nn.BatchNorm2d(stem)
    resnet.feature_info[0]["num_chs"] = stem
    first = resnet.layer1[0]
    outputs = (getattr(first, "bn3", None) or first.bn2).num_features
    first.conv1 = _convolution(first.conv1, inputs=stem)
    if stem == outputs:
        first.downsample = None
    elif first.downsample is not None:
        for position, layer in enumerate(first.downsample):
            if isinstance(layer, nn.Conv2d):
                first.downsample[position] = _convolution(layer, inputs=stem)
    resnet.init_weights()


def _rounded(channels: float) -> int:
    return max(_MULTIPLE, int(channels / _MULTIPLE + 0.5) * _MULTIPLE)


def _resnet(model: Any, width: float) -> dict[str, Any]:
    plain = isinstance(model.conv1, nn.Conv2d)
    if plain and not (
        isinstance(model.maxpool, nn.MaxPool2d) and type(model.bn1) is nn.BatchNorm2d
    ):
        raise ModelError("this ResNet's stem takes no width; choose resnet18 to resnet152")
    planes = [stage[0].conv1.out_channels for stage in _stages(model)]
    if any(stage[0].conv1.out_channels != _planes(stage[0]) for stage in _stages(model)):
        raise ModelError("grouped or wide ResNets take no width here; choose resnet18 to resnet152")
    arguments: dict[str, Any] = {"channels": tuple(_rounded(c * width) for c in planes)}
    if not plain:
        arguments["stem_width"] = _rounded(model.conv1[3].out_channels * width)
    return arguments


def _stages(model: Any) -> list[Any]:
    return [model.layer1, model.layer2, model.layer3, model.layer4]


def _planes(block: Any) -> int:
    """The ``channels`` entry that a block was built from: its output over its expansion."""
    last = getattr(block, "bn3", None) or block.bn2
    return int(last.num_features // block.expansion)


def _vit(model: Any, width: float) -> dict[str, Any]:
    heads: int = model.blocks[0].attn.num_heads
    scaled = max(1, int(heads * width + 0.5))
    return {"embed_dim": model.embed_dim // heads * scaled, "num_heads": scaled}


def _convnext(model: Any, width: float) -> dict[str, Any]:
    return {"dims": tuple(_rounded(info["num_chs"] * width) for info in model.feature_info)}


def _repvit(model: Any, width: float) -> dict[str, Any]:
    return {"embed_dim": tuple(_rounded(channels * width) for channels in model.embed_dim)}


_ARGUMENTS: dict[type[nn.Module], Callable[[Any, float], dict[str, Any]]] = {
    ResNet: _resnet,
    VisionTransformer: _vit,
    ConvNeXt: _convnext,
    RepVit: _repvit,
}


def _convolution(
    layer: nn.Conv2d, *, inputs: int | None = None, outputs: int | None = None
) -> nn.Conv2d:
    return nn.Conv2d(
        inputs or layer.in_channels,
        outputs or layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )
