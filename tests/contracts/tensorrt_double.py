"""A double of TensorRT's bindings: it records, and computes with onnxruntime.

Nothing here builds an engine. A "plan" is the ONNX file behind a mark, which the double's context
runs on memory that the double of CUDA (`contracts.cuda_double`) really copies.
"""

from __future__ import annotations

import ctypes
import enum
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from contracts.cuda_double import Cuda

__all__ = ["MARK", "TensorRT", "layer"]

MARK = b"a plan of the double\n"
_FLAGS = ["GPU_FALLBACK", "TF32", "DEBUG"]
_OLD_FLAGS = ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"]
_LAYERS = (
    "CONVOLUTION MATRIX_MULTIPLY ACTIVATION CONSTANT CAST QUANTIZE DEQUANTIZE SHAPE SHUFFLE "
    "IDENTITY GATHER SLICE CONCATENATION REDUCE"
)
_KINDS = {
    "Conv": "CONVOLUTION",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Cast": "CAST",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Relu": "ACTIVATION",
    "Flatten": "SHUFFLE",
    "GlobalAveragePool": "REDUCE",
}


def layer(name: str, weights: str, *, kind: str = "CaskConvolution") -> dict[str, Any]:
    """One layer as TensorRT 10's inspector describes it."""
    return {
        "Name": name,
        "LayerType": kind,
        "Weights": {"Type": weights, "Count": 9},
        "Metadata": f"[ONNX Layer: {name}]",
    }


class TensorRT(ModuleType):
    """The module ``tensorrt`` of one version.

    Attributes:
        calls: What was asked of it, in order.
        layers: What the inspector tells of any engine.
        refuse: ``"parse"``, ``"build"`` or ``"load"``: what fails.
        layer_ms: Milliseconds of the layers in each run to come, for a profiler.
        step: Called at every step of a build.
        monitor: The progress monitor of the last build.
    """

    def __init__(self, version: str, *, dla_cores: int = 0) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.calls: list[tuple[Any, ...]] = []
        self.layers: list[dict[str, Any]] = [layer("conv1", "Float")]
        self.refuse = ""
        self.layer_ms: list[dict[str, float]] = []
        self.step: Callable[[], None] = lambda: None
        self.monitor: Any = None
        old = not version.startswith("11")
        newer = version != "10.3.0"
        flags = _FLAGS + (_OLD_FLAGS if old else []) + ["EDITABLE_TIMING_CACHE"] * newer
        starts_at_0: dict[str, list[str]] = {
            "BuilderFlag": flags,
            "DataType": ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "INT64"],
            "DeviceType": ["GPU", "DLA"],
            "LayerInformationFormat": ["ONELINE", "JSON"],
            "LayerType": _LAYERS.split(),
            "MemoryPoolType": ["WORKSPACE"],
            "NetworkDefinitionCreationFlag": ["EXPLICIT_BATCH"] * old + ["STRONGLY_TYPED"],
            "OnnxParserFlag": ["NATIVE_INSTANCENORM"] + ["ADJUST_FOR_DLA"] * (not old),
            "ProfilingVerbosity": ["LAYER_NAMES_ONLY", "NONE", "DETAILED"],
            "TensorIOMode": ["NONE", "INPUT", "OUTPUT"],
            "TensorLocation": ["DEVICE", "HOST"],
        }
        for name, members in starts_at_0.items():
            setattr(self, name, enum.IntEnum(name, members, start=0))
        self.ITensor = type("ITensor", (), {"set_dynamic_range": None} if old else {})
        self.ILogger = _Logger
        self.IProfiler = type("IProfiler", (), {})
        self.IProgressMonitor = type("IProgressMonitor", (), {})
        self.Builder = lambda logger: _Builder(self, logger, dla_cores)
        self.OnnxParser = lambda network, logger: _Parser(self, network)
        self.Runtime = lambda logger: _Runtime(self, logger, dla_cores)

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        return True

    def record(self, *call: Any) -> None:
        self.calls.append(call)

    def recorded(self, name: str) -> list[Any]:
        """Arguments of all calls of that name."""
        return [call[1] if len(call) == 2 else call[1:] for call in self.calls if call[0] == name]


class _Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class _Memory(bytes):
    """What `serialize` and a build give."""


