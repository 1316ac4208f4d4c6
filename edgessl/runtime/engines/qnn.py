"""Qualcomm's Hexagon tensor processor through onnxruntime's plugin execution provider.

On a Snapdragon it runs context binaries on the NPU; on x86-64 Linux the same provider holds an
emulator of the NPU's arithmetic, which aborts on graphs that it does not like: run it in a
process of its own.

Source: https://github.com/onnxruntime/onnxruntime-qnn, QNN-ExecutionProvider.md
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgessl.bundle.manifest import OptionValue
from edgessl.config import Options, build_options
from edgessl.errors import ModelError, UnavailableError
from edgessl.optional import require
from edgessl.runtime.engines.onnxruntime import error_types, one_line, tensor_spec
from edgessl.runtime.profiling import OperatorTime
from edgessl.runtime.session import Array, Session

__all__ = [
    "PROVIDER",
    "Qnn",
    "QnnOptions",
    "describe_refusal",
    "is_fallback",
    "nodes_elsewhere",
    "session_options",
    "stdout_to_stderr",
]

PROVIDER = "QNNExecutionProvider"
_FATAL_ONLY = 4
_NAMED = 5
_EMULATED_ON = ("x86_64", "amd64")
_registration = threading.Lock()
_registered: list[str] = []


class QnnOptions(Options):
    """How the provider is set up.

    Attributes:
        threads: Ignored: the NPU schedules itself. Every engine knows the option.
        backend: The tensor processor; the only one that is offered.
        htp_arch: Version of the processor, for a QDQ model that is compiled when it is opened.
        soc_model: Qualcomm's number of the chip, for the same; it overrides ``htp_arch``.
        emulate: Compute with the emulator of an x86-64 machine instead of an NPU.
        htp_performance_mode: Clock and sleep policy of the NPU.
        vtcm_mb: Tightly coupled memory that a model may use; 0 leaves it to the driver.
    """

    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    backend: Literal["htp"] = "htp"
    htp_arch: Literal[68, 69, 73, 75, 79, 81] | None = None
    soc_model: Annotated[int, Field(ge=1)] | None = None
    emulate: bool = False
    htp_performance_mode: Literal[
        "default",
        "burst",
        "balanced",
        "high_performance",
        "sustained_high_performance",
        "high_power_saver",
        "low_balanced",
        "low_power_saver",
        "power_saver",
        "extreme_power_saver",
    ] = "burst"
    vtcm_mb: Annotated[int, Field(ge=0, le=64)] = 0


class Qnn:
    """The engine, as `edgessl.runtime.session.Engine` describes it."""

    @staticmethod
    def version() -> str:
        """Version of onnxruntime-qnn."""
        return str(_import().__version__)

    @staticmethod
    def open(model: Path, options: Mapping[str, OptionValue]) -> Session:
        """Load a context (``.onnx`` with an EPContext node) or a QDQ ``.onnx`` file."""
        settings = build_options(QnnOptions, options, where="qnn options")
        return QnnSession(model, settings)

    @staticmethod
    def profile(
        model: Path,
        options: Mapping[str, OptionValue],
        feeds: Sequence[Mapping[str, Array]],
        runs: int,
    ) -> Sequence[Sequence[OperatorTime]]:
        """Not offered: the NPU counts cycles of its operators and does not tell its clock."""
        raise UnavailableError(
            f"qnn: the profiler of onnxruntime-qnn {Qnn.version()} counts cycles per operator, not "
            "time, and the emulator's are not the NPU's; read them on the device with Qualcomm's "
            "qnn-profile-viewer"
        )


class QnnSession(Session):
    """An opened ``InferenceSession`` whose nodes are all on the NPU."""

    def __init__(self, model: Path, options: QnnOptions) -> None:
        _check_machine(options)
        ort = require("onnxruntime", extra="qnn")
        self._errors = error_types(ort)
        if not model.is_file():
            raise ModelError(f"{model}: no such file; check the path")
        with stdout_to_stderr():
            settings = session_options(options)
            try:
                self._session: Any = ort.InferenceSession(str(model), sess_options=settings)
            except self._errors as error:
                raise ModelError(
                    f"{model.name}: onnxruntime-qnn {Qnn.version()} refuses the file "
                    f"({_reason(error, model, options)}); compile it again for this chip"
                ) from error
        self.inputs = tuple(tensor_spec(i, model) for i in self._session.get_inputs())
        self.outputs = tuple(tensor_spec(o, model) for o in self._session.get_outputs())

    def run_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute; the feeds are checked."""
        names = [spec.name for spec in self.outputs]
        try:
            values = self._session.run(names, dict(feeds))
        except self._errors as error:
            raise ModelError(
                f"the NPU failed while running ({one_line(error)}); compile the model again"
            ) from error
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        """Give the engine's memory back."""
        self._session = None


