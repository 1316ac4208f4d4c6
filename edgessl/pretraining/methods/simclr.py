"""SimCLR: two views of a sample attract, all other samples of the global batch repel."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from lightly.models.modules.heads import SimCLRProjectionHead
from pydantic import Field

from edgessl.config import Options
from edgessl.data.loader import Batch
from edgessl.kernels import nt_xent
from edgessl.models import Encoder
from edgessl.pretraining.method import Method, StepContext, StepOutput

__all__ = ["SimCLR", "SimCLROptions"]


class SimCLROptions(Options):
    """Settings of SimCLR.

    Attributes:
        temperature: τ of NT-Xent.
        projector_hidden_dim: Width of the projector's hidden layers.
        projector_dim: Dimension in which views are compared.
        projector_layers: Layers of the projector.
        implementation: Of the loss, as `edgessl.kernels.nt_xent` takes it.
    """

    temperature: Annotated[float, Field(gt=0, le=10)] = 0.2
    projector_hidden_dim: Annotated[int, Field(ge=1)] = 512
    projector_dim: Annotated[int, Field(ge=2)] = 128
    projector_layers: Annotated[int, Field(ge=2, le=8)] = 2
    implementation: Literal["auto", "triton", "chunked", "reference"] = "auto"


class SimCLR(Method):
    """NT-Xent between two strongly augmented views.

    Source: arXiv:2002.05709, sections 2 and 3; the projector's depth, arXiv:2006.10029.
    """

    Options = SimCLROptions
    views = "contrastive"

    def __init__(self, encoder: Encoder, options: SimCLROptions) -> None:
        super().__init__(encoder, options)
        self.projector = SimCLRProjectionHead(
            encoder.dim,
            options.projector_hidden_dim,
            options.projector_dim,
            num_layers=options.projector_layers,
        )
        self.temperature = options.temperature
        self.implementation = options.implementation

    def forward(self, batch: Batch, context: StepContext) -> StepOutput:
        """Loss of (N, …) pairs of views; the positives' mean cosine is reported."""
        z = self.projector(self.encoder(torch.cat(batch.views)))
        loss = nt_xent(z, self.temperature, implementation=self.implementation, group=context.group)
        first, second = z.detach().float().chunk(2)
        positive = torch.cosine_similarity(first, second).mean()
        return StepOutput(loss, {"positive_cosine": positive})
