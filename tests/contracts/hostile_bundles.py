"""Seeded ways to damage a bundle, or to make it hostile."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.bundle.arrays import save_arrays
from edgessl.bundle.zip_format import Member, central_directory, local_header

__all__ = [
    "BUNDLE_KINDS",
    "HostileBundle",
    "hostile_bundle",
    "hostile_bundles",
    "places",
    "replace",
    "rewritten",
]

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**63, -(2**63), 10**400, 1e308, float("nan"),
    float("inf"),
    "", "x", "x" * 100_000, "../../escaped", "/etc/passwd", "a\\b", "C:/x", "nul\0byte",
    "two\nlines",
    "\x1b[2J", "\ud800", "canaries/inputs.npz", "manifest.json", "engine/model.onnx", "onnxruntime",
    "openvino", "tensorrt", "qnn", "portable", "native", "float32", "object", "float7", "U99999",
    [], {}, [None], ["x"] * 50_000, [[[[]]]], {"threads": 10**9}, {"threads": -1}, {"x": {"y": 1}},
    {"name": "image", "dtype": "float32", "shape": [2**62, 2**62]}, [2**40, 2**40], [-1, 3, 8, 8],
)  # fmt: skip


@dataclass(frozen=True)
class HostileBundle:
    """A damaged bundle.

    Attributes:
        kind: One of `BUNDLE_KINDS`.
        data: The file's bytes.
    """

    kind: str
    data: bytes


def hostile_bundles(good: bytes, count: int, *, seed: int) -> Iterator[HostileBundle]:
    """``count`` bundles, all kinds in turn."""
    for index in range(count):
        kind = BUNDLE_KINDS[index % len(BUNDLE_KINDS)]
        yield hostile_bundle(good, kind, seed=seed * 1_000_003 + index)


def hostile_bundle(good: bytes, kind: str, *, seed: int) -> HostileBundle:
    """One bundle of a kind, made from a good one."""
    rng = random.Random(f"{kind} {seed}")
    return HostileBundle(kind, _KINDS[kind](good, rng))


def rewritten(good: bytes, manifest: Any, members: Mapping[str, bytes] | None = None) -> bytes:
    """A bundle, byte for byte as edgessl lays it out, with another manifest and other members."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    contents = {"manifest.json": text, **(_members(good) if members is None else members)}
    layout = [Member(name, len(data), zlib.crc32(data)) for name, data in contents.items()]
    parts = [
        local_header(member) + data for member, data in zip(layout, contents.values(), strict=True)
    ]
    return b"".join(parts) + central_directory(layout)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, as a path of keys and indices."""
    found = [at]
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        found += places(inner, (*at, key))
    return found


def replace(value: Any, at: tuple[Any, ...], by: Any) -> Any:
    """The JSON value with another value in one place; ``Ellipsis`` deletes."""
    if not at:
        return None if by is Ellipsis else by
    result = copy.deepcopy(value)
    parent = result
    for key in at[:-1]:
        parent = parent[key]
    if by is Ellipsis:
        del parent[at[-1]]
    else:
        parent[at[-1]] = by
    return result


def _manifest(good: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        return json.loads(archive.read("manifest.json"))


def _members(good: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        return {n: archive.read(n) for n in archive.namelist() if n != "manifest.json"}


# Bytes


def _truncated(good: bytes, rng: random.Random) -> bytes:
    return good[: rng.randrange(len(good))]


def _bits(good: bytes, rng: random.Random) -> bytes:
    changed = bytearray(good)
    for _ in range(rng.choice((1, 1, 3, 20))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _headers(good: bytes, rng: random.Random) -> bytes:
    """Bytes of the zip's own structures."""
    changed = bytearray(good)
    marks = [i for i in range(len(good)) if good[i : i + 4] in (b"PK\1\2", b"PK\3\4", b"PK\5\6")]
    start = rng.choice(marks)
    for _ in range(rng.choice((1, 4))):
        place = min(start + rng.randrange(46), len(good) - 1)
        changed[place] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _spliced(good: bytes, rng: random.Random) -> bytes:
    a, b, place = (rng.randrange(len(good)) for _ in range(3))
    return rng.choice((good[:place] + good[min(a, b) : max(a, b)] + good[place:], good + good))


# The zip's members


