"""onnxruntime's CPU execution provider."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from edgessl.bundle.manifest import OptionValue, TensorSpec
from edgessl.config import Options, build_options
from edgessl.errors import ModelError, UnavailableError
from edgessl.optional import require
from edgessl.runtime.profiling import PROFILE_WARM_UP_RUNS, OperatorTime
from edgessl.runtime.session import Array, Session
from edgessl.runtime.threads import resolve_threads

__all__ = [
    "OnnxRuntime",
    "OnnxRuntimeOptions",
    "error_types",
    "one_line",
    "read_trace",
    "tensor_spec",
]

_PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3
# A file, a line and the signature of a C++ function, whose parameters may have parameters.
_SOURCE_PLACE = re.compile(
    r"/onnxruntime_src/\S+:\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)?(?: \[with [^\]]*\])? "
)
_RUN_EVENT = "model_run"
_KERNEL_SUFFIX = "_kernel_time"
_CONTROL_FLOW = ("If", "Loop", "Scan")
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


class OnnxRuntimeOptions(Options):
    """How onnxruntime is set up.

    Attributes:
        threads: Threads within an operator; 0 takes all physical cores.
        intra_op_spinning: True lets idle threads spin, which is fastest back to back; False
            saves power between requests.
        fuse_qdq: Compute in integers between Q/DQ nodes; False computes what each node says.
        optimize: False runs the graph as it stands, node by node.
    """

    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    intra_op_spinning: bool = True
    fuse_qdq: bool = True
    optimize: bool = True


class OnnxRuntime:
    """The engine, as `edgessl.runtime.session.Engine` describes it."""

    @staticmethod
    def version() -> str:
        """Version of onnxruntime."""
        return str(_import().__version__)

    @staticmethod
    def open(model: Path, options: Mapping[str, OptionValue]) -> Session:
        """Load an ``.onnx`` file with `OnnxRuntimeOptions`."""
        settings = build_options(OnnxRuntimeOptions, options, where="onnxruntime options")
        return OnnxRuntimeSession(model, settings)

    @staticmethod
    def profile(
        model: Path,
        options: Mapping[str, OptionValue],
        feeds: Sequence[Mapping[str, Array]],
        runs: int,
    ) -> list[list[OperatorTime]]:
        """Times from the trace that onnxruntime writes, per run."""
        settings = build_options(OnnxRuntimeOptions, options, where="onnxruntime options")
        with tempfile.TemporaryDirectory(prefix="edgessl-") as folder:
            session = OnnxRuntimeSession(model, settings, trace=Path(folder) / "trace")
            try:
                for feed in islice(cycle(feeds), PROFILE_WARM_UP_RUNS + runs):
                    session.run(feed)
            finally:
                # Writes the file, also after an error; else that would happen at some later time.
                trace = session.end_profiling()
                session.close()
            return read_trace(trace.read_text(encoding="utf-8"))[PROFILE_WARM_UP_RUNS:]


class OnnxRuntimeSession(Session):
    """An opened ``InferenceSession``.

    Args:
        model: The ``.onnx`` file.
        options: How onnxruntime is set up.
        trace: Start of the name of a file for the times of operators; None does not profile.
    """

    def __init__(
        self, model: Path, options: OnnxRuntimeOptions, *, trace: Path | None = None
    ) -> None:
        ort = _import()
        if _PROVIDER not in ort.get_available_providers():
            raise UnavailableError(
                f"onnxruntime {ort.__version__} has no {_PROVIDER}; "
                "install the ordinary build with: pip install onnxruntime"
            )
        self._errors = error_types(ort)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = resolve_threads(options.threads)
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _ERRORS_ONLY
        spinning = "1" if options.intra_op_spinning else "0"
        settings.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        if not options.fuse_qdq:
            settings.add_session_config_entry("session.disable_quant_qdq", "1")
        if not options.optimize:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if trace is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(trace)
        try:
            self._session: Any = ort.InferenceSession(
                str(model), sess_options=settings, providers=[_PROVIDER]
            )
        except self._errors as error:
            raise ModelError(
                f"{model.name}: onnxruntime {ort.__version__} refuses the file "
                f"({one_line(error)}); export or compile it again"
            ) from error
        self.inputs = tuple(tensor_spec(i, model) for i in self._session.get_inputs())
        self.outputs = tuple(tensor_spec(o, model) for o in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def run_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute; the feeds are checked."""
        try:
            values = self._session.run(self._names, dict(feeds))
        except self._errors as error:
            raise ModelError(
                f"onnxruntime failed while running ({one_line(error)}); "
                "check the input sizes, or compile the model again"
            ) from error
        return dict(zip(self._names, values, strict=True))

    def end_profiling(self) -> Path:
        """Write the trace of all runs so far, and say where."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Give the engine's memory back."""
        self._session = None


