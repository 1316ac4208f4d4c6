"""Addresses of devices: ``ssh://[user@]host[:port]``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from edgessl.errors import UsageError

__all__ = ["Address", "parse_address"]

# No part may begin with a dash, which OpenSSH would take for an option, and none may hold what a
# shell or ssh_config would expand.
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?:(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}))|\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)


@dataclass(frozen=True)
class Address:
    """Where a device answers.

    Attributes:
        user: None leaves it to ``~/.ssh/config``, and so does a port of None.
        host: A name, an alias of ``~/.ssh/config``, or an IP address.
    """

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        return f"ssh://{user}{host}{port}"

    @property
    def arguments(self) -> list[str]:
        """What the OpenSSH client is told, the host last."""
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port else []
        return [*user, *port, "--", self.host]


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        UsageError: It is not one; nothing of it can become an option of ``ssh``.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not an address; write ssh://user@host or ssh://host:port")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"{text!r}: port {port} does not exist; ports are 1 to 65535")
    if match["ipv6"]:
        try:
            ipaddress.IPv6Address(match["ipv6"])
        except ipaddress.AddressValueError as error:
            raise UsageError(f"{text!r}: no IPv6 address ({error}); correct it") from error
    return Address(match["host"] or match["ipv6"], match["user"], port)
