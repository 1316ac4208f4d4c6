"""The same weights in every peer's environment: an encoder file as a plain PyTorch module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

__all__ = ["load_module"]

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def load_module(weights: Path) -> Any:
    """The timm backbone of an encoder file, with re-parameterisable blocks fused as in the ONNX.

    Memory is laid out as PyTorch does by default, which the exporters of peers expect.
    """
    if torch.version.cuda is None:
        _stand_in_for_torchvision()
    from timm.utils.model import reparameterize_model

    from edgessl.models import load_encoder

    encoder, _ = load_encoder(weights)
    module = reparameterize_model(encoder.backbone).eval()
    return module.to(memory_format=torch.contiguous_format)


def _stand_in_for_torchvision() -> None:
    """Define two operators that torchvision wants to describe as soon as it is imported.

    PyPI's torchvision is built for CUDA: beside a PyTorch for CPUs its own definitions do not
    load. No model here uses them, but timm imports torchvision.
    """
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", _SCHEMA)
