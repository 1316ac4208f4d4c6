"""The nine timm models of the compile benchmarks, and the photographs they see."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DATA", "MODELS"]

DATA = Path(__file__).parents[3] / "shared" / "data" / "trashnet-192" / "train"
MODELS = (
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "efficientnet_lite0",
    "efficientnet_b0",
    "repvit_m1",
    "fastvit_t8",
    "resnet18",
    "vit_tiny_patch16_224",
    "convnext_atto",
)
