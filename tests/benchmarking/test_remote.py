"""Benchmarks over a real SSH connection: what comes back, what is refused, what stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest

from contracts.benchmark_results import result as made_up_result
from contracts.ssh_server import SshServer, free_port, server_or_skip
from contracts.tiny_bundle import write_bundle, write_model
from edgessl.benchmarking.benchmark import Measurement
from edgessl.benchmarking.options import BenchmarkOptions, GateOptions
from edgessl.benchmarking.remote import benchmark_on
from edgessl.benchmarking.remote.address import Address, parse_address
from edgessl.benchmarking.remote.benchmark import LOCK_NAME
from edgessl.benchmarking.remote.bootstrap import MARK
from edgessl.benchmarking.remote.lock import acquire
from edgessl.benchmarking.remote.needs import PACKAGES
from edgessl.benchmarking.remote.worker_file import worker_file
from edgessl.benchmarking.result import Workload
from edgessl.errors import DataError, EdgeSSLError, ModelError, UnavailableError, UsageError
from edgessl.files import sha256_file
from edgessl.progress import ProgressEvent

QUICK = BenchmarkOptions(
    restarts=1, blocks=2, block_seconds=0.02, cold_starts=1, threads=1, gate=GateOptions(metrics=())
)
ENDLESS = QUICK.model_copy(update={"restarts": 1000})
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    running = server_or_skip(tmp_path_factory.mktemp("ssh"))
    yield running
    running.stop()


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The folder that the device works in."""
    folder = tmp_path / "device"
    folder.mkdir()
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny.edge")


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


def test_a_whole_benchmark_comes_back(
    server: SshServer, device: Path, bundle: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "plain model.onnx")
    # Neither an edgessl that the device has matters, nor what its login shell prints; and what
    # was started there goes, even if its parent ended before.
    decoy = tmp_path / "decoy" / "edgessl"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise SystemExit('the wrong edgessl')")
    python = script(
        tmp_path / "python",
        f"echo 'Welcome to the device'\n(cd '{device}' && exec sleep 600 &)\ncd '{decoy.parent}'\n"
        f"PYTHONPATH='{decoy.parent}' exec '{sys.executable}' \"$@\"",
    )
    events: list[ProgressEvent] = []
    measurement = measure(
        server,
        device,
        [bundle],
        against=[model, bundle],
        workload_of=lambda path: Workload(flops=13.0, bytes=7.0),
        progress=events.append,
        python=python,
    )
    result = measurement.result
    assert [(a.name, a.engine) for a in result.arms][:2] == [
        ("tiny.edge #1", "onnxruntime"),
        ("plain model.onnx onnxruntime", "onnxruntime"),
    ]
    assert {a.artifact.sha256 for a in result.arms if a.artifact} == {
        sha256_file(bundle),
        sha256_file(model),
    }
    assert result.arm("plain model.onnx onnxruntime").workload == Workload(flops=13.0, bytes=7.0)
    assert result.environment.packages["edgessl"] == result.edgessl_version
    for arm in result.arms:
        assert measurement.recording.arms[arm.name].times_ms().size == arm.runs > 0
    assert [e.completed for e in events if e.stage == "copy"] == [1, 2]
    done = [e for e in events if e.stage == "benchmark"]
    assert done[-1].completed == done[-1].total
    assert not list(device.iterdir())
    assert not processes_of(device)
    written = measurement.write(tmp_path / "result.json")
    assert written.samples is not None


def test_an_error_of_the_arm_is_raised_here(
    server: SshServer, device: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model at all")
    with pytest.raises(ModelError, match=r"^ssh://device: "):
        measure(server, device, [broken])
    assert nothing_stays(device)


# ---- the connection breaks


class Cut:
    """Does something to the connection when the first block was measured."""

    def __init__(self, cut: Callable[[], object]) -> None:
        self._cut = cut
        self.done = False

    def __call__(self, event: ProgressEvent) -> None:
        if event.stage == "benchmark" and not self.done:
            self.done = True
            self._cut()


def ssh_clients() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if p.name() == "ssh"]


@pytest.mark.parametrize("side", ["device", "host"])
def test_a_connection_that_breaks_leaves_nothing(
    server: SshServer, device: Path, bundle: Path, side: str
) -> None:
    seen: list[int] = []

    def cut() -> None:
        seen.append(len(processes_of(device)))
        assert (device / LOCK_NAME).exists()
        if side == "device":
            server.cut_connections()
        else:
            for client in ssh_clients():
                client.kill()

    with pytest.raises(UnavailableError, match=r"the connection broke after \d+ of \d+ blocks"):
        measure(server, device, [bundle], options=ENDLESS, progress=Cut(cut))
    assert seen[0] >= 3  # the agent, the arm and the control arm were there
    assert nothing_stays(device)


