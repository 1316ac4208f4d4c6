"""What passes between the store, the views and the trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Batch", "RawBatch"]


@dataclass
class RawBatch:
    """Decoded samples before augmentation.

    Attributes:
        samples: ``(N, C, S, S)`` uint8, or uint16 for deep images.
        aspects: ``(N,)`` float32, width over height of the originals.
        indices: ``(N,)`` int64, their store indices; always on the CPU.
        identities: ``(N,)`` int64, a number of each sample's content, by which views are drawn;
            always on the CPU.
    """

    samples: Tensor
    aspects: Tensor
    indices: Tensor
    identities: Tensor

    @staticmethod
    def from_arrays(
        samples: NDArray[np.uint8] | NDArray[np.uint16],
        aspects: NDArray[np.float32],
        indices: NDArray[np.int64],
        identities: NDArray[np.int64],
    ) -> RawBatch:
        """Wrap arrays that the batch may keep."""
        return RawBatch(
            torch.from_numpy(np.ascontiguousarray(samples)),
            torch.from_numpy(np.ascontiguousarray(aspects)),
            torch.from_numpy(np.ascontiguousarray(indices)),
            torch.from_numpy(np.ascontiguousarray(identities)),
        )

    def to(self, device: torch.device) -> RawBatch:
        """Move the samples; what feeds the random draws stays on the CPU."""
        return replace(self, samples=self.samples.to(device, non_blocking=True))


@dataclass
class Batch:
    """Views of one batch, ready for a model.

    Attributes:
        views: One ``(N, C, H, W)`` float32 tensor per view, normalised.
        indices: ``(N,)`` int64 store indices.
    """

    views: tuple[Tensor, ...]
    indices: Tensor

    def to(self, device: torch.device) -> Batch:
        """Move everything to a device."""
        return Batch(
            tuple(view.to(device, non_blocking=True) for view in self.views),
            self.indices.to(device, non_blocking=True),
        )
