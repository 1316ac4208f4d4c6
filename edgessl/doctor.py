"""Look at this machine: what it has, what edgessl can build and run here, what to install."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil

from edgessl import __version__
from edgessl.config import Options
from edgessl.errors import UnavailableError
from edgessl.files import cache_directory
from edgessl.optional import is_available, require
from edgessl.runtime.threads import physical_cores
from edgessl.targets import HostFacts, Target, detect, list_targets, load_target

__all__ = ["Diagnosis", "EngineStatus", "Gpu", "PackageStatus", "TargetStatus", "diagnose"]

_TIMEOUT_S = 60.0
_JETSON = Path("/etc/nv_tegra_release")
_GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_BUILD_PACKAGES = ("onnx", "onnxslim")


class Gpu(Options):
    """One GPU, as its driver names it."""

    name: str
    memory: str
    driver: str


class PackageStatus(Options):
    """One package that edgessl can use.

    Attributes:
        version: What is installed; None if nothing is.
        extras: The extras of edgessl that bring it; ``base`` comes always.
    """

    name: str
    version: str | None
    extras: tuple[str, ...]


class EngineStatus(Options):
    """One inference engine.

    Attributes:
        devices: Execution providers or devices that it offers here.
        obstacle: Why it cannot be used, with the command that helps; None if it can.
    """

    name: str
    version: str | None
    devices: tuple[str, ...]
    obstacle: str | None


class TargetStatus(Options):
    """One target.

    Attributes:
        runs: Its bundles run here.
        builds: Candidates that `edgessl compile` can try here.
        obstacles: What stands in the way of the rest, each with its remedy.
    """

    name: str
    description: str
    runs: bool
    builds: tuple[str, ...]
    obstacles: tuple[str, ...]


class Diagnosis(Options):
    """What `diagnose` found.

    Attributes:
        cores: Physical cores that this process may use.
        memory_bytes: Of the machine.
        gpus: As nvidia-smi lists them.
        gpu_remark: Why PyTorch does or does not use a GPU.
        nt_xent: The implementation of the contrastive loss that `edgessl.kernels` takes, and why.
        cache: Folder of things that can be made again.
        cache_free_bytes: Free space there.
    """

    edgessl: str
    python: str
    system: str
    arch: str
    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    gpu_remark: str
    nt_xent: str
    engines: tuple[EngineStatus, ...]
    targets: tuple[TargetStatus, ...]
    packages: tuple[PackageStatus, ...]
    cache: str
    cache_free_bytes: int


def diagnose() -> Diagnosis:
    """Look at this machine; PyTorch is not imported into this process."""
    host = detect()
    gpus = _gpus()
    engines = (_onnxruntime(), _openvino())
    usable = {engine.name for engine in engines if engine.obstacle is None}
    cache = cache_directory()
    return Diagnosis(
        edgessl=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        arch=host.arch,
        cpu=host.cpu,
        cpu_features=tuple(sorted(host.features)),
        cores=physical_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus,
        gpu_remark=_gpu_remark(gpus),
        nt_xent=_nt_xent(),
        engines=engines,
        targets=tuple(_target(load_target(name), host, usable) for name in list_targets()),
        packages=_packages(),
        cache=str(cache),
        cache_free_bytes=shutil.disk_usage(_existing(cache)).free,
    )


def _gpus() -> tuple[Gpu, ...]:
    if shutil.which(_GPU_QUERY[0]) is None:
        return ()
    found = _output(_GPU_QUERY)
    rows = (line.split(", ") for line in (found or "").splitlines())
    return tuple(Gpu(name=r[0], memory=r[1], driver=r[2]) for r in rows if len(r) == 3)


def _gpu_remark(gpus: tuple[Gpu, ...]) -> str:
    """In a process of its own: importing PyTorch takes seconds and hundreds of megabytes."""
    if _JETSON.exists():
        return "Jetson: integrated GPU, used through TensorRT"
    if not gpus:
        return "no NVIDIA GPU found (no nvidia-smi, or it lists none); training uses the CPU"
    if not is_available("torch"):
        return "PyTorch is not installed; pip install 'edgessl[train]'"
    probe = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    count = (_output((sys.executable, "-c", probe)) or "").strip()
    if count.isdigit() and int(count) > 0:
        return f"PyTorch uses {count} of {len(gpus)}"
    return "PyTorch sees none; install a torch build for this driver"


def _output(command: tuple[str, ...]) -> str | None:
    """What a command prints; None if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _nt_xent() -> str:
    if not is_available("torch"):
        return "none: PyTorch is not installed; pip install 'edgessl[train]'"
    return "pytorch: this version of edgessl.kernels has no Triton kernel yet"


