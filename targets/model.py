"""What a target file says: the schema of ``targets/*.toml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, HttpUrl, model_validator
from typing_extensions import Self

from edgessl.config import Options
from edgessl.targets.host import HostFacts
from edgessl.targets.presence import obstacle

__all__ = [
    "CandidateSpec",
    "HardwareFact",
    "IntelNpu",
    "Nvidia",
    "Qualcomm",
    "Quantization",
    "ShapeRules",
    "Target",
]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Family = Literal["cpu", "gpu-intel", "nvidia", "npu-intel", "npu-qualcomm"]
FloatPrecision = Literal["fp32", "bf16", "fp16"]
Precision = Literal["fp32", "bf16", "fp16", "int8", "a16w8", "w8", "w4"]
Scheme = Literal["u8s8", "s8s8", "nncf", "qnn", "tensorrt", "tensorrt-dla", "weight-only"]
OptionValue = bool | int | float | str

_QUANTIZED = ("int8", "a16w8", "w8", "w4")


class CandidateSpec(Options):
    """One way to compile for a target.

    Attributes:
        engine: Name in the runtime's registry of engines.
        precision: Precision of the arithmetic; ``"w8"`` and ``"w4"`` quantize weights only.
        scheme: Quantization scheme: ``"u8s8"`` is unsigned activations and signed weights,
            ``"nncf"`` leaves placement and types to NNCF, the others are named for the engine
            whose rules they follow; None where nothing is quantized.
        remainder: Precision of what stays in floating point beside integers; None is float32.
        requires: CPU features (as `HostFacts.features` names them) without which the candidate is
            not tried on a host that is the target.
    """

    engine: str
    precision: Precision
    scheme: Scheme | None = None
    remainder: FloatPrecision | None = None
    requires: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``engine-precision-scheme-remainder`` without what is not there or says nothing new."""
        scheme = (self.scheme or "").removeprefix(self.engine).removeprefix("-")
        parts = (self.engine, self.precision, scheme, self.remainder)
        return "-".join(part for part in parts if part)

    @model_validator(mode="after")
    def _scheme_with_integers(self) -> Self:
        if (self.scheme is not None) != (self.precision in _QUANTIZED):
            raise ValueError(f"a scheme belongs to {', '.join(_QUANTIZED)}, and only to these")
        if self.remainder is not None and self.scheme is None:
            raise ValueError("a remainder belongs to a quantized precision")
        return self


class Quantization(Options):
    """How integers are chosen.

    Attributes:
        per_channel: One weight scale per output channel.
        reduce_range: 7-bit weights: ``"without_vnni"`` where 8-bit products overflow 16 bits.
        calibration_samples: Samples that set the ranges.
        method: How a range is chosen from what activations were seen to be.
    """

    per_channel: bool = True
    reduce_range: Literal["always", "never", "without_vnni"] = "without_vnni"
    calibration_samples: Annotated[int, Field(ge=1)] = 300
    method: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"


class HardwareFact(Options):
    """One figure about the device and where it was published.

    Attributes:
        value: The figure; several where the device is sold or set up in several ways.
        unit: That of the fact's name in `edgessl.targets.facts.FACTS`, which is filled in.
        source: Address of the page or data sheet.
    """

    value: bool | int | float | str | tuple[int, ...]
    unit: str | None = None
    source: HttpUrl | None = None


class ShapeRules(Options):
    """What the device wants of shapes.

    Attributes:
        static: Every dimension must be fixed when the model is compiled.
        max_rank: Most dimensions of a tensor; None if there is no limit.
    """

    static: bool = False
    max_rank: Annotated[int, Field(ge=1)] | None = None


class Qualcomm(Options):
    """A Snapdragon or Dragonwing chip with a Hexagon NPU.

    Attributes:
        soc: Key of the table in `edgessl.targets.qualcomm`.
    """

    soc: str


