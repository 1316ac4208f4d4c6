"""What every source must do; a test class per format inherits it and makes the fixture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgessl.data.source import Source, Splits, fingerprint, open_source, stratified_split

__all__ = ["CLASSES", "SourceContract", "sample_images"]

CLASSES = ("blue", "green", "red")


def sample_images(count: int = 6, *, seed: int = 0) -> NDArray[np.uint8]:
    """Random images ``(count, 10, 12, 3)``; image i is of class i % 3."""
    return np.random.default_rng(seed).integers(0, 256, (count, 10, 12, 3), dtype=np.uint8)


class SourceContract(ABC):
    """Six lossless colour images, two of each of three classes, in one part called train."""

    @abstractmethod
    def write(self, root: Path, images: NDArray[np.uint8], labels: list[str] | None) -> Path:
        """Store images in this format under ``root`` and return what ``--data`` would name."""

    @pytest.fixture
    def splits(self, tmp_path: Path) -> Splits:
        labels = [CLASSES[i % 3] for i in range(6)]
        return open_source(self.write(tmp_path, sample_images(), labels))

    def test_every_sample_is_there_once(self, splits: Splits) -> None:
        found = sorted(splits.train.read(i).tobytes() for i in range(len(splits.train)))
        assert found == sorted(image.tobytes() for image in sample_images())
        assert splits.train.read(0).shape == (10, 12, 3)

    def test_keys_are_unique_and_stable(self, splits: Splits) -> None:
        keys = [splits.train.key(i) for i in range(len(splits.train))]
        assert len(set(keys)) == 6
        assert keys == [splits.train.key(i) for i in range(6)]

    def test_labels_follow_the_images(self, splits: Splits) -> None:
        names, labels = splits.train.class_names, splits.train.labels()
        assert names is not None
        assert labels is not None
        assert labels.dtype == np.int64
        classes = {image.tobytes(): CLASSES[i % 3] for i, image in enumerate(sample_images())}
        for i, label in enumerate(labels):
            assert names[label] == classes[splits.train.read(i).tobytes()]

    def test_without_labels_there_are_none(self, tmp_path: Path) -> None:
        source = open_source(self.write(tmp_path, sample_images(), None)).train
        assert source.labels() is None
        assert source.class_names is None

    def test_a_subset_keeps_its_order(self, splits: Splits) -> None:
        subset = splits.train.subset([4, 1])
        assert len(subset) == 2
        assert [subset.key(0), subset.key(1)] == [splits.train.key(4), splits.train.key(1)]
        assert subset.content_hash(1) == splits.train.content_hash(1)
        whole, part = splits.train.labels(), subset.labels()
        assert whole is not None
        assert part is not None
        assert part.tolist() == [whole[4], whole[1]]

    def test_the_hash_is_of_the_content(self, tmp_path: Path, splits: Splits) -> None:
        hashes = {splits.train.content_hash(i) for i in range(6)}
        assert len(hashes) == 6
        assert all(len(value) == 64 for value in hashes)
        same = sample_images()
        same[1:] = same[0]
        alike = open_source(self.write(tmp_path / "alike", same, None)).train
        assert len({alike.content_hash(i) for i in range(6)}) == 1

    def test_the_fingerprint_changes_with_a_sample(self, tmp_path: Path) -> None:
        images = sample_images()
        first = self._fingerprint(tmp_path / "a", images)
        assert first == self._fingerprint(tmp_path / "b", images)
        images[3, 0, 0, 0] ^= 1
        assert first != self._fingerprint(tmp_path / "c", images)

    def _fingerprint(self, root: Path, images: NDArray[np.uint8]) -> str:
        # The last folder has the same name, because tar keys hold the shard's name.
        return fingerprint(open_source(self.write(root / "data", images, None)).train)

    def test_a_stratified_split_shares_every_class(self, splits: Splits) -> None:
        train, test = stratified_split(splits.train, test_fraction=0.3, seed=1)
        assert {_keys(train).isdisjoint(_keys(test)), len(train) + len(test) == 6} == {True}
        for part in (train, test):
            labels = part.labels()
            assert labels is not None
            assert sorted(labels) == [0, 1, 2]


def _keys(source: Source) -> set[str]:
    return {source.key(i) for i in range(len(source))}
