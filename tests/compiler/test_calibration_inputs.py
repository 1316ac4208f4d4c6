"""Inputs of any model: constants beside samples, sounds and images, files that lack something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import edgessl
from contracts.compiling import ONNX_FP32, OPENVINO_FP32, compile_quietly, target_of
from contracts.onnx_models import write_cnn
from contracts.sound_model import RATE_HZ, SAMPLES, expected, write_sound_model, write_sounds
from edgessl.cli.main import main
from edgessl.compiler.calibration import (
    ArrayCalibration,
    FileCalibration,
    describe_inputs,
    open_calibration,
    parse_constants,
    preprocessing_for,
    store,
)
from edgessl.compiler.graph import prepare_graph
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.identity import Fingerprinted
from edgessl.data.calibration import ImageCalibration, SoundCalibration, open_media
from edgessl.errors import DataError, UsageError
from edgessl.preprocessing import ImageInput, SoundInput
from edgessl.progress import silent
from edgessl.runtime import infer

CONSTANTS: dict[str, int | float] = {"rate": RATE_HZ, "state": 0.5}
SPEC = SoundInput(sample_rate_hz=RATE_HZ, samples=SAMPLES)


@pytest.fixture
def graph(tmp_path: Path) -> GraphInfo:
    return prepare_graph(write_sound_model(tmp_path / "m.onnx"), tmp_path / "p.onnx", batch_size=1)


class TestConstants:
    def test_the_option(self) -> None:
        found = parse_constants(["sr=16000,state=0", "x=y=-1.5e2"])
        assert found == {"sr": 16_000, "state": 0, "x=y": -150.0}
        assert isinstance(found["sr"], int)

    @pytest.mark.parametrize(
        ("word", "reason"),
        [
            ("sr", "'sr' is not name=value"),
            ("=3", "'=3' is not name=value"),
            ("sr=many", "sr=many is not a number"),
            ("sr=inf", "sr=inf is not a number"),
            ("sr=1,sr=2", "'sr' is given twice"),
        ],
    )
    def test_a_mistake_in_the_option(self, word: str, reason: str) -> None:
        with pytest.raises(UsageError, match=reason):
            parse_constants([word])

    @pytest.mark.parametrize(
        ("constants", "reason"),
        [
            ({"ratte": 1}, "'ratte' is no input of the model; did you mean rate"),
            ({"rate": 1.5}, "rate=1.5 does not fit the input's int64"),
            ({"rate": 2**63}, "does not fit the input's int64"),
        ],
    )
    def test_a_constant_that_does_not_fit(
        self, graph: GraphInfo, constants: dict[str, int | float], reason: str
    ) -> None:
        with pytest.raises(UsageError, match=reason):
            describe_inputs(graph, constants=constants)

    def test_an_open_shape_asks_for_one(self, graph: GraphInfo) -> None:
        state = graph.inputs[1].model_copy(update={"shape": (2, "dim_1", 4)})
        opened = graph.model_copy(update={"inputs": (graph.inputs[0], state)})
        with pytest.raises(UsageError, match="--shape state=2x1x4"):
            describe_inputs(opened, constants={"state": 0})

    def test_the_only_input_cannot_be_constant(self, tmp_path: Path) -> None:
        cnn = prepare_graph(write_cnn(tmp_path / "c.onnx"), tmp_path / "d.onnx", batch_size=1)
        with pytest.raises(UsageError, match="the model's only input"):
            describe_inputs(cnn, constants={"images": 0})


class TestPreprocessingFor:
    def test_is_of_the_input_that_is_no_constant(self, graph: GraphInfo) -> None:
        described = describe_inputs(graph, preprocess="rate=8000", constants=CONSTANTS)
        assert described.preprocessing == SPEC
        assert preprocessing_for(graph, None) is None

    def test_needs_constants_for_the_others(self, graph: GraphInfo) -> None:
        with pytest.raises(UsageError, match=r"the model has \['sound', 'state', 'rate'\].*rate=0"):
            preprocessing_for(graph, "rate=8000")


class TestOpen:
    def _graph(self, graph: GraphInfo) -> GraphInfo:
        return describe_inputs(graph, preprocess="rate=8000", constants=CONSTANTS)

    def test_constants_fill_what_the_sounds_lack(self, graph: GraphInfo, tmp_path: Path) -> None:
        signals = write_sounds(tmp_path / "sounds", [SAMPLES * 20])
        described = self._graph(graph)
        opened = open_calibration(tmp_path / "sounds", described, open_data=open_media)
        stored = store(opened, np.arange(20), described, tmp_path / "s", progress=silent)
        found = stored.read(0, 20)
        np.testing.assert_array_equal(found["sound"].ravel(), signals[0])
        np.testing.assert_array_equal(found["state"], np.full((20, 2, 1, 4), 0.5, np.float32))
        np.testing.assert_array_equal(found["rate"], np.full(20, RATE_HZ, np.int64))
        assert {s.name: s.dtype for s in stored.streams}["rate"] == "int64"

    @pytest.mark.parametrize("kind", ["mapping", "npz", "npy", "own"])
    def test_constants_fill_what_arrays_lack(
        self, graph: GraphInfo, tmp_path: Path, kind: str
    ) -> None:
        array = np.ones((20, SAMPLES), np.float32)
        given: Any = {"sound": array}
        if kind == "npz":
            given = tmp_path / "a.npz"
            np.savez(given, sound=array)
        elif kind == "npy":
            given = tmp_path / "a.npy"
            np.save(given, array)
        elif kind == "own":
            given = _Own(array)
        described = self._graph(graph)
        opened = open_calibration(given, described, open_data=None)
        arrays = opened.arrays([0, 3])
        assert {n: a.shape for n, a in arrays.items()} == {
            "sound": (2, SAMPLES),
            "state": (2, 2, 1, 4),
            "rate": (2,),
        }
        assert isinstance(opened, Fingerprinted) == (kind != "own")

    def test_an_array_beside_its_constant_is_refused(
        self, graph: GraphInfo, tmp_path: Path
    ) -> None:
        arrays = {"sound": np.ones((20, SAMPLES), np.float32), "rate": np.zeros(20, np.int64)}
        np.savez(tmp_path / "a.npz", **arrays)
        for given in (arrays, tmp_path / "a.npz"):
            with pytest.raises(DataError, match="'rate', which also has a constant"):
                open_calibration(given, self._graph(graph), open_data=None)

    def test_what_is_missing_is_named(self, graph: GraphInfo, tmp_path: Path) -> None:
        array = np.ones((20, SAMPLES), np.float32)
        np.savez(tmp_path / "a.npz", sound=array)
        with pytest.raises(DataError, match=r"holds arrays \['sound'\], the model takes"):
            open_calibration(tmp_path / "a.npz", graph, open_data=None)
        np.savez(tmp_path / "b.npz", sound=array, state=np.zeros((2, 1, 4)), rate=np.zeros(20))
        with pytest.raises(DataError, match=r"differ in samples.*--constant state=0"):
            open_calibration(tmp_path / "b.npz", graph, open_data=None)
        with pytest.raises(DataError, match=r"several inputs.*--constant rate=0"):
            open_calibration(tmp_path, graph, open_data=open_media)
        with pytest.raises(DataError, match=r"none: no such file or folder"):
            open_calibration(tmp_path / "none", self._graph(graph), open_data=open_media)

    def test_a_model_without_preprocessing_says_how_to_give_it(
        self, graph: GraphInfo, tmp_path: Path
    ) -> None:
        described = describe_inputs(graph, constants=CONSTANTS)
        with pytest.raises(DataError, match=r"--preprocess size=224.*array for 'sound'"):
            open_calibration(tmp_path, described, open_data=open_media)

    @pytest.mark.parametrize(
        ("array", "fix"),
        [
            (np.zeros((20, 1, 3, 16, 16), np.float32), "without the batch of 1"),
            (np.zeros((20, 16, 16, 3), np.float32), "transpose it"),
            (np.zeros((20, 3, 16, 16), np.uint8), "scale and normalise it"),
        ],
    )
    def test_a_wrong_array_says_how_to_repair_it(
        self, tmp_path: Path, array: NDArray[Any], fix: str
    ) -> None:
        cnn = prepare_graph(write_cnn(tmp_path / "c.onnx"), tmp_path / "d.onnx", batch_size=1)
        with pytest.raises(DataError, match=f"'images'.*{fix}"):
            store(
                ArrayCalibration({"images": array}),
                np.arange(20),
                cnn,
                tmp_path / "s",
                progress=silent,
            )

    def test_a_number_too_large_names_its_sample(self, graph: GraphInfo, tmp_path: Path) -> None:
        rate = graph.inputs[2].model_copy(update={"dtype": "int32"})
        small = graph.model_copy(update={"inputs": (*graph.inputs[:2], rate)})
        arrays = {
            "sound": np.zeros((20, SAMPLES), np.float32),
            "state": np.zeros((20, 2, 1, 4), np.float32),
            "rate": np.where(np.arange(20) == 7, 2**40, 1),
        }
        with pytest.raises(DataError, match="'rate': sample 7 holds a number that int32 cannot"):
            store(ArrayCalibration(arrays), np.arange(20), small, tmp_path / "s", progress=silent)


class _Own:
    """A caller's own calibration, without a fingerprint."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def arrays(self, indices: Sequence[int]) -> dict[str, NDArray[np.float32]]:
        return {"sound": self._array[list(indices)]}


