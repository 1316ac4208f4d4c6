"""Run an engine: memory and streams through ``cuda.bindings``, one call at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.bundle.manifest import TensorSpec
from edgessl.errors import ModelError, UnavailableError
from edgessl.runtime.profiling import PROFILE_WARM_UP_RUNS, OperatorTime, Phases
from edgessl.runtime.session import Array, Session
from edgessl.runtime.tensorrt.logger import collecting_logger
from edgessl.runtime.tensorrt.memory import Cuda, PairedBuffer
from edgessl.runtime.tensorrt.profiler import (
    collecting_profiler,
    layer_kinds,
    operator_times,
)
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
        self._profiler: Any = None
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
        sizes = self._stage(feeds)
        self._copy_in(feeds)
        self._execute()
        self._copy_out(sizes)
        self._cuda.synchronize()
        return {
            spec.name: self._buffers[spec.name].host(np.dtype(spec.dtype), sizes[spec.name]).copy()
            for spec in self.outputs
        }

    def phases(self, feeds: Mapping[str, Array]) -> Phases:
        """Run once and time both transfers and the computation, by the device's own clock.

        Copies between the caller's arrays and pinned memory belong to none of the three.

        Args:
            feeds: As `run` takes them.

        Raises:
            DataError: As `run`.
        """
        self.check(feeds)
        sizes, cuda = self._stage(feeds), self._cuda
        with cuda.events(4) as (begin, copied, computed, end):
            cuda.record(begin)
            self._copy_in(feeds)
            cuda.record(copied)
            self._execute()
            cuda.record(computed)
            self._copy_out(sizes)
            cuda.record(end)
            cuda.synchronize()
            return Phases(
                host_to_device_ms=cuda.elapsed_ms(begin, copied),
                compute_ms=cuda.elapsed_ms(copied, computed),
                device_to_host_ms=cuda.elapsed_ms(computed, end),
            )

    def _stage(self, feeds: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
        """Write the inputs to pinned memory; the outputs' shapes, with memory for them."""
        context = self._context
        for spec in self.inputs:
            array = feeds[spec.name]
            if not context.set_input_shape(spec.name, array.shape):
                raise ModelError(
                    f"{self._name}: input '{spec.name}' of {'x'.join(map(str, array.shape))} is "
                    "outside what the engine was built for; feed other sizes or finalize again"
                )
            self._buffer(spec.name, array.nbytes).host(array.dtype, array.shape)[...] = array
        sizes: dict[str, tuple[int, ...]] = {}
        for spec in self.outputs:
            shape = tuple(int(size) for size in context.get_tensor_shape(spec.name))
            if min(shape, default=0) < 0:
                raise ModelError(
                    f"{self._name}: the size of '{spec.name}' depends on the data, which edgessl "
                    "does not run; export the model without such an output"
                )
            sizes[spec.name] = shape
            self._buffer(spec.name, _size_bytes(spec, shape))
        return sizes

    def _copy_in(self, feeds: Mapping[str, Array]) -> None:
        for spec in self.inputs:
            self._cuda.copy_in(self._buffers[spec.name], feeds[spec.name].nbytes)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise ModelError(f"{self._name}: the engine fails while running: {self._said()}")

    def _copy_out(self, sizes: Mapping[str, tuple[int, ...]]) -> None:
        for spec in self.outputs:
            self._cuda.copy_out(self._buffers[spec.name], _size_bytes(spec, sizes[spec.name]))

    def profile(self, feeds: Sequence[Mapping[str, Array]], runs: int) -> list[list[OperatorTime]]:
        """Layers of each run after a warm-up; the session is slower from then on.

        Raises:
            UnavailableError: The engine reports no layers.
        """
        trt = load_tensorrt()
        inspector = self._engine.create_engine_inspector()
        kinds = layer_kinds(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        # The context keeps a pointer to it only.
        self._profiler = self._context.profiler = collecting_profiler(trt)
        profiles = []
        for feed in islice(cycle(feeds), PROFILE_WARM_UP_RUNS + runs):
            self.run(feed)
            profiles.append(operator_times(self._profiler.take(), kinds))
        if not any(profiles):
            raise UnavailableError(
                f"{self._name}: TensorRT {trt.__version__} reports no layers of this engine; "
                "leave the times of operators out"
            )
        return profiles[PROFILE_WARM_UP_RUNS:]

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
        self._context = self._profiler = self._engine = self._runtime = None
        self._cuda.close()


def _size_bytes(spec: TensorSpec, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
