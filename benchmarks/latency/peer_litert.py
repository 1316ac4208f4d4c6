"""LiteRT with XNNPACK: conversion, and the arm; both run in LiteRT's own environment.

    python peer_litert.py WEIGHTS.safetensors IMAGES.npy FP32.tflite INT8.tflite

litert-torch converts, with NHWC inputs as a user of LiteRT has them. INT8 is
ai-edge-quantizer's recipe ``static_wi8_ai8``, calibrated on the images.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgessl.benchmarking.arm import Arm, ArmFacts
from edgessl.bundle.manifest import TensorSpec

__all__ = ["litert_arm"]

Arrays = Mapping[str, NDArray[Any]]


class _LiteRT:
    """The interpreter with its default delegate, XNNPACK.

    Inputs come as NCHW floats. Each is turned once and kept, because a user of LiteRT reads images
    as NHWC to begin with, and as the integers that a quantized model takes; the first, untimed run
    of an input pays for it. Quantized outputs are scaled back within the timed run.
    """

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        self._path, self._precision, self._threads = path, precision, threads
        self._turned: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

    def load(self) -> ArmFacts:
        self._interpreter = Interpreter(str(self._path), num_threads=self._threads)
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()
        batch, height, width, channels = (int(d) for d in self._input["shape"])
        shape = (batch, channels, height, width)
        return ArmFacts(
            engine="litert",
            provider="XNNPACK",
            precision=self._precision,
            inputs=(TensorSpec(name="images", dtype="float32", shape=shape),),
            versions={"ai-edge-litert": version("ai-edge-litert")},
            options={"threads": self._threads},
            file=str(self._path),
            size_bytes=self._path.stat().st_size,
        )

    def samples(self) -> None:
        return None

    def run(self, feeds: Arrays) -> Arrays:
        self._interpreter.set_tensor(self._input["index"], self._as_taken(feeds["images"]))
        self._interpreter.invoke()
        values = self._interpreter.get_tensor(self._output["index"])
        if values.dtype == np.int8:
            scale, zero = self._output["quantization"]
            values = (values.astype(np.float32) - zero) * np.float32(scale)
        return {"embedding": values}

    def close(self) -> None:
        del self._interpreter

    def _as_taken(self, images: NDArray[Any]) -> NDArray[Any]:
        # The kept original holds its id.
        if id(images) not in self._turned:
            turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
            if self._input["dtype"] == np.int8:
                scale, zero = self._input["quantization"]
                turned = np.clip(np.rint(turned / scale + zero), -128, 127).astype(np.int8)
            self._turned[id(images)] = (images, turned)
        return self._turned[id(images)][1]


def litert_arm(*, path: str, precision: str, threads: int) -> Arm:
    """A ``.tflite`` file; images as NCHW float32, embeddings as float32."""
    return _LiteRT(Path(path), precision, threads)


def main() -> None:
    """Convert one model in both precisions."""
    import litert_torch
    import torch
    from peer_weights import load_module

    weights, images, fp32, int8 = sys.argv[1:]
    nhwc = np.ascontiguousarray(np.load(images).transpose(0, 2, 3, 1))
    module = litert_torch.to_channel_last_io(load_module(Path(weights)), args=[0]).eval()
    litert_torch.convert(module, (torch.from_numpy(nhwc[:1]),)).export(fp32)
    _quantize(fp32, nhwc, int8)


def _quantize(model: str, images: NDArray[np.float32], out: str) -> None:
    from ai_edge_quantizer import Quantizer, recipe

    ((name, signature),) = Interpreter(model).get_signature_list().items()
    (argument,) = signature["inputs"]
    quantizer = Quantizer(model, recipe.static_wi8_ai8())
    ranges = quantizer.calibrate({name: [{argument: image[None]} for image in images]})
    quantizer.quantize(ranges).export_model(out, overwrite=True)


if __name__ == "__main__":
    main()
