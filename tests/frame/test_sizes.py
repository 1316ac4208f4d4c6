"""Files stay short enough to read in one sitting."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDERS = ("edgessl", "kernels", "targets", "tests", "benchmarks")
LIMIT = 400


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_longer_than_the_limit(root: Path, folder: str) -> None:
    lengths = {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (root / folder).rglob("*.py")
    }
    assert lengths, f"nothing found in {folder}"
    assert {name: n for name, n in lengths.items() if n > LIMIT} == {}


def test_the_nine_words_are_found_in_one_guess(root: Path) -> None:
    words = [
        "pretrain",
        "distill",
        "evaluate",
        "export",
        "compile",
        "finalize",
        "verify",
        "infer",
        "benchmark",
    ]
    assert [w for w in words if not (root / "edgessl" / "cli" / f"{w}.py").is_file()] == []
