"""Arrays in bundles: exact, deterministic, never unpickled, never larger than they are."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgessl.bundle.arrays import load_arrays, save_arrays
from edgessl.errors import BundleError


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_what_goes_in_comes_out(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    found = load_arrays(save_arrays({"a": array, "b": array}), where="x")
    assert sorted(found) == ["a", "b"]
    assert found["a"].dtype == array.dtype
    np.testing.assert_array_equal(found["a"], array)


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "x.npz").write_bytes(save_arrays({"a": array.T}))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["a"], array.T)


def test_equal_arrays_give_equal_bytes() -> None:
    a, b = np.arange(6.0), np.ones((2, 2))
    assert save_arrays({"a": a, "b": b}) == save_arrays({"b": b.copy(order="F"), "a": a[:]})


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_of_numpy_are_read(write: Any, order: Any) -> None:
    stream = io.BytesIO()
    array = np.asarray(np.arange(24).reshape(2, 3, 4), order=order)
    write(stream, values=array)
    np.testing.assert_array_equal(load_arrays(stream.getvalue(), where="x")["values"], array)


def npz(header: bytes, data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    body = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.npy", body)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        npz(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
        npz(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n", b"1234"),
        npz(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"\x80\x04N."),
        npz(b"__import__('os')\n"),
        npz(b"{'descr': '<f4'\n"),
    ],
)
def test_hostile_files_are_one_line(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^x: ") as caught:
        load_arrays(data, where="x")
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_by_its_declared_size() -> None:
    stream = io.BytesIO()
    zeros: NDArray[np.uint8] = np.zeros(10_000_000, np.uint8)
    np.savez_compressed(stream, a=zeros)
    assert len(stream.getvalue()) < 100_000
    with pytest.raises(BundleError, match="limit 1000000"):
        load_arrays(stream.getvalue(), where="x", max_bytes=1_000_000)


def test_a_truncated_file_is_refused() -> None:
    good = save_arrays({"a": np.arange(100.0)})
    for size in range(0, len(good), 17):
        with pytest.raises(BundleError):
            load_arrays(good[:size], where="x")


def test_a_scalar_stays_a_scalar() -> None:
    arrays = load_arrays(save_arrays({"loss": np.array(2, np.int64)}), where="x.npz")
    assert arrays["loss"].shape == ()
    assert arrays["loss"] == 2
