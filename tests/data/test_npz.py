from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.source_contract import SourceContract, sample_images
from edgessl.data.source import open_source
from edgessl.errors import DataError


class TestNpz(SourceContract):
    def write(self, root: Path, images: NDArray[np.uint8], labels: list[str] | None) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"images": images}
        if labels:
            arrays["labels"] = np.array(labels)
        np.savez(root / "a.npz", **arrays)
        return root / "a.npz"


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


def test_train_and_test_arrays_are_a_split(tmp_path: Path) -> None:
    images = sample_images()
    path = save(
        tmp_path,
        x_train=images[:4],
        y_train=np.arange(4),
        x_test=images[4:],
        y_test=np.array([7, 3]),
    )
    splits = open_source(path)
    assert splits.declared
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.train.key(3) == "x_train[3]"


def test_classes_agree_between_parts(tmp_path: Path) -> None:
    images = sample_images()
    path = save(
        tmp_path, x_train=images, y_train=[0, 1, 2, 5, 7, 7], x_test=images[:2], y_test=[7, 5]
    )
    splits = open_source(path)
    assert splits.test is not None
    train, test = splits.train, splits.test
    assert train.class_names == test.class_names
    labels = test.labels()
    assert labels is not None
    assert train.class_names is not None
    assert [train.class_names[i] for i in labels] == ["7", "5"]


def test_named_classes(tmp_path: Path) -> None:
    path = save(tmp_path, x=sample_images(2), y=[2, 0], class_names=["a", "b", "c"])
    source = open_source(path).train
    labels = source.labels()
    assert labels is not None
    assert source.class_names == ("a", "b", "c")
    assert labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 8, 9), (8, 9, 1)),
        ((2, 8, 9, 3), (8, 9, 3)),
        ((2, 3, 8, 9), (8, 9, 3)),
        ((2, 12, 20, 24), (20, 24, 12)),
        ((2, 8, 8, 8), (8, 8, 8)),
    ],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    image = open_source(save(tmp_path, x=values)).train.read(1)
    assert image.shape == expected
    assert image.dtype == np.uint16
    layout = values[1] if expected[:2] == shape[1:3] else values[1].transpose(1, 2, 0)
    assert (image == layout.reshape(expected)).all()


@pytest.mark.parametrize(
    ("values", "dtype", "top"),
    [
        (np.linspace(0, 255, 256), np.uint8, 255),
        (np.arange(256) / 255, np.uint8, 255),
        (np.arange(256).astype(np.float32) / np.float32(255), np.uint8, 255),
        (np.linspace(0, 1, 256) ** 2, np.uint16, 65535),
        (np.linspace(0, 200.5, 256), np.uint16, round(200.5 * 257)),
        (np.arange(256), np.uint8, 255),
        (np.arange(256) * 257, np.uint16, 65535),
        (np.arange(256) % 2 == 1, np.uint8, 255),
    ],
)
def test_other_numbers_become_integers(
    tmp_path: Path, values: NDArray[Any], dtype: type, top: int
) -> None:
    image = open_source(save(tmp_path, x=values.reshape(1, 16, 16))).train.read(0)
    assert image.dtype == dtype
    assert image.max() == top
    unit = values.reshape(16, 16).astype(np.float64)
    if values.dtype.kind == "i":
        unit /= 255 if unit.max() <= 255 else 65535
    elif unit.max() > 1:
        unit /= 255
    assert np.allclose(image[:, :, 0] / np.iinfo(image.dtype).max, unit, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_names_the_sample(tmp_path: Path, value: float) -> None:
    images = np.zeros((5, 4, 4), np.float32)
    images[3, 1, 1] = value
    with pytest.raises(DataError, match=r"x\[3\] holds NaN or infinity"):
        open_source(save(tmp_path, x=images)).train.read(0)


@pytest.mark.parametrize("values", [[-0.5, 1.0], [0.0, 300.0]])
def test_numbers_out_of_range(tmp_path: Path, values: list[float]) -> None:
    images = np.array(values * 8, np.float32).reshape(1, 4, 4)
    with pytest.raises(DataError, match="scale it to"):
        open_source(save(tmp_path, x=images)).train.read(0)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"pictures": np.zeros((1, 4, 4), np.uint8)}, "no array 'x_train', 'x' or 'images'"),
        ({"x": np.zeros((4, 4), np.uint8)}, r"shape \(4, 4\)"),
        ({"x": np.zeros((0, 4, 4), np.uint8)}, "holds no samples"),
        ({"x": np.zeros((2, 0, 4), np.uint8)}, r"shape \(2, 0, 4\)"),
        ({"x": np.array(["a"])}, "images are arrays of numbers"),
        ({"x": np.array([{}], dtype=object)}, "holds Python objects"),
    ],
)
def test_unusable_arrays(tmp_path: Path, arrays: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        open_source(save(tmp_path, **arrays))


def test_labels_of_the_wrong_length(tmp_path: Path) -> None:
    source = open_source(save(tmp_path, x=sample_images(3), y=[1, 2])).train
    assert source.read(0).shape == (10, 12, 3)
    with pytest.raises(DataError, match=r"'y' has shape \(2,\), expected \(3,\)"):
        source.labels()


def test_pickled_labels_are_refused(tmp_path: Path) -> None:
    source = open_source(save(tmp_path, x=sample_images(1), y=np.array([{}], dtype=object))).train
    with pytest.raises(DataError, match="'y' holds Python objects"):
        source.labels()


def test_truncated_file(tmp_path: Path) -> None:
    path = save(tmp_path, x=sample_images())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        open_source(path)


def test_damaged_array(tmp_path: Path) -> None:
    path = save(tmp_path, x=sample_images())
    content = bytearray(path.read_bytes())
    content[1000] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="'x' cannot be read"):
        open_source(path).train.read(0)


def test_an_array_larger_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, x=sample_images())

    class Memory:
        available = 100

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    with pytest.raises(DataError, match="GB of memory"):
        open_source(path)


def test_damaged_compressed_array(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=sample_images())
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[900:960] = bytes(60)
    (tmp_path / "a.npz").write_bytes(bytes(content))
    with pytest.raises(DataError, match="'x' cannot be read"):
        open_source(tmp_path / "a.npz").train.read(0)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "a.npz")


def test_fashion_mnist(shared: Path) -> None:
    splits = open_source(shared / "data" / "fashion-mnist" / "fashion-mnist.npz")
    assert splits.declared
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (12000, 3000)
    labels = splits.test.labels()
    assert labels is not None
    assert np.bincount(labels).tolist() == [300] * 10
    assert splits.train.read(5).shape == (28, 28, 1)
