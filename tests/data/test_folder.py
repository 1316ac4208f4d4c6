from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from contracts.source_contract import SourceContract, sample_images
from edgessl.data.source import open_source
from edgessl.errors import CorruptSampleError, DataError


def save(path: Path, image: NDArray[np.uint8] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample_images(1)[0] if image is None else image).save(path)


class TestFolder(SourceContract):
    def write(self, root: Path, images: NDArray[np.uint8], labels: list[str] | None) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            save(root / (labels[i] if labels else "") / f"{i}.png", image)
        return root


class TestFolderWithTable(SourceContract):
    def write(self, root: Path, images: NDArray[np.uint8], labels: list[str] | None) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        rows = ["path,label"]
        for i, image in enumerate(images):
            save(root / f"{i}.png", image)
            rows.append(f"{i}.png,{labels[i]}" if labels else "")
        if labels:
            (root / "labels.csv").write_text("\n".join(rows) + "\n")
        return root


def test_nesting_of_any_depth_and_mixed_formats(tmp_path: Path) -> None:
    for name in ("a/b/c/1.jpg", "a/2.PNG", "d/3.webp", "d/e/4.tiff", "5.bmp"):
        save(tmp_path / name)
    (tmp_path / "a" / "README.md").write_text("no image")
    save(tmp_path / ".hidden" / "6.png")
    source = open_source(tmp_path).train
    assert [source.key(i) for i in range(len(source))] == [
        "5.bmp",
        "a/2.PNG",
        "a/b/c/1.jpg",
        "d/3.webp",
        "d/e/4.tiff",
    ]
    assert all(source.read(i).shape == (10, 12, 3) for i in range(5))


def test_train_and_test_folders_are_a_split(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        for name in ("cat", "dog"):
            save(tmp_path / part / name / "1.png")
    save(tmp_path / "test" / "emu" / "2.png")
    splits = open_source(tmp_path)
    assert splits.declared
    assert splits.val is not None
    assert splits.test is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (2, 2, 3)
    # A class that only one part holds must not shift the numbers of the others.
    assert splits.train.class_names == splits.test.class_names == ("cat", "dog", "emu")
    labels = splits.test.labels()
    assert labels is not None
    assert labels.tolist() == [0, 1, 2]


def test_a_lone_train_folder_is_no_split(tmp_path: Path) -> None:
    save(tmp_path / "train" / "1.png")
    splits = open_source(tmp_path)
    assert not splits.declared
    assert splits.test is None


def test_table_with_a_split_column(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.png")
    rows = ["file,label,split", "0.png,10,train", "1.png,9,train", "2.png,10,test", "3.png,9,val"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    splits = open_source(tmp_path)
    assert splits.declared
    assert splits.test is not None
    assert splits.train.class_names == ("9", "10")
    labels = splits.test.labels()
    assert labels is not None
    assert labels.tolist() == [1]


def test_table_above_the_split_folders(tmp_path: Path) -> None:
    for name in ("train/1.png", "train/2.png", "test/1.png"):
        save(tmp_path / name)
    rows = ["path,label", "train/1.png,a", "train/2.png,b", "test/1.png,b"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    splits = open_source(tmp_path)
    assert splits.test is not None
    labels = splits.test.labels()
    assert labels is not None
    assert labels.tolist() == [1]


def test_labels_are_not_read_before_they_are_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    (tmp_path / "labels.csv").write_text("path,label\nother.png,a\n")
    source = open_source(tmp_path).train
    assert source.read(0).shape == (10, 12, 3)
    with pytest.raises(DataError, match=r"no row for 1\.png"):
        source.labels()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name,label\n1.png,a\n", "no column 'path', found name, label"),
        ("path,kind\n1.png,a\n", "no column 'label'"),
        ("path,label\n1.png,a,b\n", "line 2 has 3 cells, the header 2"),
        ("path,label,split\n1.png,a,tomorrow\n", "split 'tomorrow'"),
        ("", "found nothing"),
    ],
)
def test_unusable_tables(tmp_path: Path, text: str, complaint: str) -> None:
    save(tmp_path / "1.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=complaint):
        open_source(tmp_path).train.labels()


def test_images_beside_class_folders_have_no_class(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.png", "2.png"):
        save(tmp_path / name)
    source = open_source(tmp_path).train
    assert len(source) == 3
    with pytest.raises(DataError, match=r"1 images lie beside the class folders \(2\.png\)"):
        source.labels()


def test_one_folder_is_no_class(tmp_path: Path) -> None:
    save(tmp_path / "images" / "1.png")
    assert open_source(tmp_path).train.labels() is None


def test_two_folders_for_one_part(tmp_path: Path) -> None:
    for part in ("train", "val", "valid"):
        save(tmp_path / part / "1.png")
    with pytest.raises(DataError, match="both val/ and valid/ are a val part"):
        open_source(tmp_path)


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert len(open_source(tmp_path).train) == 1


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="no images found"):
        open_source(tmp_path)


def test_empty_part(tmp_path: Path) -> None:
    save(tmp_path / "train" / "1.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="test: no images found"):
        open_source(tmp_path)


def test_missing_path() -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_source("/nowhere/at/all")


def test_a_file_that_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(DataError, match="not a data source"):
        open_source(tmp_path / "a.pdf")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be read"):
            open_source(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o755)


def test_a_listing_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        open_source(tmp_path)


def test_a_file_that_vanished(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    source = open_source(tmp_path).train
    (tmp_path / "1.png").unlink()
    with pytest.raises(CorruptSampleError, match=r"1\.png: cannot be read"):
        source.read(0)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_corrupt_files_name_themselves(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(CorruptSampleError, match=r"^bad\.png: "):
        open_source(tmp_path).train.read(0)


def test_trashnet(shared: Path) -> None:
    splits = open_source(shared / "data" / "trashnet-192")
    assert splits.val is not None
    assert splits.test is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (990, 217, 279)
    labels = splits.test.labels()
    assert labels is not None
    assert np.bincount(labels).tolist() == [50, 50, 50, 50, 50, 29]
