"""Figures of run after run in one file, for trends: JSON lines that are only ever appended.

No verdict rests on them: between sessions machines drift by more than what a gate looks for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
from pydantic import Field

from edgessl.benchmarking.options import ScenarioName
from edgessl.benchmarking.result import ArmResult, BenchmarkResult, Comparison, Verdict
from edgessl.config import Options, describe_validation
from edgessl.errors import DataError, UsageError
from edgessl.files import append_text
from edgessl.progress import Progress, ProgressEvent, silent

__all__ = ["Entry", "HistoryArm", "HistoryComparison", "append", "entry", "read"]

_LARGEST_BYTES = 256 << 20
_LONGEST_LABEL = 200
_BEGINNING = '{"schema_version":'
"""Of every line; pydantic writes the fields in their order."""


class HistoryArm(Options):
    """An arm's figures.

    Attributes:
        sha256: Of the artifact; None if there is no file.
    """

    name: str
    sha256: str | None
    p50_ms: float
    p90_ms: float
    size_bytes: int | None
    peak_memory_bytes: int | None


class HistoryComparison(Options):
    """What was said of an arm and its base in that run.

    Attributes:
        p50_ratio: Arm over base; None if it could not be taken.
        verdict: None if nothing was gated.
    """

    arm: str
    against: str
    p50_ratio: float | None
    verdict: Verdict | None


class Entry(Options):
    """One run.

    Attributes:
        label: What the caller calls it, like a commit.
        env_hash: Points of another environment are not one trend.
        control_p50_ms: Median of the control arm: what the machine alone did since.
    """

    schema_version: Literal[1] = 1
    created_utc: str
    label: str = Field(default="", max_length=_LONGEST_LABEL)
    edgessl_version: str
    scenario: ScenarioName
    env_hash: str
    control_p50_ms: float
    arms: tuple[HistoryArm, ...]
    comparisons: tuple[HistoryComparison, ...]
    verdict: Verdict | None


def entry(result: BenchmarkResult, *, label: str = "") -> Entry:
    """What of a result is kept.

    Raises:
        UsageError: The label is longer than 200 characters.
    """
    if len(label) > _LONGEST_LABEL:
        raise UsageError(
            f"the label has {len(label)} characters, {_LONGEST_LABEL} are allowed; shorten it"
        )
    return Entry(
        created_utc=result.created_utc,
        label=label,
        edgessl_version=result.edgessl_version,
        scenario=result.protocol.scenario.scenario,
        env_hash=result.env_hash,
        control_p50_ms=float(np.median(result.harness.control_p50_ms)),
        arms=tuple(_arm(arm) for arm in result.arms),
        comparisons=tuple(_comparison(comparison) for comparison in result.comparisons),
        verdict=result.verdict,
    )


def append(result: BenchmarkResult, path: str | Path, *, label: str = "") -> None:
    """Append one line.

    Args:
        result: Of the run.
        path: Made if it is not there. A line that was cut short stays, the new one begins after it.
        label: What the run is of, like a commit; at most 200 characters.

    Raises:
        DataError: The file exists and is no history.
        OutputError: The file cannot be written or the disk is full.
        UsageError: The label is too long.
    """
    path = Path(path)
    line = entry(result, label=label).model_dump_json() + "\n"
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            beginning = file.read(len(_BEGINNING))
        if not _BEGINNING.startswith(beginning):
            raise DataError(
                f"{path}: is not a benchmark history, it begins with {beginning!r}; name another "
                "file"
            )
    append_text(path, line)


def read(path: str | Path, *, progress: Progress = silent) -> list[Entry]:
    """Read all runs, in the order in which they were appended.

    Args:
        path: What `append` wrote.
        progress: Told of lines that were cut short, by a full disk or a killed job; these are
            skipped.

    Raises:
        DataError: The file is missing, too large, or holds something else.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file") from error
    if len(data) > _LARGEST_BYTES:
        raise DataError(f"{path}: is larger than 256 MiB; begin a new history")
    entries: list[Entry] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        found = _parse(line, where=f"{path}, line {number}")
        if found is None:
            message = f"{path}, line {number}: was cut short and is skipped"
            progress(ProgressEvent("history", message=message, warning=True))
        else:
            entries.append(found)
    return entries


def _parse(line: str, *, where: str) -> Entry | None:
    """None for the beginning of a line; no beginning of a JSON object is itself JSON."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        if line.startswith(_BEGINNING) or _BEGINNING.startswith(line):
            return None
        raise DataError(f"{where}: is not an entry of a history; remove the line") from None
    try:
        return Entry.model_validate(value)
    except pydantic.ValidationError as error:
        raise DataError(f"{where}: {describe_validation(error)}; remove the line") from error


def _arm(arm: ArmResult) -> HistoryArm:
    return HistoryArm(
        name=arm.name,
        sha256=None if arm.artifact is None else arm.artifact.sha256,
        p50_ms=arm.latency_p50_ms,
        p90_ms=arm.latency_p90_ms,
        size_bytes=arm.size_bytes,
        peak_memory_bytes=arm.peak_memory_bytes,
    )


def _comparison(comparison: Comparison) -> HistoryComparison:
    return HistoryComparison(
        arm=comparison.arm,
        against=comparison.against,
        p50_ratio=comparison.metric("p50").ratio,
        verdict=comparison.verdict,
    )
