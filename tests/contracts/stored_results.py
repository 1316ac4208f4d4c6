"""Made-up benchmark results as files, the way a run leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contracts.benchmark_results import recording, result
from edgessl.benchmarking.environment import env_hash
from edgessl.benchmarking.recording import save_recording
from edgessl.benchmarking.result import BenchmarkResult
from edgessl.files import write_json

__all__ = ["stored", "write_result"]


def stored(made: BenchmarkResult, **changes: Any) -> BenchmarkResult:
    """A result with the true hash of its environment."""
    facts = changes.pop("environment", made.environment)
    return made.model_copy(update={"environment": facts, "env_hash": env_hash(facts), **changes})


def write_result(folder: Path, made: BenchmarkResult | None = None, name: str = "r.json") -> Path:
    """A result with its samples, as `Measurement.write` leaves them."""
    path = folder / name
    samples = save_recording(recording(), path.with_name(f"{path.stem}.samples.json.gz"))
    value = stored(made or result(), samples=samples)
    write_json(path, value.model_dump(mode="json"))
    return path
