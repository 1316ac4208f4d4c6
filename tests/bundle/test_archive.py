"""Bundles: equal contents give equal bytes, and no damaged or hostile file gets through."""

from __future__ import annotations

import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.tiny_bundle import write_bundle
from edgessl.bundle import archive
from edgessl.bundle.archive import open_bundle, pack
from edgessl.bundle.manifest import EngineSpec, FileEntry, Manifest, Provenance
from edgessl.bundle.zip_format import Member, central_directory, local_header
from edgessl.errors import BundleError, OutputError
from edgessl.files import sha256_file

CONTENT = b"engine bytes"


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "kind": "native",
        "target": "host",
        "precision": "fp32",
        "engine": EngineSpec(name="onnxruntime", version="1"),
        "model": "engine/model.onnx",
        "inputs": (),
        "outputs": (),
        "batch_size": 1,
        "embedding_dim": None,
        "preprocessing": None,
        "fidelity": None,
        "canaries": None,
        "provenance": Provenance(
            edgessl_version="0",
            model_sha256="0" * 64,
            calibration_sha256=None,
            calibration_samples=0,
            seed=0,
            toolchain={},
        ),
    }
    return Manifest.model_validate({**values, **changes})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "model.edge"
    pack(path, manifest(), {"engine/model.onnx": CONTENT, "notes.txt": b"hello"})
    return path


def test_what_goes_in_comes_out(bundle: Path, tmp_path: Path) -> None:
    with open_bundle(bundle) as opened:
        assert [entry.path for entry in opened.manifest.files] == ["engine/model.onnx", "notes.txt"]
        assert opened.read("notes.txt") == b"hello"
        model = opened.extract(tmp_path / "out")
        assert model.read_bytes() == CONTENT
        with pytest.raises(BundleError, match=r"other\.txt"):
            opened.read("other.txt")


def test_the_standard_library_reads_it(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == ["manifest.json", "engine/model.onnx", "notes.txt"]
        assert opened.read("engine/model.onnx") == CONTENT
        assert {info.date_time for info in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}


def test_equal_contents_give_equal_bytes(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "any.name"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    file.chmod(0o600)
    again = tmp_path / "other.edge"
    pack(again, manifest(), {"notes.txt": b"hello", "engine/model.onnx": file})
    assert again.read_bytes() == bundle.read_bytes()


def test_any_changed_byte_is_caught(bundle: Path) -> None:
    good = bundle.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        bundle.write_bytes(bad)
        with pytest.raises(BundleError, match=r"^model\.edge: ") as caught:
            open_bundle(bundle)
        assert "\n" not in str(caught.value), position


def test_any_truncation_and_any_appendix_is_caught(bundle: Path) -> None:
    good = bundle.read_bytes()
    for size in range(0, len(good), 5):
        bundle.write_bytes(good[:size])
        with pytest.raises(BundleError):
            open_bundle(bundle)
    for bad in (good + b"x", b"x" + good, good + good):
        bundle.write_bytes(bad)
        with pytest.raises(BundleError):
            open_bundle(bundle)


def test_without_verify_a_member_is_compared_when_it_is_used(bundle: Path, tmp_path: Path) -> None:
    bundle.write_bytes(bundle.read_bytes().replace(CONTENT, b"ENGINE bytes"))
    with open_bundle(bundle, verify=False) as opened:
        assert opened.read("notes.txt") == b"hello"
        with pytest.raises(BundleError, match="sha256"):
            opened.read("engine/model.onnx")
        with pytest.raises(BundleError, match="sha256"):
            opened.extract(tmp_path / "out")


def hostile(path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    """A zip with a valid manifest in front that lists every entry."""
    listed = [(e if isinstance(e, str) else e.filename, data) for e, data in entries]
    values = json.loads(manifest(model="a").to_json())
    values["files"] = [
        {"path": name, "sha256": "0" * 64, "size_bytes": len(data)} for name, data in listed
    ]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(zipfile.ZipInfo("manifest.json"), json.dumps(values))
        for entry, data in entries:
            info = zipfile.ZipInfo(entry) if isinstance(entry, str) else entry
            file.writestr(info, data)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/etc/evil",
        "C:/evil",
        "C:evil",
        "a\\b",
        "..\\evil",
        "./a",
        "a//b",
        "a/",
        ".hidden",
        "a\nb",
        "ä",
        "",
    ],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"unsafe member path|link or folder"):
        open_bundle(hostile(tmp_path / "x.edge", [(name, b"x")]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.edge"]


def test_a_name_with_a_nul_byte_is_not_shortened(tmp_path: Path) -> None:
    path = hostile(tmp_path / "x.edge", [("aXevil", b"x")])
    path.write_bytes(path.read_bytes().replace(b"aXevil", b"a\0evil"))
    with pytest.raises(BundleError, match="unsafe member path"):
        open_bundle(path)


def symlink() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("a")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def compressed() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("a")
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([(symlink(), b"/etc/passwd")], "link"),
        ([(compressed(), b"0" * 100_000)], "compressed"),
        ([("a", b"x"), ("A", b"x")], "two members"),
        ([("a", b"x"), ("a/b", b"x")], "below another file"),
    ],
)
def test_harmful_members_are_refused(
    tmp_path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]], reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        open_bundle(hostile(tmp_path / "x.edge", entries))


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile warns, and that is what is tested
def test_duplicate_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="two members"):
        open_bundle(hostile(tmp_path / "x.edge", [("a", b"x"), ("a", b"y")]))


