"""What tests of benchmarks over SSH share: a run, what stays behind, devices that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from contracts.ssh_server import SshServer
from edgessl.benchmarking.benchmark import Measurement
from edgessl.benchmarking.options import BenchmarkOptions, GateOptions
from edgessl.benchmarking.remote import benchmark_on
from edgessl.benchmarking.remote.benchmark import LOCK_NAME
from edgessl.benchmarking.remote.bootstrap import MARK
from edgessl.benchmarking.remote.needs import PACKAGES
from edgessl.errors import UnavailableError
from edgessl.progress import ProgressEvent

__all__ = [
    "ENDLESS",
    "QUICK",
    "Cut",
    "fake_device",
    "held_by_another",
    "line",
    "measure",
    "nothing_stays",
    "processes_of",
    "refused",
    "script",
    "ssh_clients",
    "wait_until",
]

QUICK = BenchmarkOptions(
    restarts=1, blocks=2, block_seconds=0.02, cold_starts=1, threads=1, gate=GateOptions(metrics=())
)


ENDLESS = QUICK.model_copy(update={"restarts": 1000})


PATIENCE_S = 60.0


def script(path: Path, text: str) -> str:
    """An interpreter of the device that is none, or not quite."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def measure(server: SshServer, device: Path, paths: list[Path], **changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "options": QUICK,
        "python": sys.executable,
        "folder": str(device),
        "ssh_config": server.config,
        **changes,
    }
    return benchmark_on(server.address, paths, **values)


def belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd().startswith(str(folder)) or str(folder) in str(process.environ())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def processes_of(folder: Path) -> list[psutil.Process]:
    """The agent and the workers: they live in the folder, or have it in their environment."""
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and belongs(p, folder)]


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def nothing_stays(folder: Path) -> bool:
    return wait_until(lambda: not processes_of(folder) and not list(folder.iterdir()))


class Cut:
    """Does something to the connection when so many blocks were measured."""

    def __init__(self, cut: Callable[[], object], *, blocks: int = 1) -> None:
        self._cut = cut
        self._blocks = blocks
        self.done = False

    def __call__(self, event: ProgressEvent) -> None:
        if event.stage == "benchmark" and event.completed >= self._blocks and not self.done:
            self.done = True
            self._cut()


def ssh_clients() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if p.name() == "ssh"]


def held_by_another(device: Path) -> subprocess.Popen[bytes]:
    """A process that holds the lock until it is killed."""
    work = device / "edgessl-other"
    work.mkdir()
    program = (
        "import time, pathlib\n"
        "from edgessl.benchmarking.remote.lock import acquire\n"
        f"work = pathlib.Path({str(work)!r})\n"
        f"acquire(work.parent / {LOCK_NAME!r}, owner='ann@desk pid 1', work=work, limit_s=600,"
        " wait_s=0, remark=print)\n"
        "print('held', flush=True)\ntime.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.stdout.close()
    return process


def refused(server: SshServer, device: Path, path: Path, **changes: Any) -> str:
    """The one line that says why nothing was measured."""
    with pytest.raises(UnavailableError) as caught:
        measure(server, device, [path], **changes)
    assert caught.value.exit_code == 4
    assert nothing_stays(device)
    return str(caught.value)


def fake_device(folder: Path, said: list[bytes], **facts: object) -> str:
    """A device that says what it likes after it was told what to do."""
    have = {name: "99.0" for name in PACKAGES}
    value = {"python": "3.12.1", "packages": have, "engines": ["onnxruntime"], **facts}
    program = folder / "fake.py"
    (folder / "said").write_bytes(b"".join(said))
    program.write_text(
        "import json, sys, time\n"
        "stdin, stdout = sys.stdin.buffer, sys.stdout.buffer\n"
        "stdin.readline(), stdin.readline()\n"
        f"stdout.write({MARK + json.dumps(value).encode()!r} + b'\\n')\n"
        "stdout.flush()\n"
        "line = stdin.readline()\n"
        "if not line: raise SystemExit(0)\n"
        "stdin.read(json.loads(line)['size_bytes'])\n"
        "stdin.readline()\n"
        f"stdout.write(open({str(folder / 'said')!r}, 'rb').read())\n"
        "stdout.flush()\n"
        "stdin.read()\n"
    )
    return script(folder / "fake", f"exec '{sys.executable}' -S '{program}'")


def line(**message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"