class _Builder:
    def __init__(self, trt: TensorRT, logger: Any, dla_cores: int) -> None:
        self._trt, self._logger, self.num_DLA_cores = trt, logger, dla_cores

    def create_network(self, flags: int) -> _Network:
        self._trt.record("create_network", flags)
        return _Network(self._trt)

    def create_builder_config(self) -> _Config:
        return _Config(self._trt)

    def create_optimization_profile(self) -> _Profile:
        return _Profile(self._trt)

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        assert threading.current_thread() is not threading.main_thread()
        self._trt.record("build", sorted(flag.name for flag in config.flags))
        self._trt.monitor = monitor = config.progress_monitor
        monitor.phase_start("Timing", None, 5)
        going = True
        for step in range(5):
            self._trt.step()
            config.cache.entries.add(f"kernel{step}")
            going = going and monitor.step_complete("Timing", step)
            if not going:
                break
        monitor.phase_finish("Timing")
        if self._trt.refuse == "build" or not going:
            self._logger.log(_Logger.ERROR, "Could not find any\nimplementation for node conv1")
            return None
        return _Memory(MARK + network.onnx)


class _Profile:
    def __init__(self, trt: TensorRT) -> None:
        self._trt = trt

    def set_shape(self, name: str, least: Any, typical: Any, most: Any) -> None:
        self._trt.record("set_shape", name, least, typical, most)


class _Config:
    def __init__(self, trt: TensorRT) -> None:
        self._trt = trt
        self.flags: set[Any] = {trt.BuilderFlag.TF32}
        self.cache: Any = None
        self.progress_monitor: Any = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("default_device_type", "DLA_core", "builder_optimization_level"):
            self._trt.record(name, value)
        super().__setattr__(name, value)

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._trt.record("workspace", size)

    def add_optimization_profile(self, profile: _Profile) -> int:
        return 0

    def create_timing_cache(self, data: bytes) -> _Cache:
        return _Cache(data)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.foreign:
            return False
        self.cache = cache
        return True


class _Cache:
    def __init__(self, data: bytes) -> None:
        self.foreign = data.startswith(b"foreign")
        self.entries = set() if self.foreign else set(data.decode().split())

    def combine(self, other: _Cache, ignore_mismatch: bool) -> bool:
        self.entries |= other.entries
        return True

    def serialize(self) -> bytes:
        return _Memory(" ".join(sorted(self.entries)).encode())


class _Tensor:
    def __init__(self, trt: TensorRT, name: str, dtype: Any) -> None:
        self._trt, self.name, self.dtype = trt, name, dtype

    def set_dynamic_range(self, low: float, high: float) -> None:
        assert hasattr(self._trt.ITensor, "set_dynamic_range")
        self._trt.record("range", self.name, low, high)


class _Layer:
    def __init__(self, trt: TensorRT, node: onnx.NodeProto, dtypes: dict[str, Any]) -> None:
        self._trt, self._node = trt, node
        self.name = node.name
        self.type = trt.LayerType[_KINDS.get(node.op_type, "ACTIVATION")]
        self._inputs = [_Tensor(trt, name, dtypes.get(name)) for name in node.input]
        self._outputs = [_Tensor(trt, name, dtypes.get(name)) for name in node.output]
        self.num_inputs, self.num_outputs = len(self._inputs), len(self._outputs)

    def get_input(self, index: int) -> _Tensor:
        return self._inputs[index]

    def get_output(self, index: int) -> _Tensor:
        return self._outputs[index]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "precision":
            assert hasattr(self._trt.BuilderFlag, "FP16"), "gone in TensorRT 11"
            self._trt.record("precision", self.name, value.name)
        super().__setattr__(name, value)


class _Network:
    def __init__(self, trt: TensorRT) -> None:
        self._trt, self.onnx = trt, b""

    def read(self, data: bytes) -> None:
        self.onnx = data
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
        kinds = {1: self._trt.DataType.FLOAT, 10: self._trt.DataType.HALF}
        infos = [*model.graph.value_info, *model.graph.output, *model.graph.input]
        dtypes = {i.name: kinds.get(i.type.tensor_type.elem_type) for i in infos}
        self._layers = [_Layer(self._trt, node, dtypes) for node in model.graph.node]
        self._inputs = [_Tensor(self._trt, i.name, dtypes[i.name]) for i in model.graph.input]
        self.num_layers, self.num_inputs = len(self._layers), len(self._inputs)

    def get_layer(self, index: int) -> _Layer:
        return self._layers[index]

    def get_input(self, index: int) -> _Tensor:
        return self._inputs[index]