def read_trace(text: str) -> list[list[OperatorTime]]:
    """Times of operators in a trace of onnxruntime: one list per run, warm-ups included.

    A node that runs other nodes (``If``, ``Loop``) is given only the time that is its own. A node
    that runs several times in one run is given the sum.

    Args:
        text: Chrome's trace format, as ``InferenceSession.end_profiling`` writes it.

    Raises:
        ModelError: It is no such trace.
    """
    try:
        events = [e for e in json.loads(text) if e["cat"] == "Node" or e["name"] == _RUN_EVENT]
        runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == _RUN_EVENT)
        kernels = [e for e in events if e["name"].endswith(_KERNEL_SUFFIX)]
        kernels.sort(key=lambda e: (e["ts"], -e["dur"]))
        return [_own_times(e for e in kernels if start <= e["ts"] < end) for start, end in runs]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"onnxruntime's trace cannot be read ({error}); leave the times of operators out"
        ) from error


def _own_times(events: Iterable[Mapping[str, Any]]) -> list[OperatorTime]:
    """One entry per node; microseconds become milliseconds.

    Args:
        events: Of one run, ordered by their start, the longer one first.
    """
    times: dict[tuple[str, str, str, str], float] = {}
    around: list[tuple[float, tuple[str, str, str, str]]] = []
    for event in events:
        start, facts = event["ts"], event["args"]
        name = event["name"].removesuffix(_KERNEL_SUFFIX) or facts["op_name"]
        key = (facts["node_index"], name, facts["op_name"], facts["provider"])
        while around and around[-1][0] <= start:
            around.pop()
        if around:
            times[around[-1][1]] -= event["dur"]
        if facts["op_name"] in _CONTROL_FLOW:
            around.append((start + event["dur"], key))
        times[key] = times.get(key, 0.0) + event["dur"]
    return [
        OperatorTime(name=name, kind=kind, time_ms=max(0.0, microseconds / 1e3), device=provider)
        for (_, name, kind, provider), microseconds in times.items()
    ]


def _import() -> Any:
    return require("onnxruntime", extra="compile")


def error_types(ort: Any) -> tuple[type[Exception], ...]:
    """The exceptions of onnxruntime, which share no base class but ``Exception``."""
    state = ort.capi.onnxruntime_pybind11_state
    own = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (RuntimeError, *own)


def tensor_spec(argument: Any, model: Path) -> TensorSpec:
    """An input or output as onnxruntime describes it (a ``NodeArg``)."""
    dtype = _DTYPES.get(argument.type)
    if dtype is None:
        raise ModelError(
            f"{model.name}: '{argument.name}' is a {argument.type}, which edgessl cannot feed; "
            f"use one of {', '.join(sorted(_DTYPES.values()))}"
        )
    shape = tuple("?" if d is None else d for d in argument.shape)
    return TensorSpec(name=argument.name, dtype=dtype, shape=shape)


def one_line(error: Exception) -> str:
    """onnxruntime's message without line breaks, prefix, and the place in its sources."""
    text = _SOURCE_PLACE.sub("", " ".join(str(error).split()))
    return text.removeprefix("[ONNXRuntimeError] : ")[:300]
