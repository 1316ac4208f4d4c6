"""What this machine is: architecture, CPU features, and the accelerators that it shows."""

from __future__ import annotations

import functools
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgessl.targets.intel import NPU_PLATFORM_OF_PCI
from edgessl.targets.jetson import MODULES, module_of
from edgessl.targets.qualcomm import soc_of_kernel

__all__ = ["FEATURES", "HostFacts", "NvidiaGpu", "detect", "parse_cpuinfo", "this_arch"]

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
_INTEL = "0x8086"
_SMI_TIMEOUT_S = 20.0

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
class NvidiaGpu:
    """One GPU.

    Attributes:
        name: As its driver calls it.
        compute_capability: ``"8.7"``; None if the driver is too old to say.
        driver: Version of the driver; on a Jetson that of Jetson Linux.
    """

    name: str
    compute_capability: str | None
    driver: str | None


def _no_gpus() -> tuple[NvidiaGpu, ...]:
    return ()


@dataclass(frozen=True)
class HostFacts:
    """One machine, as far as compiling for it goes.

    Attributes:
        arch: Machine as ``uname -m`` says, in Linux' spelling (``"x86_64"``, ``"aarch64"``).
        cpu: Model name of the CPU; ``"unknown"`` where the system does not say.
        features: Names out of `FEATURES`, plus ``"vnni"`` (8-bit dot products without overflow)
            and ``"bf16_math"`` (bfloat16 products) for any instruction set that has them.
        board: Model in the device tree; None where there is none.
        jetson: Key of `edgessl.targets.jetson.MODULES`; None if it is no Jetson.
        l4t: Version of Jetson Linux, ``"36.4.3"``; None if it is no Jetson.
        soc: Key of `edgessl.targets.qualcomm.SOCS`; None if it is no such chip.
        npu_platform: OpenVINO's name of the Intel NPU, ``"4000"``; None if there is none.
        npu_driver: The NPU's driver is loaded.
        intel_gpu: There is an Intel GPU with its driver.
        ask_gpus: Asks for NVIDIA's GPUs; use `nvidia_gpus`.
    """

    arch: str
    cpu: str
    features: frozenset[str]
    board: str | None = None
    jetson: str | None = None
    l4t: str | None = None
    soc: str | None = None
    npu_platform: str | None = None
    npu_driver: bool = False
    intel_gpu: bool = False
    ask_gpus: Callable[[], tuple[NvidiaGpu, ...]] = field(
        default=_no_gpus, compare=False, repr=False
    )

    @property
    def has_vnni(self) -> bool:
        """8-bit dot products accumulate in 32 bits: AVX512-VNNI, AVX-VNNI or AMX."""
        return "vnni" in self.features

    @property
    def has_bf16(self) -> bool:
        """Bfloat16 products: AVX512-BF16, AMX or Arm's BF16."""
        return "bf16_math" in self.features

    @property
    def jetpack(self) -> str | None:
        """Major version of JetPack, which follows from that of Jetson Linux."""
        majors = {"35": "5", "36": "6", "38": "7", "39": "7"}
        return majors.get((self.l4t or "").partition(".")[0])

    @property
    def nvidia_gpus(self) -> tuple[NvidiaGpu, ...]:
        """NVIDIA's GPUs. Asking takes a fraction of a second, so nothing does at start-up."""
        if self.jetson is not None:
            module = MODULES[self.jetson]
            return (NvidiaGpu(module.title, module.compute_capability, self.l4t),)
        return self.ask_gpus()


def this_arch() -> str:
    """Architecture of this machine in Linux' spelling."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


def detect(root: Path = Path("/")) -> HostFacts:
    """Look at this machine: a few small files, no engine and no other program.

    Args:
        root: Where ``/proc``, ``/sys``, ``/dev`` and ``/etc`` are; what is not there is not
            found, as on systems other than Linux.
    """
    cpu = parse_cpuinfo(_text(root / "proc/cpuinfo"), arch=this_arch())
    tree = root / "proc/device-tree"
    board = _text(tree / "model").strip("\0\n ") or None
    jetson = module_of(
        model=board or "", compatible=_text(tree / "compatible").strip("\0").split("\0")
    )
    soc = root / "sys/devices/soc0"
    return HostFacts(
        arch=cpu.arch,
        cpu=cpu.cpu,
        features=cpu.features,
        board=board,
        jetson=jetson,
        l4t=_l4t(_text(root / "etc/nv_tegra_release")),
        soc=soc_of_kernel(
            soc_id=_text(soc / "soc_id").strip(), machine=_text(soc / "machine").strip()
        ),
        npu_platform=_npu_platform(root / "sys/bus/pci/devices"),
        npu_driver=any((root / "dev/accel").glob("accel*")),
        intel_gpu=any((root / "dev/dri").glob("renderD*"))
        and any(
            _text(vendor).strip() == _INTEL
            for vendor in (root / "sys/class/drm").glob("renderD*/device/vendor")
        ),
        ask_gpus=_nvidia_smi,
    )


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


def _text(path: Path) -> str:
    """A small system file; empty where it is missing or not for this user to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _l4t(text: str) -> str | None:
    """``# R36 (release), REVISION: 4.3, …`` is 36.4.3."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def _npu_platform(devices: Path) -> str | None:
    for device in sorted(devices.glob("*/device")):
        known = NPU_PLATFORM_OF_PCI.get(_text(device).strip())
        if known is not None and _text(device.with_name("vendor")).strip() == _INTEL:
            return known
    return None


def _nvidia_smi() -> tuple[NvidiaGpu, ...]:
    program = shutil.which("nvidia-smi")
    return () if program is None else _listed_by(program)


@functools.cache
def _listed_by(program: str) -> tuple[NvidiaGpu, ...]:
    """What nvidia-smi lists; drivers before 510 do not know ``compute_cap``."""
    for query in ("name,driver_version,compute_cap", "name,driver_version"):
        command = [program, f"--query-gpu={query}", "--format=csv,noheader"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        rows = [line.split(", ") for line in done.stdout.splitlines()]
        wanted = query.count(",") + 1
        return tuple(
            NvidiaGpu(row[0], _capability(row[2:]), row[1]) for row in rows if len(row) == wanted
        )
    return ()


def _capability(cells: list[str]) -> str | None:
    known = bool(cells) and re.fullmatch(r"\d+\.\d+", cells[0]) is not None
    return cells[0] if known else None
