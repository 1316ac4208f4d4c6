"""Before an engine opens a bundle: is this machine what the bundle needs?

An engine that meets the wrong chip or a file of another version often ends the process instead of
saying so; this compares first, and names everything that does not fit in one line.

`edgessl.targets` is imported where it is needed: its schema takes a tenth of the time that
`import edgessl.runtime` may take, and a bundle without requirements does without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgessl.bundle.manifest import EngineSpec, Requirements
from edgessl.errors import UnavailableError, UsageError
from edgessl.optional import require
from edgessl.runtime.session import ENGINES

if TYPE_CHECKING:
    from edgessl.targets import HostFacts

__all__ = ["Installed", "at_least", "preflight", "same_version"]


@dataclass(frozen=True)
class Installed:
    """Software of this machine that a bundle may depend on.

    Attributes:
        engine: Version of the bundle's engine; None if it cannot be used.
        obstacle: Why it cannot be used, with the command that helps.
        qairt: Version of Qualcomm's AI runtime; None if there is none.
    """

    engine: str | None
    obstacle: str | None = None
    qairt: str | None = None


def preflight(
    requirements: Requirements,
    engine: EngineSpec,
    *,
    where: str,
    host: HostFacts | None = None,
    installed: Installed | None = None,
) -> None:
    """Compare a bundle's requirements with this machine.

    Args:
        requirements: What the manifest says.
        engine: The engine that is to open the bundle.
        where: The bundle, for the message.
        host: The machine; by default this one is looked at.
        installed: Its software; by default the engine is asked.

    Raises:
        UnavailableError: Something does not fit; the one line names all of it and the remedies.
    """
    if requirements == Requirements():
        return  # the engine itself says when it is not installed
    from edgessl.targets import detect

    host = host or detect()
    installed = installed or _look(engine.name, requirements)
    wrong = [
        *_cpu(requirements, host),
        *_engine(requirements, engine, installed),
        *_qualcomm(requirements, host, installed),
        *_nvidia(requirements, host),
        *_intel_npu(requirements, host),
    ]
    if wrong:
        raise UnavailableError(f"{where}: cannot run on this machine: {'; '.join(wrong)}")


def at_least(found: str, wanted: str) -> bool:
    """Compare versions number by number: ``"10.13"`` is at least ``"10.3"``."""
    have, want = _numbers(found), _numbers(wanted)
    length = max(len(have), len(want))
    return _padded(have, length) >= _padded(want, length)


def same_version(found: str, prefix: str) -> bool:
    """Tell whether a version starts with these numbers: ``"10.3.0"`` is a ``"10.3"``."""
    wanted = _numbers(prefix)
    return _padded(_numbers(found), len(wanted)) == wanted


def _numbers(version: str) -> tuple[int, ...]:
    """``"2026.4.1-1234"`` is (2026, 4, 1): what follows the dotted numbers is left out."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _padded(numbers: tuple[int, ...], length: int) -> tuple[int, ...]:
    """So many numbers; zeros follow, as "10.3" and "10.3.0" are the same release."""
    return (numbers + (0,) * length)[:length]


def _look(engine: str, requirements: Requirements) -> Installed:
    try:
        version = ENGINES.get(engine).version()
    except (UnavailableError, UsageError) as error:
        return Installed(engine=None, obstacle=str(error))
    qairt = None
    if requirements.qairt is not None:
        facts = require("onnxruntime_qnn.build_and_package_info", extra="qnn")
        qairt = str(facts.qnn_version)
    return Installed(engine=version, qairt=qairt)


def _cpu(wanted: Requirements, host: HostFacts) -> Iterator[str]:
    if wanted.arch not in (None, host.arch):
        yield (
            f"it is for {wanted.arch}, this machine is {host.arch} (compile it for a target of "
            "this architecture)"
        )
    missing = [f for f in wanted.cpu_features if f not in host.features]
    # Of another architecture's features nothing new would be said.
    if missing and wanted.arch in (None, host.arch):
        yield f"it needs {', '.join(missing)}, which this CPU lacks (compile it for this CPU)"


