"""The system's OpenSSH client as a pipe to a program on another machine."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from edgessl.benchmarking.remote.address import Address
from edgessl.benchmarking.remote.channel import SIZE, Sender, read_data, read_message
from edgessl.closing import Closing
from edgessl.errors import DataError, EdgeSSLError, UnavailableError, UsageError

__all__ = ["Message", "SshChannel"]

_SSH = "ssh"
_OPTIONS = (
    "BatchMode=yes",  # ask for no password
    "ConnectTimeout=15",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=4",
    # A connection of its own: it ends when this process ends, and carries nothing else.
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
)
_FAILED = 255
"""Exit code of ``ssh`` itself; others are those of the program. Source: ssh(1)."""
_KEPT_BYTES = 16_384
_PATIENCE_S = 5.0
_MOMENT_S = 2.0
_LONGEST_GREETING_BYTES = 1 << 16
_INBOX = 1000

# What the client says → what it means and what to do. Source: OpenSSH, sshconnect.c,
# sshconnect2.c, readconf.c.
_EXPLANATIONS = (
    ("could not resolve hostname", "no machine of that name is known; correct the address"),
    ("connection refused", "no SSH server answers there; start it, or name its port"),
    ("connection timed out", "it does not answer; check that it is on and in this network"),
    ("no route to host", "it does not answer; check that it is on and in this network"),
    ("network is unreachable", "this machine has no way there; check the network"),
    (
        "remote host identification has changed",
        "its host key is another one than before; if it was installed anew, forget the old one: "
        "ssh-keygen -R HOST",
    ),
    (
        "host key verification failed",
        "its host key is not known; connect once by hand with ssh, and compare the fingerprint",
    ),
    (
        "permission denied",
        "it takes none of your keys; copy one there with ssh-copy-id, or load it with ssh-add "
        "(passwords are not asked for)",
    ),
    ("too many authentication failures", "too many keys were tried; name one in ~/.ssh/config"),
)
_BAD_CONFIGURATION = ("bad configuration option", "can't open user config file", "keyword ")


class Message(NamedTuple):
    """One message of the device, with the bytes that followed it."""

    value: dict[str, Any]
    data: bytes


class SshChannel(Closing):
    """Runs a command on another machine and exchanges messages with it.

    Args:
        address: The machine.
        command: A line for its login shell.
        ssh_config: Instead of ``~/.ssh/config``.
        largest_data_bytes: Of what may follow a message.

    Raises:
        UnavailableError: There is no OpenSSH client here.
    """

    def __init__(
        self,
        address: Address,
        command: str,
        *,
        ssh_config: Path | None = None,
        largest_data_bytes: int,
    ) -> None:
        self._address = address
        self._largest_data_bytes = largest_data_bytes
        options = [word for option in _OPTIONS for word in ("-o", option)]
        config = ["-F", str(Path(ssh_config).absolute())] if ssh_config else []
        arguments = [_SSH, "-T", *config, *options, *address.arguments, command]
        try:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except FileNotFoundError as error:
            raise UnavailableError(
                "the OpenSSH client 'ssh' is not installed here; install it "
                "(apt install openssh-client)"
            ) from error
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        if stdin is None or stdout is None or stderr is None:
            raise UnavailableError(f"{address}: the OpenSSH client has no pipes")
        self._stdout, self._stderr = stdout, stderr
        self._sender = Sender(stdin)
        self._words = b""
        self._inbox: queue.Queue[Message | EdgeSSLError | None] = queue.Queue(_INBOX)
        self._closing = threading.Event()
        self._reader: threading.Thread | None = None
        self._words_reader = threading.Thread(target=self._keep_words, daemon=True)
        self._words_reader.start()

    def send(self, message: Mapping[str, Any], data: bytes | Path | None = None) -> None:
        """Send a message; if nobody is there any more, `receive` tells why."""
        with suppress(BrokenPipeError):
            self._sender.send(message, data)

    def greeting(self, mark: bytes, timeout_s: float) -> bytes:
        """Wait for the line that begins with a mark, and give the rest of it.

        Login shells may print before.

        Raises:
            EdgeSSLError: It does not come.
        """
        found: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._greet, args=(mark, found), daemon=True)
        self._reader.start()
        try:
            line = found.get(timeout=timeout_s)
        except queue.Empty:
            raise UnavailableError(
                f"{self._address}: no answer within {timeout_s:.0f} s; see what its login shell "
                f"does: ssh {self._address.host} true"
            ) from None
        if line is None:
            raise self.failure("before it began")
        return line

    def receive(self, timeout_s: float, *, during: str) -> Message:
        """The next message.

        Args:
            timeout_s: How long the device may be silent.
            during: What was going on, for the message of an error.

        Raises:
            UnavailableError: The connection or the program ended, or the device is silent.
            DataError: What the device says cannot be understood.
        """
        try:
            item = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            raise UnavailableError(
                f"{self._address}: not a word for {timeout_s:.0f} s {during}; the device ends "
                "what it did by itself; check it and run again"
            ) from None
        if item is None:
            raise self.failure(during)
        if isinstance(item, EdgeSSLError):
            raise item
        return item

    def failure(self, during: str) -> EdgeSSLError:
        """Why the connection or the program ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        self._words_reader.join(_PATIENCE_S)
        words = self._words.decode("utf-8", "replace")
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        last = lines[-1][:300] if lines else "it said nothing"
        code = self._process.poll()
        if code == _FAILED:
            lowered = words.lower()
            if any(known in lowered for known in _BAD_CONFIGURATION):
                return UsageError(f"ssh: {last}; correct the configuration")
            for known, meaning in _EXPLANATIONS:
                if known in lowered:
                    return UnavailableError(f"{self._address}: {meaning} ({last})")
        if code == _FAILED or code is None or code < 0:
            return UnavailableError(
                f"{self._address}: the connection broke {during} ({last}); the device ends what "
                "it did by itself; run again"
            )
        return UnavailableError(
            f"{self._address}: the program there ended with code {code} {during} ({last}); "
            "look at the device and run again"
        )

    @property
    def exit_code(self) -> int | None:
        """Of the client, or of the program if there was one; None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """End the connection; the program sees its input end."""
        self._closing.set()
        try:
            if not self._sender.close(_MOMENT_S):
                self._process.kill()  # which frees whoever waits in a write
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._sender.close(_MOMENT_S)
        for thread, stream in ((self._words_reader, self._stderr), (self._reader, self._stdout)):
            if thread is not None:
                thread.join(_MOMENT_S)
            if thread is None or not thread.is_alive():
                stream.close()

    def _keep_words(self) -> None:
        """Read errors and warnings to their end, and keep the last."""
        while chunk := os.read(self._stderr.fileno(), 4096):
            self._words = (self._words + chunk)[-_KEPT_BYTES:]

    def _greet(self, mark: bytes, found: queue.Queue[bytes | None]) -> None:
        left = _LONGEST_GREETING_BYTES
        while left > 0:
            line = self._stdout.readline(left)
            left -= len(line)
            if line.startswith(mark) and line.endswith(b"\n"):
                found.put(line[len(mark) :])
                self._read()
                return
            if not line:
                break
        found.put(None)

    def _read(self) -> None:
        """Put what the device says into the inbox, as long as somebody takes it out."""
        try:
            while (value := read_message(self._stdout)) is not None:
                data = bytearray()
                size = value.get(SIZE, 0)
                if not isinstance(size, int) or not 0 <= size <= self._largest_data_bytes:
                    raise DataError(f"{size} bytes at once")
                if not read_data(self._stdout, size, data.extend):
                    break
                self._put(Message(value, bytes(data)))
        except DataError as error:
            self._put(DataError(f"{self._address}: the device said {error}; check what runs there"))
            return
        self._put(None)

    def _put(self, item: Message | EdgeSSLError | None) -> None:
        while not self._closing.is_set():
            try:
                self._inbox.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
