"""Checks on a bundle's zip structure, all made before any member is used."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
from collections.abc import Collection
from typing import BinaryIO

from edgessl.bundle.manifest import Manifest, Variant
from edgessl.bundle.zip_format import MAX_MEMBERS, Member, central_directory, local_header
from edgessl.errors import BundleError

__all__ = [
    "COPY_AGAIN",
    "MANIFEST_NAME",
    "check_layout",
    "check_listing",
    "check_members",
    "check_names",
    "check_references",
    "read_directory",
]

MANIFEST_NAME = "manifest.json"
COPY_AGAIN = "the file is damaged; copy or compile it again"

_MAX_MANIFEST_BYTES = 16 * 1024**2
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_ZIP_ERRORS = (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, struct.error)
_UNTRUSTED = "do not use this file; compile the bundle again"


def read_directory(where: str, file: BinaryIO) -> list[zipfile.ZipInfo]:
    """The central directory as the standard library reads it.

    Raises:
        BundleError: Not a zip file, or one that ends early.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except _ZIP_ERRORS as error:
        raise BundleError(f"{where}: not a whole bundle ({error}); copy it again") from error


def check_members(where: str, infos: list[zipfile.ZipInfo], max_bytes: int) -> None:
    """Refuse members that could harm: paths, links, duplicates, encryption, compression, size.

    Raises:
        BundleError: One of these, naming the member.
    """
    if not infos or infos[0].orig_filename != MANIFEST_NAME:
        raise BundleError(
            f"{where}: does not begin with {MANIFEST_NAME}; this is no edgessl bundle"
        )
    if len(infos) > MAX_MEMBERS:
        raise BundleError(f"{where}: {len(infos)} members, at most {MAX_MEMBERS}; {_UNTRUSTED}")
    check_names([info.orig_filename for info in infos], where)
    for info in infos:
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG) or info.is_dir():
            raise BundleError(f"{where}: {info.filename} is a link or folder; {_UNTRUSTED}")
        if info.flag_bits & 0x1:
            raise BundleError(f"{where}: {info.filename} is encrypted; {_UNTRUSTED}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise BundleError(f"{where}: {info.filename} is compressed; {_UNTRUSTED}")
    total = sum(info.file_size for info in infos)
    if total > max_bytes or infos[0].file_size > _MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{where}: declares {total} bytes, the limit is {max_bytes} "
            f"(manifest: {_MAX_MANIFEST_BYTES}); raise max_bytes if you trust the file"
        )


def check_names(names: Collection[str], where: str) -> None:
    """Refuse member paths that leave the folder, clash, or differ between file systems.

    Raises:
        BundleError: The first such path.
    """
    seen: set[str] = set()
    for name in names:
        if not _SAFE_NAME.fullmatch(name):
            raise BundleError(f"{where}: unsafe member path {name[:80]!r}; {_UNTRUSTED}")
        if name.lower() in seen:
            raise BundleError(f"{where}: two members are called {name[:80]!r}; {_UNTRUSTED}")
        seen.add(name.lower())
    for name in seen:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in seen:
                raise BundleError(f"{where}: {name!r} lies below another file; {_UNTRUSTED}")


def check_layout(where: str, file: BinaryIO, infos: list[zipfile.ZipInfo]) -> dict[str, int]:
    """Compare every byte outside the members' data with what edgessl writes.

    Returns:
        Member path → offset of its data.

    Raises:
        BundleError: Bytes differ, are missing, or follow the end.
    """
    members = [Member(i.filename, i.file_size, i.CRC) for i in infos]
    offsets: dict[str, int] = {}
    offset = 0
    for member in members:
        header = local_header(member)
        _expect(where, file, offset, header)
        offsets[member.name] = offset + len(header)
        offset += len(header) + member.size
    directory = central_directory(members)
    _expect(where, file, offset, directory)
    if file.read(1):
        raise BundleError(f"{where}: bytes follow the end of the bundle; {COPY_AGAIN}")
    return offsets


def check_listing(where: str, infos: list[zipfile.ZipInfo], manifest: Manifest) -> None:
    """Compare the members with the manifest's list.

    Raises:
        BundleError: A member is missing, not listed, or of another size.
    """
    present = {info.filename: info.file_size for info in infos[1:]}
    listed = {entry.path: entry.size_bytes for entry in manifest.files}
    for name in sorted(present.keys() | listed.keys()):
        if name not in present:
            raise BundleError(f"{where}: {name} is missing; {COPY_AGAIN}")
        if name not in listed:
            raise BundleError(f"{where}: {name} is not in the manifest; {_UNTRUSTED}")
        if present[name] != listed[name]:
            raise BundleError(
                f"{where}: {name} has {present[name]} bytes, the manifest says {listed[name]}; "
                f"{COPY_AGAIN}"
            )


def check_references(manifest: Manifest, where: str) -> None:
    """Check that the files which the manifest names are among its members.

    Raises:
        BundleError: A model or a canary file is not.
    """
    named = []
    builds: list[Manifest | Variant] = [manifest, *manifest.variants]
    for build in builds:
        named += [build.model, *(stand_in.model for stand_in in build.stand_ins)]
        if build.canaries is not None:
            named += [build.canaries.inputs, build.canaries.outputs]
    listed = {entry.path for entry in manifest.files}
    for name in named:
        if name not in listed:
            raise BundleError(f"{where}: the manifest names {name}, which is not in the bundle")


def _expect(where: str, file: BinaryIO, offset: int, expected: bytes) -> None:
    file.seek(offset)
    if file.read(len(expected)) != expected:
        raise BundleError(
            f"{where}: byte {offset} and following are not as edgessl writes them; {COPY_AGAIN}"
        )
