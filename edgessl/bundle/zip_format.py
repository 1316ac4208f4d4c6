"""The one byte layout that a bundle's zip file has: stored members, fixed dates, no extras.

`edgessl.bundle.archive` writes these bytes and, when it opens a bundle, compares everything
around the members' data with them, so that no byte of the file escapes a check.
Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "LOCAL_HEADER_BYTES",
    "MAX_ARCHIVE_BYTES",
    "MAX_MEMBERS",
    "Member",
    "central_directory",
    "local_header",
]

LOCAL_HEADER_BYTES = 30
"""Size of a local header without the name."""
MAX_ARCHIVE_BYTES = 2**32 - 2
"""Beyond this, offsets need the zip64 extension, which bundles do not use."""
MAX_MEMBERS = 2**16 - 2

_VERSION = 20
_UNIX = 3 << 8
_DATE = 0x0021  # 1980-01-01, the earliest that the format can say
_REGULAR_FILE = 0o100644 << 16


@dataclass(frozen=True)
class Member:
    """One stored member: ASCII name, size in bytes, CRC-32 of the data."""

    name: str
    size: int
    crc32: int


def local_header(member: Member) -> bytes:
    """The bytes before a member's data."""
    name = member.name.encode("ascii")
    return b"PK\3\4" + struct.pack("<5H3I2H", *_common(member, name)) + name


def central_directory(members: Sequence[Member]) -> bytes:
    """The bytes after the last member's data; members are in the order of the file."""
    result = b""
    offset = 0
    for member in members:
        name = member.name.encode("ascii")
        fields = (_UNIX | _VERSION, *_common(member, name), 0, 0, 0, _REGULAR_FILE, offset)
        result += b"PK\1\2" + struct.pack("<6H3I5H2I", *fields) + name
        offset += len(local_header(member)) + member.size
    count = len(members)
    return result + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, len(result), offset, 0)


def _common(member: Member, name: bytes) -> tuple[int, ...]:
    flags = method = time = extra = 0
    sizes = (member.crc32, member.size, member.size)
    return (_VERSION, flags, method, time, _DATE, *sizes, len(name), extra)
