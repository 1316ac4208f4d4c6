"""What a target file says: the schema of ``targets/*.toml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, HttpUrl, model_validator
from typing_extensions import Self

from edgessl.config import Options
from edgessl.targets.host import HostFacts

__all__ = ["CandidateSpec", "HardwareFact", "Quantization", "Target"]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Precision = Literal["fp32", "bf16", "fp16", "int8", "a16w8"]


class CandidateSpec(Options):
    """One way to compile for a target.

    Attributes:
        engine: Name in the runtime's registry of engines.
        precision: Precision of the arithmetic.
        scheme: Quantization scheme: ``"u8s8"`` is unsigned activations and signed weights,
            ``"nncf"`` leaves placement and types to NNCF; None where nothing is quantized.
        requires: CPU features (as `HostFacts.features` names them) without which the candidate is
            not tried.
    """

    engine: str
    precision: Precision
    scheme: Literal["u8s8", "s8s8", "nncf"] | None = None
    requires: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``engine-precision``, with the scheme where there is one: ``onnxruntime-int8-u8s8``."""
        return "-".join(part for part in (self.engine, self.precision, self.scheme) if part)

    @model_validator(mode="after")
    def _scheme_with_integers(self) -> Self:
        if (self.scheme is not None) != (self.precision in ("int8", "a16w8")):
            raise ValueError("a scheme belongs to int8 and a16w8, and only to these")
        return self


class Quantization(Options):
    """How integers are chosen.

    Attributes:
        per_channel: One weight scale per output channel.
        reduce_range: 7-bit weights: ``"without_vnni"`` where 8-bit products overflow 16 bits.
        calibration_samples: Samples that set the ranges.
    """

    per_channel: bool = True
    reduce_range: Literal["always", "never", "without_vnni"] = "without_vnni"
    calibration_samples: Annotated[int, Field(ge=1)] = 300


class HardwareFact(Options):
    """One figure about the device and where it was published."""

    value: bool | int | float | str
    unit: str | None = None
    source: HttpUrl | None = None


class Target(Options):
    """One device, or one family of devices.

    Attributes:
        name: How ``--target`` calls it.
        arch: Machine as ``uname -m`` says; ``"any"`` for a target that adapts to its host.
        requires: CPU features without which nothing of this target runs.
        candidates: What `edgessl compile` tries, best guess first.
        min_fidelity: Least mean cosine to the float32 model that passes.
        min_neighbour_agreement: Least mean share of common 10-nearest neighbours that passes.
        extends: Name or path of the target whose keys this one starts from.
    """

    name: Name
    description: str
    family: Literal["cpu"]
    arch: Literal["x86_64", "aarch64", "any"]
    requires: tuple[str, ...] = ()
    candidates: Annotated[tuple[CandidateSpec, ...], Field(min_length=1)]
    quantization: Quantization = Quantization()
    min_fidelity: Annotated[float, Field(gt=0, le=1)] = 0.98
    min_neighbour_agreement: Annotated[float, Field(ge=0, le=1)] = 0.7
    hardware: dict[str, HardwareFact] = Field(default_factory=dict)
    extends: str | None = None

    @model_validator(mode="after")
    def _distinct_candidates(self) -> Self:
        names = [candidate.name for candidate in self.candidates]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"candidate {twice[0]} is listed twice")
        return self

    def runs_here(self, host: HostFacts) -> str | None:
        """Say why this machine cannot run what is compiled for the target; None if it can."""
        if self.arch not in ("any", host.arch):
            return f"{self.name} is for {self.arch}, this machine is {host.arch}"
        missing = [feature for feature in self.requires if feature not in host.features]
        if missing:
            return f"{self.name} needs {', '.join(missing)}, which this CPU lacks"
        return None

    def reduces_range(self, host: HostFacts) -> bool:
        """Tell whether weights keep to 7 bits on a host."""
        if self.quantization.reduce_range == "without_vnni":
            return not host.has_vnni
        return self.quantization.reduce_range == "always"

    def restricted(self, host: HostFacts) -> tuple[CandidateSpec, ...]:
        """The candidates whose required CPU features a host has, in order."""
        return tuple(c for c in self.candidates if host.features.issuperset(c.requires))
