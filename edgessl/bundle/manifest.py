"""The manifest of a bundle: its schema, version 1."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from edgessl.config import Options, describe_validation
from edgessl.errors import BundleError
from edgessl.preprocessing import ImageInput

__all__ = [
    "SCHEMA_VERSION",
    "Canaries",
    "Candidate",
    "EngineSpec",
    "Fidelity",
    "FileEntry",
    "Manifest",
    "Provenance",
    "TensorSpec",
    "parse_manifest",
]

SCHEMA_VERSION = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MemberPath = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")
]
OptionValue = bool | int | float | str


class TensorSpec(Options):
    """One input or output: numpy dtype name; a dimension is a size or a symbolic name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


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


class Fidelity(Options):
    """Closeness to the float32 model on held-out samples, measured without labels.

    Attributes:
        samples: Number of held-out samples N.
        finite: False if any output was NaN or infinite.
        cosine_mean: Mean over samples of the cosine between embeddings.
        cosine_p1: 1st percentile of the same.
        centred_cosine_mean: Mean cosine after subtracting the reference's mean embedding.
        neighbour_agreement: Mean share of common members among the 10 nearest neighbours.
    """

    samples: int
    finite: bool
    cosine_mean: float
    cosine_p1: float
    centred_cosine_mean: float
    neighbour_agreement: float


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
    preprocessing: ImageInput | None
    fidelity: Fidelity | None
    candidates: tuple[Candidate, ...] = ()
    canaries: Canaries | None
    provenance: Provenance
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