def test_silence_of_the_host_ends_everything_on_the_device(
    server: SshServer, device: Path, bundle: Path
) -> None:
    """As when a cable is pulled: no side sees the connection end."""
    program = (
        "import sys\n"
        "from edgessl.benchmarking.remote import benchmark_on\n"
        "from edgessl.benchmarking.options import BenchmarkOptions\n"
        f"benchmark_on('ssh://device', [{str(bundle)!r}], python=sys.executable, silence_s=4.0,\n"
        f"    options=BenchmarkOptions.model_validate_json({ENDLESS.model_dump_json()!r}),\n"
        f"    folder={str(device)!r}, ssh_config={str(server.config)!r},\n"
        "    progress=lambda event: print(event.stage, flush=True))\n"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    both: list[psutil.Process] = []
    try:
        assert host.stdout is not None
        assert any(stage == b"benchmark\n" for stage in host.stdout)
        both = [psutil.Process(host.pid), *psutil.Process(host.pid).children()]
        assert [p.name() for p in both[1:]] == ["ssh"]
        for process in both:
            process.suspend()
        assert processes_of(device)
        assert nothing_stays(device)
    finally:
        if host.stdout is not None:
            host.stdout.close()
        for process in both:
            process.kill()
        host.kill()
        host.wait()


def test_a_host_that_goes_while_the_device_waits(
    server: SshServer, device: Path, bundle: Path
) -> None:
    other = held_by_another(device)

    def cut(event: ProgressEvent) -> None:
        if event.message is not None and "waiting" in event.message:
            server.cut_connections()

    try:
        with pytest.raises(UnavailableError, match="the connection broke before it began"):
            measure(server, device, [bundle], progress=cut, lock_wait_s=600.0, silence_s=600.0)
        assert wait_until(
            lambda: {p.name for p in device.iterdir()} == {LOCK_NAME, "edgessl-other"}
        )
        assert wait_until(lambda: [p.pid for p in processes_of(device)] == [])
    finally:
        other.kill()
        other.wait()


def test_an_interrupted_host_leaves_nothing(server: SshServer, device: Path, bundle: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(server, device, [bundle], options=ENDLESS, progress=Cut(interrupt))
    assert nothing_stays(device)
    assert not ssh_clients()


def test_a_terminated_agent_cleans_up(server: SshServer, device: Path, bundle: Path) -> None:
    def terminate() -> None:
        agents = [p for p in processes_of(device) if "-c" in p.cmdline()]
        assert len(agents) == 1
        agents[0].send_signal(signal.SIGTERM)

    with pytest.raises(UnavailableError, match="SystemExit: 143"):
        measure(server, device, [bundle], options=ENDLESS, progress=Cut(terminate))
    assert nothing_stays(device)


def test_workers_do_not_outlive_a_killed_agent(
    server: SshServer, device: Path, bundle: Path
) -> None:
    def kill() -> None:
        agents = [p for p in processes_of(device) if "-c" in p.cmdline()]
        assert len(agents) == 1
        agents[0].kill()

    with pytest.raises(UnavailableError, match=r"after \d+ of \d+ blocks"):
        measure(server, device, [bundle], options=ENDLESS, progress=Cut(kill))
    assert wait_until(lambda: not processes_of(device))


# ---- the lock


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


def test_a_device_in_use_is_refused_with_its_owner(
    server: SshServer, device: Path, bundle: Path
) -> None:
    other = held_by_another(device)
    try:
        found = r"in use by ann@desk pid 1 since .* runs out in (9|10) min"
        with pytest.raises(UnavailableError, match=found):
            measure(server, device, [bundle])
        assert (device / LOCK_NAME).exists()
    finally:
        other.kill()
        other.wait()
    assert [p.name for p in device.glob("edgessl-*")] != []


def test_a_device_in_use_is_waited_for_and_a_killed_owner_replaced(
    server: SshServer, device: Path, bundle: Path
) -> None:
    other = held_by_another(device)
    remarks: list[str] = []

    def progress(event: ProgressEvent) -> None:
        if event.message is not None:
            remarks.append(event.message)
            if "waiting" in event.message:
                other.kill()
                other.wait()

    try:
        measurement = measure(server, device, [bundle], lock_wait_s=600.0, progress=progress)
    finally:
        other.kill()
        other.wait()
    assert measurement.result.arms[0].runs > 0
    assert "in use by ann@desk" in remarks[0]
    assert "took over the lock of ann@desk pid 1: its process is gone" in remarks[1]
    assert not list(device.iterdir())  # nor the work folder of the killed one


def test_a_lock_that_is_taken_away_ends_the_benchmark(
    server: SshServer, device: Path, bundle: Path
) -> None:
    take = Cut((device / LOCK_NAME).unlink)
    with pytest.raises(UnavailableError, match="was removed or taken over"):
        measure(server, device, [bundle], options=ENDLESS, progress=take, lock_limit_s=3.0)
    assert nothing_stays(device)


def lock(device: Path, **changes: Any) -> Any:
    values = {"owner": "ann", "limit_s": 600.0, "wait_s": 0.0, "remark": lambda text: None}
    work = device / "edgessl-mine"
    work.mkdir(exist_ok=True)
    return acquire(device / LOCK_NAME, work=work, **{**values, **changes})


def test_a_lock_is_given_back(device: Path) -> None:
    with lock(device), pytest.raises(UnavailableError, match="in use by ann"):
        lock(device, owner="bob")
    lock(device, owner="bob").close()
    assert not (device / LOCK_NAME).exists()


def test_a_lock_runs_out_unless_it_is_refreshed(device: Path) -> None:
    remarks: list[str] = []
    first = lock(device, limit_s=0.01)
    first.refresh()
    time.sleep(0.05)
    with lock(device, owner="bob", remark=remarks.append):
        assert remarks == ["took over the lock of ann: its time is over"]
        with pytest.raises(UnavailableError, match="taken over"):
            first.refresh()
        first.close()
        assert (device / LOCK_NAME).exists()  # it is bob's now
    assert (device / "edgessl-mine").exists()  # its owner lives


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("boot_id", "another", "restarted"), ("start_time", 1, "gone"), ("pid", 1 << 22, "gone")],
)
def test_an_abandoned_lock_is_taken_over(
    device: Path, field: str, value: object, reason: str
) -> None:
    lock(device)
    text = json.loads((device / LOCK_NAME).read_text())
    (device / LOCK_NAME).write_text(json.dumps({**text, field: value, "work": "../elsewhere"}))
    elsewhere = device.parent / "elsewhere"
    elsewhere.mkdir()
    remarks: list[str] = []
    with lock(device, owner="bob", remark=remarks.append):
        assert reason in remarks[0]
    assert elsewhere.exists()


