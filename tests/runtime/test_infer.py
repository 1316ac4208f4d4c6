"""`infer`: files, folders and arrays in; rows in order out; corrupt files named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgessl
from contracts.tiny_bundle import expected, samples, write_bundle
from edgessl.cli.main import main
from edgessl.errors import DataError
from edgessl.runtime import infer

IMAGES = np.random.default_rng(5).integers(0, 256, (3, 10, 9, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edge")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    (place / "deep" / "er").mkdir(parents=True)
    (place / ".cache").mkdir()
    Image.fromarray(IMAGES[0]).save(place / "b.png")
    Image.fromarray(IMAGES[1]).save(place / "deep" / "er" / "a.PNG")
    Image.fromarray(IMAGES[2]).save(place / ".cache" / "thumbnail.png")
    (place / "notes.txt").write_text("no image")
    return place


def test_files_folders_and_arrays_in_order(bundle: Path, folder: Path, tmp_path: Path) -> None:
    rows = samples(2)
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "pictures.npz", anything=IMAGES)
    inputs = [tmp_path / "rows.npy", folder, tmp_path / "pictures.npz", folder / "b.png"]
    result = infer(bundle, inputs)
    with edgessl.load(bundle) as model:
        pictures = model(IMAGES)
    want = np.concatenate([expected(rows), pictures[:2], pictures, pictures[:1]])
    np.testing.assert_allclose(result.values, want, rtol=1e-4, atol=1e-6)
    assert result.names[1:4] == (
        f"{tmp_path / 'rows.npy'}[1]",
        str(folder / "b.png"),
        str(folder / "deep" / "er" / "a.PNG"),
    )
    assert result.corrupt == ()


def test_corrupt_files_are_named_and_left_out(bundle: Path, folder: Path) -> None:
    (folder / "a-bad.jpg").write_bytes(b"\xff\xd8\xff rubbish")
    result = infer(bundle, [folder])
    assert len(result.names) == len(result.values) == 2
    assert [path for path, _ in result.corrupt] == [str(folder / "a-bad.jpg")]
    with pytest.raises(DataError, match=r"1 of 3 .*a-bad\.jpg"):
        result.require_complete()


def test_nothing_readable_is_an_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1.*x\.png.*empty"):
        infer(bundle, [tmp_path / "x.png"])


def test_inputs_that_are_not_there(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none\.png: no such"):
        infer(bundle, [tmp_path / "none.png"])
    with pytest.raises(DataError, match="no images below"):
        infer(bundle, [tmp_path / "empty"])
    with pytest.raises(DataError, match="nothing to embed"):
        infer(bundle, [])


def test_arrays_that_do_not_fit_are_named(bundle: Path, tmp_path: Path) -> None:
    good = samples(3)
    good[1, 0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", good)
    np.save(tmp_path / "shape.npy", samples(1)[:, :2])
    np.savez(tmp_path / "two.npz", a=good, b=good)
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY rubbish")
    (tmp_path / "broken.npz").write_bytes(b"rubbish")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, word in [
        ("nan.npy", "row 1"),
        ("shape.npy", "2x8x8"),
        ("two.npz", "'a', 'b'"),
        ("broken.npy", "not a readable"),
        ("broken.npz", "not a readable"),
        ("objects.npy", "not a readable"),
    ]:
        with pytest.raises(DataError, match=word) as caught:
            infer(bundle, [tmp_path / name])
        assert name in str(caught.value)


def test_the_verb_writes_and_prints(
    bundle: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "rows.npy"
    assert main(["infer", str(bundle), str(folder), "--out", str(out)]) == 0
    written = np.load(out, allow_pickle=False)
    assert written.dtype == np.float32
    capsys.readouterr()
    assert main(["infer", str(bundle), str(folder)]) == 0
    printed = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(printed["embeddings"], written, rtol=1e-6)
    assert printed["names"] == [str(folder / "b.png"), str(folder / "deep" / "er" / "a.PNG")]
    assert main(["infer", str(bundle), str(folder), "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["out"] == str(out)
    assert "embeddings" not in summary


def test_the_verb_with_a_corrupt_file_writes_the_rest_and_says_2(
    bundle: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.png").write_bytes(b"rubbish")
    out = tmp_path / "rows.npy"
    assert main(["infer", str(bundle), str(folder), "--out", str(out)]) == 2
    assert np.load(out).shape == (2, 4)
    assert "bad.png" in capsys.readouterr().err


def test_a_failure_keeps_the_old_output(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.npy"
    out.write_bytes(b"old")
    assert main(["infer", str(bundle), str(tmp_path / "none.png"), "--out", str(out)]) == 2
    assert out.read_bytes() == b"old"
