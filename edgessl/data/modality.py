"""What a kind of data must offer; the trainer and the methods know only this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgessl.config import Options
from edgessl.data.source import Source
from edgessl.data.store import SampleStore
from edgessl.preprocessing import ImageInput
from edgessl.progress import Progress, silent
from edgessl.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from edgessl.data.batch import RawBatch

__all__ = ["MODALITIES", "Modality", "ViewKind", "Views"]

ViewKind = Literal["contrastive", "asymmetric", "crop", "distill"]
"""What a method asks for.

``contrastive`` is two strong views alike in distribution (SimCLR), ``asymmetric`` two strong
views of different kinds (BYOL), ``crop`` one view that is only cut out (MAE), ``distill`` one
mildly changed view.
"""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


class Views(ABC):
    """Makes the views of a batch.

    A view is a function of the seed, the epoch, the view's number and the sample's content alone:
    its place in the set, its batch, its rank and its worker do not matter.

    Attributes:
        count: How many views.
    """

    count: int

    @abstractmethod
    def __call__(self, batch: RawBatch, epoch: int) -> tuple[Tensor, ...]:
        """Make `count` views, each ``(N, C, H, W)`` float32 normalised, on the batch's device."""


class Modality(ABC):
    """One kind of data: how its samples are decoded, changed and shown to a model.

    Attributes:
        name: Name in the registry.
        Options: Its settings.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Options]]

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def input_spec(self, source: Source, *, mean_std: Statistics | None) -> ImageInput:
        """What a model for these samples is to take.

        Args:
            source: The samples; a few are looked at.
            mean_std: Mean and deviation that a pretrained model wants; None chooses.
        """

    @abstractmethod
    def prepare(
        self,
        source: Source,
        spec: ImageInput,
        *,
        cache_dir: Path | None,
        num_workers: int,
        max_corrupt: float = 0.01,
        progress: Progress = silent,
    ) -> SampleStore:
        """Decode all samples once."""

    @abstractmethod
    def views(self, kind: ViewKind, spec: ImageInput, *, seed: int) -> Views:
        """What makes the views of a kind."""

    @abstractmethod
    def fitted(
        self,
        source: Source,
        spec: ImageInput,
        *,
        num_workers: int,
        max_corrupt: float = 0.01,
        progress: Progress = silent,
    ) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.int64]]:
        """Raw samples as the device sees them, and the index of each in the source."""


MODALITIES: Registry[type[Modality]] = Registry(
    "modality", {"image": "edgessl.data.image:ImageModality"}, group="edgessl.modalities"
)
