"""Devices that cannot be reached, that lack something, or that talk nonsense."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from contracts.benchmark_results import result as made_up_result
from contracts.remote_device import fake_device, line, measure, refused, script, ssh_clients
from contracts.ssh_server import SshServer, free_port
from edgessl.benchmarking.remote import benchmark_on
from edgessl.benchmarking.remote.needs import PACKAGES
from edgessl.errors import DataError, EdgeSSLError, UnavailableError, UsageError
from edgessl.progress import ProgressEvent


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
