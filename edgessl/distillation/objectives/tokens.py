"""``tokens``: at each place, the student points where the teacher's token points."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgessl.distillation.objectives.maps import MapObjective
from edgessl.distillation.objectives.objective import StudentFeatures, TeacherFeatures
from edgessl.pretraining.method import StepContext

__all__ = ["Tokens"]


class Tokens(MapObjective):
    """L = mean over places of 1 − cos(W s, t).

    Places are the patch tokens of a transformer, class and register tokens left out, or the cells
    of a convolutional map. W is a 1×1 convolution from the student's channels to the teacher's.

    Source: arXiv:2312.06709 (the cosine between spatial features).
    """

    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """Regress the direction of every token."""
        assert teacher.maps is not None
        return (1 - F.cosine_similarity(self.projected(student), teacher.maps, dim=1)).mean()
