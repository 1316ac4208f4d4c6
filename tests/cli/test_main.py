"""The frame of the command line: verbs, exit codes, one line per mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgessl import __version__
from edgessl import errors as tree
from edgessl.cli import app
from edgessl.cli.main import main


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make ``edgessl doctor`` raise what a test wants."""

    def arrange(error: BaseException) -> None:
        def doctor() -> None:
            raise error

        monkeypatch.setattr(app, "_load", lambda verb: doctor)

    return arrange


def fresh(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    script = f"import sys\nfrom edgessl.cli.main import main\ncode = main({list(arguments)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", script + code], capture_output=True, text=True, check=False
    )


def test_every_verb_is_found_and_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in app.VERBS:
        assert main([verb, "--help"]) == 0
        said = capsys.readouterr().out
        assert f"edgessl {verb}" in said
        assert "--json" in said


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for verb, (_, summary) in app.VERBS.items():
        assert verb in said
        assert summary in said


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgessl {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    done = fresh("--help", code="print(sorted(m.partition('.')[0] for m in sys.modules))")
    loaded = set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))
    heavy = {"numpy", "onnxruntime", "openvino", "pydantic", "rich", "torch"}
    assert "edgessl" in loaded
    assert not loaded & heavy


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verfy"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: unknown verb 'verfy'; did you mean verify?")
    assert said.err.count("\n") == 1


def test_an_unknown_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--jsn"]) == 2
    said = capsys.readouterr().err
    assert "--jsn" in said
    assert "--json" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [["pretrain"], ["verify"], ["run"], ["doctor", "extra"]])
def test_missing_and_extra_words_are_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (tree.EdgeSSLError, 2),
        (tree.UsageError, 2),
        (tree.DataError, 2),
        (tree.ModelError, 2),
        (tree.RunError, 2),
        (tree.BundleError, 2),
        (tree.TargetError, 2),
        (tree.OutputError, 2),
        (tree.GateError, 1),
        (tree.InconclusiveError, 3),
        (tree.UnavailableError, 4),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: type[tree.EdgeSSLError],
    code: int,
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(error("what is wrong;\nhow to fix it"))
    assert main(["doctor"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: what is wrong; how to fix it\n"


@pytest.mark.parametrize("where", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_shows_the_traceback(
    where: list[str],
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(tree.UsageError("wrong"))
    assert main(where) == 2
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.endswith("error: wrong\n")


@pytest.mark.parametrize("number", [28, 30, 13])
def test_a_place_that_cannot_be_written_is_one_line(
    number: int, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(OSError(number, os.strerror(number), "/some/file"))
    assert main(["doctor"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: /some/file: ")
    assert said.count("\n") == 1


def test_a_defect_is_not_dressed_up(failing: Callable[[BaseException], None]) -> None:
    failing(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def test_a_missing_package_of_an_extra_names_the_command(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(ModuleNotFoundError("No module named 'timm.models'", name="timm.models"))
    assert main(["doctor"]) == 4
    said = "error: timm is not installed; pip install 'edgessl[train]'\n"
    assert capsys.readouterr().err == said
    failing(ModuleNotFoundError("No module named 'edgessl.nothing'", name="edgessl.nothing"))
    with pytest.raises(ModuleNotFoundError):
        main(["doctor"])


def test_ctrl_c_is_one_line_and_130(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(KeyboardInterrupt())
    assert main(["doctor"]) == 130
    said = capsys.readouterr().err
    assert said.startswith("interrupted; ")
    assert said.count("\n") == 1


def test_sigterm_ends_as_ctrl_c_does_and_gives_the_signal_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned: list[bool] = []

    def doctor() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(10)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(app, "_load", lambda verb: doctor)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["doctor"]) == 143
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err.startswith("interrupted; ")


def test_it_works_in_a_thread(capsys: pytest.CaptureFixture[str]) -> None:
    """Signals belong to the main thread; elsewhere the caller keeps them."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "edgessl", "doctor", "--json"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    assert done.returncode == 1


def test_json_prints_exactly_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["edgessl"] == __version__
