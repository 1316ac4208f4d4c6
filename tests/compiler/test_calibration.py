"""Calibration input: what fits is stored exactly, what does not is one clear error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler.calibration import (
    ArrayCalibration,
    FileCalibration,
    open_calibration,
    split_indices,
    store,
)
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.graph_info import GraphInfo
from edgessl.errors import CorruptSampleError, DataError
from edgessl.preprocessing import ImageInput
from edgessl.progress import ProgressEvent, silent


@pytest.fixture
def graph(tmp_path: Path) -> GraphInfo:
    return prepare_graph(write_cnn(tmp_path / "m.onnx"), tmp_path / "p.onnx", batch_size=1)


class TestSplit:
    def test_parts_are_disjoint_and_seeded(self) -> None:
        a, b = split_indices(1000, samples=300, held_out=200, seed=0)
        assert (len(a), len(b)) == (300, 200)
        assert not set(a) & set(b)
        again = split_indices(1000, samples=300, held_out=200, seed=0)
        np.testing.assert_array_equal(a, again[0])
        np.testing.assert_array_equal(b, again[1])
        assert set(a) != set(split_indices(1000, samples=300, held_out=200, seed=1)[0])

    @pytest.mark.parametrize(
        ("count", "expected"), [(16, (8, 8)), (100, (60, 40)), (499, (300, 199))]
    )
    def test_with_few_samples_two_fifths_are_held_out(
        self, count: int, expected: tuple[int, int]
    ) -> None:
        a, b = split_indices(count, samples=300, held_out=200, seed=0)
        assert (len(a), len(b)) == expected

    def test_too_few_samples_are_refused(self) -> None:
        with pytest.raises(DataError, match="holds 15 samples, at least 16"):
            split_indices(15, samples=300, held_out=200, seed=0)


class TestStore:
    def _store(self, array: NDArray[np.generic], graph: GraphInfo, folder: Path) -> None:
        calibration = ArrayCalibration({"images": array})
        store(calibration, np.arange(len(array)), graph, folder / "s", progress=silent)

    def test_stores_the_chosen_samples(self, graph: GraphInfo, tmp_path: Path) -> None:
        array = cnn_inputs(40)
        chosen = np.array([1, 5, 6, 39])
        samples = store(
            ArrayCalibration({"images": array}), chosen, graph, tmp_path / "s", progress=silent
        )
        np.testing.assert_array_equal(samples.read(0, 4)["images"], array[chosen])

    @pytest.mark.parametrize("shape", [(20, 3, 16, 15), (20, 16, 16, 3), (20, 3, 16)])
    def test_a_wrong_shape_is_refused(
        self, graph: GraphInfo, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(DataError, match=r"the model takes float32 \[3x16x16\]"):
            self._store(np.zeros(shape, np.float32), graph, tmp_path)

    def test_raw_pixels_are_refused(self, graph: GraphInfo, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is uint8"):
            self._store(np.zeros((20, 3, 16, 16), np.uint8), graph, tmp_path)

    def test_float64_is_converted(self, graph: GraphInfo, tmp_path: Path) -> None:
        self._store(cnn_inputs(20).astype(np.float64), graph, tmp_path)

    @pytest.mark.parametrize("bad", [np.nan, -np.inf])
    def test_a_bad_value_names_its_sample(
        self, graph: GraphInfo, tmp_path: Path, bad: float
    ) -> None:
        array = cnn_inputs(20)
        array[17, 0, 3, 3] = bad
        with pytest.raises(DataError, match="'images': sample 17 holds NaN"):
            self._store(array, graph, tmp_path)

    def test_a_wrong_name_is_refused(self, graph: GraphInfo, tmp_path: Path) -> None:
        calibration = ArrayCalibration({"pixels": cnn_inputs(20)})
        with pytest.raises(DataError, match=r"'pixels'.*'images'"):
            store(calibration, np.arange(20), graph, tmp_path / "s", progress=silent)


class _WithCorrupt:
    def __init__(self, corrupt: set[int]) -> None:
        self._corrupt = corrupt
        self._array = cnn_inputs(150)

    def __len__(self) -> int:
        return len(self._array)

    def arrays(self, indices: Sequence[int]) -> dict[str, NDArray[np.float32]]:
        for index in indices:
            if index in self._corrupt:
                raise CorruptSampleError(f"image-{index}.jpg: cannot be decoded")
        return {"images": self._array[list(indices)]}


class TestCorruptSamples:
    def test_one_is_left_out_and_named(self, graph: GraphInfo, tmp_path: Path) -> None:
        events: list[ProgressEvent] = []
        samples = store(
            _WithCorrupt({0}), np.arange(150), graph, tmp_path / "s", progress=events.append
        )
        assert samples.count == 149
        np.testing.assert_array_equal(samples.read(0, 1)["images"], cnn_inputs(150)[1:2])
        assert [e.message for e in events if e.warning] == [
            "1 corrupt samples are left out, first: image-0.jpg: cannot be decoded"
        ]

    def test_many_are_an_error(self, graph: GraphInfo, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"3 of 150 samples are corrupt, first: image-7\.jpg"):
            store(_WithCorrupt({7, 8, 90}), np.arange(150), graph, tmp_path / "s", progress=silent)

    def test_nothing_readable_is_an_error(self, graph: GraphInfo, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no sample is readable"):
            store(
                _WithCorrupt(set(range(150))),
                np.arange(150),
                graph,
                tmp_path / "s",
                progress=silent,
            )


class TestFiles:
    @pytest.mark.parametrize("kind", ["npy", "npz", "compressed.npz"])
    def test_are_read_at_any_indices(self, tmp_path: Path, kind: str) -> None:
        array = cnn_inputs(50)
        path = tmp_path / f"c.{kind}"
        if kind == "npy":
            np.save(path, array)
        else:
            (np.savez if kind == "npz" else np.savez_compressed)(path, whatever=array)
        calibration = FileCalibration(path, ["images"])
        assert len(calibration) == 50
        for chosen in ([0], [49], [0, 1, 2], [3, 17, 18, 49]):
            np.testing.assert_array_equal(calibration.arrays(chosen)["images"], array[chosen])

    def test_names_must_match_several_inputs(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "c.npz", a=np.zeros((20, 2)), b=np.zeros((20, 2)))
        with pytest.raises(DataError, match=r"holds arrays \['a', 'b'\]"):
            FileCalibration(tmp_path / "c.npz", ["a", "c"])

    def test_counts_must_match(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "c.npz", a=np.zeros((20, 2)), b=np.zeros((21, 2)))
        with pytest.raises(DataError, match="differ in samples"):
            FileCalibration(tmp_path / "c.npz", ["a", "b"])

    def test_objects_are_never_unpickled(self, tmp_path: Path) -> None:
        np.save(tmp_path / "c.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match="Python objects"):
            FileCalibration(tmp_path / "c.npy", ["images"])

    def test_a_truncated_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "c.npy"
        np.save(path, cnn_inputs(20))
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(DataError, match="ends before its last sample"):
            FileCalibration(path, ["images"]).arrays([19])
        path.write_bytes(b"nonsense")
        with pytest.raises(DataError, match="not a readable numpy file"):
            FileCalibration(path, ["images"])

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="No such file"):
            FileCalibration(tmp_path / "none.npy", ["images"])


class TestOpen:
    def test_a_data_source_needs_a_model_that_says_what_it_takes(
        self, graph: GraphInfo, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match="does not say how samples become its input"):
            open_calibration(tmp_path, graph, open_data=None)

    def test_a_data_source_is_opened_with_what_the_model_takes(
        self, graph: GraphInfo, tmp_path: Path
    ) -> None:
        spec = ImageInput(channels=3, height=16, width=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        asked: list[tuple[Path, ImageInput, str]] = []
        result = ArrayCalibration({"images": cnn_inputs(16)})

        def open_data(path: Path, preprocessing: ImageInput, name: str) -> ArrayCalibration:
            asked.append((path, preprocessing, name))
            return result

        described = graph.model_copy(update={"preprocessing": spec})
        np.savez(tmp_path / "d.npz", x_train=np.zeros((20, 8, 8, 3), np.uint8))
        for path in (tmp_path, tmp_path / "d.npz"):
            assert open_calibration(path, described, open_data=open_data) is result
            assert asked.pop() == (path, spec, "images")

    def test_images_become_the_models_input(self, tmp_path: Path) -> None:
        from edgessl.data.calibration import ImageCalibration

        images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
        np.savez(tmp_path / "d.npz", x_train=images, y_train=np.zeros(20, np.int64))
        spec = ImageInput(channels=3, height=16, width=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        arrays = ImageCalibration(tmp_path / "d.npz", spec, "images").arrays([2, 19])
        expected = (images[[2, 19]] / 255.0 - 0.5) / 0.25
        np.testing.assert_allclose(arrays["images"], expected.transpose(0, 3, 1, 2), atol=1e-5)