def patch_directory(path: Path, name: bytes, offset: int, value: bytes) -> None:
    """Change a field of the central directory entry of a member."""
    data = bytearray(path.read_bytes())
    start = data.rfind(name) - 46
    assert data[start : start + 4] == b"PK\1\2"
    data[start + offset : start + offset + len(value)] = value
    path.write_bytes(data)


def test_an_encrypted_member_is_refused(bundle: Path) -> None:
    patch_directory(bundle, b"notes.txt", 8, struct.pack("<H", 1))
    with pytest.raises(BundleError, match="encrypted"):
        open_bundle(bundle)


def test_a_bomb_is_refused_by_its_declared_size(bundle: Path) -> None:
    huge = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    patch_directory(bundle, b"notes.txt", 20, huge)
    with pytest.raises(BundleError, match="limit is"):
        open_bundle(bundle)


def test_the_limit_can_be_set(bundle: Path) -> None:
    with pytest.raises(BundleError, match="limit is 10 "):
        open_bundle(bundle, max_bytes=10)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write a bundle, byte for byte as edgessl does, around a changed manifest."""
    with zipfile.ZipFile(path) as file:
        values = json.loads(file.read("manifest.json"))
        members = {n: file.read(n) for n in file.namelist() if n != "manifest.json"}
    change(values)
    texts = {"manifest.json": json.dumps(values).encode(), **members}
    layout = [Member(n, len(d), zlib.crc32(d)) for n, d in texts.items()]
    parts = [local_header(m) + d for m, d in zip(layout, texts.values(), strict=True)]
    path.write_bytes(b"".join(parts) + central_directory(layout))
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(schema_version=2), "schema version 2, this edgessl reads 1"),
        (lambda m: m.pop("schema_version"), "schema version None"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.update(batch_size="many"), "batch_size"),
        (lambda m: m["files"].pop(), "notes.txt is not in the manifest"),
        (lambda m: m["files"].append({**m["files"][0], "path": "more"}), "more is missing"),
        (lambda m: m["files"][0].update(size_bytes=3), "the manifest says 3"),
        (lambda m: m["files"][0].update(sha256="1" * 64), "sha256"),
        (lambda m: m["files"][0].update(path="../x"), "path"),
        (lambda m: m.update(model="engine/other.onnx"), "engine/other.onnx"),
        (lambda m: m.update(model="../other.onnx"), "model"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        open_bundle(rewrite(bundle, change))


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'"text"', b""])
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x.edge"
    member = Member("manifest.json", len(text), zlib.crc32(text))
    path.write_bytes(local_header(member) + text + central_directory([member]))
    with pytest.raises(BundleError, match=r"x\.edge: "):
        open_bundle(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\5\6" + bytes(18), b"no zip at all" * 100])
def test_a_file_that_is_no_bundle_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.edge"
    path.write_bytes(content)
    with pytest.raises(BundleError):
        open_bundle(path)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.edge", tmp_path):
        with pytest.raises(BundleError, match="check the path"):
            open_bundle(path)


@pytest.mark.parametrize(
    "members",
    [
        {"engine/model.onnx": b"x", "../evil": b"x"},
        {"engine/model.onnx": b"x", "manifest.json": b"x"},
        {"engine/model.onnx": b"x", "ENGINE/model.onnx": b"x"},
        {"other.onnx": b"x"},
    ],
)
def test_packing_refuses_what_opening_would(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(BundleError):
        pack(tmp_path / "x.edge", manifest(), members)
    assert list(tmp_path.iterdir()) == []


def test_packing_more_than_4_gib_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entry(name: str, content: bytes) -> tuple[FileEntry, int]:
        return FileEntry(path=name, sha256="0" * 64, size_bytes=2**32), 0

    monkeypatch.setattr(archive, "_entry", entry)
    with pytest.raises(BundleError, match="4 GiB"):
        pack(tmp_path / "x.edge", manifest(), {"engine/model.onnx": b"x"})


def test_a_failed_packing_leaves_the_old_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sha256_file(bundle)
    real = archive._read
    calls = 0

    def changing(content: Path | bytes) -> Any:
        nonlocal calls
        calls += 1
        yield from real(content if calls < 3 else b"another length")

    monkeypatch.setattr(archive, "_read", changing)
    with pytest.raises(BundleError, match="changed while it was packed"):
        pack(bundle, manifest(), {"engine/model.onnx": b"x", "b": b"y"})
    assert sha256_file(bundle) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.edge"]


def test_a_full_disk_leaves_the_old_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sha256_file(bundle)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "_copy", full)
    with pytest.raises(OutputError, match="disk is full"):
        pack(bundle, manifest(), {"engine/model.onnx": b"x"})
    assert sha256_file(bundle) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.edge"]


def test_extraction_replaces_nothing(bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    (place / "engine").mkdir(parents=True)
    (place / "engine" / "model.onnx").symlink_to(tmp_path / "victim")
    with open_bundle(bundle) as opened, pytest.raises(OutputError):
        opened.extract(place)
    assert not (tmp_path / "victim").exists()


def test_a_whole_bundle_opens(tmp_path: Path) -> None:
    with open_bundle(write_bundle(tmp_path / "tiny.edge")) as opened:
        assert opened.manifest.embedding_dim == 4
