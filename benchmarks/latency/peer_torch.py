"""PyTorch as an arm of `edgessl.benchmarking`: eager, and compiled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peer_weights import load_module

from edgessl.benchmarking.arm import Arm, ArmFacts
from edgessl.bundle.manifest import TensorSpec

__all__ = ["torch_arm"]

Arrays = Mapping[str, NDArray[Any]]


class _Torch:
    def __init__(self, path: Path, size: int, compiled: bool, threads: int) -> None:
        self._path, self._size, self._compiled, self._threads = path, size, compiled, threads

    def load(self) -> ArmFacts:
        torch.set_num_threads(self._threads)
        module = load_module(self._path)
        self._module = torch.compile(module) if self._compiled else module
        shape = (1, 3, self._size, self._size)
        self.run({"images": np.zeros(shape, np.float32)})
        return ArmFacts(
            engine="torch.compile" if self._compiled else "pytorch",
            precision="fp32",
            inputs=(TensorSpec(name="images", dtype="float32", shape=shape),),
            versions={"torch": torch.__version__},
            options={"threads": torch.get_num_threads()},
            file=str(self._path),
            size_bytes=self._path.stat().st_size,
        )

    def samples(self) -> None:
        return None

    def run(self, feeds: Arrays) -> Arrays:
        with torch.inference_mode():
            return {"embedding": self._module(torch.from_numpy(feeds["images"])).numpy()}

    def close(self) -> None:
        del self._module


def torch_arm(*, path: str, size: int, compiled: bool, threads: int) -> Arm:
    """An encoder file in float32, NCHW in and out."""
    return _Torch(Path(path), size, compiled, threads)
