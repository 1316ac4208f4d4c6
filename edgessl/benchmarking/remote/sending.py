"""Which files a device gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgessl.benchmarking.benchmark import WorkloadOf
from edgessl.benchmarking.remote.messages import SentFile
from edgessl.bundle.archive import open_bundle
from edgessl.errors import UsageError
from edgessl.files import sha256_file, sha256_json

__all__ = ["Artifacts", "collect"]

_ENGINES_OF_MODELS = {
    ".onnx": frozenset({"onnxruntime", "openvino"}),
    ".xml": frozenset({"openvino"}),
}


@dataclass(frozen=True)
class Artifacts:
    """Files to send, each once, and which of them are arms.

    Attributes:
        paths: The files here, in the order of `files`.
        arms: Positions of the arms; the same for `against`.
        needs: Of each artifact, the engines of which the device must have one.
    """

    paths: tuple[Path, ...]
    files: tuple[SentFile, ...]
    arms: tuple[int, ...]
    against: tuple[int, ...]
    needs: tuple[frozenset[str], ...]


def collect(
    arms: Sequence[str | Path],
    against: Sequence[str | Path],
    workload_of: WorkloadOf | None,
) -> Artifacts:
    """Look at the artifacts.

    Raises:
        UsageError: No artifact, one that is missing, or one of a kind that stays here.
        BundleError: A bundle is damaged.
    """
    if not arms:
        raise UsageError("nothing to measure; name a bundle or a model")
    files: dict[SentFile, Path] = {}
    places: dict[str | Path, int] = {}
    needs: list[frozenset[str]] = []
    for name in (*arms, *against):
        if name in places:
            continue
        path = Path(name)
        needs.append(_engines(path))
        weights = path.with_suffix(".bin") if path.suffix == ".xml" else None
        parts = [sha256_file(part) for part in (path, weights) if part and part.is_file()]
        folder = parts[0] if len(parts) == 1 else sha256_json(parts)
        workload = workload_of(path) if workload_of and path.suffix == ".onnx" else None
        sent = SentFile(
            folder=folder,
            name=path.name,
            sha256=parts[0],
            size_bytes=path.stat().st_size,
            workload=workload,
        )
        files.setdefault(sent, path)
        places[name] = list(files).index(sent)
        if weights is not None and len(parts) > 1:
            beside = SentFile(
                folder=folder,
                name=weights.name,
                sha256=parts[1],
                size_bytes=weights.stat().st_size,
            )
            files.setdefault(beside, weights)
    return Artifacts(
        paths=tuple(files.values()),
        files=tuple(files),
        arms=tuple(places[name] for name in arms),
        against=tuple(places[name] for name in against),
        needs=tuple(needs),
    )


def _engines(path: Path) -> frozenset[str]:
    """Engines of which the artifact takes one."""
    if path.is_dir() or path.suffix == ".safetensors":
        raise UsageError(
            f"{path}: a run is measured with PyTorch, on this machine only; export and compile it, "
            "and send the bundle"
        )
    if path.suffix != ".edge" and path.suffix not in _ENGINES_OF_MODELS:
        raise UsageError(f"{path}: is neither a bundle (.edge) nor a model (.onnx, .xml)")
    if not path.is_file():
        raise UsageError(f"{path}: no such file; check the path")
    if not path.name.isprintable() or len(path.name.encode()) > 255:
        raise UsageError(f"{path.name!r}: this name cannot go to a device; rename the file")
    if path.suffix in _ENGINES_OF_MODELS:
        return _ENGINES_OF_MODELS[path.suffix]
    with open_bundle(path, verify=False) as bundle:
        return frozenset({bundle.manifest.engine.name})
