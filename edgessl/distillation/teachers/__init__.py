"""Whatever can teach: a run, a timm model, a model of `transformers`, an ONNX file."""

from edgessl.distillation.teachers.opening import open_teacher
from edgessl.distillation.teachers.teacher import Teacher

__all__ = ["Teacher", "open_teacher"]
