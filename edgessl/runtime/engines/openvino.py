"""OpenVINO on an Intel or Arm CPU, an Intel GPU or an Intel NPU."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgessl.bundle.manifest import OptionValue, TensorSpec
from edgessl.config import Options, build_options
from edgessl.errors import ModelError, UnavailableError
from edgessl.files import cache_directory
from edgessl.optional import require
from edgessl.runtime.profiling import PROFILE_WARM_UP_RUNS, OperatorTime
from edgessl.runtime.session import Array, Session
from edgessl.runtime.threads import resolve_threads

__all__ = ["OpenVINO", "OpenVINOOptions", "one_line", "the_core"]

_CAPABILITIES = {"bf16": "BF16", "f16": "FP16"}
_BLOB = ".blob"
_DRIVERS = {
    "CPU": "reinstall it with: pip install --force-reinstall openvino",
    "GPU": "install Intel's GPU driver (intel-opencl-icd), or run the bundle on its device",
    "NPU": "install Intel's NPU driver (linux-npu-driver), or run the bundle on its device",
}


class OpenVINOOptions(Options):
    """How OpenVINO is set up.

    Attributes:
        device: Plugin that computes.
        threads: Inference threads of a CPU; 0 takes all physical cores.
        inference_precision: What floating-point operators compute in. OpenVINO's own default is
            bfloat16 where a CPU has it and float16 on a GPU; here it is float32 unless asked for,
            except on an NPU, which has float16 only.
        num_streams: Requests that run side by side; 1 gives the least latency.
        performance_hint: What OpenVINO optimizes for.
        npu_platform: Generation of the NPU, ``"4000"``; empty asks the driver.
        cache: Keep what a GPU or an NPU compiled, so that opening again is fast.
    """

    device: Literal["CPU", "GPU", "NPU"] = "CPU"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    inference_precision: Literal["f32", "bf16", "f16"] | None = None
    num_streams: Annotated[int, Field(ge=1, le=1024)] = 1
    performance_hint: Literal["latency", "throughput"] = "latency"
    npu_platform: Annotated[str, Field(pattern=r"^(\d{4})?$")] = ""
    cache: bool = True

    @property
    def precision(self) -> str:
        """The precision that is asked for."""
        return self.inference_precision or ("f16" if self.device == "NPU" else "f32")


class OpenVINO:
    """The engine, as `edgessl.runtime.session.Engine` describes it."""

    @staticmethod
    def version() -> str:
        """Version of openvino, without the build number."""
        return str(_import().__version__).split("-")[0]

    @staticmethod
    def open(model: Path, options: Mapping[str, OptionValue]) -> Session:
        """Load an ``.xml`` (its ``.bin`` beside it), ``.onnx`` or ``.blob`` file.

        A ``.blob`` is what a GPU or an NPU compiled earlier. ``options`` are `OpenVINOOptions`.
        """
        settings = build_options(OpenVINOOptions, options, where="openvino options")
        return OpenVINOSession(model, settings)

    @staticmethod
    def profile(
        model: Path,
        options: Mapping[str, OptionValue],
        feeds: Sequence[Mapping[str, Array]],
        runs: int,
    ) -> list[list[OperatorTime]]:
        """Times from OpenVINO's performance counters.

        The CPU plugin gives the mean over all runs since it compiled the model, in whole
        microseconds; the warm-up is taken out of it. Other plugins give the last run.
        """
        settings = build_options(OpenVINOOptions, options, where="openvino options")
        profiles: list[list[OperatorTime]] = []
        with OpenVINOSession(model, settings, counters=True) as session:
            for feed in islice(cycle(feeds), PROFILE_WARM_UP_RUNS + runs):
                session.run(feed)
                profiles.append(session.operator_times())
        warm, timed = profiles[:PROFILE_WARM_UP_RUNS], profiles[PROFILE_WARM_UP_RUNS:]
        return [_mean_after(warm[-1], timed[-1], runs)] if settings.device == "CPU" else timed


class OpenVINOSession(Session):
    """A compiled model with one infer request.

    Args:
        model: The file.
        options: How OpenVINO is set up.
        counters: Keep the times of operators.
    """

    def __init__(self, model: Path, options: OpenVINOOptions, *, counters: bool = False) -> None:
        core = the_core()
        _check_device(core, options)
        self._device = options.device
        settings = _settings(options)
        if counters:
            settings["PERF_COUNT"] = True
        try:
            if model.suffix == _BLOB:
                # A CPU's blob forgets the precision that it was compiled for.
                kept = settings if options.device == "CPU" else {}
                compiled = core.import_model(model.read_bytes(), options.device, kept)
            else:
                compiled = core.compile_model(core.read_model(str(model)), options.device, settings)
        except RuntimeError as error:
            raise ModelError(
                f"{model.name}: openvino {OpenVINO.version()} refuses the file "
                f"({one_line(error)}); export or compile it again"
            ) from error
        if options.device == "CPU" or (options.device == "GPU" and model.suffix != _BLOB):
            _check_precision(compiled, options)
        self.inputs = tuple(_spec(port, port.node.friendly_name, model) for port in compiled.inputs)
        self.outputs = tuple(_spec(port, _result_name(port), model) for port in compiled.outputs)
        self._request: Any = compiled.create_infer_request()

    def run_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute; the feeds are checked."""
        arrays = {index: feeds[spec.name] for index, spec in enumerate(self.inputs)}
        try:
            values = self._request.infer(arrays)
        except RuntimeError as error:
            raise ModelError(
                f"openvino failed while running ({one_line(error)}); "
                "check the input sizes, or compile the model again"
            ) from error
        return {spec.name: values[index] for index, spec in enumerate(self.outputs)}

    def operator_times(self) -> list[OperatorTime]:
        """What the counters say now; operators that took no time are left out."""
        return [
            OperatorTime(
                name=entry.node_name,
                kind=entry.node_type,
                time_ms=entry.real_time.total_seconds() * 1e3,
                device=f"{self._device} {entry.exec_type}",
            )
            for entry in self._request.get_profiling_info()
            if entry.status == entry.Status.EXECUTED
        ]

    def close(self) -> None:
        """Give the engine's memory back."""
        self._request = None


