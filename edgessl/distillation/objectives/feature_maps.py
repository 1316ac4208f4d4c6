"""``feature_maps``: the student's last feature map gives the teacher's (FitNets)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgessl.distillation.objectives.maps import MapObjective
from edgessl.distillation.objectives.objective import StudentFeatures, TeacherFeatures
from edgessl.pretraining.method import StepContext

__all__ = ["FeatureMaps"]


class FeatureMaps(MapObjective):
    """L = mean of (W s − LN(t))², over channels and places.

    W is a 1×1 convolution from the student's channels to the teacher's; LN standardises the
    teacher's map at each place over its channels, so that teachers of any scale weigh alike.

    Source: arXiv:1412.6550, eq. 3, with the regressor as a 1×1 convolution.
    """

    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """Regress the standardised map."""
        assert teacher.maps is not None
        places = teacher.maps.movedim(1, -1)
        wanted = F.layer_norm(places, places.shape[-1:]).movedim(-1, 1)
        return F.mse_loss(self.projected(student), wanted)
