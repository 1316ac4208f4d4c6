"""Time of each layer, as TensorRT reports it to a profiler after every run."""

from __future__ import annotations

import json
from typing import Any

from edgessl.errors import ModelError
from edgessl.runtime.profiling import OperatorTime

__all__ = ["collecting_profiler", "layer_kinds", "operator_times"]


def collecting_profiler(trt: Any) -> Any:
    """A profiler that keeps what is reported; ``take()`` gives it and starts anew.

    While it is attached, enqueueing waits for the run to end and then reports its layers in order.
    """

    # TensorRT is no dependency, so mypy takes its classes for Any.
    class Collecting(trt.IProfiler):  # type: ignore[misc]
        """Keeps names and milliseconds."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self._times: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT."""
            self._times.append((str(layer_name), float(ms)))

        def take(self) -> list[tuple[str, float]]:
            """What was reported since the last call."""
            times, self._times = self._times, []
            return times

    return Collecting()


def layer_kinds(text: str) -> dict[str, str]:
    """Name of each layer → its type, as far as the engine tells.

    Args:
        text: The inspector's JSON. An engine that was built without detailed verbosity lists only
            names, and gives no kinds.

    Raises:
        ModelError: It is not JSON of an engine.
    """
    try:
        layers = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the engine's description is not readable ({error})") from error
    return {
        str(entry["Name"]): str(entry.get("LayerType", ""))
        for entry in layers
        if isinstance(entry, dict) and "Name" in entry
    }


def operator_times(times: list[tuple[str, float]], kinds: dict[str, str]) -> list[OperatorTime]:
    """One run's layers.

    Args:
        times: Name and milliseconds of each.
        kinds: As `layer_kinds` gives them.
    """
    return [
        OperatorTime(
            name=name,
            kind=(kind := kinds.get(name) or "not told"),
            time_ms=milliseconds,
            device="DLA" if "dla" in kind.lower() else "GPU",
        )
        for name, milliseconds in times
    ]
