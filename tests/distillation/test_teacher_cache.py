"""The cache of teacher features: small, mapped, bounded, safe, and made again when in doubt."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgessl.distillation.teacher_cache import CacheTable, cache_limit_bytes, make_room
from edgessl.errors import OutputError, UsageError
from edgessl.progress import ProgressEvent

HEADER = {"teacher": "a" * 64, "inputs": "b" * 64}


def hashes(names: range) -> list[str]:
    return [hashlib.sha256(str(name).encode()).hexdigest() for name in names]


def row_of(name: int, view: int, row: int) -> NDArray[np.float16]:
    return np.random.default_rng([name, view]).normal(size=row).astype(np.float16)


class Teacher:
    """Counts what it is asked for."""

    def __init__(self, names: range, row: int) -> None:
        self.names, self.row = names, row
        self.seen: list[tuple[int, int]] = []
        self.messages: list[str] = []

    def compute(self, view: int, indices: NDArray[np.int64]) -> NDArray[np.float16]:
        self.seen += [(self.names[i], view) for i in indices]
        return np.stack([row_of(self.names[i], view, self.row) for i in indices])

    def progress(self, event: ProgressEvent) -> None:
        if event.message:
            self.messages.append(event.message)


def fill(
    folder: Path | None, names: range, views: int, *, row: int = 8, **header: Any
) -> tuple[Teacher, CacheTable, Any]:
    teacher = Teacher(names, row)
    table = CacheTable(folder, {**HEADER, **header}, row=row, progress=teacher.progress)
    filled = table.fill(hashes(names), views, teacher.compute)
    return teacher, table, filled


def assert_right(filled: Any, names: range, views: int, row: int = 8) -> None:
    arrays, places = filled
    assert len(arrays) == views
    for view in range(views):
        for index, name in enumerate(names):
            np.testing.assert_array_equal(arrays[view][places[index]], row_of(name, view, row))


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_only_what_is_new_is_computed(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    first, _, filled = fill(folder, range(300), 2)
    assert len(first.seen) == 600
    assert_right(filled, range(300), 2)
    again, _, filled = fill(folder, range(300), 2)
    assert again.seen == []
    assert_right(filled, range(300), 2)
    more, _, filled = fill(folder, range(250, 310), 2)
    assert sorted(set(more.seen)) == [(n, v) for n in range(300, 310) for v in range(2)]
    assert_right(filled, range(250, 310), 2)
    view, _, filled = fill(folder, range(5, 20), 3)
    assert sorted(view.seen) == [(n, 2) for n in range(5, 20)]
    assert_right(filled, range(5, 20), 3)
    rest, _, filled = fill(folder, range(300), 3)
    assert len(rest.seen) == 285
    assert_right(filled, range(300), 3)


def test_a_sample_that_is_there_twice_is_computed_once(tmp_path: Path) -> None:
    teacher = Teacher(range(3), 8)
    table = CacheTable(tmp_path / "t", HEADER, row=8, progress=teacher.progress)
    filled = table.fill(hashes(range(3)) + hashes(range(1, 2)), 1, teacher.compute)
    assert filled is not None
    assert len(teacher.seen) == 3
    assert filled[1][3] == filled[1][1]


@pytest.mark.parametrize(("dim", "views"), [(64, 2), (64, 4), (32, 4), (128, 1), (384, 4)])
def test_the_cache_is_at_most_five_percent_more_than_the_rows(
    tmp_path: Path, dim: int, views: int
) -> None:
    fill(tmp_path / "t", range(2000), views, row=dim)
    rows = 2000 * views * dim * 2
    assert rows <= size_of(tmp_path / "t") <= 1.05 * rows


def test_rows_are_mapped_and_not_read(tmp_path: Path) -> None:
    _, _, filled = fill(tmp_path / "t", range(20), 2)
    assert all(isinstance(array, np.memmap) and array.mode == "r" for array in filled[0])


@pytest.mark.parametrize("change", [{"teacher": "c" * 64}, {"inputs": "d" * 64}])
def test_a_table_of_another_teacher_is_recognised_and_rebuilt(
    tmp_path: Path, change: dict[str, str]
) -> None:
    fill(tmp_path / "t", range(50), 2)
    teacher, _, filled = fill(tmp_path / "t", range(50), 2, **change)
    assert len(teacher.seen) == 100
    assert_right(filled, range(50), 2)
    word = "another teacher" if "teacher" in change else "another kind"
    assert word in teacher.messages[0]


def test_another_dimension_is_another_table(tmp_path: Path) -> None:
    fill(tmp_path / "t", range(50), 2)
    teacher, _, filled = fill(tmp_path / "t", range(50), 2, row=12)
    assert len(teacher.seen) == 100
    assert_right(filled, range(50), 2, row=12)


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: _flip(folder / "index", 400),
        lambda folder: _flip(folder / "index", 5),
        lambda folder: _flip(folder / "view-0001.rows", 700),
        lambda folder: (folder / "view-0000.rows").unlink(),
        lambda folder: os.truncate(folder / "view-0001.rows", 100),
        lambda folder: os.truncate(folder / "index", 90),
        lambda folder: (folder / "index").write_bytes(b""),
        lambda folder: (folder / "index").write_bytes(b"[1]\n"),
    ],
)
def test_a_damaged_table_is_recognised_and_rebuilt(tmp_path: Path, damage: Any) -> None:
    fill(tmp_path / "t", range(300), 2)
    damage(tmp_path / "t")
    teacher, _, filled = fill(tmp_path / "t", range(300), 2)
    assert_right(filled, range(300), 2)
    assert len(teacher.seen) >= 300
    assert "damaged" in teacher.messages[0]
    whole, _, _ = fill(tmp_path / "t", range(300), 2)
    assert whole.seen == []


PROCESS = textwrap.dedent(
    """
    import os, signal, sys, time, types
    from pathlib import Path
    import numpy as np
    import edgessl
    sys.path.insert(0, sys.argv[1])
    # The package itself imports torch, which the cache does not need.
    package = types.ModuleType("edgessl.distillation")
    package.__path__ = [str(Path(edgessl.__file__).parent / "distillation")]
    sys.modules["edgessl.distillation"] = package
    from test_teacher_cache import Teacher, fill, HEADER, hashes, assert_right
    from edgessl.distillation import teacher_cache
    from edgessl.distillation.teacher_cache import CacheTable
    folder, start, stop, kill = Path(sys.argv[2]), *map(int, sys.argv[3:6])
    if kill:
        teacher_cache._COMMIT_SECONDS = 0.0  # every batch is counted in
    names = range(start, stop)
    teacher = Teacher(names, 8)
    def compute(view, indices):
        if kill and len(teacher.seen) >= kill:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.005)
        return teacher.compute(view, indices)
    table = CacheTable(folder, HEADER, row=8, progress=teacher.progress)
    filled = table.fill(hashes(names), 2, compute)
    assert_right(filled, names, 2)
    print(len(teacher.seen), len(teacher.messages))
    """
)


def run_process(folder: Path, start: int, stop: int, *, kill: int = 0) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    words = [sys.executable, "-c", PROCESS, here, str(folder), str(start), str(stop), str(kill)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_a_table(tmp_path: Path) -> None:
    """Whoever comes second computes only what is missing then; nothing is lost."""
    processes = [run_process(tmp_path / "t", 0, 400), run_process(tmp_path / "t", 200, 600)]
    outputs = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(int(words[0]) for words in outputs) == 600 * 2
    assert [words[1] for words in outputs] == ["0", "0"]
    teacher, _, filled = fill(tmp_path / "t", range(600), 2)
    assert teacher.seen == []
    assert_right(filled, range(600), 2)


def test_a_killed_process_leaves_whole_rows_only(tmp_path: Path) -> None:
    process = run_process(tmp_path / "t", 0, 400, kill=500)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    teacher, _, filled = fill(tmp_path / "t", range(100, 500), 2)
    assert_right(filled, range(100, 500), 2)
    assert teacher.messages == []
    assert 0 < len(teacher.seen) < 800, "what was counted in is not computed again"


def test_the_oldest_tables_go_and_those_in_use_stay(tmp_path: Path) -> None:
    names = range(100)
    held = []
    for age, name in enumerate(("a", "b", "c")):
        _, table, _ = fill(tmp_path / name, names, 1)
        if name == "a":
            held.append(table)
        for file in (tmp_path / name).iterdir():
            os.utime(file, (1000 + age, 1000 + age))
    del table
    one = size_of(tmp_path / "a")
    assert make_room(tmp_path / "new", one, 4 * one)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"a", "b", "c"}
    assert make_room(tmp_path / "new", one, 3 * one)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"a", "c"}
    assert not make_room(tmp_path / "new", 3 * one, 3 * one), "'a' is in use"
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"a", "c"}
    assert make_room(tmp_path / "new", 2 * one, 3 * one)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"a"}


def test_rows_stay_readable_after_their_table_went(tmp_path: Path) -> None:
    teacher, table, filled = fill(tmp_path / "a", range(100), 1)
    del teacher, table
    assert make_room(tmp_path / "b", 10, 20)
    assert not (tmp_path / "a").exists()
    assert_right(filled, range(100), 1)


def test_a_table_beyond_the_limit_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESSL_TEACHER_CACHE_GB", "1e-6")
    teacher, _, filled = fill(tmp_path / "t", range(100), 2)
    assert filled is None
    assert teacher.seen == []
    assert not any(file.stat().st_size for file in tmp_path.rglob("*.rows"))
    monkeypatch.setenv("EDGESSL_TEACHER_CACHE_GB", "4 GB")
    with pytest.raises(UsageError, match="EDGESSL_TEACHER_CACHE_GB is '4 GB'"):
        cache_limit_bytes()


def test_without_a_folder_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, _, filled = fill(None, range(40), 2)
    assert_right(filled, range(40), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        fill(tmp_path / "file" / "t", range(4), 1)
