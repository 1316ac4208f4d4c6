"""`edgessl.load`: embeddings against float64, whatever the batch and the kind of input."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import edgessl
from contracts.tiny_bundle import IMAGE, expected, samples, write_bundle
from edgessl.bundle.manifest import TensorSpec
from edgessl.errors import BundleError, CorruptSampleError, DataError, UnavailableError, UsageError
from edgessl.preprocessing import fit, normalize
from edgessl.runtime import open_session
from edgessl.runtime.engines import openvino as openvino_engine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edge")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 2, 3, "N"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_rows(tmp_path: Path, engine: str, batch: int | str, count: int) -> None:
    rows = samples(count, seed=count)
    path = write_bundle(tmp_path / "tiny.edge", engine=engine, batch=batch)
    with edgessl.load(path) as model:
        found = model(rows)
    assert found.dtype == np.float32
    assert found.shape == (count, 4)
    np.testing.assert_allclose(found, expected(rows), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_of_any_size_are_fitted_and_normalised(bundle: Path, dtype: Any) -> None:
    top = np.iinfo(dtype).max
    images = np.random.default_rng(1).integers(0, top + 1, (3, 20, 13, 3)).astype(dtype)
    fitted: NDArray[Any] = np.stack([fit(image, IMAGE) for image in images])
    prepared = normalize(fitted, IMAGE)
    with edgessl.load(bundle) as model:
        found = model(images)
    np.testing.assert_allclose(found, expected(prepared), rtol=1e-4, atol=1e-6)


def test_grey_images_become_colour(bundle: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 1), dtype=np.uint8)
    with edgessl.load(bundle) as model:
        np.testing.assert_array_equal(model(grey), model(np.repeat(grey, 3, axis=3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_named_by_its_row(bundle: Path, bad: float) -> None:
    rows = samples(5)
    rows[3, 1, 2, 2] = bad
    with edgessl.load(bundle) as model, pytest.raises(DataError, match="row 3"):
        model(rows)


@pytest.mark.parametrize(
    ("batch", "word"),
    [
        (np.zeros((0, 3, 8, 8), np.float32), "empty"),
        (np.zeros((0, 8, 8, 3), np.uint8), "empty"),
        (np.zeros((1, 3, 9, 8), np.float32), "3x9x8"),
        (np.zeros((1, 3, 8, 8), np.float64), "float64"),
        (np.zeros((3, 8, 8), np.float32), "takes"),
        (np.zeros((1, 8, 8, 5), np.uint8), "5 channels"),
        (np.float32(1.0), "takes"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(bundle: Path, batch: Any, word: str) -> None:
    with edgessl.load(bundle) as model, pytest.raises(DataError, match=word):
        model(np.asarray(batch))


def test_files_are_embedded_in_order(bundle: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    with edgessl.load(bundle) as model:
        np.testing.assert_array_equal(model.embed(paths), model(images))
        assert model.embed([]).shape == (0, 4)
        (tmp_path / "bad.png").write_bytes(b"no image")
        with pytest.raises(CorruptSampleError, match=r"bad\.png"):
            model.embed([tmp_path / "bad.png"])


def test_8_and_16_bit_files_in_one_batch_are_equally_bright(bundle: Path, tmp_path: Path) -> None:
    grey = np.random.default_rng(3).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    with edgessl.load(bundle) as model:
        shallow, deep = model.embed([tmp_path / "8.png", tmp_path / "16.png"])
    np.testing.assert_allclose(deep, shallow, rtol=1e-5)


def test_without_preprocessing_images_are_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "tiny.edge", preprocessing=None)
    with edgessl.load(path) as model:
        assert model(samples(1)).shape == (1, 4)
        with pytest.raises(UsageError, match="1x3x8x8"):
            model.embed([tmp_path / "x.png"])


def test_run_takes_and_gives_names(bundle: Path) -> None:
    with edgessl.load(bundle) as model:
        found = model.run({"image": samples(2)})
        assert list(found) == ["embedding"]
        with pytest.raises(DataError, match="picture"):
            model.run({"picture": samples(1)})


def test_threads_can_be_given(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = open_session

    def spy(engine: str, model: Path, options: Any) -> Any:
        seen.append(options["threads"])
        return real(engine, model, options)

    monkeypatch.setattr("edgessl.runtime.model.open_session", spy)
    edgessl.load(bundle).close()
    edgessl.load(bundle, threads=2).close()
    assert seen == [1, 2]


def test_a_portable_bundle_asks_to_be_finalized(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "tiny.edge", kind="portable")
    with pytest.raises(BundleError, match=r"edgessl finalize tiny\.edge"):
        edgessl.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": (TensorSpec(name="picture", dtype="float32", shape=(1, 3, 8, 8)),)},
        {"inputs": (TensorSpec(name="image", dtype="float32", shape=(1, 3, 9, 9)),)},
        {"outputs": (TensorSpec(name="embedding", dtype="float64", shape=(1, 4)),)},
    ],
)
def test_a_manifest_that_lies_about_the_model_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = write_bundle(tmp_path / "tiny.edge", **changes)
    with pytest.raises(BundleError, match="the manifest declares"):
        edgessl.load(path)


def test_a_missing_engine_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bundle(tmp_path / "tiny.edge", engine="openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    # An earlier test may have loaded it into this process for good.
    monkeypatch.setattr(openvino_engine, "the_core", openvino_engine.the_core.__wrapped__)
    with pytest.raises(UnavailableError, match=r"pip install 'edgessl\[openvino\]'"):
        edgessl.load(path)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_nothing_stays_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    path = write_bundle(tmp_path / "tiny.edge", engine=engine)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with edgessl.load(path) as model:
        assert list(folder.iterdir()) == []
        rows: NDArray[np.float32] = samples(2)
        np.testing.assert_allclose(model(rows), expected(rows), rtol=1e-4, atol=1e-6)


_ISOLATED = """
import sys
for name in ("torch", "onnx", "timm", "lightly", "nncf", "sklearn", "matplotlib"):
    sys.modules[name] = None
import numpy
import edgessl
from edgessl.runtime import verify
report = verify(sys.argv[1])
assert report.canaries is not None and report.canaries.passed
with edgessl.load(sys.argv[1]) as model:
    assert model(numpy.zeros((1, 3, 8, 8), numpy.float32)).shape == (1, 4)
forbidden = ("edgessl.data", "edgessl.models", "edgessl.pretraining", "edgessl.compiler")
assert not [m for m in sys.modules if m.startswith(forbidden)], sorted(sys.modules)
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_bundle_runs_where_torch_and_onnx_cannot_be_imported(tmp_path: Path, engine: str) -> None:
    path = write_bundle(tmp_path / "tiny.edge", engine=engine)
    done = subprocess.run(
        [sys.executable, "-c", _ISOLATED, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
