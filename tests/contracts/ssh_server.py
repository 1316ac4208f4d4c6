"""A real OpenSSH server on loopback with throw-away keys, as a device that a benchmark goes to."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

__all__ = ["SshServer", "free_port", "server_or_skip"]

_SSHD = "/usr/sbin/sshd"
_PATIENCE_S = 30.0
_PRIVILEGE_SEPARATION = Path("/run/sshd")


class SshServer:
    """Runs until `stop`.

    Attributes:
        address: Of the server, without the port.
        config: For the client: the port, the key and the known host.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = "ssh://device"
        self.key = _make_key(folder / "user_key")
        host_key = _make_key(folder / "host_key")
        (folder / "authorized_keys").write_bytes(self.key.with_suffix(".pub").read_bytes())
        public = host_key.with_suffix(".pub").read_text(encoding="ascii")
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}", encoding="ascii")
        server_config = folder / "sshd_config"
        server_config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {host_key}\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n",
            encoding="ascii",
        )
        self.config = self.client_config("client_config")
        if os.geteuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        self._log = open(folder / "sshd.log", "wb")  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            [_SSHD, "-D", "-e", "-f", str(server_config)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self._wait_until_it_listens()

    def client_config(self, name: str, **changes: object) -> Path:
        """A configuration of the client; ``changes`` replace lines."""
        lines: dict[str, object] = {
            "HostName": "127.0.0.1",
            "Port": self.port,
            "User": getpass.getuser(),
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            **changes,
        }
        path = self.folder / name
        text = "".join(f"  {key} {value}\n" for key, value in lines.items())
        path.write_text(f"Host device\n{text}", encoding="ascii")
        return path

    def new_host_key(self) -> Path:
        """A list of known hosts with another key for this server."""
        other = _make_key(self.folder / "other_host_key").with_suffix(".pub")
        path = self.folder / "other_known_hosts"
        text = other.read_text(encoding="ascii")
        path.write_text(f"[127.0.0.1]:{self.port} {text}", encoding="ascii")
        return path

    def other_key(self) -> Path:
        """A key that the server does not know."""
        return _make_key(self.folder / "stranger_key")

    def cut_connections(self) -> None:
        """Kill the server's side of every connection, as a crash of it would."""
        sessions = [p for p in psutil.Process(self._process.pid).children(recursive=True)]
        for process in sessions:
            try:
                if process.name().startswith("sshd"):
                    process.kill()
            except psutil.NoSuchProcess:
                continue

    def stop(self) -> None:
        """End the server and its connections."""
        self.cut_connections()
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
                continue
            return
        self.stop()
        raise AssertionError((self.folder / "sshd.log").read_text(encoding="utf-8"))


def server_or_skip(folder: Path) -> SshServer:
    """Start a server; skip the test where OpenSSH is not installed."""
    for program in (_SSHD, "ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on this machine (Debian: openssh-server)")
    return SshServer(folder)


def free_port() -> int:
    """A TCP port of loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _make_key(path: Path) -> Path:
    if not path.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    return path
