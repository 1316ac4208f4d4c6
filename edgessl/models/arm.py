"""A run's encoder in PyTorch as an arm of `edgessl.benchmarking`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from edgessl.benchmarking.arm import Arm, ArmFacts
from edgessl.bundle.manifest import TensorSpec
from edgessl.models.weights import encoder_file, load_encoder

__all__ = ["encoder_arm"]


class _EncoderArm:
    """Eager float32 PyTorch on the CPU, as a run was trained."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads

    def load(self) -> ArmFacts:
        torch.set_num_threads(self._threads)
        self._encoder, _ = load_encoder(self._path)
        spec = self._encoder.spec
        shape = ("batch", spec.channels, spec.height, spec.width)
        return ArmFacts(
            engine="pytorch",
            precision="fp32",
            inputs=(TensorSpec(name="images", dtype="float32", shape=shape),),
            versions={"torch": torch.__version__},
            options={"threads": self._threads},
            file=str(encoder_file(self._path)),
            size_bytes=encoder_file(self._path).stat().st_size,
        )

    def samples(self) -> None:
        return None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        with torch.inference_mode():
            return {"embedding": self._encoder(torch.from_numpy(feeds["images"])).numpy()}

    def close(self) -> None:
        del self._encoder


def encoder_arm(*, path: str, threads: int) -> Arm:
    """The encoder of a run directory or an ``encoder.safetensors``."""
    return _EncoderArm(Path(path), threads)
