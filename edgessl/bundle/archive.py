"""Write and open bundles: deterministic, uncompressed zip files that are checked before use."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from edgessl.bundle.manifest import FileEntry, Manifest, parse_manifest
from edgessl.bundle.safety import (
    COPY_AGAIN,
    MANIFEST_NAME,
    check_layout,
    check_listing,
    check_members,
    check_names,
    check_references,
    read_directory,
)
from edgessl.bundle.zip_format import (
    LOCAL_HEADER_BYTES,
    MAX_ARCHIVE_BYTES,
    MAX_MEMBERS,
    Member,
    central_directory,
    local_header,
)
from edgessl.closing import Closing
from edgessl.errors import BundleError
from edgessl.files import atomic_path, output_errors

__all__ = ["MAX_BUNDLE_BYTES", "Bundle", "open_bundle", "pack"]

MAX_BUNDLE_BYTES = 4 * 1024**3
"""Default limit on the declared sizes of all members together."""

_BLOCK_BYTES = 1 << 20


def pack(out: Path, manifest: Manifest, members: Mapping[str, Path | bytes]) -> Manifest:
    """Write a bundle atomically; equal contents give equal bytes.

    Args:
        out: Where the bundle goes.
        manifest: Its manifest; ``files`` is filled in here.
        members: Member path → a file or its bytes. Files are streamed, not held in memory.

    Returns:
        The manifest as written.

    Raises:
        BundleError: A member path that bundles do not allow, a file that the manifest names and
            that is missing, more than 4 GiB, or a file that changes while it is packed.
        OutputError: ``out`` cannot be written.
    """
    out = Path(out)
    check_names([MANIFEST_NAME, *members], out.name)
    contents = {name: members[name] for name in sorted(members)}
    entries = {name: _entry(name, content) for name, content in contents.items()}
    manifest = manifest.model_copy(update={"files": tuple(entry for entry, _ in entries.values())})
    check_references(manifest, out.name)
    text = manifest.to_json().encode()
    layout = [
        Member(MANIFEST_NAME, len(text), zlib.crc32(text)),
        *(Member(entry.path, entry.size_bytes, crc) for entry, crc in entries.values()),
    ]
    total = sum(LOCAL_HEADER_BYTES + len(member.name) + member.size for member in layout)
    if total > MAX_ARCHIVE_BYTES or len(layout) > MAX_MEMBERS:
        raise BundleError(
            f"{out.name}: {total} bytes in {len(layout)} members; a bundle holds at most 4 GiB "
            f"and {MAX_MEMBERS} members; choose a smaller model"
        )
    with atomic_path(out) as temporary, open(temporary, "wb") as file:
        for member, content in zip(layout, [text, *contents.values()], strict=True):
            file.write(local_header(member))
            _copy(content, file, member)
        file.write(central_directory(layout))
    return manifest


def open_bundle(path: Path, *, verify: bool = True, max_bytes: int = MAX_BUNDLE_BYTES) -> Bundle:
    """Open a bundle after checking that it is safe and whole.

    Args:
        path: The ``.edge`` file.
        verify: Compare every member with its hash now; otherwise a member is compared when it
            is read or extracted.
        max_bytes: Limit on the declared sizes of all members together.

    Raises:
        BundleError: Not a bundle, truncated, changed, or unsafe: a path that leaves the folder,
            a link, a duplicate, an encrypted or compressed member, too large, a member that the
            manifest does not list or the reverse, an unknown schema version.
    """
    path = Path(path)
    try:
        file = open(path, "rb")  # noqa: SIM115 - the Bundle owns and closes it
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    try:
        bundle = Bundle(path, file, max_bytes=max_bytes)
        if verify:
            bundle.verify()
    except BaseException:
        file.close()
        raise
    return bundle


class Bundle(Closing):
    """An opened bundle whose structure has been checked; use it as a context manager.

    Attributes:
        path: The file.
        manifest: Its manifest.
    """

    def __init__(self, path: Path, file: BinaryIO, *, max_bytes: int) -> None:
        self.path = path
        self._file = file
        infos = read_directory(path.name, file)
        check_members(path.name, infos, max_bytes)
        self._offsets = check_layout(path.name, file, infos)
        self._file.seek(self._offsets[MANIFEST_NAME])
        text = self._file.read(infos[0].file_size)
        if zlib.crc32(text) != infos[0].CRC:
            raise BundleError(f"{path.name}: {MANIFEST_NAME} does not match its CRC; {COPY_AGAIN}")
        self.manifest = parse_manifest(text, where=path.name)
        check_listing(path.name, infos, self.manifest)
        check_references(self.manifest, path.name)
        self._entries = {entry.path: entry for entry in self.manifest.files}

    def verify(self) -> None:
        """Compare every member with its hash.

        Raises:
            BundleError: A member differs.
        """
        for name in self._entries:
            for _ in self._blocks(name):
                pass

    def read(self, name: str) -> bytes:
        """One member's bytes, compared with its hash.

        Raises:
            BundleError: There is no such member, or it differs.
        """
        return b"".join(self._blocks(name))

    def extract(self, directory: Path) -> Path:
        """Write all members below a folder, comparing each with its hash on the way.

        Args:
            directory: Where they go; made if it does not exist. Files there are not replaced.

        Returns:
            The path of the extracted model file.

        Raises:
            BundleError: A member differs from its hash.
            OutputError: The folder cannot be written or the disk is full.
        """
        directory = Path(directory)
        for name in self._entries:
            place = directory / name
            with output_errors(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(place, "xb") as out:
                    out.writelines(self._blocks(name))
        return directory / self.manifest.model

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _blocks(self, name: str) -> Iterator[bytes]:
        """One member in pieces; at the end its hash is compared."""
        entry = self._entries.get(name)
        if entry is None:
            raise BundleError(f"{self.path.name}: has no member '{name}'; compile it again")
        self._file.seek(self._offsets[name])
        digest = hashlib.sha256()
        left = entry.size_bytes
        while left and (block := self._file.read(min(_BLOCK_BYTES, left))):
            digest.update(block)
            left -= len(block)
            yield block
        if digest.hexdigest() != entry.sha256:
            raise BundleError(
                f"{self.path.name}: {name} does not match its sha256 in the manifest; {COPY_AGAIN}"
            )


def _read(content: Path | bytes) -> Iterator[bytes]:
    stream = io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")  # noqa: SIM115
    with stream:
        while block := stream.read(_BLOCK_BYTES):
            yield block


def _entry(name: str, content: Path | bytes) -> tuple[FileEntry, int]:
    """What the manifest says about a member, and its CRC-32."""
    digest = hashlib.sha256()
    crc = size = 0
    for block in _read(content):
        digest.update(block)
        crc = zlib.crc32(block, crc)
        size += len(block)
    return FileEntry(path=name, sha256=digest.hexdigest(), size_bytes=size), crc


def _copy(content: Path | bytes, file: BinaryIO, member: Member) -> None:
    crc = 0
    for block in _read(content):
        file.write(block)
        crc = zlib.crc32(block, crc)
    if crc != member.crc32:
        raise BundleError(f"{member.name}: changed while it was packed; compile again")
