"""Every timed query of a run, and the file that keeps them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import Field

from edgessl.benchmarking.result import SampleFile
from edgessl.config import Options, describe_validation
from edgessl.errors import DataError
from edgessl.files import atomic_path, sha256_file

__all__ = ["ArmRecording", "Recording", "Restart", "load_recording", "save_recording"]

_DECIMALS = 6
_LARGEST_BYTES = 1 << 30


@dataclass(frozen=True)
class Restart:
    """One process of one arm.

    Attributes:
        blocks: Milliseconds per query of each block, in order of the rounds; an empty array for a
            block that was dropped.
        peak_memory_bytes: Of the process, None where the system does not say.
    """

    blocks: Sequence[NDArray[np.float64]]
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class ArmRecording:
    """All restarts of an arm."""

    restarts: Sequence[Restart]
    size_bytes: int | None = None

    def times_ms(self) -> NDArray[np.float64]:
        """All queries, in order."""
        return np.concatenate([b for r in self.restarts for b in r.blocks] or [np.zeros(0)])


@dataclass(frozen=True)
class Recording:
    """Arms that were measured in turns: block k of restart r of every arm is one round."""

    arms: Mapping[str, ArmRecording] = field(default_factory=dict)


class _RestartFile(Options):
    blocks_ms: tuple[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], ...]
    peak_memory_bytes: int | None


class _ArmFile(Options):
    restarts: tuple[_RestartFile, ...]
    size_bytes: int | None


class _RecordingFile(Options):
    schema_version: int = 1
    arms: dict[str, _ArmFile]


def save_recording(recording: Recording, path: Path) -> SampleFile:
    """Write all queries as gzipped JSON, to the nanosecond; equal recordings give equal bytes."""
    value = _RecordingFile(
        arms={
            name: _ArmFile(
                restarts=tuple(
                    _RestartFile(
                        blocks_ms=tuple(tuple(np.round(b, _DECIMALS).tolist()) for b in r.blocks),
                        peak_memory_bytes=r.peak_memory_bytes,
                    )
                    for r in arm.restarts
                ),
                size_bytes=arm.size_bytes,
            )
            for name, arm in recording.arms.items()
        }
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(value.model_dump_json().encode(), mtime=0))
    queries = sum(arm.times_ms().size for arm in recording.arms.values())
    return SampleFile(file=path.name, sha256=sha256_file(path), queries=queries)


def load_recording(path: Path, *, sha256: str | None = None) -> Recording:
    """Read what `save_recording` wrote.

    Raises:
        DataError: The file is missing or damaged, unpacks to more than 1 GiB, or is not the one
            that the result names.
    """
    try:
        if sha256 is not None and sha256_file(path) != sha256:
            raise DataError(f"{path}: is not the file that the result names; measure again")
        with gzip.open(path) as file:
            text = file.read(_LARGEST_BYTES + 1)
        if len(text) > _LARGEST_BYTES:
            raise DataError(f"{path}: unpacks to more than 1 GiB; measure again")
        value = _RecordingFile.model_validate(json.loads(text))
    except pydantic.ValidationError as error:
        raise DataError(f"{path}: {describe_validation(error)}; measure again") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); measure again") from error
    return Recording(
        arms={
            name: ArmRecording(
                restarts=[
                    Restart(
                        blocks=[np.asarray(b, np.float64) for b in restart.blocks_ms],
                        peak_memory_bytes=restart.peak_memory_bytes,
                    )
                    for restart in arm.restarts
                ],
                size_bytes=arm.size_bytes,
            )
            for name, arm in value.arms.items()
        }
    )
