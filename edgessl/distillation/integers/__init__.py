"""Training for a target's integers: a QDQ graph replayed in PyTorch with fake quantization."""

from edgessl.distillation.integers.backbone import IntegerBackbone
from edgessl.distillation.integers.ranges import RangeRule

__all__ = ["IntegerBackbone", "RangeRule"]