def test_only_one_takes_an_abandoned_lock_over(device: Path) -> None:
    for _ in range(20):
        lock(device)
        text = json.loads((device / LOCK_NAME).read_text())
        (device / LOCK_NAME).write_text(json.dumps({**text, "boot_id": "another", "work": ""}))
        winners: list[Any] = []
        start = threading.Barrier(8)

        def take(start: threading.Barrier = start, winners: list[Any] = winners) -> None:
            start.wait()
            try:
                winners.append(lock(device))
            except UnavailableError:
                return

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        winners[0].close()
        assert not (device / LOCK_NAME).exists()


@pytest.mark.parametrize("kind", ["text", "empty", "folder", "link", "pipe"])
def test_what_is_no_lock_is_left_alone(device: Path, kind: str) -> None:
    path = device / LOCK_NAME
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(device / "target")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("mine" if kind == "text" else "")
    with pytest.raises(UnavailableError, match="is no lock of edgessl"):
        lock(device)
    assert path.is_symlink() or path.exists()


# ---- the device cannot be reached, or lacks something


def refused(server: SshServer, device: Path, path: Path, **changes: Any) -> str:
    """The one line that says why nothing was measured."""
    with pytest.raises(UnavailableError) as caught:
        measure(server, device, [path], **changes)
    assert caught.value.exit_code == 4
    assert nothing_stays(device)
    return str(caught.value)


def test_an_unknown_machine(server: SshServer, device: Path, bundle: Path) -> None:
    config = server.client_config("unknown", HostName="no-such-machine.invalid")
    assert "no machine of that name" in refused(server, device, bundle, ssh_config=config)


def test_a_machine_without_a_server(server: SshServer, device: Path, bundle: Path) -> None:
    config = server.client_config("nobody", Port=free_port())
    assert "no SSH server answers" in refused(server, device, bundle, ssh_config=config)


def test_a_key_that_the_device_does_not_know(server: SshServer, device: Path, bundle: Path) -> None:
    config = server.client_config("stranger", IdentityFile=server.other_key())
    assert "ssh-copy-id" in refused(server, device, bundle, ssh_config=config)


