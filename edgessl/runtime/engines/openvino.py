"""OpenVINO's CPU plugin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgessl.bundle.manifest import OptionValue, TensorSpec
from edgessl.config import Options, build_options
from edgessl.errors import ModelError, UnavailableError
from edgessl.optional import require
from edgessl.runtime.session import Array, Session
from edgessl.runtime.threads import resolve_threads

__all__ = ["OpenVINO", "OpenVINOOptions"]

_DEVICE = "CPU"


class OpenVINOOptions(Options):
    """How OpenVINO is set up.

    Attributes:
        threads: Inference threads; 0 takes all physical cores.
        inference_precision: What floating-point operators compute in. OpenVINO's own default is
            bfloat16 where the CPU has it; here it is float32 unless asked for.
        num_streams: Requests that run side by side; 1 gives the least latency.
    """

    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    inference_precision: Literal["f32", "bf16"] = "f32"
    num_streams: Annotated[int, Field(ge=1, le=1024)] = 1


class OpenVINO:
    """The engine, as `edgessl.runtime.session.Engine` describes it."""

    @staticmethod
    def version() -> str:
        """Version of openvino, without the build number."""
        return str(_import().__version__).split("-")[0]

    @staticmethod
    def open(model: Path, options: Mapping[str, OptionValue]) -> Session:
        """Load an ``.xml`` (its ``.bin`` beside it) or ``.onnx`` file with `OpenVINOOptions`."""
        settings = build_options(OpenVINOOptions, options, where="openvino options")
        return OpenVINOSession(model, settings)


class OpenVINOSession(Session):
    """A compiled model with one infer request."""

    def __init__(self, model: Path, options: OpenVINOOptions) -> None:
        ov = _import()
        core = ov.Core()
        if _DEVICE not in core.available_devices:
            raise UnavailableError(
                f"openvino {OpenVINO.version()} finds no {_DEVICE} device here; "
                "reinstall it with: pip install --force-reinstall openvino"
            )
        wanted = options.inference_precision
        capabilities = core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        if wanted == "bf16" and "BF16" not in capabilities:
            raise UnavailableError(
                "this CPU has no bfloat16 instructions; use inference_precision=f32"
            )
        settings = {
            "INFERENCE_PRECISION_HINT": wanted,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": options.num_streams,
            "INFERENCE_NUM_THREADS": resolve_threads(options.threads),
        }
        try:
            compiled = core.compile_model(core.read_model(str(model)), _DEVICE, settings)
        except RuntimeError as error:
            raise ModelError(
                f"{model.name}: openvino {OpenVINO.version()} refuses the file "
                f"({_one_line(error)}); export or compile it again"
            ) from error
        got = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        if got != wanted:
            raise UnavailableError(
                f"openvino computes in {got} although {wanted} was asked for; use another precision"
            )
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
                f"openvino failed while running ({_one_line(error)}); "
                "check the input sizes, or compile the model again"
            ) from error
        return {spec.name: values[index] for index, spec in enumerate(self.outputs)}

    def close(self) -> None:
        """Give the engine's memory back."""
        self._request = None


def _import() -> Any:
    return require("openvino", extra="openvino")


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


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith("Exception from ")]
    return " ".join(reasons or lines)[:300]
