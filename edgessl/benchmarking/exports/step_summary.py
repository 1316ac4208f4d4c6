"""GitHub's summary of a step: Markdown in the file that ``$GITHUB_STEP_SUMMARY`` names."""

from __future__ import annotations

from pathlib import Path

from edgessl.benchmarking.result import BenchmarkResult
from edgessl.benchmarking.tables import to_markdown
from edgessl.files import append_text

__all__ = ["append_step_summary"]


def append_step_summary(result: BenchmarkResult, path: str | Path) -> None:
    """Append verdict, tables and remarks; what other steps wrote stays.

    Raises:
        OutputError: The file cannot be written or the disk is full.
    """
    # Without the empty line what stands before it could swallow the heading.
    append_text(Path(path), "\n" + to_markdown(result))
