"""What host and device say to each other, as far as it has a schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgessl.benchmarking.options import BenchmarkOptions
from edgessl.benchmarking.result import Workload
from edgessl.config import Options
from edgessl.errors import printable
from edgessl.progress import ProgressEvent

__all__ = [
    "LARGEST_ANSWER_BYTES",
    "Job",
    "ProgressMessage",
    "SentFile",
    "Told",
]

LARGEST_ANSWER_BYTES = 256 << 20
"""Of a result or of its gzipped samples."""

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SentFile(Options):
    """A file that the device gets.

    Attributes:
        folder: Hash of the whole artifact that it belongs to; weights lie beside their graph.
        name: Its own name, which tables show.
        workload: What one run of the model computes, if the host counted.
    """

    folder: _Sha256
    name: Annotated[str, Field(pattern=r"^[^/\x00-\x1f\x7f]+$", min_length=3, max_length=255)]
    sha256: _Sha256
    size_bytes: Annotated[int, Field(ge=0)]
    workload: Workload | None = None


class Job(Options):
    """What the device has to do.

    Attributes:
        owner: Who asks, for the lock.
        files: All files, in the order in which they are sent.
        arms: Positions in `files`; the same for `against`.
        lock: Path of the lock file on the device.
        lock_limit_s: The lock counts as abandoned when it was not refreshed for so long.
        lock_wait_s: How long to wait for another's lock.
        silence_s: After so long without a word of the host, the device ends everything.
    """

    owner: Annotated[str, Field(max_length=300)]
    options: BenchmarkOptions
    files: tuple[SentFile, ...]
    arms: tuple[int, ...]
    against: tuple[int, ...]
    lock: str
    lock_limit_s: Annotated[float, Field(gt=0)]
    lock_wait_s: Annotated[float, Field(ge=0)]
    silence_s: Annotated[float, Field(gt=0)]


class ProgressMessage(Options):
    """A `ProgressEvent` on its way; its fields are those."""

    stage: str
    completed: int
    total: int | None
    unit: str
    metrics: dict[str, float]
    message: str | None
    warning: bool
    table: tuple[tuple[str, ...], ...]

    def event(self) -> ProgressEvent:
        """The event; texts of a device must not drive the terminal."""
        return ProgressEvent(
            stage=printable(self.stage),
            completed=self.completed,
            total=self.total,
            unit=printable(self.unit),
            metrics={printable(name): value for name, value in self.metrics.items()},
            message=None if self.message is None else printable(self.message),
            warning=self.warning,
            table=tuple(tuple(printable(cell) for cell in row) for row in self.table),
        )


class Told(Options):
    """What the device says.

    Attributes:
        say: ``beat`` answers the host's; ``ready`` has the lock and wants the files; ``bye``
            comes after everything is removed.
        error: Class of the error.
        text: Of an error.
        event: Of ``progress``.
        size_bytes: Of the bytes that follow ``result`` and ``recording``.
    """

    say: Literal["beat", "ready", "progress", "result", "recording", "error", "bye"]
    error: str = ""
    text: str = ""
    event: ProgressMessage | None = None
    size_bytes: Annotated[int, Field(ge=0, le=LARGEST_ANSWER_BYTES)] = 0
