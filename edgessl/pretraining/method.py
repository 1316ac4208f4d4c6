"""What every pretraining objective is: views in, a loss out, an encoder to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgessl.config import Options
from edgessl.data.loader import Batch
from edgessl.data.modality import ViewKind
from edgessl.data.random import uniform
from edgessl.models import Encoder
from edgessl.registry import Registry

__all__ = ["METHODS", "Method", "Objective", "StepContext", "StepOutput"]


class StepOutput(NamedTuple):
    """What one forward pass gives.

    Attributes:
        loss: Scalar; the mean over this process's samples.
        metrics: Scalars worth showing, likewise means.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


class StepContext:
    """Where training stands, and the randomness of this step.

    Attributes:
        step: Optimizer steps done before this one.
        total_steps: Optimizer steps of the whole run.
        epoch: The epoch that the batch's views were drawn for.
        group: Processes that share the global batch; None for one process.
    """

    def __init__(
        self,
        *,
        step: int,
        total_steps: int,
        epoch: int,
        seed: int,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.step = step
        self.total_steps = total_steps
        self.epoch = epoch
        self.group = group
        self._seed = seed

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / max(1, self.total_steps)

    def uniform(self, samples: Tensor, slots: int) -> Tensor:
        """Numbers in [0, 1) that depend only on the seed, the step and each sample's number.

        The same sample gets the same numbers whatever its rank or place in the batch, so one
        process and several, or a resumed run, draw alike.

        Args:
            samples: (N,) int64 sample numbers.
            slots: Numbers per sample.

        Returns:
            (N, slots) float32 on the device of ``samples``.
        """
        numbers = uniform(self._seed, self.step, -1, samples.cpu().numpy(), slots)
        return torch.from_numpy(numbers.astype(np.float32)).to(samples.device)


class Objective(nn.Module, ABC):
    """What the trainer trains: it knows nothing of images, views or losses beyond this.

    Attributes:
        encoder: What is kept when training ends.
    """

    encoder: Encoder

    @abstractmethod
    def forward(self, batch: Batch, context: StepContext) -> StepOutput:
        """Compute the loss of this process's share of the global batch."""

    def after_step(self, context: StepContext) -> None:
        """Update what is not trained by gradients (momentum targets, queues)."""


class Method(Objective):
    """A self-supervised objective, built around an encoder.

    Attributes:
        Options: The method's own settings.
        views: The kind of views it wants from the modality.
        defaults: Trainer settings that this method prefers to the general defaults.
    """

    Options: ClassVar[type[Options]]
    views: ClassVar[ViewKind]
    defaults: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def __init__(self, encoder: Encoder, options: Any) -> None:
        """Build heads and targets; ``options`` is an instance of ``Options``."""
        super().__init__()
        self.encoder = encoder


METHODS: Registry[type[Method]] = Registry(
    "method",
    {
        "byol": "edgessl.pretraining.methods.byol:BYOL",
        "mae": "edgessl.pretraining.methods.mae:MAE",
        "simclr": "edgessl.pretraining.methods.simclr:SimCLR",
    },
    group="edgessl.methods",
)
