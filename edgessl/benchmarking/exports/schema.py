"""The JSON Schema of a benchmark's result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgessl.benchmarking.result import SCHEMA_VERSION, BenchmarkResult
from edgessl.files import write_json

__all__ = ["result_schema", "write_result_schema"]


def result_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12, of what ``edgessl benchmark --json`` writes."""
    return {
        **BenchmarkResult.model_json_schema(mode="serialization"),
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:edgessl:schema:benchmark-result:{SCHEMA_VERSION}",
        "title": f"edgessl benchmark result, version {SCHEMA_VERSION}",
    }


def write_result_schema(path: str | Path) -> None:
    """Write the schema as JSON.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    write_json(Path(path), result_schema())
