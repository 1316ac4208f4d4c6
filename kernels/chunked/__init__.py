"""Contrastive losses in plain PyTorch, tile by tile: memory O(N·D) on any device."""

from edgessl.kernels.chunked.torch_engine import TorchEngine

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

_ENGINE = TorchEngine()

unit_rows = _ENGINE.unit_rows
statistics = _ENGINE.statistics
mutual_statistics = _ENGINE.mutual_statistics
gradients = _ENGINE.gradients
mutual_gradients = _ENGINE.mutual_gradients
sigmoid = _ENGINE.sigmoid
mutual_sigmoid = _ENGINE.mutual_sigmoid
queue = _ENGINE.queue
