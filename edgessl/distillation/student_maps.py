"""A timm student's last feature map beside its embedding, from one pass."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from edgessl.distillation.objectives.objective import MapShape
from edgessl.errors import ModelError
from edgessl.models import Encoder

__all__ = ["as_map", "embedding_and_map", "has_maps", "map_shape"]


def has_maps(encoder: Encoder) -> bool:
    """Tell whether the backbone is split in the way of timm; an integer replay is not."""
    return hasattr(encoder.backbone, "forward_features") and hasattr(
        encoder.backbone, "forward_head"
    )


def embedding_and_map(encoder: Encoder, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What `encoder` gives, and what stands before its pooling.

    Args:
        encoder: One that `has_maps`.
        inputs: (N, C, H, W), normalised.

    Returns:
        (N, D) and (N, C, h, w).

    Raises:
        ModelError: The backbone's features are no grid.
    """
    backbone = cast(Any, encoder.backbone)
    features = backbone.forward_features(inputs)
    embedding: Tensor = backbone.forward_head(features)
    return embedding, as_map(features, encoder.backbone, (inputs.shape[2], inputs.shape[3]))


@torch.no_grad()
def map_shape(encoder: Encoder) -> MapShape:
    """Channels, rows and columns of the map for one sample of the encoder's input."""
    was_training, spec = encoder.training, encoder.spec
    parameter = next(encoder.parameters())
    encoder.eval()
    try:
        zeros = torch.zeros(1, spec.channels, spec.height, spec.width, device=parameter.device)
        _, maps = embedding_and_map(encoder, zeros)
    finally:
        encoder.train(was_training)
    return (maps.shape[1], maps.shape[2], maps.shape[3])


def as_map(features: Any, backbone: nn.Module, size: tuple[int, int]) -> Tensor:
    """Bring what timm's ``forward_features`` gives to (N, C, h, w).

    Args:
        features: (N, C, h, w), (N, h, w, C) where the backbone says so, or (N, tokens, C) with the
            class and register tokens first.
        backbone: Knows its layout and how many such tokens there are.
        size: Rows and columns of the input; tokens are laid out in its proportion.

    Raises:
        ModelError: It is none of these.
    """
    name = type(backbone).__name__
    if isinstance(features, Tensor) and features.ndim == 4:
        last = str(getattr(backbone, "output_fmt", "NCHW")).upper().endswith("NHWC")
        return features.movedim(-1, 1) if last else features
    if isinstance(features, Tensor) and features.ndim == 3:
        tokens = features[:, int(getattr(backbone, "num_prefix_tokens", 0)) :]
        count = tokens.shape[1]
        rows = round((count * size[0] / size[1]) ** 0.5)
        if rows and count % rows == 0:
            maps: Tensor = tokens.transpose(1, 2).unflatten(2, (rows, count // rows))
            return maps
    found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    raise ModelError(
        f"{name} has no feature map ({found} before its head); leave the objectives feature_maps "
        "and tokens out, or choose another model"
    )
