"""Quantize once: candidates that differ in something else share the integer graph."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from edgessl.compiler.identity import toolchain_identity
from edgessl.compiler.quantizers import QUANTIZERS, QuantizationJob
from edgessl.compiler.work import prune_oldest
from edgessl.errors import OutputError
from edgessl.files import atomic_directory, cache_directory, sha256_file, sha256_json, write_json

__all__ = ["quantize_once"]

_KEPT = 32
_FACTS = "quantized.json"


def quantize_once(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
    """Quantize, or copy what the same job gave before.

    The remainder's precision is no part of the job: it concerns what is not quantized.

    Returns:
        The integer graph in the job's folder, and package → version of what took part.
    """
    place = cache_directory("quantized", _key(job))
    known = _recall(place, job.folder)
    if known is not None:
        return known
    path, versions = QUANTIZERS.get(job.scheme).quantize(job)
    # A cache that cannot be written costs time, and nothing else.
    with contextlib.suppress(OutputError, OSError), atomic_directory(place) as temporary:
        names = [name for name in (path.name, f"{path.stem}.bin") if (job.folder / name).exists()]
        for name in names:
            shutil.copyfile(job.folder / name, temporary / name)
        facts = {"model": path.name, "files": names, "versions": versions}
        write_json(temporary / _FACTS, facts)
    prune_oldest(place.parent, _KEPT)
    return path, versions


def _recall(place: Path, folder: Path) -> tuple[Path, dict[str, str]] | None:
    try:
        facts = json.loads((place / _FACTS).read_text("utf-8"))
        for name in facts["files"]:
            shutil.copyfile(place / name, folder / name)
        return folder / facts["model"], dict(facts["versions"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _key(job: QuantizationJob) -> str:
    return sha256_json(
        [
            toolchain_identity(),
            sha256_file(Path(job.graph.path)),
            job.graph.model_dump(mode="json", exclude={"path"}),
            job.samples.sha256(),
            [job.engine, job.scheme, job.precision, job.method, list(job.keep_float)],
            [job.per_channel, job.reduce_range, job.rough],
        ]
    )
