"""Peers as arms of `edgessl.benchmarking`: OpenVINO with its own defaults, and PyTorch compiled."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.benchmarking.arm import Arm, ArmFacts
from edgessl.bundle.manifest import TensorSpec

__all__ = ["compiled_arm", "openvino_arm"]

Arrays = Mapping[str, NDArray[Any]]


class _OpenVINODefaults:
    """What ``core.compile_model(model, "CPU")`` gives, for latency: it may compute in bfloat16."""

    def __init__(self, path: str, threads: int) -> None:
        self._path, self._threads = path, threads

    def load(self) -> ArmFacts:
        import openvino

        core = openvino.Core()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": self._threads}
        compiled = core.compile_model(core.read_model(self._path), "CPU", settings)
        self._request = compiled.create_infer_request()
        (port,) = compiled.inputs
        shape = tuple(d.get_length() for d in port.partial_shape)
        return ArmFacts(
            engine="openvino",
            precision=str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string()),
            inputs=(TensorSpec(name=port.any_name, dtype="float32", shape=shape),),
            versions={"openvino": openvino.__version__},
            size_bytes=None,
        )

    def samples(self) -> None:
        return None

    def run(self, feeds: Arrays) -> Arrays:
        (value,) = feeds.values()
        return {"embeddings": self._request.infer([value])[0]}

    def close(self) -> None:
        del self._request


class _Compiled:
    """``torch.compile`` of the timm model; its weights do not matter for the time it takes."""

    def __init__(self, model: str, size: int, threads: int) -> None:
        self._model, self._size, self._threads = model, size, threads

    def load(self) -> ArmFacts:
        import timm
        import torch
        from timm.utils.model import reparameterize_model

        torch.manual_seed(0)
        torch.set_num_threads(self._threads)
        model = timm.create_model(self._model, pretrained=False, num_classes=0).eval()
        self._torch = torch
        self._compiled = torch.compile(reparameterize_model(model))
        example = torch.zeros(1, 3, self._size, self._size)
        with torch.inference_mode():
            self._compiled(example)
        return ArmFacts(
            engine="torch.compile",
            precision="fp32",
            inputs=(TensorSpec(name="images", dtype="float32", shape=tuple(example.shape)),),
            versions={"torch": torch.__version__},
            size_bytes=None,
        )

    def samples(self) -> None:
        return None

    def run(self, feeds: Arrays) -> Arrays:
        with self._torch.inference_mode():
            return {"embeddings": self._compiled(self._torch.from_numpy(feeds["images"])).numpy()}

    def close(self) -> None:
        del self._compiled


def openvino_arm(*, path: str, threads: int) -> Arm:
    """A model file in OpenVINO as it comes."""
    return _OpenVINODefaults(path, threads)


def compiled_arm(*, model: str, size: int, threads: int) -> Arm:
    """A timm model, compiled by PyTorch."""
    return _Compiled(model, size, threads)


def embed(arm: Arm, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of an arm for images, one at a time."""
    name = arm.load().inputs[0].name
    rows = [next(iter(arm.run({name: image[None]}).values())) for image in images]
    arm.close()
    return np.concatenate([row.copy() for row in rows]).reshape(len(images), -1)


def main() -> None:
    """``peer_arms.py MODEL THREADS IMAGES.npy OUT.npy``: embed in a process of its own."""
    model, threads, images, out = sys.argv[1:]
    np.save(out, embed(openvino_arm(path=model, threads=int(threads)), np.load(Path(images))))


if __name__ == "__main__":
    main()
