"""Who finished a bundle, on what, when, with which versions."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone

from edgessl import __version__
from edgessl.bundle.manifest import NativeRecord
from edgessl.runtime.canaries import CanaryResult
from edgessl.runtime.finalize.measuring import Setting

__all__ = ["machine_name", "record"]


def record(chosen: Setting, canaries: CanaryResult, versions: Mapping[str, str]) -> NativeRecord:
    """The record of a choice that was made now, here."""
    return NativeRecord(
        user=_user(),
        host=platform.node() or "unknown",
        finalized_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine_name(),
        versions={**_system_versions(), **versions},
        latency_p50_ms=chosen.latency_p50_ms,
        latency_p90_ms=chosen.latency_p90_ms,
        canary_cosine=canaries.min_cosine,
    )


def machine_name() -> str:
    """What the device tree calls the board, else the CPU."""
    from edgessl.targets import detect  # here: its schema would delay every start

    host = detect()
    return host.board or f"{host.cpu} ({host.arch})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number, as in many containers
        return f"uid {os.getuid()}"


def _system_versions() -> dict[str, str]:
    from edgessl.targets import detect

    versions = {
        "edgessl": __version__,
        "python": platform.python_version(),
        platform.system().lower(): platform.release(),
    }
    jetson_linux = detect().l4t
    return versions if jetson_linux is None else {**versions, "jetson-linux": jetson_linux}
