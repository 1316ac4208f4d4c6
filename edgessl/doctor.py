"""Look at this machine: what it has, what edgessl can build and run here, what to install."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from edgessl.targets import CandidateSpec, HostFacts, Target, detect, list_targets, load_target
from edgessl.targets.intel import NPU_PLATFORMS
from edgessl.targets.qualcomm import SOCS

__all__ = ["Diagnosis", "EngineStatus", "Gpu", "PackageStatus", "TargetStatus", "diagnose"]

_TIMEOUT_S = 60.0
_GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_BUILD_PACKAGES = ("onnx", "onnxslim")
_ENGINE_PACKAGES = {"openvino": "openvino", "qnn": "onnxruntime_qnn"}
"""What building for an engine needs beside the packages for all; TensorRT builds on the device."""
_EXTRAS = {"onnxruntime_qnn": "qnn"}
_NPU_DRIVER = "https://github.com/intel/linux-npu-driver"


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
        family: Kind of device.
        runs: Its bundles run here.
        builds: Candidates that `edgessl compile` can try here.
        obstacles: What stands in the way of the rest, each with its remedy.
    """

    name: str
    description: str
    family: str
    runs: bool
    builds: tuple[str, ...]
    obstacles: tuple[str, ...]


class Diagnosis(Options):
    """What `diagnose` found.

    Attributes:
        cores: Physical cores that this process may use.
        memory_bytes: Of the machine.
        gpus: As nvidia-smi lists them.
        accelerators: Other devices that can run models, with what is missing for it.
        gpu_remark: Why PyTorch does or does not use a GPU.
        contrastive_losses: The implementation of the contrastive losses that ``"auto"`` takes here,
            and why.
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
    accelerators: tuple[str, ...]
    gpu_remark: str
    contrastive_losses: str
    engines: tuple[EngineStatus, ...]
    targets: tuple[TargetStatus, ...]
    packages: tuple[PackageStatus, ...]
    cache: str
    cache_free_bytes: int


def diagnose() -> Diagnosis:
    """Look at this machine; PyTorch is not imported into this process."""
    host = detect()
    gpus = _gpus()
    engines = (_onnxruntime(), _openvino(), _qnn(host), _tensorrt(host))
    usable = {engine.name: engine for engine in engines if engine.obstacle is None}
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
        accelerators=tuple(_accelerators(host)),
        gpu_remark=_gpu_remark(gpus, host),
        contrastive_losses=_contrastive_losses(gpus, host),
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


def _accelerators(host: HostFacts) -> Iterator[str]:
    if host.jetson is not None or host.l4t is not None:
        jetpack = f"JetPack {host.jetpack}" if host.jetpack else "JetPack unknown"
        yield f"{host.board or 'NVIDIA Jetson'}, {jetpack} (Jetson Linux {host.l4t or 'unknown'})"
    if host.soc is not None:
        soc = SOCS[host.soc]
        yield f"Qualcomm {host.soc} ({soc.marketing_name}), Hexagon v{soc.htp_arch}"
    if host.npu_platform is not None:
        driver = "" if host.npu_driver else f"; no driver is loaded: install {_NPU_DRIVER}"
        codenames = NPU_PLATFORMS[host.npu_platform].codenames
        yield f"Intel NPU {host.npu_platform} ({codenames}){driver}"
    if host.intel_gpu:
        yield "Intel GPU"


def _gpu_remark(gpus: tuple[Gpu, ...], host: HostFacts) -> str:
    """In a process of its own: importing PyTorch takes seconds and hundreds of megabytes."""
    if host.jetson is not None or host.l4t is not None:
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


def _contrastive_losses(gpus: tuple[Gpu, ...], host: HostFacts) -> str:
    """In a process of its own, as above, and only where there is a GPU to ask about."""
    if not is_available("torch"):
        return "none: PyTorch is not installed; pip install 'edgessl[train]'"
    if not gpus and host.jetson is None and host.l4t is None:
        return "chunked: no CUDA GPU"
    probe = "from edgessl.kernels import describe_implementation as d; print(d())"
    said = (_output((sys.executable, "-c", probe)) or "").strip()
    return said or "unknown: edgessl.kernels cannot be imported; try python -c 'import torch'"


def _onnxruntime() -> EngineStatus:
    return _engine("onnxruntime", "compile", lambda ort: ort.get_available_providers())


def _openvino() -> EngineStatus:
    return _engine("openvino", "openvino", lambda openvino: openvino.Core().available_devices)


def _qnn(host: HostFacts) -> EngineStatus:
    """On x86-64 the same package emulates the NPU; the library is looked for, not loaded."""

    def devices(qnn: Any) -> list[str]:
        if not Path(qnn.get_qnn_htp_path()).exists():
            return []
        if host.soc is not None:
            return [f"NPU of {host.soc}"]
        return ["NPU emulator"] if host.arch == "x86_64" else []

    return _engine("qnn", "qnn", devices, module="onnxruntime_qnn", package="onnxruntime-qnn")


def _tensorrt(host: HostFacts) -> EngineStatus:
    return _engine("tensorrt", "tensorrt", lambda _: [gpu.name for gpu in host.nvidia_gpus])


def _engine(
    name: str,
    extra: str,
    devices: Callable[[Any], Iterable[str]],
    *,
    module: str | None = None,
    package: str | None = None,
) -> EngineStatus:
    found: tuple[str, ...] = ()
    obstacle: str | None = None
    loaded: Any = None
    try:
        loaded = require(module or name, extra=extra)
        found = tuple(devices(loaded))
    # An OSError is a shared library that is missing.
    except (UnavailableError, RuntimeError, OSError) as error:
        obstacle = " ".join(str(error).split())
    version = _version(package or name) or getattr(loaded, "__version__", None)
    return EngineStatus(name=name, version=version, devices=found, obstacle=obstacle)


def _target(target: Target, host: HostFacts, usable: Mapping[str, EngineStatus]) -> TargetStatus:
    elsewhere = target.runs_here(host)
    obstacles: list[str] = []
    runs = False
    if elsewhere is not None:
        obstacles.append(f"{elsewhere}; compile here, then run or finalize the bundle there")
    else:
        lacking = [_cannot_run(target, c.engine, usable) for c in target.candidates]
        runs = None in lacking
        obstacles += [] if runs else sorted({reason for reason in lacking if reason})
    builds, missing = [], {}
    for candidate in target.candidates:
        features = sorted(set(candidate.requires) - host.features) if elsewhere is None else []
        packages = _missing_for(candidate, usable, elsewhere is None)
        if features:
            obstacles.append(f"{candidate.name}: this CPU lacks {', '.join(features)}")
        elif packages:
            missing[candidate.name] = packages
        else:
            builds.append(candidate.name)
    if missing:
        obstacles.append(_install(missing))
    return TargetStatus(
        name=target.name,
        description=target.description,
        family=target.family,
        runs=runs,
        builds=tuple(builds),
        obstacles=tuple(obstacles),
    )


def _cannot_run(target: Target, engine: str, usable: Mapping[str, EngineStatus]) -> str | None:
    """Why an engine does not run here what the target's device could; None if it does."""
    if engine not in usable:
        extra = engine if engine in ("qnn", "tensorrt", "openvino") else "compile"
        return f"running needs {engine}; pip install 'edgessl[{extra}]'"
    device = target.engine_options.get(engine, {}).get("device")
    if isinstance(device, str) and not any(
        name.partition(".")[0] == device for name in usable[engine].devices
    ):
        return f"{engine} shows no {device} device; install its driver"
    return None


