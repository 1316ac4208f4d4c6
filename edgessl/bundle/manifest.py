"""The manifest of a bundle: its schema, version 1."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from edgessl.config import Options, describe_validation
from edgessl.errors import BundleError
from edgessl.preprocessing import MediaInput

__all__ = [
    "SCHEMA_VERSION",
    "Canaries",
    "Candidate",
    "EngineSpec",
    "Fidelity",
    "FileEntry",
    "Manifest",
    "NativeRecord",
    "OutputFidelity",
    "Provenance",
    "Requirements",
    "StandIn",
    "TensorSpec",
    "Variant",
    "Workload",
    "parse_manifest",
]

SCHEMA_VERSION = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MemberPath = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")
]
OptionValue = bool | int | float | str
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# Bits of a weight; integers beside floating point ("a16w8") are named for both.
_WEIGHT_BITS = {"bf16": 16, "fp16": 16, "int8": 8, "a16w8": 8, "w8": 8, "w4": 4}
_FLOAT32_BITS = 32


class TensorSpec(Options):
    """One input or output: numpy dtype name; a dimension is a size or a symbolic name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Workload(Options):
    """What a graph has to do for one run, however well it is compiled: a lower bound.

    Attributes:
        flops: Floating-point or integer operations of matrix products and convolutions, two to a
            multiplication with its addition. Everything else is left out.
        bytes: What is read or written at least once: weights as they are stored, inputs and
            outputs. What passes from layer to layer may stay in caches and is left out.
        weight_bytes: The weights' part of ``bytes``.
    """

    flops: Amount
    bytes: Amount
    weight_bytes: Amount = 0.0

    def stored_as(self, precision: str) -> Workload:
        """The same with weights, so far in float32, stored in a precision of `Candidate`."""
        bits = _WEIGHT_BITS.get(precision, _FLOAT32_BITS)
        weights = self.weight_bytes * bits / _FLOAT32_BITS
        changed = {"bytes": self.bytes - self.weight_bytes + weights, "weight_bytes": weights}
        return self.model_copy(update=changed)


class EngineSpec(Options):
    """The engine that runs the bundle, and how it is set up.

    Attributes:
        name: Name in the runtime's registry (``"onnxruntime"``, ``"openvino"``).
        version: Version it was compiled and checked with.
        options: Engine options, as `edgessl.runtime.open_session` takes them.
    """

    name: str
    version: str
    options: dict[str, OptionValue] = Field(default_factory=dict)


class OutputFidelity(Options):
    """Closeness of one output; the fields are those of `Fidelity`."""

    name: str
    cosine_mean: float
    cosine_p1: float
    centred_cosine_mean: float
    neighbour_agreement: float
    sqnr_db: float | None


class Fidelity(Options):
    """Closeness to the float32 model on held-out samples, measured without labels.

    With several outputs each figure is that of the worst.

    Attributes:
        samples: Number of held-out samples N.
        finite: False if any output was NaN or infinite.
        cosine_mean: Mean over samples of the cosine between embeddings.
        cosine_p1: 1st percentile of the same.
        centred_cosine_mean: Mean cosine after subtracting the reference's mean embedding.
        neighbour_agreement: Mean share of common members among the 10 nearest neighbours.
        sqnr_db: Signal-to-quantization-noise ratio, 10 log10(Σ reference² / Σ difference²) over all
            samples, in decibels; None where there is no difference.
        outputs: The same for each output.
    """

    samples: int
    finite: bool
    cosine_mean: float
    cosine_p1: float
    centred_cosine_mean: float
    neighbour_agreement: float
    sqnr_db: float | None = None
    outputs: tuple[OutputFidelity, ...] = ()


class Candidate(Options):
    """One way to compile the model that was tried, and what became of it."""

    name: str
    engine: str
    precision: str
    status: Literal["chosen", "passed", "rejected", "failed"]
    reason: str
    fidelity: Fidelity | None = None
    latency_p50_ms: float | None = None
    latency_p90_ms: float | None = None
    size_bytes: int | None = None


class Canaries(Options):
    """Inputs with reference outputs, so that a device can prove itself.

    Attributes:
        inputs: Member path of an ``.npz`` with one array per input, samples first.
        outputs: Member path of an ``.npz`` with one array per output, from this very engine.
        min_cosine: Least cosine per sample that counts as the same result.
    """

    inputs: MemberPath
    outputs: MemberPath
    samples: int
    min_cosine: float


class StandIn(Options):
    """How a machine that is not the device computes the same.

    Attributes:
        kind: ``"emulator"`` is the engine's own model of the device's arithmetic, ``"host"``
            another engine with the same integers.
        engine: What runs it.
        model: Member path of the file that it opens.
    """

    kind: Literal["emulator", "host"]
    engine: EngineSpec
    model: MemberPath


