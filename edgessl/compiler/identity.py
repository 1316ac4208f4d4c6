"""What makes two compilations the same: the key of their cache."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgessl import __version__
from edgessl.compiler.calibration import Calibration, Fingerprinted
from edgessl.compiler.graph_info import GraphInfo
from edgessl.config import Options
from edgessl.files import sha256_file, sha256_json
from edgessl.targets import Target, detect

__all__ = ["compilation_key", "toolchain_identity"]

_PACKAGES = ("nncf", "numpy", "onnx", "onnxruntime", "onnxruntime-qnn", "onnxslim", "openvino")


def compilation_key(
    graph: GraphInfo,
    source: Calibration,
    parts: Sequence[NDArray[np.int64]],
    target: Target,
    options: Options,
) -> str | None:
    """Hash of everything that the bundle depends on; None if the samples have no hash."""
    if not isinstance(source, Fingerprinted):
        return None
    host = detect()
    return sha256_json(
        [
            toolchain_identity(),
            [host.arch, host.cpu, sorted(host.features)],
            sha256_file(Path(graph.path)),
            graph.model_dump(mode="json", exclude={"path"}),
            target.model_dump(mode="json"),
            options.model_dump(mode="json", exclude={"remeasure", "timeout_s"}),
            [source.fingerprint([int(i) for i in part]) for part in parts],
        ]
    )


def toolchain_identity() -> list[object]:
    """Versions of edgessl and of everything that takes part in compiling."""
    return [__version__, _sources(), {name: _version(name) for name in _PACKAGES}]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _sources() -> list[list[str | int]]:
    """Size and time of edgessl's own files: whoever edits them wants results made anew."""
    root = Path(__file__).resolve().parents[1]
    rooms = ("compiler", "runtime", "data")
    files = sorted(
        [*root.glob("*.py"), *(f for room in rooms for f in (root / room).rglob("*.py"))]
    )
    stats = [(str(f.relative_to(root)), f.stat()) for f in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