def _missing_for(
    candidate: CandidateSpec, usable: Mapping[str, EngineStatus], here: bool
) -> list[str]:
    """Packages that building needs and that are not there."""
    wanted = [*_BUILD_PACKAGES, *(["nncf"] if candidate.scheme == "nncf" else [])]
    engine = _ENGINE_PACKAGES.get(candidate.engine)
    if engine is not None:
        wanted.append(engine)
    missing = [package for package in wanted if not is_available(package)]
    # Where the device is at hand, candidates are measured with the engine itself.
    if here and not missing and candidate.engine not in usable:
        return [candidate.engine]
    return missing


def _install(missing: Mapping[str, Sequence[str]]) -> str:
    names = sorted({name for packages in missing.values() for name in packages})
    extras = sorted({_EXTRAS.get(name, "compile") for name in names if name != "tensorrt"})
    extras += ["tensorrt"] if "tensorrt" in names else []
    count = f"{len(missing)} candidates need" if len(missing) > 1 else "1 candidate needs"
    return f"{count} {', '.join(names)}; pip install 'edgessl[{','.join(extras)}]'"


def _packages() -> tuple[PackageStatus, ...]:
    """From edgessl's own metadata, so that nothing is said twice."""
    return tuple(
        PackageStatus(name=name, version=_version(name), extras=tuple(extras))
        for name, extras in sorted(_requirements().items())
    )


def _requirements() -> Mapping[str, list[str]]:
    """Package → the extras that bring it; ``dev`` is for edgessl's own developers."""
    found: dict[str, list[str]] = {}
    try:
        lines = requires("edgessl") or ()
    except PackageNotFoundError:  # on PYTHONPATH, not installed
        return {}
    for line in lines:
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
