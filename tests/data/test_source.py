from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgessl.data.source import Source, fingerprint, open_source, stratified_split
from edgessl.errors import DataError

from .conftest import MakeFolder, smooth_images


def test_decoding_needs_no_torch(tmp_path: Path) -> None:
    """Calibration decodes where only the compiler is installed."""
    np.savez(tmp_path / "a.npz", x=smooth_images(4))
    script = f"""
import sys
for name in ("torch", "torchvision", "datasets", "braceexpand"):
    sys.modules[name] = None
from edgessl.data.evaluation import fit_images
from edgessl.data.source import fingerprint, open_source
from edgessl.preprocessing import ImageInput
source = open_source({str(tmp_path / "a.npz")!r}).train
spec = ImageInput(channels=3, height=8, width=8, mean=(0,) * 3, std=(1,) * 3)
print(fit_images(source, spec)[0].shape, len(fingerprint(source)))
"""
    environment = os.environ | {"EDGESSL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "(4, 8, 8, 3) 64\n"


def settle(source: Source, seconds: float) -> None:
    """Make the files look as if they had last changed so long ago."""
    then = time.time() - seconds
    for path in Path(source.path).iterdir():
        os.utime(path, (then, then))


def count_hashes(source: Source, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    content_hash = type(source).content_hash

    def counted(self: Source, index: int) -> str:
        seen.append(index)
        return content_hash(self, index)

    monkeypatch.setattr(type(source), "content_hash", counted)
    return seen


def test_a_settled_source_is_hashed_once(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
    source = make_folder(smooth_images(3))
    settle(source, 60)
    seen = count_hashes(source, monkeypatch)
    first = fingerprint(source)
    assert seen == [0, 1, 2]
    assert fingerprint(source) == first
    assert fingerprint(open_source(source.path).train) == first
    assert seen == [0, 1, 2]
    settle(source, 30)
    assert fingerprint(source) == first
    assert seen == [0, 1, 2] * 2
    assert fingerprint(source.subset([0, 1])) != first


def test_a_fresh_source_is_hashed_each_time(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may change twice within one tick of its clock."""
    monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
    images = smooth_images(2)
    source = make_folder(images)
    first = fingerprint(source)
    assert source.signature() is None
    images[0] = 255 - images[0]
    assert fingerprint(make_folder(images)) != first


def test_the_fingerprint_knows_names_and_order(make_folder: MakeFolder) -> None:
    source = make_folder(smooth_images(3))
    first = fingerprint(source)
    assert fingerprint(source.subset([1, 0, 2])) != first
    assert fingerprint(source.subset([0, 1, 2])) == first
    path = Path(source.path)
    (path / "0000.png").rename(path / "0000b.png")
    assert fingerprint(open_source(path).train) != first


def test_corrupt_samples_have_a_fingerprint(make_folder: MakeFolder) -> None:
    source = make_folder(smooth_images(3))
    first = fingerprint(source)
    (Path(source.path) / "0001.png").write_bytes(b"")
    assert fingerprint(source) != first


def labelled(tmp_path: Path, labels: list[int]) -> Source:
    np.savez(tmp_path / "a.npz", x=smooth_images(len(labels)), y=labels)
    return open_source(tmp_path / "a.npz").train


def test_stratified_split_keeps_the_shares(tmp_path: Path) -> None:
    source = labelled(tmp_path, [0] * 40 + [1] * 10 + [2])
    train, test = stratified_split(source, test_fraction=0.3, seed=0)
    in_train, in_test = train.labels(), test.labels()
    assert in_train is not None
    assert in_test is not None
    assert np.bincount(in_train).tolist() == [28, 7, 1]
    assert np.bincount(in_test, minlength=3).tolist() == [12, 3, 0]


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    source = labelled(tmp_path, [0, 1] * 20)
    keys = [
        [test.key(i) for i in range(len(test))]
        for test in (stratified_split(source, seed=seed)[1] for seed in (0, 0, 1))
    ]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_splits_that_cannot_be(tmp_path: Path, make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="has no labels to split by"):
        stratified_split(make_folder(smooth_images(3)), seed=0)
    with pytest.raises(DataError, match="no class has two samples"):
        stratified_split(labelled(tmp_path, [0, 1, 2]), seed=0)
    with pytest.raises(DataError, match="between 0 and 1, found 30"):
        stratified_split(labelled(tmp_path, [0, 0]), test_fraction=30, seed=0)


def test_a_subset_out_of_range(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="asks for sample 3 of 3"):
        make_folder(smooth_images(3)).subset([0, 3])
