"""An encoder in PyTorch as a teacher: a run, or a timm model with published weights."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.distillation.objectives import TeacherFeatures
from edgessl.distillation.student_maps import embedding_and_map, has_maps
from edgessl.distillation.teachers.teacher import Teacher
from edgessl.errors import ModelError
from edgessl.models import Encoder
from edgessl.models.weights import weights_sha256

__all__ = ["EncoderTeacher"]


class EncoderTeacher(Teacher):
    """The encoder in eval mode; its feature map is what stands before its pooling."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        self.name, self.spec, self.dim = name, encoder.spec, encoder.dim
        self.sha256 = weights_sha256(encoder.backbone)
        self._encoder = encoder.eval().requires_grad_(False)

    @torch.inference_mode()
    def features(self, views: Tensor, *, maps: bool) -> TeacherFeatures:
        """One pass."""
        if not maps:
            return TeacherFeatures(self._encoder(views).float())
        if not has_maps(self._encoder):
            raise ModelError(
                f"teacher {self.name}: has no feature maps; leave the objectives feature_maps and "
                "tokens out"
            )
        embedding, found = embedding_and_map(self._encoder, views)
        return TeacherFeatures(embedding.float(), found.float())

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self._encoder.to(device)
