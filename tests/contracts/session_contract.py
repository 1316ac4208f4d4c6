"""What every engine's session must do; a test class per engine inherits it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from contracts.tiny_bundle import expected, samples, write_model
from edgessl.bundle.manifest import OptionValue
from edgessl.errors import DataError, ModelError, UsageError
from edgessl.runtime.session import ENGINES, Session, open_session

__all__ = ["SessionContract"]


class SessionContract(ABC):
    """One engine on a small convolutional graph, against the answer in float64."""

    engine: str
    exact_options: Mapping[str, OptionValue]
    """Options that make it compute in float32."""

    @abstractmethod
    def convert(self, onnx_file: Path) -> Path:
        """The file that the engine opens, made from an ONNX file."""

    def open(self, path: Path, *, batch: int | str = 1) -> Session:
        model = self.convert(write_model(path / "model.onnx", batch=batch))
        return open_session(self.engine, model, {"threads": 1, **self.exact_options})

    def test_it_has_a_version(self) -> None:
        version = ENGINES.get(self.engine).version()
        assert [part.isdigit() for part in version.split(".")[:2]] == [True, True]

    def test_the_signature_is_the_graphs(self, tmp_path: Path) -> None:
        with self.open(tmp_path) as session:
            assert [(s.name, s.dtype, s.shape) for s in session.inputs] == [
                ("image", "float32", (1, 3, 8, 8))
            ]
            assert [(s.name, s.dtype, s.shape) for s in session.outputs] == [
                ("embedding", "float32", (1, 4))
            ]

    def test_a_free_batch_is_symbolic_and_takes_any_size(self, tmp_path: Path) -> None:
        with self.open(tmp_path, batch="N") as session:
            assert isinstance(session.inputs[0].shape[0], str)
            assert session.inputs[0].shape[1:] == (3, 8, 8)
            for count in (1, 5):
                batch = samples(count, seed=count)
                found = session.run({"image": batch})["embedding"]
                np.testing.assert_allclose(found, expected(batch), rtol=1e-4, atol=1e-6)

    def test_results_are_right_and_stay_when_it_runs_again(self, tmp_path: Path) -> None:
        batch = samples(2)
        with self.open(tmp_path) as session:
            first = session.run({"image": batch[:1]})["embedding"]
            session.run({"image": batch[1:]})
            np.testing.assert_allclose(first, expected(batch[:1]), rtol=1e-4, atol=1e-6)

    def test_a_strided_array_is_read_as_numpy_reads_it(self, tmp_path: Path) -> None:
        strided = np.ascontiguousarray(samples(1).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        assert not strided.flags.c_contiguous
        with self.open(tmp_path) as session:
            found = session.run({"image": strided})["embedding"]
        np.testing.assert_allclose(found, expected(strided), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        ("feeds", "word"),
        [
            ({}, "image"),
            ({"picture": samples(1)}, "picture"),
            ({"image": samples(1).astype(np.float64)}, "float64"),
            ({"image": samples(2)}, "2x3x8x8"),
            ({"image": samples(1)[0]}, "3x8x8"),
        ],
    )
    def test_wrong_feeds_are_named(
        self, tmp_path: Path, feeds: dict[str, np.ndarray], word: str
    ) -> None:
        with self.open(tmp_path) as session, pytest.raises(DataError, match=word):
            session.run(feeds)

    def test_a_truncated_file_is_one_line(self, tmp_path: Path) -> None:
        model = self.convert(write_model(tmp_path / "model.onnx"))
        model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
        with pytest.raises(ModelError, match=model.name) as caught:
            open_session(self.engine, model)
        assert "\n" not in str(caught.value)

    def test_an_unknown_option_names_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="threads"):
            open_session(self.engine, tmp_path / "model.onnx", {"thread": 1})

    def test_negative_threads_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="threads"):
            open_session(self.engine, tmp_path / "model.onnx", {"threads": -1})