def _onnxruntime() -> EngineStatus:
    return _engine("onnxruntime", "compile", lambda ort: ort.get_available_providers())


def _openvino() -> EngineStatus:
    return _engine("openvino", "openvino", lambda openvino: openvino.Core().available_devices)


def _engine(name: str, extra: str, devices: Any) -> EngineStatus:
    try:
        found = tuple(devices(require(name, extra=extra)))
    except (UnavailableError, RuntimeError) as error:
        return EngineStatus(
            name=name, version=_version(name), devices=(), obstacle=" ".join(str(error).split())
        )
    return EngineStatus(name=name, version=_version(name), devices=found, obstacle=None)


def _target(target: Target, host: HostFacts, engines: set[str]) -> TargetStatus:
    obstacle = target.runs_here(host)
    if obstacle is not None:
        return TargetStatus(
            name=target.name,
            description=target.description,
            runs=False,
            builds=(),
            obstacles=(f"{obstacle}; compile and run it there",),
        )
    possible = {candidate.name for candidate in target.restricted(host)}
    builds: list[str] = []
    obstacles: list[str] = []
    packages: dict[str, list[str]] = {}
    for candidate in target.candidates:
        missing = _missing_for(candidate.engine, candidate.scheme, engines)
        if candidate.name not in possible:
            lacking = sorted(set(candidate.requires) - host.features)
            obstacles.append(f"{candidate.name}: this CPU lacks {', '.join(lacking)}")
        elif missing:
            packages[candidate.name] = missing
        else:
            builds.append(candidate.name)
    if packages:
        names = ", ".join(sorted({name for missing in packages.values() for name in missing}))
        obstacles.append(f"{len(packages)} candidates need {names}; pip install 'edgessl[compile]'")
    return TargetStatus(
        name=target.name,
        description=target.description,
        runs=any(candidate.engine in engines for candidate in target.candidates),
        builds=tuple(builds),
        obstacles=tuple(obstacles),
    )


def _missing_for(engine: str, scheme: str | None, engines: set[str]) -> list[str]:
    packages = [*_BUILD_PACKAGES, *(["nncf"] if scheme == "nncf" else [])]
    missing = [package for package in packages if not is_available(package)]
    return missing if engine in engines else [engine, *missing]


def _packages() -> tuple[PackageStatus, ...]:
    """From edgessl's own metadata, so that nothing is said twice."""
    return tuple(
        PackageStatus(name=name, version=_version(name), extras=tuple(extras))
        for name, extras in sorted(_requirements().items())
    )


def _requirements() -> Mapping[str, list[str]]:
    """Package → the extras that bring it; ``dev`` is for edgessl's own developers."""
    found: dict[str, list[str]] = {}
    for line in requires("edgessl") or ():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra == ['\"]([a-z]+)['\"]", line)
        group = extra.group(1) if extra else "base"
        if name is None or name.group() == "edgessl" or group in ("dev", "all"):
            continue
        if "python_version <" in line and sys.version_info >= (3, 11):
            continue
        found.setdefault(name.group(), []).append(group)
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path if os.path.isdir(path) else path.parent