class Nvidia(Options):
    """A GPU that TensorRT builds for.

    Attributes:
        module: Key of the table in `edgessl.targets.jetson`; None if it is no Jetson.
        compute_capability: ``"8.7"``; None if any will do.
        dla_core: Deep-learning accelerator that runs what it can; None for the GPU alone.
        tensorrt: Versions that the device's software releases bring, ``"10.3"``.
    """

    module: str | None = None
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None
    dla_core: Annotated[int, Field(ge=0, le=1)] | None = None
    tensorrt: tuple[str, ...] = ()


class IntelNpu(Options):
    """An Intel NPU; ``platform`` is OpenVINO's ``NPU_PLATFORM``."""

    platform: Annotated[str, Field(pattern=r"^\d{4}$")]


class Target(Options):
    """One device, or one family of devices.

    Attributes:
        name: How ``--target`` calls it.
        arch: Machine as ``uname -m`` says; ``"any"`` for a target that adapts to its host.
        requires: CPU features without which nothing of this target runs.
        candidates: What `edgessl compile` tries. Where the device is not at hand to measure, the
            first that passes the fidelity gate is chosen: list the fastest first.
        engine_options: Engine → options that all its candidates share.
        shapes: What the device wants of shapes.
        min_fidelity: Least mean cosine to the float32 model that passes.
        min_neighbour_agreement: Least mean share of common 10-nearest neighbours that passes.
        min_sqnr_db: Least signal-to-quantization-noise ratio of each output, for models that are
            not encoders.
        refused: Precision → why the device does not have it, for precisions that one may expect.
        hardware: Published figures about the device, by name.
        extends: Name or path of the target whose keys this one starts from; or that for each
            architecture of the machine that loads it (``"any"`` for all others).
    """

    name: Name
    description: str
    family: Family
    arch: Literal["x86_64", "aarch64", "any"]
    requires: tuple[str, ...] = ()
    candidates: Annotated[tuple[CandidateSpec, ...], Field(min_length=1)]
    engine_options: dict[str, dict[str, OptionValue]] = Field(default_factory=dict)
    quantization: Quantization = Quantization()
    shapes: ShapeRules = ShapeRules()
    qualcomm: Qualcomm | None = None
    nvidia: Nvidia | None = None
    intel_npu: IntelNpu | None = None
    min_fidelity: Annotated[float, Field(gt=0, le=1)] = 0.98
    min_neighbour_agreement: Annotated[float, Field(ge=0, le=1)] = 0.7
    min_sqnr_db: Annotated[float, Field(ge=0)] = 15.0
    refused: dict[Precision, str] = Field(default_factory=dict)
    hardware: dict[str, HardwareFact] = Field(default_factory=dict)
    extends: str | dict[Literal["x86_64", "aarch64", "any"], str] | None = None

    @model_validator(mode="after")
    def _distinct_candidates(self) -> Self:
        names = [candidate.name for candidate in self.candidates]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"candidate {twice[0]} is listed twice")
        return self

    @model_validator(mode="after")
    def _chip_of_the_family(self) -> Self:
        chips = {"npu-qualcomm": "qualcomm", "nvidia": "nvidia", "npu-intel": "intel_npu"}
        for family, table in chips.items():
            if (getattr(self, table) is not None) != (self.family == family):
                raise ValueError(f"the table '{table}' belongs to the family {family}, and to it")
        return self

    def runs_here(self, host: HostFacts) -> str | None:
        """Say why this machine cannot run what is compiled for the target; None if it can."""
        return obstacle(self, host)

    def reduces_range(self, host: HostFacts) -> bool:
        """Tell whether weights keep to 7 bits; of a device that is not here VNNI is as required."""
        if self.family != "cpu":
            return self.quantization.reduce_range == "always"
        if self.quantization.reduce_range == "without_vnni":
            known = host.features if self.runs_here(host) is None else set(self.requires)
            return "vnni" not in known and self.arch != "aarch64"
        return self.quantization.reduce_range == "always"

    def restricted(self, host: HostFacts) -> tuple[CandidateSpec, ...]:
        """The candidates whose required CPU features a host has, in order."""
        return tuple(c for c in self.candidates if host.features.issuperset(c.requires))