class _Parser:
    num_errors = 1

    def __init__(self, trt: TensorRT, network: _Network) -> None:
        self._trt, self._network = trt, network

    def set_flag(self, flag: Any) -> None:
        self._trt.record("parser_flag", flag.name)

    def parse_from_file(self, path: str) -> bool:
        self._trt.record("parse", Path(path).name)
        if self._trt.refuse == "parse":
            return False
        self._network.read(Path(path).read_bytes())
        return True

    def get_error(self, index: int) -> SimpleNamespace:
        said = "In function importFoo:\n[8] No importer registered for op: Foo"
        return SimpleNamespace(
            desc=lambda: said, node_name=lambda: "foo_7", node_operator=lambda: "Foo"
        )


class _Runtime:
    def __init__(self, trt: TensorRT, logger: Any, dla_cores: int) -> None:
        self._trt, self._logger, self.num_DLA_cores = trt, logger, dla_cores
        self.DLA_core = -1

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        body = plan.removeprefix(MARK)
        try:
            onnx.checker.check_model(onnx.load_from_string(body))
            whole = body != plan and self._trt.refuse != "load"
        except Exception:  # what protobuf and the checker raise has no common base
            whole = False
        if not whole:
            self._logger.log(_Logger.ERROR, "Magic tag does not match")
            return None
        self._trt.record("load", self.DLA_core)
        return _Engine(self._trt, body)


class _Engine:
    num_optimization_profiles = 1

    def __init__(self, trt: TensorRT, body: bytes) -> None:
        self.trt = trt
        self.model = onnx.load_from_string(body)
        graph = self.model.graph
        self._specs = {i.name: (i, trt.TensorIOMode.INPUT) for i in graph.input}
        self._specs |= {o.name: (o, trt.TensorIOMode.OUTPUT) for o in graph.output}
        self.num_io_tensors = len(self._specs)

    def create_engine_inspector(self) -> _Inspector:
        return _Inspector(self.trt)

    def create_execution_context(self) -> _Context:
        return _Context(self)

    def get_tensor_name(self, index: int) -> str:
        return list(self._specs)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._specs[name][1]

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = {1: "FLOAT", 10: "HALF", 6: "INT32", 7: "INT64"}
        return self.trt.DataType[kinds[self._specs[name][0].type.tensor_type.elem_type]]

    def get_tensor_location(self, name: str) -> Any:
        return self.trt.TensorLocation.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = self._specs[name][0].type.tensor_type.shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        shape = tuple(4 if d < 0 else d for d in self.get_tensor_shape(name))
        return [shape, shape, shape]


class _Inspector:
    def __init__(self, trt: TensorRT) -> None:
        self._trt = trt
        self.execution_context: Any = None

    def get_engine_information(self, style: Any) -> str:
        return json.dumps({"Layers": self._trt.layers, "Bindings": []})


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.profiler: Any = None
        self._session = ort.InferenceSession(
            engine.model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self._shapes[name] = tuple(shape)
        declared = self._engine.get_tensor_shape(name)
        return all(d in (-1, s) for d, s in zip(declared, shape, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self._shapes.values()))[0]
        return tuple(batch if d < 0 else d for d in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == Cuda.STREAM
        feeds = {name: self._array(name, shape) for name, shape in self._shapes.items()}
        names = [o.name for o in self._session.get_outputs()]
        for name, value in zip(names, self._session.run(names, feeds), strict=True):
            self._array(name, value.shape)[...] = value
        if self.profiler and self._engine.trt.layer_ms:
            for layer_ms in self._engine.trt.layer_ms.pop(0).items():
                self.profiler.report_layer_time(*layer_ms)
        return self._engine.trt.refuse != "run"

    def _array(self, name: str, shape: tuple[int, ...]) -> Any:
        kinds = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64"}
        dtype = np.dtype(kinds[self._engine.get_tensor_dtype(name).name])
        size = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_uint8 * size).from_address(self._addresses[name])
        return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
