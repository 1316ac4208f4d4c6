"""An Arm machine without one: Debian's arm64 packages and aarch64 wheels under qemu's user mode.

Nothing is installed and nothing needs root: packages are downloaded by apt with a state of its
own and unpacked into a folder. Debian or Ubuntu, about 250 MB, under a minute with a near mirror.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CPU", "DEFAULT_FOLDER", "ONNXRUNTIME", "ArmMachine", "SetUpError"]

CPU = "cortex-a76"
ONNXRUNTIME = "1.23.2"
"""The newest that was seen to run; 1.31.1 segfaults while it probes caches under qemu 7.2."""

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_FOLDER = Path.home() / ".cache" / "edgessl-arm64"

_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
_WHEELS = ("numpy", "pillow", "psutil", "pydantic", "rich", "typer", "typing-extensions")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
# What Linux says on such a core; qemu 7.2 would show the host's file.
_CPUINFO = """processor\t: {index}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""  # noqa: E501 - as the kernel writes it


class SetUpError(Exception):
    """The machine cannot be set up here; the message is one line."""


class ArmMachine:
    """A folder that holds an emulator, an arm64 Python and its packages.

    Attributes:
        folder: Where all of it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._facts = folder / "machine.json"

    @property
    def is_set_up(self) -> bool:
        """True if `set_up` has come to its end before."""
        return self._facts.is_file()

    @property
    def facts(self) -> dict[str, str]:
        """Versions of what was set up."""
        values: dict[str, str] = json.loads(self._facts.read_text(encoding="utf-8"))
        return values

    def set_up(self) -> None:
        """Download and unpack; returns at once if that was done before.

        Raises:
            SetUpError: There is no apt, no network, or a package does not exist.
        """
        if self.is_set_up:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        emulator = self._emulator()
        self._unpack_debs(_PACKAGES)
        interpreter = self._interpreter()
        (self.folder / "root/proc").mkdir(exist_ok=True)
        text = "".join(_CPUINFO.format(index=index) for index in range(2))
        (self.folder / "root/proc/cpuinfo").write_text(text, encoding="ascii")
        self._unpack_wheels(interpreter.name.removeprefix("python"))
        version = subprocess.run([emulator, "--version"], capture_output=True, text=True).stdout
        facts = {
            "qemu": re.findall(r"version ([\d.]+)", version)[0],
            "python": interpreter.name,
            "cpu": CPU,
            "onnxruntime": ONNXRUNTIME,
        }
        self._facts.write_text(json.dumps(facts), encoding="utf-8")

    def python(
        self, arguments: Sequence[str], *, timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run the arm64 Python with this checkout of edgessl."""
        checkout = self._copy_project()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": f"{checkout}:{self.folder / 'site'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [self._emulator(), "-cpu", CPU, "-L", str(self.folder / "root")]
        return subprocess.run(
            [*command, str(self._interpreter()), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=self.folder,
        )

    def _emulator(self) -> str:
        places = [self.folder / "qemu/usr/bin", *map(Path, os.get_exec_path())]
        for place in places:
            for name in ("qemu-aarch64-static", "qemu-aarch64"):
                if (place / name).is_file():
                    return str(place / name)
        arch = (
            subprocess.run(
                ["dpkg", "--print-architecture"], capture_output=True, text=True, check=False
            ).stdout.strip()
            if shutil.which("dpkg")
            else ""
        )
        if not arch:
            raise SetUpError("there is no qemu-aarch64-static here, and no dpkg to unpack one")
        self._apt("download", f"qemu-user-static:{arch}")
        for deb in self.folder.glob("qemu-user-static*.deb"):
            _run(["dpkg", "-x", str(deb), str(self.folder / "qemu")])
            deb.unlink()
        for other in (self.folder / "qemu/usr/bin").glob("qemu-*"):
            if "aarch64" not in other.name or "_be" in other.name:
                other.unlink()  # 300 MB of other machines
        return self._emulator()

    def _interpreter(self) -> Path:
        found = sorted((self.folder / "root/usr/bin").glob("python3.[0-9]*"))
        if not found:
            raise SetUpError("the arm64 packages hold no python3")
        return found[0]

    def _unpack_debs(self, packages: Sequence[str]) -> None:
        options = ["--no-install-recommends", "--download-only", "--yes"]
        self._apt("install", *options, *packages)
        for deb in sorted((self.folder / "apt/cache/archives").glob("*.deb")):
            _run(["dpkg", "-x", str(deb), str(self.folder / "root")])
        shutil.rmtree(self.folder / "apt")

    def _apt(self, *words: str) -> None:
        """Call apt-get as if this were an arm64 machine on which nothing is installed."""
        if shutil.which("apt-get") is None:
            raise SetUpError("there is no apt-get here; use Debian or Ubuntu")
        own = self.folder / "apt"
        host = "amd64" if platform.machine() == "x86_64" else platform.machine()
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures": f"arm64,{host}",
            "APT::Sandbox::User": "",
            "Dir::State": str(own / "state"),
            "Dir::State::status": str(own / "status"),
            "Dir::Cache": str(own / "cache"),
            "Debug::NoLocking": "1",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        if not own.exists():
            for place in ("state/lists/partial", "cache/archives/partial"):
                (own / place).mkdir(parents=True)
            (own / "status").touch()
            _run(["apt-get", "-qq", *options, "update"])
        _run(["apt-get", "-qq", *options, *words], cwd=self.folder)

    def _unpack_wheels(self, version: str) -> None:
        tag = "cp" + version.replace(".", "")
        place = self.folder / "wheels"
        platforms = [w for p in _PLATFORMS for w in ("--platform", f"{p}_aarch64")]
        abis = [w for abi in (tag, "abi3", "none") for w in ("--abi", abi)]
        wanted = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(place)]
        wanted += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version]
        wanted += [*platforms, *abis]
        _run([*wanted, "--constraint", str(PROJECT / "constraints.txt"), *_WHEELS])
        # It needs nothing else to run a model.
        _run([*wanted, "--no-deps", f"onnxruntime=={ONNXRUNTIME}"])
        for wheel in sorted(place.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(self.folder / "site")
        shutil.rmtree(place)

    def _copy_project(self) -> Path:
        place = self.folder / "project"
        shutil.rmtree(place, ignore_errors=True)
        only_sources = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / "edgessl", place / "edgessl", ignore=only_sources)
        shutil.copytree(PROJECT / "targets", place / "edgessl/targets", ignore=only_sources)
        return place


def _run(command: Sequence[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise SetUpError(f"{command[0]} ended with code {done.returncode}: {said[-1:] or ''}")
