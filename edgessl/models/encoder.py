"""An encoder: a timm backbone without its classifier, and what it expects at its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from edgessl.errors import ModelError, UnavailableError, nearest
from edgessl.models.width import narrow_stem, split_width, width_arguments
from edgessl.preprocessing import ImageInput

__all__ = ["Encoder", "build_encoder", "load_teacher"]


class Encoder(nn.Module):
    """A backbone that maps a batch to embeddings.

    Args:
        backbone: The timm model, created with ``num_classes=0``.
        name: Its timm name.
        spec: What it takes.

    Attributes:
        dim: Embedding dimension D.
    """

    def __init__(self, backbone: nn.Module, *, name: str, spec: ImageInput) -> None:
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.spec = spec
        self.dim = _embedding_dim(backbone, spec, name)

    def forward(self, inputs: Tensor) -> Tensor:
        """Embed normalised inputs: (N, C, H, W) float → (N, D) float."""
        embeddings: Tensor = self.backbone(inputs)
        return embeddings


def build_encoder(name: str, spec: ImageInput) -> Encoder:
    """Build a timm backbone with random weights.

    Args:
        name: A timm model name, with or without ``timm:`` before it; ``NAME@WIDTH``, for example
            ``resnet18@0.25``, scales the channels of the architectures that take a width.
        spec: The input it is to take; vision transformers are built for its size.

    Raises:
        ModelError: timm has no such model (the nearest names are given), it takes no such
            width, or the model cannot take that input.
    """
    name = _known_name(name)
    return Encoder(_create(name, spec, pretrained=False), name=name, spec=spec)


def load_teacher(
    name: str, *, weights: Path | None, image_size: int | None, largest: int
) -> Encoder:
    """Build a timm backbone with its published weights, or with those of a file.

    Args:
        name: A timm model name, for example ``vit_small_patch14_dinov2.lvd142m``.
        weights: A ``.safetensors`` file in the model's published or timm's own layout; None
            takes the published weights from the hub.
        image_size: Side in pixels; None takes the model's own, up to ``largest``.
        largest: Largest side that is taken without being asked for.

    Raises:
        ModelError: Unknown name, or weights that do not fit.
        UnavailableError: The hub cannot be reached.
    """
    name = _known_name(name)
    if split_width(name)[1] is not None:
        raise ModelError(f"{name}: no weights are published for a width; leave out '@'")
    if weights is not None and weights.suffix != ".safetensors":
        raise ModelError(f"{weights}: only .safetensors weights are read; convert the file")
    if weights is not None and not weights.is_file():
        raise ModelError(f"{weights}: no such file; check --teacher-weights")
    published = timm.get_pretrained_cfg(name)
    if published is None:
        raise ModelError(f"{name} has no published configuration in timm; choose another teacher")
    channels, height, width = published.input_size
    spec = ImageInput(
        channels=channels,
        height=image_size or min(height, largest),
        width=image_size or min(width, largest),
        mean=tuple(published.mean),
        std=tuple(published.std),
    )
    backbone = _create(name, spec, pretrained=True, weights=weights)
    return Encoder(backbone, name=name, spec=spec)


def _known_name(name: str) -> str:
    name = name.removeprefix("timm:")
    base, _ = split_width(name)
    if not timm.is_model(base.partition(".")[0]):
        raise ModelError(f"unknown backbone '{base}'; {nearest(base, timm.list_models())}")
    return name


def _create(
    name: str, spec: ImageInput, *, pretrained: bool, weights: Path | None = None
) -> nn.Module:
    try:
        backbone = _load_strictly(name, spec, weights) if pretrained else _build(name, spec)
    except OSError as error:
        raise UnavailableError(
            f"the published weights of {name} cannot be fetched ({_first_line(error)}); "
            "pass --teacher-weights FILE.safetensors"
        ) from error
    except (RuntimeError, ValueError, KeyError, AssertionError, TypeError) as error:
        source = f" with the weights of {weights}" if weights else ""
        raise ModelError(
            f"{name} cannot be built for {spec.channels}x{spec.height}x{spec.width}{source} "
            f"({_first_line(error)}); choose another backbone, image_size or file"
        ) from error
    for parameter in backbone.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return backbone


def _load_strictly(name: str, spec: ImageInput, weights: Path | None) -> nn.Module:
    """Load with the classifier and drop it then, or without it if the file has none.

    Asked for a headless model, timm loads whatever names match and leaves the rest random.
    """
    if weights is None:
        backbone = _build(name, spec, pretrained=True, num_classes=None)
    else:
        overlay = {"file": str(weights)}
        try:
            headless = {**overlay, "num_classes": 0}
            return _build(name, spec, pretrained=True, pretrained_cfg_overlay=headless)
        except RuntimeError:
            backbone = _build(
                name, spec, pretrained=True, num_classes=None, pretrained_cfg_overlay=overlay
            )
    backbone.reset_classifier(0)  # type: ignore[operator]
    return backbone


def _build(name: str, spec: ImageInput, **changes: Any) -> nn.Module:
    """Build at the width asked for, for the input size where position embeddings want one."""
    name, width = split_width(name)
    arguments = {"num_classes": 0, "in_chans": spec.channels, **changes}
    if width is not None:
        arguments.update(width_arguments(name, width))
    if arguments["num_classes"] is None:
        del arguments["num_classes"]
    try:
        built: nn.Module = timm.create_model(name, img_size=(spec.height, spec.width), **arguments)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        built = timm.create_model(name, **arguments)
    if width is not None:
        narrow_stem(built, width)
    return built


@torch.no_grad()
def _embedding_dim(backbone: nn.Module, spec: ImageInput, name: str) -> int:
    """Ask the model itself: timm's ``num_features`` leaves out some models' last convolution."""
    was_training = backbone.training
    backbone.eval()
    try:
        output = backbone(torch.zeros(1, spec.channels, spec.height, spec.width))
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"{name} does not take {spec.channels}x{spec.height}x{spec.width} inputs "
            f"({_first_line(error)}); choose another image_size"
        ) from error
    finally:
        backbone.train(was_training)
    if output.ndim != 2:
        raise ModelError(
            f"{name} gives {tuple(output.shape)} instead of one embedding; choose an encoder"
        )
    return int(output.shape[1])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
