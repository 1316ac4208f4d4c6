"""Activation ranges, against numpy on all the data at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from contracts.onnx_models import cnn_inputs, write_cnn
from edgessl.compiler.ranges import (
    Histogram,
    HistogramBuilder,
    Method,
    Ranges,
    cached_ranges,
    choose_range,
    collect_ranges,
    collection,
)
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.errors import BundleError, ModelError

Floats = NDArray[np.float32]


def _histogram(values: NDArray[Any], blocks: int = 1) -> Histogram:
    builder = HistogramBuilder()
    for block in np.array_split(values, blocks):
        builder.add(block)
    return builder.result()


def _draw(name: str, size: int = 50_000) -> Floats:
    rng = np.random.default_rng(3)
    draws: dict[str, Callable[[], Any]] = {
        "normal": lambda: rng.normal(0.3, 2.0, size),
        "relu": lambda: np.maximum(rng.normal(0, 1.0, size), 0),
        "long-tailed": lambda: rng.standard_t(2.5, size),
        "silu": lambda: (x := rng.normal(0, 3, size)) / (1 + np.exp(-x)),
        "outlier": lambda: np.append(rng.normal(0, 1, size), 500.0),
        "far": lambda: rng.normal(1000, 0.01, size),
    }
    return np.asarray(draws[name](), np.float32)


NAMES = ("normal", "relu", "long-tailed", "silu", "outlier", "far")


def _squared_error(x: Floats, low: float, high: float, levels: int, symmetric: bool) -> float:
    """Mean squared error of a uniform quantizer with integer zero point, in float64."""
    values = x.astype(np.float64)
    if symmetric:
        step = high / (levels / 2 - 1)
        integers = np.clip(np.round(values / step), -(levels / 2 - 1), levels / 2 - 1)
        return float(np.mean((integers * step - values) ** 2))
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / (levels - 1)
    zero = round(-low / step)
    integers = np.clip(np.round(values / step) + zero, 0, levels - 1)
    return float(np.mean(((integers - zero) * step - values) ** 2))


class TestHistogram:
    @pytest.mark.parametrize("name", NAMES)
    def test_counts_what_numpy_counts(self, name: str) -> None:
        values = _draw(name)
        histogram = _histogram(values, blocks=7)
        expected, _ = np.histogram(values.astype(np.float64), histogram.edges)
        assert (histogram.low, histogram.high) == (values.min(), values.max())
        np.testing.assert_array_equal(histogram.counts, expected)

    def test_order_and_blocks_do_not_matter(self) -> None:
        values = _draw("long-tailed")
        one, many = _histogram(values), _histogram(np.sort(np.abs(values)) * 0 + values[::-1], 50)
        assert (one.exponent, one.first, one.zeros) == (many.exponent, many.first, many.zeros)
        np.testing.assert_array_equal(one.counts, many.counts)

    @pytest.mark.parametrize("name", NAMES)
    def test_keeps_to_its_bins_and_uses_half_of_them(self, name: str) -> None:
        histogram = _histogram(_draw(name))
        assert 2047 <= len(histogram.counts) <= 4096

    def test_ranges_may_grow_by_any_factor(self) -> None:
        pieces = [np.array([x], np.float32) for x in (1e-30, -1e-3, 2e30, -3e38, 0, 1)]
        builder = HistogramBuilder()
        for piece in pieces:
            builder.add(piece)
        histogram = builder.result()
        assert histogram.count == 6
        assert (histogram.low, histogram.high) == (np.float32(-3e38), np.float32(2e30))

    def test_nonfinite_values_are_counted_apart(self) -> None:
        values = np.array([np.nan, np.inf, -np.inf, 1, -2, 0, 0], np.float32)
        histogram = _histogram(values)
        assert (histogram.nonfinite, histogram.zeros, histogram.count) == (3, 2, 4)
        assert (histogram.low, histogram.high) == (-2, 1)

    @pytest.mark.parametrize("value", [0.0, 3.25, -1e-12])
    def test_constant_tensors(self, value: float) -> None:
        histogram = _histogram(np.full(10, value, np.float32))
        assert histogram.count == 10
        assert histogram.low == histogram.high == np.float32(value)

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_float_types(self, dtype: type[np.floating[Any]]) -> None:
        values = _draw("normal").astype(dtype)
        histogram = _histogram(values)
        expected, _ = np.histogram(values.astype(np.float64), histogram.edges)
        np.testing.assert_array_equal(histogram.counts, expected)

    def test_empty_arrays_and_no_arrays(self) -> None:
        histogram = _histogram(np.zeros((0, 3), np.float32))
        assert choose_range(histogram, "minmax", levels=256, symmetric=False) == (0.0, 0.0)


class TestMethods:
    @pytest.mark.parametrize("name", NAMES)
    def test_minmax(self, name: str) -> None:
        values = _draw(name)
        chosen = choose_range(_histogram(values), "minmax", levels=256, symmetric=False)
        assert chosen == (values.min(), values.max())
        reach = float(np.abs(values).max())
        chosen = choose_range(_histogram(values), "minmax", levels=256, symmetric=True)
        assert chosen == (-reach, reach)

    @pytest.mark.parametrize("percentile", [99.0, 99.99])
    @pytest.mark.parametrize("name", NAMES)
    def test_percentile_against_numpy(self, name: str, percentile: float) -> None:
        values = _draw(name)
        histogram = _histogram(values)
        tail = (100 - percentile) / 2
        low, high = choose_range(
            histogram, "percentile", levels=256, symmetric=False, percentile=percentile
        )
        expected = np.percentile(values, [tail, 100 - tail], method="lower")
        above = np.percentile(values, [tail, 100 - tail], method="higher")
        for chosen, least, most in zip((low, high), expected, above, strict=True):
            assert least - histogram.width <= chosen <= most + histogram.width
        low, high = choose_range(
            histogram, "percentile", levels=256, symmetric=True, percentile=percentile
        )
        least, most = (
            np.percentile(np.abs(values), percentile, method=m) for m in ("lower", "higher")
        )
        assert low == -high
        assert least - histogram.width <= high <= most + histogram.width

    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("levels", [16, 256])
    @pytest.mark.parametrize("name", ["normal", "relu", "long-tailed", "silu", "outlier"])
    def test_mse_against_brute_force(self, name: str, levels: int, symmetric: bool) -> None:
        values = _draw(name, 20_000)
        low, high = choose_range(_histogram(values), "mse", levels=levels, symmetric=symmetric)
        ours = _squared_error(values, low, high, levels, symmetric)
        shares = np.linspace(0.02, 1, 50)
        least, most = min(float(values.min()), 0.0), float(values.max())
        reach = max(-least, most)
        if symmetric:
            tried = [_squared_error(values, -reach * s, reach * s, levels, True) for s in shares]
        else:
            lows = shares if least < 0 else shares[-1:]
            tried = [
                _squared_error(values, least * a, most * b, levels, False)
                for a in lows[::2]
                for b in shares
            ]
        assert ours <= 1.05 * min(tried)

    def test_mse_of_sixteen_bits_clips_next_to_nothing(self) -> None:
        values = _draw("normal")
        low, high = choose_range(_histogram(values), "mse", levels=65536, symmetric=False)
        assert low <= 0.95 * values.min()
        assert high >= 0.95 * values.max()

    @pytest.mark.parametrize("symmetric", [False, True])
    def test_entropy_is_not_minmax_on_a_long_tailed_tensor(self, symmetric: bool) -> None:
        # onnxruntime's own entropy calibration gives byte-identical files to its minmax.
        histogram = _histogram(_draw("long-tailed"))
        widest = choose_range(histogram, "minmax", levels=256, symmetric=symmetric)
        low, high = choose_range(histogram, "entropy", levels=256, symmetric=symmetric)
        assert widest[0] < low < 0 < high < widest[1]
        assert high < 0.5 * widest[1]
        values = _draw("long-tailed")
        assert np.mean(np.abs(values) <= high) > 0.99

    def test_entropy_ignores_the_peak_at_zero(self) -> None:
        positive = np.abs(_draw("normal"))
        sparse = np.concatenate([positive, np.zeros(10 * positive.size, np.float32)])
        chosen = [
            choose_range(_histogram(x), "entropy", levels=256, symmetric=False)
            for x in (positive, sparse)
        ]
        assert chosen[0] == pytest.approx(chosen[1], rel=0.02, abs=1e-3)

    def test_entropy_keeps_a_uniform_tensor_whole(self) -> None:
        values = np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32)
        low, high = choose_range(_histogram(values), "entropy", levels=256, symmetric=False)
        assert (low, high) == pytest.approx((-1, 1), abs=0.02)

    @pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("name", [*NAMES, "zero", "constant", "negative"])
    def test_ranges_lie_within_what_was_seen(
        self, name: str, symmetric: bool, method: Method
    ) -> None:
        special = {"zero": 0 * _draw("relu"), "constant": 0 * _draw("relu") + 7}
        special["negative"] = -np.abs(_draw("normal")) - 1
        values = special[name] if name in special else _draw(name)
        low, high = choose_range(_histogram(values), method, levels=256, symmetric=symmetric)
        assert np.isfinite([low, high]).all()
        if symmetric:
            assert 0 <= high == -low <= np.abs(values).max()
        else:
            assert min(0.0, values.min()) <= low <= high <= max(0.0, values.max())


def _samples(folder: Path, images: NDArray[Any], name: str = "images") -> Samples:
    streams = (Stream(name=name, dtype="float32", shape=images.shape[1:], batched=True),)
    with SampleWriter(folder, streams, batch_size=1) as writer:
        writer.append({name: images})
    return Samples(folder)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return _samples(tmp_path / "samples", cnn_inputs(8))


def _every_tensor(path: Path, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """All tensors of a graph over all samples, held at once."""
    model = onnx.load(path)
    names = [name for node in model.graph.node for name in node.output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    runs = [session.run(names, {"images": image[None]}) for image in images]
    values = {name: np.stack([run[k] for run in runs]) for k, name in enumerate(names)}
    return {"images": images, **values}


class TestCollection:
    def test_every_tensor_as_numpy_sees_it(self, tmp_path: Path, samples: Samples) -> None:
        path = write_cnn(tmp_path / "cnn.onnx")
        ranges = collect_ranges(path, samples)
        expected = _every_tensor(path, cnn_inputs(8))
        assert set(ranges.histograms) == set(expected)
        for name, values in expected.items():
            histogram = ranges.histograms[name]
            counts, _ = np.histogram(values.astype(np.float64), histogram.edges)
            np.testing.assert_array_equal(histogram.counts, counts)

    def test_a_small_memory_bound_gives_the_same(
        self, tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_cnn(tmp_path / "cnn.onnx")
        whole = collect_ranges(path, samples)
        groups: list[list[str]] = []
        session = collection._session

        def spy(onnx_: Any, model: Any, names: list[str]) -> Any:
            groups.append(names)
            return session(onnx_, model, names)

        monkeypatch.setattr(collection, "_session", spy)
        split = collect_ranges(path, samples, max_bytes=40_000)
        sizes = {"a": 16384, "b": 16384, "c": 8192, "d": 8192, "e": 128, "f": 128}
        assert len(groups) > 1
        assert all(sum(sizes.get(n, 32) for n in group) <= 40_000 for group in groups)
        whole.save(tmp_path / "whole.npz")
        split.save(tmp_path / "split.npz")
        assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "split.npz").read_bytes()

    def test_integer_tensors_and_branches_are_left_out(self, tmp_path: Path) -> None:
        text = """
            <ir_version: 8, opset_import: ["" : 16]>
            g (float[N, 4] images, int64 k) => (float[N, 4] y)
            {
                shape = Shape (images)
                zero = Constant <value = int64 {0}> ()
                positive = Greater (k, zero)
                doubled = Add (images, images)
                y = If (positive) <
                    then_branch = t () => (float[N, 4] a) { inner = Neg (doubled)
                                                            a = Neg (inner) },
                    else_branch = e () => (float[N, 4] b) { b = Identity (doubled) }>
            }
        """
        model = onnx.parser.parse_model(text)
        onnx.save(model, tmp_path / "m.onnx")
        streams = (
            Stream(name="images", dtype="float32", shape=(4,), batched=True),
            Stream(name="k", dtype="int64", shape=(), batched=False),
        )
        with SampleWriter(tmp_path / "s", streams, batch_size=1) as writer:
            writer.append({"images": np.eye(4, dtype=np.float32), "k": np.arange(4)})
        ranges = collect_ranges(tmp_path / "m.onnx", Samples(tmp_path / "s"))
        assert set(ranges.histograms) == {"images", "doubled", "y"}
        assert ranges.range_of("doubled", "minmax", levels=256, symmetric=False) == (0, 2)

    def test_a_graph_that_does_not_run(self, tmp_path: Path) -> None:
        path = write_cnn(tmp_path / "cnn.onnx")
        wrong = _samples(tmp_path / "wrong", np.zeros((2, 4, 16, 16), np.float32))
        with pytest.raises(ModelError, match=r"cnn\.onnx: does not run on the calibration"):
            collect_ranges(path, wrong)


class TestCache:
    def test_the_second_time_comes_from_the_cache(
        self, tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
        path = write_cnn(tmp_path / "cnn.onnx")
        first = cached_ranges(path, samples)
        (place,) = (tmp_path / "cache" / "ranges").iterdir()
        before = place.read_bytes()
        monkeypatch.setattr(collection, "collect_ranges", None)
        second = cached_ranges(path, samples)
        assert set(second.histograms) == set(first.histograms)
        for name, histogram in first.histograms.items():
            again = second.histograms[name]
            np.testing.assert_array_equal(again.counts, histogram.counts)
            assert vars(again) | {"counts": 0} == vars(histogram) | {"counts": 0}
        assert place.read_bytes() == before

    def test_other_samples_or_another_graph_are_another_entry(
        self, tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
        cached_ranges(write_cnn(tmp_path / "cnn.onnx"), samples)
        cached_ranges(write_cnn(tmp_path / "other.onnx", seed=1), samples)
        cached_ranges(tmp_path / "cnn.onnx", _samples(tmp_path / "s2", cnn_inputs(8, seed=2)))
        assert len(list((tmp_path / "cache" / "ranges").iterdir())) == 3

    def test_a_damaged_entry_is_made_again(
        self, tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
        path = write_cnn(tmp_path / "cnn.onnx")
        cached_ranges(path, samples)
        (place,) = (tmp_path / "cache" / "ranges").iterdir()
        good = place.read_bytes()
        place.write_bytes(good[: len(good) // 2])
        with pytest.raises(BundleError):
            Ranges.load(place)
        cached_ranges(path, samples)
        assert place.read_bytes() == good

    def test_two_at_once(
        self, tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGESSL_CACHE", str(tmp_path / "cache"))
        path = write_cnn(tmp_path / "cnn.onnx")
        results: list[Ranges] = []
        threads = [
            threading.Thread(target=lambda: results.append(cached_ranges(path, samples)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4
        assert [p.suffix for p in (tmp_path / "cache" / "ranges").iterdir()] == [".npz"]