def session_options(options: QnnOptions, *, fallback: bool = False) -> Any:
    """The ``SessionOptions`` of a session on the NPU.

    Args:
        options: How the provider is set up.
        fallback: Let onnxruntime's CPU provider take what the NPU does not; only to find out what
            that is.

    Raises:
        UnavailableError: The provider is not installed, or finds no device.
    """
    ort, qnn = require("onnxruntime", extra="qnn"), _import()
    _register(ort, qnn)
    values = {
        "backend_path": qnn.get_qnn_htp_path(),
        "htp_performance_mode": options.htp_performance_mode,
    }
    numbers = {
        "htp_arch": options.htp_arch,
        "soc_model": options.soc_model,
        "vtcm_mb": options.vtcm_mb,
    }
    values |= {name: str(value) for name, value in numbers.items() if value}
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "0" if fallback else "1")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings.add_provider_for_devices([_device(ort)], values)
    return settings


def nodes_elsewhere(model: Path, options: QnnOptions) -> tuple[str, ...] | None:
    """Names of the nodes that the NPU does not take; None if it takes none at all.

    onnxruntime's own error names no node.
    """
    ort = require("onnxruntime", extra="qnn")
    session = ort.InferenceSession(str(model), sess_options=session_options(options, fallback=True))
    parts = session.get_provider_graph_assignment_info()
    if all(part.ep_name != PROVIDER for part in parts):
        return None
    return tuple(
        f"{node.name or '(no name)'} ({node.op_type})"
        for part in parts
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    )


def describe_refusal(model: Path, options: QnnOptions) -> str:
    """Why onnxruntime says that nodes would run on the CPU, in words."""
    nodes = nodes_elsewhere(model, options)
    if nodes is None:
        return "the NPU takes no node at all; the provider could not be set up for this chip"
    more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
    return f"the NPU does not take {', '.join(nodes[:_NAMED])}{more}"


def _reason(error: Exception, model: Path, options: QnnOptions) -> str:
    return describe_refusal(model, options) if is_fallback(error) else one_line(error)


def is_fallback(error: Exception) -> bool:
    """Tell whether onnxruntime refused because nodes would run on the CPU."""
    return "fallback to CPU EP has been explicitly disabled" in str(error)


def _register(ort: Any, qnn: Any) -> None:
    """Once per process: onnxruntime refuses a second time."""
    with _registration:
        if PROVIDER in _registered:
            return
        try:
            ort.register_execution_provider_library(PROVIDER, qnn.get_library_path())
        except error_types(ort) as error:
            raise UnavailableError(
                f"onnxruntime {ort.__version__} cannot load onnxruntime-qnn {qnn.__version__} "
                f"({one_line(error)}); install a pair that fits: pip install 'edgessl[qnn]'"
            ) from error
        _registered.append(PROVIDER)


def _device(ort: Any) -> Any:
    """The provider's device: the NPU where the system shows one."""
    devices = [d for d in ort.get_ep_devices() if d.ep_name == PROVIDER]
    if not devices:
        raise UnavailableError(
            "onnxruntime-qnn finds no device on this machine; run it on a Snapdragon, or set "
            "emulate=true on x86-64"
        )
    npu = [d for d in devices if d.device.type == ort.OrtHardwareDeviceType.NPU]
    return (npu or devices)[0]


def _check_machine(options: QnnOptions) -> None:
    emulates = sys.platform == "linux" and platform.machine().lower() in _EMULATED_ON
    if options.emulate and not emulates:
        raise UnavailableError(
            f"the HTP emulator exists for x86-64 Linux only, this is {platform.machine()}; "
            "leave emulate out to use the NPU"
        )
    if emulates and not options.emulate:
        raise UnavailableError(
            "this x86-64 machine has no Hexagon NPU; run the bundle on its device, or on the "
            "emulator with: edgessl verify --on emulator"
        )


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Qualcomm's library for x86-64 greets on file descriptor 1, where results go."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        # C's buffer would be written at exit, when the descriptor is back in its place.
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _import() -> Any:
    return require("onnxruntime_qnn", extra="qnn")
