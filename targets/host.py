"""What this machine is: architecture and the CPU features that decide about precisions."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FEATURES", "HostFacts", "detect", "parse_cpuinfo"]

_CPUINFO = Path("/proc/cpuinfo")
_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}

FEATURES = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimddp": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
}
"""Flag in ``/proc/cpuinfo`` → name of the feature in target files."""

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True)
class HostFacts:
    """One machine, as far as compiling for it goes.

    Attributes:
        arch: Machine as ``uname -m`` says, in Linux' spelling (``"x86_64"``, ``"aarch64"``).
        cpu: Model name of the CPU; ``"unknown"`` where the system does not say.
        features: Names out of `FEATURES`, plus ``"vnni"`` (8-bit dot products without overflow)
            and ``"bf16_math"`` (bfloat16 products) for any instruction set that has them.
    """

    arch: str
    cpu: str
    features: frozenset[str]

    @property
    def has_vnni(self) -> bool:
        """8-bit dot products accumulate in 32 bits: AVX512-VNNI, AVX-VNNI or AMX."""
        return "vnni" in self.features

    @property
    def has_bf16(self) -> bool:
        """Bfloat16 products: AVX512-BF16, AMX or Arm's BF16."""
        return "bf16_math" in self.features


def detect() -> HostFacts:
    """Look at this machine; features stay empty on systems without ``/proc/cpuinfo``."""
    machine = platform.machine().lower()
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    return parse_cpuinfo(text, arch=_ARCHITECTURES.get(machine, machine))


def parse_cpuinfo(text: str, *, arch: str) -> HostFacts:
    """Read the first processor of ``/proc/cpuinfo``: x86 has ``flags``, Arm ``Features``."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip().lower(), value.strip())
    flags = set((values.get("flags") or values.get("features") or "").split())
    features = {name for flag, name in FEATURES.items() if flag in flags}
    if features & _VNNI:
        features.add("vnni")
    if features & _BF16:
        features.add("bf16_math")
    cpu = values.get("model name") or values.get("hardware") or "unknown"
    return HostFacts(arch=arch, cpu=cpu, features=frozenset(features))