def _engine(wanted: Requirements, engine: EngineSpec, found: Installed) -> Iterator[str]:
    name = engine.name
    if found.engine is None:
        yield f"it needs {name} {engine.version}: {found.obstacle or 'not installed'}"
        return
    minimum, exact = wanted.engine_min_version, wanted.engine_version
    if minimum is not None and not at_least(found.engine, minimum):
        yield f"it needs {name} {minimum} or later, {found.engine} is installed (upgrade it)"
    if exact is not None and not same_version(found.engine, exact):
        yield (
            f"it was built with {name} {exact}, {found.engine} is installed (install that, or "
            "finalize the portable bundle here again)"
        )


def _qualcomm(wanted: Requirements, host: HostFacts, found: Installed) -> Iterator[str]:
    from edgessl.targets.qualcomm import SOCS

    if wanted.soc is not None and host.soc != wanted.soc:
        have = "no such chip is found here" if host.soc is None else f"this is a {host.soc}"
        yield f"it is for the chip {wanted.soc}, {have} (compile it for this device)"
    elif wanted.htp_arch is not None:
        arch = SOCS[host.soc].htp_arch if host.soc is not None else None
        if arch != wanted.htp_arch:
            have = "no Hexagon NPU is found here" if arch is None else f"this one is v{arch}"
            yield f"it is for Hexagon v{wanted.htp_arch}, {have} (compile it for this device)"
    if wanted.qairt is None or found.engine is None:
        return
    if found.qairt is None:
        yield f"it needs QAIRT {wanted.qairt}, none is found (pip install 'edgessl[qnn]')"
    elif _numbers(found.qairt)[:1] != _numbers(wanted.qairt)[:1] or not at_least(
        found.qairt, wanted.qairt
    ):
        # A context binary runs with its own release and with later ones of the same major number.
        yield (
            f"its binary was made with QAIRT {wanted.qairt}, here is {found.qairt} (install an "
            "onnxruntime-qnn with that QAIRT or a later one, or compile it again)"
        )


def _nvidia(wanted: Requirements, host: HostFacts) -> Iterator[str]:
    from edgessl.targets.jetson import MODULES

    if wanted.dla and (host.jetson is None or MODULES[host.jetson].dla_cores == 0):
        here = "this machine" if host.jetson is None else f"the {MODULES[host.jetson].title}"
        yield f"it needs a DLA, {here} has none (compile it for the GPU)"
    if wanted.compute_capability is not None:
        yield from _compute_capability(wanted.compute_capability, host)
    if wanted.driver is not None and host.nvidia_gpus:
        driver = host.nvidia_gpus[0].driver
        if driver is not None and not at_least(driver, wanted.driver):
            yield f"it needs driver {wanted.driver} or later, here is {driver} (upgrade it)"


def _compute_capability(wanted: str, host: HostFacts) -> Iterator[str]:
    gpus = host.nvidia_gpus
    if not gpus:
        yield f"it needs an NVIDIA GPU of compute capability {wanted}, none is found"
    # A driver too old to tell the capability is not evidence against the GPU.
    elif all(gpu.compute_capability not in (None, wanted) for gpu in gpus):
        have = ", ".join(f"{gpu.name} with {gpu.compute_capability}" for gpu in gpus)
        yield (
            f"it was built for compute capability {wanted}, here is {have} (finalize the "
            "portable bundle here)"
        )


def _intel_npu(wanted: Requirements, host: HostFacts) -> Iterator[str]:
    platform = wanted.npu_platform
    if platform is None:
        return
    if host.npu_platform != platform:
        have = "none is found" if host.npu_platform is None else f"here is a {host.npu_platform}"
        yield f"it is for the Intel NPU {platform}, {have} (compile it for this device)"
    elif not host.npu_driver:
        yield (
            f"the Intel NPU {platform} has no driver (no /dev/accel here: install "
            "https://github.com/intel/linux-npu-driver)"
        )