def test_a_device_that_is_not_known_here(server: SshServer, device: Path, bundle: Path) -> None:
    config = server.client_config("new", UserKnownHostsFile="/dev/null")
    assert "host key is not known" in refused(server, device, bundle, ssh_config=config)


def test_a_device_with_another_host_key(server: SshServer, device: Path, bundle: Path) -> None:
    config = server.client_config("changed", UserKnownHostsFile=server.new_host_key())
    assert "ssh-keygen -R" in refused(server, device, bundle, ssh_config=config)


def test_a_wrong_configuration(server: SshServer, bundle: Path, tmp_path: Path) -> None:
    config = tmp_path / "wrong"
    config.write_text("Host *\n  NoSuchOption yes\n")
    with pytest.raises(UsageError, match="configuration option"):
        benchmark_on("ssh://device", [bundle], ssh_config=config)


def test_a_host_without_ssh(monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="openssh-client"):
        benchmark_on("ssh://device", [bundle])


def test_a_device_without_python(server: SshServer, device: Path, bundle: Path) -> None:
    message = refused(server, device, bundle, python="/no/such/python")
    assert "/no/such/python cannot be run there" in message


def test_a_python_without_the_packages(
    server: SshServer, device: Path, bundle: Path, tmp_path: Path
) -> None:
    python = script(tmp_path / "bare", f"exec '{sys.executable}' -S \"$@\"")
    message = refused(server, device, bundle, python=python)
    assert "numpy is missing" in message
    assert f"{python} -m pip install 'numpy>=2.0' " in message
    assert message.endswith("onnxruntime")
    assert "tomli" not in message or sys.version_info < (3, 11)


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


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"python": "3.8.10", "packages": {}}, "is Python 3.8.10; name one from 3.10 on"),
        ({"engines": []}, r"onnxruntime is missing; .* -m pip install onnxruntime$"),
        ({"packages": {**dict.fromkeys(PACKAGES, "99"), "numpy": "1.26.4"}}, "numpy is 1.26.4"),
        ({"packages": {**dict.fromkeys(PACKAGES, "99"), "psutil": "broken: x"}}, "psutil is brok"),
    ],
)
def test_a_device_that_lacks_something(
    server: SshServer, device: Path, bundle: Path, facts: dict[str, object], found: str
) -> None:
    python = fake_device(device.parent, [], **facts)
    assert re.search(found, refused(server, device, bundle, python=python))


def test_a_folder_that_cannot_be_written(server: SshServer, device: Path, bundle: Path) -> None:
    assert "name another folder" in refused(server, device, bundle, folder="/proc")


def test_a_full_disk(server: SshServer, device: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import shutil\n"
        "full = shutil._ntuple_diskusage(1 << 30, (1 << 30) - (3 << 20), 3 << 20)\n"
        "shutil.disk_usage = lambda path: full\n"
    )
    python = script(tmp_path / "full", f"PYTHONPATH='{tmp_path}' exec '{sys.executable}' \"$@\"")
    message = refused(server, device, bundle, python=python)
    assert "3 MiB are free, 64 MiB are needed" in message


def test_a_disk_that_fills_up_meanwhile(
    server: SshServer, device: Path, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, errno\n"
        "real = builtins.open\n"
        "def full(file, mode='r', *rest, **more):\n"
        "    if mode == 'xb': raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    return real(file, mode, *rest, **more)\n"
        "builtins.open = full\n"
    )
    python = script(tmp_path / "full", f"PYTHONPATH='{tmp_path}' exec '{sys.executable}' \"$@\"")
    assert "No space left on device; free" in refused(server, device, bundle, python=python)


# ---- the device is not to be trusted


def line(**message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


RESULT = made_up_result().model_dump_json().encode()


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([b"Segmentation fault\n"], "which is not JSON"),
        ([b"[1, 2]\n"], "not a JSON object"),
        ([b"[" * 100_000 + b"\n"], "which is not JSON"),
        ([b"x" * ((1 << 20) + 1000)], "a line of more than"),
        ([line(say="result", size_bytes=1 << 50)], "bytes at once"),
        ([line(say="result", size_bytes=-1)], "bytes at once"),
        ([line(say="dance")], "the device sent say"),
        ([line(say="beat", more=1)], "the device sent more"),
        ([line(say="progress", event={"stage": 1})], "the device sent event"),
        ([line(say="bye")], "an end without a result"),
        ([line(say="result", size_bytes=2), b"{}"], "the device sent "),
        ([line(say="result", size_bytes=len(RESULT)), RESULT], "a file that was not sent"),
        ([line(say="recording", size_bytes=4), b"\x1f\x8b\0\0"], "samples that cannot be read"),
    ],
)
def test_nonsense_is_refused(
    server: SshServer, device: Path, bundle: Path, said: list[bytes], found: str
) -> None:
    python = fake_device(device.parent, said)
    with pytest.raises(DataError, match=found):
        measure(server, device, [bundle], python=python)
    assert not ssh_clients()


