"""Benchmarks over a real SSH connection: what comes back, and what stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from contracts.remote_device import (
    ENDLESS,
    Cut,
    held_by_another,
    measure,
    nothing_stays,
    processes_of,
    script,
    ssh_clients,
    wait_until,
)
from contracts.ssh_server import SshServer
from contracts.tiny_bundle import write_model
from edgessl.benchmarking.remote.benchmark import LOCK_NAME
from edgessl.benchmarking.result import Workload
from edgessl.errors import ModelError, UnavailableError
from edgessl.files import sha256_file
from edgessl.progress import ProgressEvent


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


def test_what_was_measured_before_the_connection_broke_is_kept(
    server: SshServer, device: Path, bundle: Path
) -> None:
    # Two blocks of two arms are a restart.
    cut = Cut(server.cut_connections, blocks=6)
    measurement = measure(server, device, [bundle], options=ENDLESS, progress=cut)
    result = measurement.result
    assert result.failure is not None
    assert "the connection broke after" in result.failure
    assert result.harness.problems[-1].endswith(result.failure)
    assert 1 <= result.protocol.restarts < 1000
    assert result.arms[0].runs == measurement.recording.arms["tiny.edge"].times_ms().size > 0
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
    # Whether there was something to keep by then depends on the machine.
    try:
        measurement = measure(
            server, device, [bundle], options=ENDLESS, progress=take, lock_limit_s=3.0
        )
        reason = str(measurement.result.failure)
    except UnavailableError as error:
        reason = str(error)
    assert "was removed or taken over" in reason
    assert nothing_stays(device)