def _archive(good: bytes, rng: random.Random) -> bytes:
    """Members that a zip may have and a bundle must not."""
    members = _members(good)
    manifest = _manifest(good)
    stream = io.BytesIO()
    names = (
        "../escaped",
        "/absolute/escaped",
        "a/../../escaped",
        "C:\\escaped",
        "x\n",
        "ENGINE/model.onnx",
    )
    with zipfile.ZipFile(stream, "w") as archive:
        extra = zipfile.ZipInfo(rng.choice((*names, "extra.bin")))
        data = bytes(2**20)
        choice = rng.randrange(6)
        if choice == 0:
            extra.external_attr = (stat.S_IFLNK | 0o777) << 16
            data = b"../escaped"
        elif choice == 1:
            extra.compress_type = zipfile.ZIP_DEFLATED  # a thousandfold bomb
            data = bytes(2**26)
        elif choice == 2:
            extra.compress_type = zipfile.ZIP_LZMA
        elif choice == 3:
            extra.extra = struct.pack("<HHQQ", 1, 16, 2**60, 2**60)
        elif choice == 4:
            extra.comment = b"x" * 60_000
        manifest["files"].append({"path": "extra.bin", "sha256": "0" * 64, "size_bytes": len(data)})
        archive.writestr(zipfile.ZipInfo("manifest.json"), json.dumps(manifest))
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.writestr(extra, data)
    return stream.getvalue()


def _many_members(good: bytes, rng: random.Random) -> bytes:
    count = rng.choice((100, 100, 1000, 70_000))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("manifest.json", json.dumps(_manifest(good)))
        for index in range(count):
            archive.writestr(str(index), b"")
    return stream.getvalue()


def _declared_sizes(good: bytes, rng: random.Random) -> bytes:
    """Huge or false sizes in a directory that is otherwise as it must be."""
    members = {"manifest.json": json.dumps(_manifest(good)).encode(), **_members(good)}
    layout, parts = [], []
    for name, data in members.items():
        size = rng.choice((len(data), len(data), 2**29, 2**28, 0, len(data) + 1))
        member = Member(name, size, zlib.crc32(data))
        layout.append(member)
        parts.append(local_header(member) + data)
    return b"".join(parts) + central_directory(layout)


# The manifest


def _one_field(good: bytes, rng: random.Random) -> bytes:
    manifest = _manifest(good)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice(places(manifest))
        by = rng.choice((*_VALUES, Ellipsis)) if at else rng.choice(_VALUES)
        manifest = replace(manifest, at, by)
        if not isinstance(manifest, dict):
            break
    return rewritten(good, manifest)


def _new_field(good: bytes, rng: random.Random) -> bytes:
    manifest = _manifest(good)
    inner = [at for at in places(manifest) if isinstance(_get(manifest, at), dict)]
    names = (
        "surprise",
        "variants",
        "stand_ins",
        "requirements",
        "native",
        "constants",
        "__class__",
    )
    _get(manifest, rng.choice(inner))[rng.choice(names)] = rng.choice(_VALUES)
    return rewritten(good, manifest)


def _other_builds(good: bytes, rng: random.Random) -> bytes:
    """Variants and stand-ins that name what is not theirs."""
    manifest = _manifest(good)
    engine = {
        "name": rng.choice(("onnxruntime", "openvino", "tensorrt", "nonsense", "", "../x")),
        "version": rng.choice(("1", "", "99.99", "x" * 1000)),
        "options": rng.choice(
            ({}, {"threads": 2**40}, {"threads": "all"}, {"x": 1}, {"threads": 2**62})
        ),
    }
    model = rng.choice(
        ("canaries/inputs.npz", "engine/model.onnx", "missing", "../x", "manifest.json")
    )
    stand_in = {"kind": rng.choice(("host", "emulator", "other")), "engine": engine, "model": model}
    variant = {
        "name": rng.choice(("other", "\x1b[2J", "")), "precision": "fp32", "engine": engine,
        "model": model, "fidelity": None, "canaries": manifest["canaries"], "stand_ins": [stand_in],
    }  # fmt: skip
    manifest["stand_ins"] = [stand_in] * rng.choice((0, 1, 1000))
    manifest["variants"] = [variant] * rng.choice((0, 1, 1000))
    manifest["kind"] = rng.choice(("native", "portable"))
    return rewritten(good, manifest)


