"""Whether a machine is the device that a target stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgessl.targets.host import HostFacts
from edgessl.targets.jetson import MODULES

if TYPE_CHECKING:
    from edgessl.targets.model import IntelNpu, Nvidia, Qualcomm, Target

__all__ = ["obstacle"]

_NPU_DRIVER = "https://github.com/intel/linux-npu-driver"


def obstacle(target: Target, host: HostFacts) -> str | None:
    """Say in one sentence why a machine is not such a device; None if it is."""
    if target.arch not in ("any", host.arch):
        return f"{target.name} is for {target.arch}, this machine is {host.arch}"
    missing = [feature for feature in target.requires if feature not in host.features]
    if missing:
        return f"{target.name} needs {', '.join(missing)}, which this CPU lacks"
    problem: str | None = None
    if target.family == "gpu-intel" and not host.intel_gpu:
        problem = "needs an Intel GPU with its driver (/dev/dri), this machine shows none"
    elif target.nvidia is not None:
        problem = _nvidia(target.nvidia, host)
    elif target.intel_npu is not None:
        problem = _intel_npu(target.intel_npu, host)
    elif target.qualcomm is not None:
        problem = _qualcomm(target.qualcomm, host)
    return None if problem is None else f"{target.name} {problem}"


def _nvidia(wanted: Nvidia, host: HostFacts) -> str | None:
    if wanted.module is not None and host.jetson != wanted.module:
        found = "is no Jetson" if host.jetson is None else f"is a {MODULES[host.jetson].title}"
        module = MODULES.get(wanted.module)
        return f"is for the {module.title if module else wanted.module}, this machine {found}"
    if not host.nvidia_gpus:
        return "needs an NVIDIA GPU with its driver (nvidia-smi), this machine shows none"
    capability = wanted.compute_capability
    found_here = [gpu.compute_capability for gpu in host.nvidia_gpus]
    # A driver too old to tell the capability is not evidence against the GPU.
    if capability is None or None in found_here or capability in found_here:
        return None
    have = ", ".join(found for found in found_here if found)
    return f"needs compute capability {capability}, this machine has {have}"


def _intel_npu(wanted: IntelNpu, host: HostFacts) -> str | None:
    if host.npu_platform is None:
        return f"needs an Intel NPU of platform {wanted.platform}, this machine shows none"
    if host.npu_platform != wanted.platform:
        return f"needs an Intel NPU of platform {wanted.platform}, here is a {host.npu_platform}"
    if not host.npu_driver:
        return f"needs the NPU's driver (no /dev/accel here); install it from {_NPU_DRIVER}"
    return None


def _qualcomm(wanted: Qualcomm, host: HostFacts) -> str | None:
    if host.soc == wanted.soc:
        return None
    found = "another" if host.soc is None else f"a {host.soc}"
    return f"is for the chip {wanted.soc}, this machine has {found}"
