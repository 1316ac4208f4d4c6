"""Contrastive losses in plain PyTorch, tile by tile: memory O(N·D) on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels.chunked.elementwise import TorchOperations
from edgessl.kernels.chunked.tiled import TiledEngine

__all__ = [
    "gradients",
    "mutual_gradients",
    "mutual_sigmoid",
    "mutual_statistics",
    "queue",
    "sigmoid",
    "statistics",
    "unit_rows",
]


def _on_tensor_cores(rows: Tensor) -> bool:
    return rows.is_cuda and rows.dtype in (torch.float16, torch.bfloat16)


_ENGINE = TiledEngine(TorchOperations, rounded=_on_tensor_cores)

unit_rows = _ENGINE.unit_rows
statistics = _ENGINE.statistics
mutual_statistics = _ENGINE.mutual_statistics
gradients = _ENGINE.gradients
mutual_gradients = _ENGINE.mutual_gradients
sigmoid = _ENGINE.sigmoid
mutual_sigmoid = _ENGINE.mutual_sigmoid
queue = _ENGINE.queue
