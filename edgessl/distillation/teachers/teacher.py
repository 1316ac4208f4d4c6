"""What every teacher is: views in, an embedding and perhaps a feature map out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from edgessl.distillation.objectives import TeacherFeatures
from edgessl.distillation.objectives.objective import MapShape
from edgessl.preprocessing import ImageInput

__all__ = ["Teacher"]


class Teacher(ABC):
    """A frozen model.

    Attributes:
        name: How messages and the run's configuration call it.
        sha256: Of its weights, and of whatever else decides what it gives.
        spec: The views it takes: (N, C, H, W), normalised with these means and deviations.
        dim: D of its embedding.
    """

    name: str
    sha256: str
    spec: ImageInput
    dim: int

    @abstractmethod
    def features(self, views: Tensor, *, maps: bool) -> TeacherFeatures:
        """Look at a batch.

        Args:
            views: (N, C, H, W) float32, on the teacher's device.
            maps: The feature map is wanted too.

        Raises:
            ModelError: It has no feature map.
        """

    def to(self, device: torch.device) -> None:  # noqa: B027 - onnxruntime has no device to go to
        """Move to a device."""

    def map_shape(self) -> MapShape:
        """C, h, w of the feature map for one view.

        Raises:
            ModelError: It has none.
        """
        zeros = torch.zeros(1, self.spec.channels, self.spec.height, self.spec.width)
        maps = self.features(zeros, maps=True).maps
        assert maps is not None
        return (maps.shape[1], maps.shape[2], maps.shape[3])
