from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from contracts.source_contract import SourceContract, sample_images
from edgessl.data.source import open_source
from edgessl.errors import DataError


def png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], *, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def members(images: NDArray[np.uint8], start: int = 0) -> dict[str, bytes]:
    return {f"{start + i:04d}.png": png(image) for i, image in enumerate(images)}


class TestShardsWithClasses(SourceContract):
    """Two shards, names of classes in .cls members, named by braces."""

    def write(self, root: Path, images: NDArray[np.uint8], labels: list[str] | None) -> Path:
        for shard in range(2):
            rows = range(3 * shard, 3 * shard + 3)
            content = members(images[rows], 3 * shard)
            if labels:
                content |= {f"{i:04d}.cls": labels[i].encode() for i in rows}
            write_tar(root / f"shard-{shard:03d}.tar", content)
        return root / "shard-{000..001}.tar"


class TestShardsWithJson(SourceContract):
    """One folder of shards, class names in .json members."""

    def write(self, root: Path, images: NDArray[np.uint8], labels: list[str] | None) -> Path:
        content = members(images)
        if labels:
            for i, label in enumerate(labels):
                content[f"{i:04d}.json"] = json.dumps({"label": label, "width": 12}).encode()
        write_tar(root / "all.tar", content)
        return root


def test_numbers_as_classes(tmp_path: Path) -> None:
    content = members(sample_images(3))
    content |= {f"{i:04d}.cls": str(n).encode() for i, n in enumerate((10, 2, 0))}
    source = open_source(write_tar(tmp_path / "a.tar", content)).train
    labels = source.labels()
    assert labels is not None
    assert source.class_names == ("0", "2", "10")
    assert labels.tolist() == [2, 1, 0]


def test_keys_name_shard_and_member(tmp_path: Path) -> None:
    content = {"photos/x.png": png(sample_images(1)[0]), "photos/x.txt": b"caption"}
    source = open_source(write_tar(tmp_path / "a.tar", content)).train
    assert source.key(0) == "a.tar::photos/x.png"


def test_shard_names_and_folders_declare_a_split(tmp_path: Path) -> None:
    by_name, by_folder = tmp_path / "names", tmp_path / "folders"
    for part, count in (("train", 3), ("test", 2)):
        write_tar(by_name / f"{part}-000.tar", members(sample_images(count)))
        write_tar(by_folder / part / "000.tar", members(sample_images(count)))
    for path in (by_name, by_folder):
        splits = open_source(path)
        assert splits.declared
        assert splits.test is not None
        assert (len(splits.train), len(splits.test)) == (3, 2)


def test_some_labels_missing(tmp_path: Path) -> None:
    content = members(sample_images(2)) | {"0000.cls": b"1"}
    source = open_source(write_tar(tmp_path / "a.tar", content)).train
    with pytest.raises(DataError, match=r"1 samples have no .cls or .json member"):
        source.labels()


def test_a_broken_label_does_not_hinder_training(tmp_path: Path) -> None:
    content = members(sample_images(1)) | {"0000.json": b"{"}
    source = open_source(write_tar(tmp_path / "a.tar", content)).train
    assert source.read(0).shape == (10, 12, 3)
    with pytest.raises(DataError, match=r"its .json member cannot be read"):
        source.labels()


def test_a_mask_beside_an_image_is_not_the_sample(tmp_path: Path) -> None:
    image, mask = sample_images(2)
    content = {"1.mask.png": png(mask), "1.png": png(image), "2.left.png": png(mask)}
    source = open_source(write_tar(tmp_path / "a.tar", content)).train
    assert [source.key(i) for i in range(2)] == ["a.tar::1.png", "a.tar::2.left.png"]
    assert (source.read(0) == image).all()


def test_braces_in_a_real_name(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "{a}" / "a.tar", members(sample_images(2)))
    assert len(open_source(path).train) == 2


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [("s-{0..", "has no .}."), ("s-{0..999999999}.tar", "more than 100000 shards")],
)
def test_impossible_braces(tmp_path: Path, pattern: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        open_source(tmp_path / pattern)


def test_compressed_tar_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar.gz", members(sample_images(1)), mode="w:gz")
    with pytest.raises(DataError, match="compressed tar cannot be read at random"):
        open_source(path)
    with pytest.raises(DataError, match="compressed tar cannot be read at random"):
        open_source(tmp_path)


def test_missing_shard(tmp_path: Path) -> None:
    write_tar(tmp_path / "s-0.tar", members(sample_images(1)))
    with pytest.raises(DataError, match=r"1 of 2 shards are missing, first .*s-1\.tar"):
        open_source(tmp_path / "s-{0..1}.tar")
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "s-9.tar")


@pytest.mark.parametrize("size", [100, 512, 700, 1024, 1400, 1536, 2048, 4096])
def test_truncated_tar(tmp_path: Path, size: int) -> None:
    path = write_tar(tmp_path / "a.tar", members(sample_images(4)))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"a\.tar: (the tar ends|not a readable tar)"):
        open_source(path)


def test_classes_agree_between_parts(tmp_path: Path) -> None:
    for part, label in (("train", b"cat"), ("test", b"ant")):
        content = members(sample_images(1)) | {"0000.cls": label}
        write_tar(tmp_path / f"{part}-0.tar", content)
    splits = open_source(tmp_path)
    assert splits.test is not None
    assert splits.train.class_names == splits.test.class_names == ("ant", "cat")
    labels = splits.train.labels()
    assert labels is not None
    assert labels.tolist() == [1]


def test_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match="not a readable tar"):
        open_source(tmp_path / "a.tar")


def test_tar_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in 1 tar"):
        open_source(write_tar(tmp_path / "a.tar", {"a.txt": b"x"}))


def test_members_outside_are_only_names(tmp_path: Path) -> None:
    """Nothing is unpacked, so a hostile path or link reaches no disk."""
    path = tmp_path / "data" / "a.tar"
    write_tar(path, {"../../evil.png": png(sample_images(1)[0])})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    source = open_source(path).train
    assert len(source) == 1
    assert source.read(0).shape == (10, 12, 3)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "data"]
