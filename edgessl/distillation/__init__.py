"""Distil a frozen teacher into a compact student, without labels."""

from edgessl.distillation.distill import distill
from edgessl.distillation.objective import DistillationOptions

__all__ = ["DistillationOptions", "distill"]