class TestMedia:
    def test_windows_of_all_clips_in_order(self, tmp_path: Path) -> None:
        signals = write_sounds(tmp_path, [100, 64, 300])
        source = SoundCalibration(tmp_path, SPEC, "sound")
        rows = [np.pad(s, (0, -len(s) % SAMPLES)).reshape(-1, SAMPLES) for s in signals]
        expected_rows = np.concatenate(rows)
        assert len(source) == len(expected_rows) == 2 + 1 + 5
        for chosen in ([0], [7], [1, 2, 3], list(range(8))):
            found = source.arrays(chosen)["sound"]
            np.testing.assert_array_equal(found, expected_rows[chosen])

    def test_a_folder_with_parts_gives_the_training_part(self, tmp_path: Path) -> None:
        write_sounds(tmp_path / "train" / "a", [64, 64])
        write_sounds(tmp_path / "test", [64] * 5)
        assert len(SoundCalibration(tmp_path, SPEC, "sound")) == 2
        assert len(SoundCalibration(tmp_path / "test", SPEC, "sound")) == 5
        assert len(SoundCalibration(tmp_path / "test" / "000.wav", SPEC, "sound")) == 1

    def test_no_sound_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no sounds below this folder; looked for .*\.wav"):
            open_media(tmp_path, SPEC, "sound")
        with pytest.raises(DataError, match="no such file or folder"):
            open_media(tmp_path / "none", SPEC, "sound")

    def test_a_corrupt_clip_is_left_out(self, graph: GraphInfo, tmp_path: Path) -> None:
        write_sounds(tmp_path / "w", [64] * 30)
        (tmp_path / "w" / "010.wav").write_bytes(b"rubbish")
        described = describe_inputs(graph, preprocess="rate=8000", constants=CONSTANTS)
        opened = open_calibration(tmp_path / "w", described, open_data=open_media)
        assert len(opened) == 30
        stored = store(opened, np.arange(30), described, tmp_path / "s", progress=silent)
        assert stored.count == 29

    def test_fingerprints_change_with_content_and_preprocessing(self, tmp_path: Path) -> None:
        write_sounds(tmp_path, [64, 64, 64])
        first = SoundCalibration(tmp_path, SPEC, "x").fingerprint([0, 1])
        assert SoundCalibration(tmp_path, SPEC, "x").fingerprint([0, 1]) == first
        assert SoundCalibration(tmp_path, SPEC, "x").fingerprint([0, 2]) != first
        louder = SPEC.model_copy(update={"value_range": (-2.0, 2.0)})
        assert SoundCalibration(tmp_path, louder, "x").fingerprint([0, 1]) != first
        (tmp_path / "001.wav").write_bytes((tmp_path / "002.wav").read_bytes())
        assert SoundCalibration(tmp_path, SPEC, "x").fingerprint([0, 1]) != first

    def test_fingerprints_of_images_and_arrays(self, tmp_path: Path) -> None:
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        spec = ImageInput(channels=3, height=8, width=8, mean=(0,) * 3, std=(1,) * 3)
        images = ImageCalibration(tmp_path, spec, "x")
        assert images.fingerprint([0, 1]) == images.fingerprint([0, 1]) != images.fingerprint([1])
        (tmp_path / "0.png").write_bytes(b"rubbish")
        assert ImageCalibration(tmp_path, spec, "x").fingerprint([0, 1]) != images.fingerprint([1])
        rows = np.arange(12.0).reshape(4, 3)
        arrays = ArrayCalibration({"x": rows})
        assert arrays.fingerprint([0]) == ArrayCalibration({"x": rows[:1]}).fingerprint([0])
        assert arrays.fingerprint([0]) != arrays.fingerprint([1])
        np.save(tmp_path / "a.npy", rows)
        before = FileCalibration(tmp_path / "a.npy", ["x"]).fingerprint([0])
        np.save(tmp_path / "a.npy", rows + 1)
        assert FileCalibration(tmp_path / "a.npy", ["x"]).fingerprint([0]) != before


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write_sound_model(folder / "m.onnx")
    write_sounds(folder / "sounds", [SAMPLES * 2 + 10] * 12)
    overrides = {"preprocess": "rate=8000", "constants": CONSTANTS}
    compile_quietly(
        folder / "m.onnx",
        target_of(ONNX_FP32, OPENVINO_FP32),
        folder / "sounds",
        overrides=overrides,
        open_data=open_media,
    )
    return folder


