"""The index of a table of teacher features: what is in it, checked and replaced as a whole.

``index``: one line of JSON, then (N, 10) bytes of content hashes, K bit fields of N bits that say
which rows of a view are there, and K arrays of checksums of its blocks. Hashes stand once for all
views, so that the whole table stays within 5 % of N × K × D × 2 bytes where K × D is 128 or more.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.files import atomic_path

__all__ = ["BLOCK_ROWS", "HASH_BYTES", "TableIndex", "read_index", "shorten"]

HASH_BYTES = 10
"""80 bits: among a million samples, two share one with a probability below 1e-12."""

BLOCK_ROWS = 256
_MAGIC = "edgessl teacher features 2"


@dataclass
class TableIndex:
    """What a table holds.

    Attributes:
        header: Whose table it is; a table with another header is rebuilt.
        hashes: (N,) S10, one for each sample, in the order of the rows.
        present: View → (N,) bool, the rows that were written completely.
        checks: View → (blocks,) uint32, CRC-32 of the written rows of each block.
    """

    header: dict[str, Any]
    hashes: NDArray[np.bytes_] = field(default_factory=lambda: np.empty(0, f"S{HASH_BYTES}"))
    present: list[NDArray[np.bool_]] = field(default_factory=list)
    checks: list[NDArray[np.uint32]] = field(default_factory=list)

    def grow(self, hashes: NDArray[np.bytes_], views: int) -> None:
        """Make room for the samples that are not known yet, and for more views."""
        new = np.setdiff1d(hashes, self.hashes)
        self.hashes = np.concatenate([self.hashes, new])
        blocks = -(-len(self.hashes) // BLOCK_ROWS)
        while len(self.present) < views:
            self.present.append(np.zeros(0, dtype=np.bool_))
            self.checks.append(np.zeros(0, dtype=np.uint32))
        for view in range(len(self.present)):
            more = len(self.hashes) - len(self.present[view])
            self.present[view] = np.pad(self.present[view], (0, more))
            self.checks[view] = np.pad(self.checks[view], (0, blocks - len(self.checks[view])))

    def places(self, hashes: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Row of each of these samples; all must be known."""
        order = np.argsort(self.hashes)
        return order[np.searchsorted(self.hashes, hashes, sorter=order)].astype(np.int64)

    def check(self, view: int, block: int, rows: NDArray[np.float16]) -> int:
        """CRC-32 of the written rows of a block, given all rows of the view."""
        part = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
        return zlib.crc32(np.ascontiguousarray(rows[part][self.present[view][part]]).tobytes())

    def write(self, path: Path) -> None:
        """Replace the index at ``path``."""
        fields = [self.hashes.tobytes()]
        fields += [np.packbits(present).tobytes() for present in self.present]
        fields += [checks.astype("<u4").tobytes() for checks in self.checks]
        body = b"".join(fields)
        first = {
            "magic": _MAGIC,
            "header": self.header,
            "samples": len(self.hashes),
            "views": len(self.present),
            "crc": zlib.crc32(body),
        }
        with atomic_path(path) as temporary:
            temporary.write_bytes(json.dumps(first, sort_keys=True).encode() + b"\n" + body)


def read_index(path: Path, header: dict[str, Any]) -> TableIndex | str:
    """Read an index, or say what is wrong with it.

    Args:
        path: The file.
        header: What the table must be of.
    """
    try:
        line, _, body = path.read_bytes().partition(b"\n")
        first = json.loads(line)
        samples, views = int(first["samples"]), int(first["views"])
        known = first["magic"] == _MAGIC and first["crc"] == zlib.crc32(body)
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"
    if known and first["header"] != header:
        other = first["header"].get("teacher") != header.get("teacher")
        return "of another teacher" if other else "of another kind"
    bits, blocks = -(-samples // 8), -(-samples // BLOCK_ROWS)
    if not known or len(body) != samples * HASH_BYTES + views * (bits + 4 * blocks):
        return "damaged"
    index = TableIndex(header, np.frombuffer(body[: samples * HASH_BYTES], f"S{HASH_BYTES}").copy())
    fields = np.frombuffer(body[samples * HASH_BYTES :], np.uint8)
    masks = fields[: views * bits].reshape(views, bits)
    checks = fields[views * bits :].tobytes()
    for view in range(views):
        index.present.append(np.unpackbits(masks[view], count=samples).astype(np.bool_))
        index.checks.append(np.frombuffer(checks, "<u4", blocks, view * 4 * blocks).copy())
    return index


def shorten(content_hashes: list[str]) -> NDArray[np.bytes_]:
    """(N,) S10 of SHA-256 in hexadecimal."""
    return np.array([bytes.fromhex(text)[:HASH_BYTES] for text in content_hashes], f"S{HASH_BYTES}")
