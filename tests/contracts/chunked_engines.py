"""Chunked engines with tiles so small that many are ragged."""

from __future__ import annotations

from edgessl.kernels import chunked
from edgessl.kernels.chunked.tiling import TileShape
from edgessl.kernels.chunked.torch_engine import TorchEngine
from edgessl.kernels.engine import Engine

__all__ = ["ENGINES", "ROUNDED"]

ROUNDED = TorchEngine(TileShape(32, 40), rounded=True)
"""As on tensor cores: weights are rounded to the rows' dtype, too."""

ENGINES: dict[str, Engine] = {
    "default": chunked,
    "small": TorchEngine(TileShape(24, 40)),
    "tall": TorchEngine(TileShape(48, 16)),
    "rounded": ROUNDED,
}