class TestEndToEnd:
    def test_the_bundle_embeds_sounds(self, place: Path) -> None:
        bundle, clip = place / "model.edge", place / "sounds" / "003.wav"
        source = SoundCalibration(clip, SPEC, "sound").arrays([0, 1, 2])["sound"]
        wanted = expected(source, state=0.5)
        result = infer(bundle, [clip])
        assert result.names == tuple(f"{clip}[{k}]" for k in range(3))
        np.testing.assert_allclose(result.values, wanted, rtol=1e-4, atol=1e-4)
        with edgessl.load(bundle) as model:
            assert model.manifest.preprocessing == SPEC
            assert model.manifest.constants == CONSTANTS
            np.testing.assert_allclose(model(source), wanted, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(model.embed([clip]), wanted, rtol=1e-4, atol=1e-4)
            with pytest.raises(DataError, match="row 1 holds NaN"):
                model(np.where(np.arange(3)[:, None] == 1, np.nan, source).astype(np.float32))
            with pytest.raises(DataError, match="batch is empty"):
                model(source[:0])

    def test_a_corrupt_sound_and_an_image_are_named(self, place: Path, tmp_path: Path) -> None:
        write_sounds(tmp_path, [64, 64])
        (tmp_path / "bad.wav").write_bytes(b"rubbish")
        result = infer(place / "model.edge", [tmp_path])
        assert len(result.values) == 2
        assert [path for path, _ in result.corrupt] == [str(tmp_path / "bad.wav")]
        (tmp_path / "none").mkdir()
        with pytest.raises(DataError, match="no sounds below"):
            infer(place / "model.edge", [tmp_path / "none"])

    def test_the_verb(self, place: Path, tmp_path: Path) -> None:
        words = ["compile", str(place / "m.onnx"), "--target", "host", "--precision", "fp32"]
        words += ["--engine", "onnxruntime", "--calibration", str(place / "sounds")]
        words += ["--preprocess", "rate=8000", "--out", str(tmp_path / "b.edge")]
        assert main([*words, "--constant", "rate=8000,state=0"]) == 0
        assert main([*words, "--constant", "rate=8000"]) == 2
        with edgessl.load(tmp_path / "b.edge") as model:
            assert model.manifest.constants == {"rate": RATE_HZ, "state": 0}
