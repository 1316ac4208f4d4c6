"""BYOL: predict what a slowly moving copy of the network says of the other view."""

from __future__ import annotations

import copy
import math
from typing import Annotated

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from pydantic import Field
from torch import nn

from edgessl.config import Options
from edgessl.data.loader import Batch
from edgessl.models import Encoder
from edgessl.pretraining.method import Method, StepContext, StepOutput

__all__ = ["BYOL", "BYOLOptions"]


class BYOLOptions(Options):
    """Settings of BYOL.

    Attributes:
        momentum: Decay of the moving-average target at the start; it rises to 1 on a cosine.
        projector_hidden_dim: Width of the hidden layer of projector and predictor.
        projector_dim: Dimension of the prediction.
    """

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    projector_hidden_dim: Annotated[int, Field(ge=1)] = 1024
    projector_dim: Annotated[int, Field(ge=2)] = 256


class BYOL(Method):
    """Negative cosine between the prediction for one view and the target of the other.

    Source: arXiv:2006.07733, eq. 2; the momentum's schedule, section 3.2.
    """

    Options = BYOLOptions
    views = "asymmetric"

    def __init__(self, encoder: Encoder, options: BYOLOptions) -> None:
        super().__init__(encoder, options)
        hidden, dim = options.projector_hidden_dim, options.projector_dim
        self.projector = BYOLProjectionHead(encoder.dim, hidden, dim)
        self.predictor = BYOLPredictionHead(dim, hidden, dim)
        self.target = copy.deepcopy(nn.Sequential(encoder.backbone, self.projector))
        deactivate_requires_grad(self.target)
        self.momentum = options.momentum
        self.criterion = NegativeCosineSimilarity()

    def forward(self, batch: Batch, context: StepContext) -> StepOutput:
        """Loss of (N, …) pairs of views, symmetric in the two."""
        predictions = self.predictor(self.projector(self.encoder(torch.cat(batch.views)))).chunk(2)
        with torch.no_grad():
            targets = self.target(torch.cat(batch.views)).chunk(2)
        loss = self.criterion(predictions[0].float(), targets[1].float())
        loss = (loss + self.criterion(predictions[1].float(), targets[0].float())) / 2
        return StepOutput(loss, {"positive_cosine": -loss.detach()})

    def after_step(self, context: StepContext) -> None:
        """Move the target towards the network by 1 − momentum."""
        momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * context.progress) + 1) / 2
        update_momentum(self.encoder.backbone, self.target[0], m=momentum)
        update_momentum(self.projector, self.target[1], m=momentum)
