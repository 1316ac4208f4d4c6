from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from contracts.source_contract import CLASSES, SourceContract, sample_images
from edgessl.data.source import fingerprint, open_source
from edgessl.errors import CorruptSampleError, DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def dataset(images: NDArray[np.uint8], labels: list[str] | None = None) -> Any:
    columns: dict[str, list[Any]] = {"photo": [Image.fromarray(image) for image in images]}
    features: dict[str, Any] = {"photo": datasets.Image()}
    if labels:
        columns["kind"] = [CLASSES.index(label) for label in labels]
        features["kind"] = datasets.ClassLabel(names=list(CLASSES))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


class TestHuggingFace(SourceContract):
    def write(self, root: Path, images: NDArray[np.uint8], labels: list[str] | None) -> Path:
        dataset(images, labels).save_to_disk(str(root / "d"))
        return root / "d"


def test_parts_of_a_dataset_dict(tmp_path: Path) -> None:
    parts = {"train": dataset(sample_images(4)), "validation": dataset(sample_images(2))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    splits = open_source(tmp_path / "d")
    assert splits.declared
    assert splits.val is not None
    assert splits.test is None
    assert (len(splits.train), len(splits.val)) == (4, 2)
    assert splits.train.key(3) == "train[3]"


def test_plain_label_column(tmp_path: Path) -> None:
    plain = dataset(sample_images(3)).add_column("label", ["b", "a", "b"])
    plain.save_to_disk(str(tmp_path / "d"))
    source = open_source(tmp_path / "d").train
    labels = source.labels()
    assert labels is not None
    assert source.class_names == ("a", "b")
    assert labels.tolist() == [1, 0, 1]


def test_a_row_without_image(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image()})
    rows = {"image": [None, Image.fromarray(sample_images(1)[0])]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "d"))
    source = open_source(tmp_path / "d").train
    with pytest.raises(CorruptSampleError, match=r"row\[0\]: the row has no image"):
        source.read(0)
    assert source.read(1).shape == (10, 12, 3)
    assert len(fingerprint(source)) == 64


def test_no_image_column(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(DataError, match="no column of images, found text"):
        open_source(tmp_path / "d")


def test_damaged_dataset(tmp_path: Path) -> None:
    dataset(sample_images()).save_to_disk(str(tmp_path / "d"))
    (tmp_path / "d" / "data-00000-of-00001.arrow").write_bytes(b"x")
    with pytest.raises(DataError, match="not a readable Hugging Face dataset"):
        open_source(tmp_path / "d")