def _mean_after(
    warm: Sequence[OperatorTime], all_runs: Sequence[OperatorTime], runs: int
) -> list[OperatorTime]:
    """Means over the runs after the warm-up, from means over the warm-up and over all runs."""
    first = {operator.name: operator.time_ms * PROFILE_WARM_UP_RUNS for operator in warm}
    means = []
    for operator in all_runs:
        total = operator.time_ms * (PROFILE_WARM_UP_RUNS + runs) - first.get(operator.name, 0.0)
        means.append(operator.model_copy(update={"time_ms": max(0.0, total / runs)}))
    return means


@functools.cache
def the_core() -> Any:
    """The one ``openvino.Core`` of this process, which is never destroyed.

    OpenVINO's CPU plugin replaces the thread's alternate signal stack when it loads, and puts the
    one before back when it unloads. Two cores that end in the order in which they were made leave
    the thread with a stack that is unmapped, and the next signal, a Ctrl-C or the end of a child
    process, kills the process without a word.
    """
    return _import().Core()


def _import() -> Any:
    return require("openvino", extra="openvino")


def _check_device(core: Any, options: OpenVINOOptions) -> None:
    found = [str(name) for name in core.available_devices]
    if not any(name.split(".")[0] == options.device for name in found):
        raise UnavailableError(
            f"openvino {OpenVINO.version()} finds no {options.device} device here, only "
            f"{', '.join(found) or 'none'}; {_DRIVERS[options.device]}"
        )
    wanted = options.precision
    if options.device == "NPU" and wanted != "f16":
        raise UnavailableError(
            f"an Intel NPU computes in f16 and integers, not in {wanted}; leave "
            "inference_precision out"
        )
    needed = _CAPABILITIES.get(wanted)
    if options.device != "CPU" or needed is None:
        return
    if needed not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UnavailableError(
            f"this CPU has no {wanted} instructions; use inference_precision=f32"
        )


def _settings(options: OpenVINOOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": options.performance_hint.upper()}
    if options.device != "NPU":
        settings["INFERENCE_PRECISION_HINT"] = options.precision
        settings["NUM_STREAMS"] = options.num_streams
    elif options.npu_platform:
        settings["NPU_PLATFORM"] = options.npu_platform
    if options.device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = resolve_threads(options.threads)
    elif options.cache:
        settings["CACHE_DIR"] = str(cache_directory("openvino"))
    return settings


def _check_precision(compiled: Any, options: OpenVINOOptions) -> None:
    """OpenVINO takes hints that it cannot follow: an f16 hint gives bfloat16 on most CPUs."""
    got = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    if got != options.precision:
        raise UnavailableError(
            f"openvino computes in {got} although {options.precision} was asked for; use "
            "another precision"
        )


def _result_name(port: Any) -> str:
    """The ONNX output's name: a result node is called ``name/sink_port_0``."""
    return str(port.node.friendly_name).rsplit("/sink_port_", 1)[0]


def _spec(port: Any, preferred: str, model: Path) -> TensorSpec:
    names = sorted(port.get_names())
    name = preferred if preferred in names or not names else names[0]
    try:
        dtype = port.element_type.to_dtype().name
    except RuntimeError as error:
        raise ModelError(
            f"{model.name}: '{name}' is a {port.element_type}, which numpy cannot hold; "
            "export it with float32 inputs and outputs"
        ) from error
    shape = tuple(
        d.get_length() if d.is_static else f"d{axis}" for axis, d in enumerate(port.partial_shape)
    )
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def one_line(error: Exception) -> str:
    """OpenVINO's message without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith("Exception from ")]
    return " ".join(reasons or lines)[:300]
