"""ExecuTorch with XNNPACK: export, and the arm; both run in ExecuTorch's own environment.

    python peer_executorch.py WEIGHTS.safetensors IMAGES.npy FP32.pte INT8.pte

INT8 is ``XNNPACKQuantizer``'s symmetric scheme, per channel, calibrated on the images.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.runtime import Runtime
from numpy.typing import NDArray

from edgessl.benchmarking.arm import Arm, ArmFacts
from edgessl.bundle.manifest import TensorSpec

__all__ = ["executorch_arm"]

Arrays = Mapping[str, NDArray[Any]]


class _ExecuTorch:
    def __init__(self, path: Path, precision: str, size: int, threads: int) -> None:
        self._path, self._precision, self._size, self._threads = path, precision, size, threads

    def load(self) -> ArmFacts:
        runtime = Runtime.get()
        # The only way to set the number of threads from Python.
        runtime._legacy_module._unsafe_reset_threadpool(self._threads)
        self._program = runtime.load_program(self._path)
        self._method = self._program.load_method("forward")
        shape = (1, 3, self._size, self._size)
        return ArmFacts(
            engine="executorch",
            provider="XNNPACK",
            precision=self._precision,
            inputs=(TensorSpec(name="images", dtype="float32", shape=shape),),
            versions={"executorch": version("executorch"), "torch": torch.__version__},
            options={"threads": runtime._legacy_module._threadpool_get_thread_count()},
            file=str(self._path),
            size_bytes=self._path.stat().st_size,
        )

    def samples(self) -> None:
        return None

    def run(self, feeds: Arrays) -> Arrays:
        (output,) = self._method.execute((torch.from_numpy(feeds["images"]),))
        return {"embedding": output.numpy()}

    def close(self) -> None:
        del self._method, self._program


def executorch_arm(*, path: str, precision: str, size: int, threads: int) -> Arm:
    """A ``.pte`` file, NCHW float32 in and out."""
    return _ExecuTorch(Path(path), precision, size, threads)


def main() -> None:
    """Export one model in both precisions."""
    from peer_weights import load_module

    weights, images, fp32, int8 = map(Path, sys.argv[1:])
    # A new axis has stride 0, which ExecuTorch refuses; a slice has none.
    loaded = np.load(images)
    samples = [torch.from_numpy(loaded[i : i + 1]) for i in range(len(loaded))]
    with torch.no_grad():
        module = torch.export.export(load_module(weights), (samples[0],)).module()
        _write(module, samples[0], fp32)
        _write(_quantize(module, samples), samples[0], int8)


def _write(module: torch.nn.Module, sample: torch.Tensor, out: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(module, (sample,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    out.write_bytes(lowered.to_executorch().buffer)


def _quantize(module: torch.nn.Module, samples: list[torch.Tensor]) -> torch.nn.Module:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(module, quantizer)
    for sample in samples:
        prepared(sample)
    converted: torch.nn.Module = convert_pt2e(prepared)
    return converted


if __name__ == "__main__":
    main()