class Requirements(Options):
    """What a machine must be to run the bundle; None and empty mean: anything.

    Attributes:
        arch: Machine as ``uname -m`` says.
        cpu_features: Names as in `edgessl.targets.HostFacts`.
        engine_min_version: Oldest engine that runs it, ``"10.3"``.
        engine_version: Prefix of the engine's version if it must be that very one.
        soc: Qualcomm's name of the chip.
        htp_arch: Version of the Hexagon tensor processor.
        qairt: Version of Qualcomm's AI runtime that the binary was made with.
        compute_capability: Of the NVIDIA GPU, ``"8.7"``.
        driver: Version of the driver that an engine was built under.
        dla: The device must have a deep-learning accelerator.
        npu_platform: Of the Intel NPU, ``"4000"``.
    """

    arch: str | None = None
    cpu_features: tuple[str, ...] = ()
    engine_min_version: str | None = None
    engine_version: str | None = None
    soc: str | None = None
    htp_arch: int | None = None
    qairt: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    dla: bool = False
    npu_platform: str | None = None


class Variant(Options):
    """Another build of the same model, which `finalize` measures on the device beside the first.

    It takes and gives the same arrays as the bundle's first build.
    """

    name: str
    precision: str
    engine: EngineSpec
    model: MemberPath
    fidelity: Fidelity | None
    canaries: Canaries | None
    stand_ins: tuple[StandIn, ...] = ()
    requirements: Requirements = Requirements()


class NativeRecord(Options):
    """How `finalize` made the bundle native.

    Attributes:
        user: Who ran it.
        host: Name of the machine.
        finalized_at: When, ISO 8601 in UTC.
        machine: What it is, ``"NVIDIA Jetson Orin Nano"``.
        versions: Engine, driver and firmware → version.
        latency_p50_ms: Of the chosen build and settings.
        latency_p90_ms: The same.
        canary_cosine: Least cosine to the reference outputs.
    """

    user: str
    host: str
    finalized_at: str
    machine: str
    versions: dict[str, str]
    latency_p50_ms: float
    latency_p90_ms: float
    canary_cosine: float


class Provenance(Options):
    """Where the bundle came from."""

    edgessl_version: str
    model_sha256: Sha256
    calibration_sha256: Sha256 | None
    calibration_samples: int
    seed: int
    toolchain: dict[str, str]
    lineage: dict[str, str] = Field(default_factory=dict)


class FileEntry(Options):
    """One member of the bundle besides the manifest."""

    path: MemberPath
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class Manifest(Options):
    """``manifest.json``.

    Attributes:
        kind: ``"native"`` is ready to run; ``"portable"`` must be finalized on the device.
        model: Member path of the file that the engine opens.
        batch_size: Samples per engine call; None if the graph takes any number.
        embedding_dim: D of the ``(N, D)`` output; None for models that are not encoders.
        preprocessing: How images or sounds become its input; None if nobody said.
        constants: Value that fills a side input (a state, a sample rate) where a caller gives
            images, sounds or the main input alone.
        requirements: What the machine must be.
        stand_ins: How other machines compute the same.
        variants: Other builds; `finalize` measures them too and keeps the fastest.
        native: How the bundle was finished on its device; None if it was not.
        workload: Counted on the float graph with its batch; None where nobody could count.
    """

    schema_version: Literal[1] = 1
    kind: Literal["native", "portable"]
    target: str
    precision: str
    engine: EngineSpec
    model: MemberPath
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_size: int | None
    embedding_dim: int | None
    preprocessing: MediaInput | None
    constants: dict[str, int | float] = Field(default_factory=dict)
    fidelity: Fidelity | None
    candidates: tuple[Candidate, ...] = ()
    canaries: Canaries | None
    provenance: Provenance
    requirements: Requirements = Requirements()
    stand_ins: tuple[StandIn, ...] = ()
    variants: tuple[Variant, ...] = ()
    native: NativeRecord | None = None
    workload: Workload | None = None
    files: tuple[FileEntry, ...] = ()

    def to_json(self) -> str:
        """Canonical text: sorted keys, two spaces, a final newline."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def parse_manifest(text: str | bytes, *, where: str) -> Manifest:
    """Validate a manifest, given as text or as its UTF-8 bytes.

    Raises:
        BundleError: Not JSON, an unknown schema version, or a field that does not fit.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: manifest.json is not JSON ({error}); rebuild it") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{where}: manifest has schema version {version!r}, this edgessl reads "
            f"{SCHEMA_VERSION}; upgrade edgessl or compile the bundle again"
        )
    try:
        return Manifest.model_validate(values)
    except pydantic.ValidationError as error:
        raise BundleError(
            f"{where}: manifest is not valid: {describe_validation(error)}; compile it again"
        ) from error
