"""``edgessl run`` and ``edgessl doctor`` as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgessl.cli.main import main

pytest.importorskip("torch")

RECIPE = """
name = "tiny"
data = "data.npz"

[stages.scores]
verb = "evaluate"
subject = "pixels"
protocol = ["knn"]
image_size = 8
knn_k = 3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = (rng.integers(0, 100, (40, 8, 8)) + 120 * labels[:, None, None]).astype(np.uint8)
    np.savez(
        tmp_path / "data.npz",
        **{"x_train": images[:30], "y_train": labels[:30]},
        **{"x_test": images[30:], "y_test": labels[30:]},
    )
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_run_prints_a_table_and_keeps_stdout_for_it(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == [
        "stage",
        "verb",
        "status",
        "seconds",
        "why",
        "output",
    ]
    assert "scores  evaluate  made" in said.out
    assert "scores: evaluate: not made yet" in said.err


def test_run_as_json_overrides_and_force(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(recipe), "--out", str(tmp_path / "out"), "--json"]
    found = []
    for more in ([], [], ["scores.knn_k=5"], ["scores.knn_k=5", "--force", "scores"]):
        assert main([*words, *more]) == 0
        stage = json.loads(capsys.readouterr().out)["stages"][0]
        found.append((stage["status"], stage["reason"]))
    assert found == [
        ("made", "not made yet"),
        ("cached", "unchanged"),
        ("made", "knn_k changed"),
        ("made", "forced"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["knn_kk=3"], "command line: unknown key 'knn_kk'; did you mean knn_k?"),
        (["knn_k"], "'knn_k' is not an override; write key=value"),
        (["--force", "score"], "--force: unknown stage 'score'; did you mean scores?"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    recipe: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe), "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_output_folder_that_is_a_file_is_one_line(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine")
    assert main(["run", str(recipe), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "out").read_text() == "mine"


def test_doctor_names_engines_targets_and_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in (
        "onnxruntime",
        "CPUExecutionProvider",
        "host",
        "contrastive losses",
        "cache",
        "python",
    ):
        assert word in said
