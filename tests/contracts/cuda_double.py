"""A double of CUDA's runtime: it records, and really copies."""

from __future__ import annotations

import ctypes
import enum
from types import ModuleType, SimpleNamespace
from typing import Any

__all__ = ["Cuda"]


class Cuda(ModuleType):
    """The module ``cuda.bindings.runtime``; memory of either side is a buffer of this process.

    Attributes:
        host: Address → buffer, of memory on the host that was not given back.
        device: The same on the device.
        streams: Streams that were not given back.
        events: Event → time at which it was recorded, of those that were not given back.
        clock_ms: Time of the device; it stands still unless a test moves it.
        log: Copies and events, in order.
        failing: Name of the function that gives an error.
    """

    STREAM = 77
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0

    class cudaError_t(enum.IntEnum):
        cudaSuccess = 0
        cudaErrorMemoryAllocation = 2

    class cudaMemcpyKind(enum.IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.host: dict[int, Any] = {}
        self.device: dict[int, Any] = {}
        self.streams = 0
        self.events: dict[int, float | None] = {}
        self.clock_ms = 0.0
        self.log: list[str] = []
        self.failing = ""

    def _answer(self, name: str, *values: Any) -> tuple[Any, ...]:
        if name == self.failing:
            return (self.cudaError_t.cudaErrorMemoryAllocation, *(None for _ in values))
        return (self.cudaError_t.cudaSuccess, *values)

    def cudaGetErrorString(self, code: Any) -> tuple[Any, bytes]:
        return self.cudaError_t.cudaSuccess, b"out of memory"

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return self._answer("cudaSetDevice")

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        self.streams += 1
        return self._answer("cudaStreamCreateWithFlags", self.STREAM)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self.streams -= 1
        return self._answer("cudaStreamDestroy")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._answer("cudaStreamSynchronize")

    def cudaEventCreate(self) -> tuple[Any, ...]:
        event = 1 + max(self.events, default=0)
        self.events[event] = None
        return self._answer("cudaEventCreate", event)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        assert stream == self.STREAM
        self.log.append("event")
        self.events[event] = self.clock_ms
        return self._answer("cudaEventRecord")

    def cudaEventElapsedTime(self, begin: int, end: int) -> tuple[Any, ...]:
        first, last = self.events[begin], self.events[end]
        assert first is not None
        assert last is not None
        return self._answer("cudaEventElapsedTime", last - first)

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        del self.events[event]
        return self._answer("cudaEventDestroy")

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._answer("cudaHostAlloc", self._take(self.host, size))

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if self.failing == "cudaMalloc":
            return self._answer("cudaMalloc", 0)
        return self._answer("cudaMalloc", self._take(self.device, size))

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.device[address]
        return self._answer("cudaFree")

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.host[address]
        return self._answer("cudaFreeHost")

    def cudaMemcpyAsync(
        self, to: int, source: int, size: int, kind: Any, stream: int
    ) -> tuple[Any, ...]:
        assert stream == self.STREAM
        inwards = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        sides = (self.device, self.host) if inwards else (self.host, self.device)
        for side, address in zip(sides, (to, source), strict=True):
            assert size <= len(side[address])
        ctypes.memmove(to, source, size)
        self.log.append("in" if inwards else "out")
        return self._answer("cudaMemcpyAsync")

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        facts = SimpleNamespace(name=b"Orin\0", major=8, minor=7)
        return self._answer("cudaGetDeviceProperties", facts)

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return self._answer("cudaDriverGetVersion", 12060)

    def _take(self, side: dict[int, Any], size: int) -> int:
        buffer = (ctypes.c_uint8 * size)()
        ctypes.memset(buffer, 0xA5, size)
        side[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)
