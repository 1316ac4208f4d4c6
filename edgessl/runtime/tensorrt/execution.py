"""Run an engine: memory and streams through ``cuda.bindings``, one call at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.bundle.manifest import TensorSpec
from edgessl.errors import ModelError, UnavailableError
from edgessl.runtime.session import Array, Session
from edgessl.runtime.tensorrt.logger import collecting_logger
from edgessl.runtime.tensorrt.memory import Cuda, PairedBuffer
from edgessl.runtime.tensorrt.versions import load_tensorrt

__all__ = ["TensorRTSession"]

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class TensorRTSession(Session):
    """A deserialized engine with one execution context and one stream.

    Args:
        plan: The engine's file; it may go as soon as this returns.
        device: Number of the GPU.
        dla_core: Accelerator that the engine was built for; None for the GPU alone.
    """

    def __init__(self, plan: Path, *, device: int, dla_core: int | None) -> None:
        trt = load_tensorrt()
        self._name = plan.name
        self._buffers: dict[str, PairedBuffer] = {}
        self._context: Any = None
        self._engine: Any = None
        self._cuda = Cuda(device)
        self._logger = collecting_logger(trt)
        try:
            trt.init_libnvinfer_plugins(self._logger, "")
            self._open(trt, plan.read_bytes(), dla_core)
        except BaseException:
            self.close()
            raise

    def _open(self, trt: Any, plan: bytes, dla_core: int | None) -> None:
        runtime = trt.Runtime(self._logger)
        if dla_core is not None:
            if dla_core >= int(runtime.num_DLA_cores):
                raise UnavailableError(
                    f"{self._name}: was built for DLA core {dla_core}, this device has "
                    f"{int(runtime.num_DLA_cores)}; finalize the portable bundle here"
                )
            runtime.DLA_core = dla_core
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelError(
                f"{self._name}: TensorRT {trt.__version__} refuses the engine "
                f"({self._logger.errors()}); engines run where they were built: finalize the "
                "portable bundle on this device"
            )
        context = engine.create_execution_context()
        if context is None:
            raise ModelError(
                f"{self._name}: no execution context ({self._logger.errors()}); "
                "free some GPU memory"
            )
        # The engine needs its runtime for as long as it lives.
        self._runtime, self._engine, self._context = runtime, engine, context
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(self._spec(trt, name))
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def _spec(self, trt: Any, name: str) -> TensorSpec:
        engine = self._engine
        dtype = _DTYPES.get(engine.get_tensor_dtype(name).name)
        on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        if dtype is None or on_host or engine.is_shape_inference_io(name):
            raise ModelError(
                f"{self._name}: '{name}' is of a kind that edgessl cannot feed "
                f"({engine.get_tensor_dtype(name).name}{', a shape' if on_host else ''}); "
                "export the model with ordinary float or integer inputs and outputs"
            )
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        named = tuple(size if size >= 0 else f"d{axis}" for axis, size in enumerate(shape))
        return TensorSpec(name=name, dtype=dtype, shape=named)

    def run_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Copy in, run, copy out; returns after the stream is done."""
        context, cuda = self._context, self._cuda
        for spec in self.inputs:
            array = np.ascontiguousarray(feeds[spec.name])
            if not context.set_input_shape(spec.name, array.shape):
                raise ModelError(
                    f"{self._name}: input '{spec.name}' of {'x'.join(map(str, array.shape))} is "
                    "outside what the engine was built for; feed other sizes or finalize again"
                )
            buffer = self._buffer(spec.name, array.nbytes)
            buffer.host(array.dtype, array.shape)[...] = array
            cuda.copy_in(buffer, array.nbytes)
        sizes: dict[str, tuple[int, ...]] = {}
        for spec in self.outputs:
            shape = tuple(int(size) for size in context.get_tensor_shape(spec.name))
            if min(shape, default=0) < 0:
                raise ModelError(
                    f"{self._name}: the size of '{spec.name}' depends on the data, which edgessl "
                    "does not run; export the model without such an output"
                )
            sizes[spec.name] = shape
            count = int(np.prod(shape, dtype=np.int64))
            self._buffer(spec.name, count * np.dtype(spec.dtype).itemsize)
        if not context.execute_async_v3(cuda.stream):
            raise ModelError(f"{self._name}: the engine fails while running: {self._said()}")
        for spec in self.outputs:
            count = int(np.prod(sizes[spec.name], dtype=np.int64))
            cuda.copy_out(self._buffers[spec.name], count * np.dtype(spec.dtype).itemsize)
        cuda.synchronize()
        return {
            spec.name: self._buffers[spec.name].host(np.dtype(spec.dtype), sizes[spec.name]).copy()
            for spec in self.outputs
        }

    def _said(self) -> str:
        text: str = self._logger.errors()
        return f"{text}; finalize the portable bundle on this device again"

    def _buffer(self, name: str, size_bytes: int) -> PairedBuffer:
        """The tensor's memory on both sides, at least so large, bound to the context."""
        known = self._buffers.get(name)
        if known is not None and known.size_bytes >= size_bytes:
            return known
        if known is not None:
            self._cuda.free(self._buffers.pop(name))
        buffer = self._cuda.allocate(size_bytes)
        self._buffers[name] = buffer
        if not self._context.set_tensor_address(name, buffer.device_address):
            raise ModelError(f"{self._name}: '{name}' cannot be bound: {self._said()}")
        return buffer

    def close(self) -> None:
        """Give memory, context and engine back."""
        for buffer in self._buffers.values():
            self._cuda.free(buffer)
        self._buffers = {}
        self._context = self._engine = self._runtime = None
        self._cuda.close()