def test_texts_of_the_device_do_not_drive_the_terminal(
    server: SshServer, device: Path, bundle: Path
) -> None:
    event = {
        "stage": "a\x1b[2Jb",
        "completed": 1,
        "total": 2,
        "unit": "u\r",
        "metrics": {"\x07": 1.0},
        "message": None,
        "warning": False,
        "table": [["\x1b]0;x\x07"]],
    }
    told = [
        line(say="progress", event=event),
        line(say="error", error="SystemExit", text="gone\n\x1b[31m"),
        line(say="bye"),
    ]
    events: list[ProgressEvent] = []
    with pytest.raises(EdgeSSLError) as caught:
        measure(
            server,
            device,
            [bundle],
            python=fake_device(device.parent, told),
            progress=events.append,
        )
    assert type(caught.value) is EdgeSSLError
    seen = events[-1]
    for text in (str(caught.value), seen.stage, seen.unit, *seen.metrics, seen.table[0][0]):
        assert text.isprintable()


def test_a_silent_device_is_given_up(server: SshServer, device: Path, bundle: Path) -> None:
    python = fake_device(device.parent, [line(say="beat")])
    with pytest.raises(UnavailableError, match="not a word for 1 s before it began"):
        measure(server, device, [bundle], python=python, silence_s=1.0)


# ---- what goes there


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssh://orin", Address("orin")),
        ("ssh://ann@orin.local:2222", Address("orin.local", "ann", 2222)),
        ("ssh://ann.b-c@10.0.0.7/", Address("10.0.0.7", "ann.b-c")),
        ("ssh://ann@[fe80::1]:22", Address("fe80::1", "ann", 22)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected
    assert expected.arguments[-2:] == ["--", expected.host]


@pytest.mark.parametrize(
    "text",
    [
        "orin",
        "ssh://",
        "ssh://-oProxyCommand=touch${IFS}x",
        "ssh://-l@orin",
        "ssh://a b@orin",
        "ssh://orin/path",
        "ssh://orin -v",
        "ssh://orin\n",
        "ssh://ann:secret@orin",
        "ssh://orin:0",
        "ssh://orin:99999",
        "ssh://orin:٢٢",
        "ssh://[fe80::zz]",
        "ssh://[1:2:3]",
        "ssh://%h",
        "ssh://$(x)",
        "http://orin",
    ],
)
def test_what_is_no_address_is_refused(text: str, bundle: Path) -> None:
    with pytest.raises(UsageError):
        benchmark_on(text, [bundle])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("run", "on this machine only"),
        ("weights.safetensors", "on this machine only"),
        ("notes.txt", "neither a bundle"),
        ("absent.onnx", "no such file"),
    ],
)
def test_what_stays_here(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match=found):
        benchmark_on("ssh://device", [tmp_path / name])


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"python": "-c"}, "interpreter"),
        ({"python": "a\nb"}, "interpreter"),
        ({"folder": "tmp"}, "folder"),
    ],
)
def test_wrong_arguments(bundle: Path, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        benchmark_on("ssh://device", [bundle], **changes)
    with pytest.raises(UsageError, match="nothing to measure"):
        benchmark_on("ssh://device", [])


def test_the_worker_file_is_whole_and_always_the_same(tmp_path: Path) -> None:
    data = worker_file()
    assert worker_file() == data
    with zipfile.ZipFile(BytesIO(data)) as archive:
        archive.extractall(tmp_path)
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import edgessl.benchmarking.remote.agent, edgessl.benchmarking.worker\n"
        "from edgessl.runtime.session import ENGINES\n"
        "from edgessl.targets import list_targets\n"
        "assert 'jetson-orin-nano' in list_targets()\n"
        "[ENGINES.get(name) for name in ENGINES.names()]\n"
        "ours = [m for n, m in sys.modules.items() if n.partition('.')[0] == 'edgessl']\n"
        f"assert all(m.__file__.startswith({str(tmp_path)!r}) for m in ours), ours\n"
        "assert not {'torch', 'onnx', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_what_a_device_needs_is_what_the_package_needs(root: Path) -> None:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    for name, package in PACKAGES.items():
        assert f'"{name}>={package.least}' in text
