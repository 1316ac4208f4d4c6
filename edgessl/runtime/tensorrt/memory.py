"""Memory on both sides of the bus, through ``cuda.bindings.runtime``; every call is checked."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.errors import ModelError, UnavailableError
from edgessl.optional import require
from edgessl.runtime.session import Array

__all__ = ["Cuda", "DeviceFacts", "PairedBuffer", "device_facts"]

_SMALLEST_BYTES = 256


@dataclass(frozen=True)
class DeviceFacts:
    """One GPU.

    Attributes:
        name: As CUDA names it.
        compute_capability: ``"8.7"``.
        driver: Highest version of CUDA that the driver knows, ``"12.6"``.
    """

    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True)
class PairedBuffer:
    """Pinned memory of the host and memory of the device, of one size.

    Attributes:
        host_address: Where the host's part begins.
        device_address: Where the device's part begins.
        size_bytes: Of each.
    """

    host_address: int
    device_address: int
    size_bytes: int

    def host(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """The host's part as an array; it shares the memory."""
        raw = (ctypes.c_uint8 * self.size_bytes).from_address(self.host_address)
        size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        view: Array = np.ctypeslib.as_array(raw)[:size_bytes].view(dtype).reshape(shape)
        return view


class Cuda:
    """One device with one stream.

    Args:
        device: Its number.

    Raises:
        UnavailableError: There is no such device, no driver, or no ``cuda-bindings``.
    """

    def __init__(self, device: int) -> None:
        self._runtime = cudart = _import()
        self._stream: Any = None
        _call(cudart, cudart.cudaSetDevice(device), doing="choosing the GPU", absent=True)
        flags = cudart.cudaStreamNonBlocking
        (self._stream,) = _call(
            cudart, cudart.cudaStreamCreateWithFlags(flags), doing="making a stream", absent=True
        )

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    def allocate(self, size_bytes: int) -> PairedBuffer:
        """Memory on both sides."""
        cudart = self._runtime
        size = max(size_bytes, _SMALLEST_BYTES)
        doing = f"asking for {size} bytes"
        (host,) = _call(cudart, cudart.cudaHostAlloc(size, cudart.cudaHostAllocDefault), doing)
        try:
            (device,) = _call(cudart, cudart.cudaMalloc(size), doing)
        except ModelError:
            _call(cudart, cudart.cudaFreeHost(host), doing="freeing memory")
            raise
        return PairedBuffer(int(host), int(device), size)

    def free(self, buffer: PairedBuffer) -> None:
        """Give both parts back."""
        cudart = self._runtime
        _call(cudart, cudart.cudaFree(buffer.device_address), doing="freeing memory")
        _call(cudart, cudart.cudaFreeHost(buffer.host_address), doing="freeing memory")

    def copy_in(self, buffer: PairedBuffer, size_bytes: int) -> None:
        """Host to device, in the stream."""
        cudart = self._runtime
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        source, place = buffer.host_address, buffer.device_address
        _call(
            cudart,
            cudart.cudaMemcpyAsync(place, source, size_bytes, kind, self._stream),
            doing="copying to the GPU",
        )

    def copy_out(self, buffer: PairedBuffer, size_bytes: int) -> None:
        """Device to host, in the stream."""
        cudart = self._runtime
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        source, place = buffer.device_address, buffer.host_address
        _call(
            cudart,
            cudart.cudaMemcpyAsync(place, source, size_bytes, kind, self._stream),
            doing="copying from the GPU",
        )

    @contextmanager
    def events(self, count: int) -> Iterator[list[Any]]:
        """Events to `record`, given back at the end."""
        cudart = self._runtime
        made: list[Any] = []
        try:
            for _ in range(count):
                made += _call(cudart, cudart.cudaEventCreate(), doing="making an event")
            yield made
        finally:
            for event in made:
                _call(cudart, cudart.cudaEventDestroy(event), doing="giving an event back")

    def record(self, event: Any) -> None:
        """Note the time when the stream comes to this place."""
        cudart = self._runtime
        _call(cudart, cudart.cudaEventRecord(event, self._stream), doing="recording an event")

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        """Milliseconds between two recorded events, to half a microsecond, by the device's clock.

        Source: CUDA Runtime API, cudaEventElapsedTime.
        """
        cudart = self._runtime
        (found,) = _call(cudart, cudart.cudaEventElapsedTime(begin, end), doing="reading events")
        return float(found)

    def synchronize(self) -> None:
        """Wait until the stream is done."""
        cudart = self._runtime
        _call(cudart, cudart.cudaStreamSynchronize(self._stream), doing="running")

    def close(self) -> None:
        """Give the stream back."""
        if self._stream is not None:
            cudart, stream = self._runtime, self._stream
            self._stream = None
            _call(cudart, cudart.cudaStreamDestroy(stream), doing="ending the stream")


def device_facts(device: int = 0) -> DeviceFacts:
    """What a GPU is.

    Raises:
        UnavailableError: There is none, no driver, or no ``cuda-bindings``.
    """
    cudart = _import()
    (facts,) = _call(
        cudart, cudart.cudaGetDeviceProperties(device), doing="looking at the GPU", absent=True
    )
    (driver,) = _call(
        cudart, cudart.cudaDriverGetVersion(), doing="looking at the driver", absent=True
    )
    name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
    return DeviceFacts(
        name=name.rstrip("\0"),
        compute_capability=f"{facts.major}.{facts.minor}",
        driver=f"{driver // 1000}.{driver % 1000 // 10}",
    )


def _import() -> Any:
    return require("cuda.bindings.runtime", extra="tensorrt")


def _call(
    cudart: Any, result: tuple[Any, ...], doing: str, *, absent: bool = False
) -> tuple[Any, ...]:
    """The values of a CUDA call whose error code, its first, says that it went well."""
    code, *values = result
    if code == cudart.cudaError_t.cudaSuccess:
        return tuple(values)
    _, text = cudart.cudaGetErrorString(code)
    said = text.decode() if isinstance(text, bytes) else str(text)
    if absent:
        raise UnavailableError(f"CUDA fails while {doing}: {said}; check the GPU and its driver")
    raise ModelError(f"CUDA fails while {doing}: {said}; free GPU memory or restart the process")