def _requirements(good: bytes, rng: random.Random) -> bytes:
    manifest = _manifest(good)
    texts = (
        "",
        "x86_64",
        "aarch64",
        "99",
        "1.2.3",
        "-1",
        "x" * 10_000,
        "\n",
        "8.7",
        "…",
        "1..2",
        "٣",
    )
    manifest["requirements"] = {
        name: rng.choice((None, *texts, 3, True, ["avx2"], ["\x1b"], 10**30))
        for name in rng.sample(sorted(manifest["requirements"]), k=3)
    }
    return rewritten(good, manifest)


def _text(good: bytes, rng: random.Random) -> bytes:
    """A manifest that is hardly JSON."""
    text = json.dumps(_manifest(good)).encode()
    return rewritten(good, rng.choice((
        b"[" * 200_000, b"{" * 200_000, b'{"a":' * 100_000, text[: rng.randrange(len(text))],
        text.replace(b"null", b"NaN"), text.replace(b"4", b"1e9999"), b"\xff\xfe" + text,
        b"\xef\xbb\xbf" + text,
        text.replace(b'"kind"', b'"kind": "portable", "kind"'), text + text, b"9" * 100_000,
        b'{"schema_version": ' + b"1" * 10_000 + b"}", text.decode().encode("utf-16"),
    )))  # fmt: skip


# The members' content, with the right hashes


def _canaries(good: bytes, rng: random.Random) -> bytes:
    members = _members(good)
    name = rng.choice(("canaries/inputs.npz", "canaries/outputs.npz"))
    key = "image" if "inputs" in name else "embedding"
    shape = (4, 3, 8, 8) if "inputs" in name else (4, 4)
    values = np.ones(shape, np.float32)
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**40}, {2**20}), }}"
    lying = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"
    bombs = io.BytesIO()
    with zipfile.ZipFile(bombs, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{key}.npy", bytes(2**27))
    pickled = io.BytesIO()
    np.savez(pickled, **{key: np.array([print], dtype=object)})
    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as archive:
        archive.writestr(f"{key}.npy", lying)
    members[name] = rng.choice((
        save_arrays({key: np.full(shape, np.nan, np.float32)}),
        save_arrays({key: np.full(shape, 3e38, np.float32)}),
        save_arrays({key: values.astype(np.float64)}),
        save_arrays({key: values[:0]}),
        save_arrays({key: values[:1]}),
        save_arrays({key: values.reshape(-1)}),
        save_arrays({key: np.float32(1)}),
        save_arrays({"other": values}),
        save_arrays({key: values, "other": values}),
        save_arrays({key: np.array(["text"])}),
        save_arrays({key: values.astype(np.complex64)}),
        save_arrays({}),
        save_arrays({"../escaped": values}),
        bombs.getvalue(),
        pickled.getvalue(),
        huge.getvalue(),
        b"",
        b"no npz",
    ))  # fmt: skip
    return _with_hashes(good, members)


def _engine_file(good: bytes, rng: random.Random) -> bytes:
    """Another engine file under the right hash; whoever makes such a bundle makes it knowingly."""
    members = _members(good)
    model = members["engine/model.onnx"]
    members["engine/model.onnx"] = rng.choice(
        (b"", model[: rng.randrange(len(model))], b"x" * 1000)
    )
    return _with_hashes(good, members)


def _with_hashes(good: bytes, members: Mapping[str, bytes]) -> bytes:
    manifest = _manifest(good)
    for entry in manifest["files"]:
        data = members[entry["path"]]
        entry.update(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    return rewritten(good, manifest, members)


def _get(value: Any, at: tuple[Any, ...]) -> Any:
    for key in at:
        value = value[key]
    return value


_KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": _truncated,
    "bits": _bits,
    "headers": _headers,
    "spliced": _spliced,
    "members": _archive,
    "many members": _many_members,
    "declared sizes": _declared_sizes,
    "field": _one_field,
    "new field": _new_field,
    "other builds": _other_builds,
    "requirements": _requirements,
    "text": _text,
    "canaries": _canaries,
    "engine file": _engine_file,
}
BUNDLE_KINDS = tuple(_KINDS)
"""What can be done to a bundle."""
