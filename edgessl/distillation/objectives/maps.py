"""What the objectives on feature maps share: a 1×1 projection and a common grid."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.distillation.objectives.objective import (
    DistillationObjective,
    Shapes,
    StudentFeatures,
)

__all__ = ["MapObjective"]


class MapObjective(DistillationObjective):
    """The student's map, projected to the teacher's channels and resized to its grid."""

    compares: ClassVar[Literal["embedding", "projected", "maps"]] = "maps"

    def __init__(self, shapes: Shapes, options: Any) -> None:
        super().__init__(shapes, options)
        assert shapes.student_map is not None
        assert shapes.teacher_map is not None
        self.grid = shapes.teacher_map[1:]
        self.projection = nn.Conv2d(shapes.student_map[0], shapes.teacher_map[0], 1)

    def projected(self, student: StudentFeatures) -> Tensor:
        """(N, C_t, h_t, w_t) float32: bilinear, antialiased where the grid gets coarser."""
        assert student.maps is not None
        maps: Tensor = self.projection(student.maps)
        if maps.shape[2:] == self.grid:
            return maps
        return F.interpolate(maps, self.grid, mode="bilinear", antialias=True)
