"""The commands that the README and the pages of docs/ show.

A block that starts with three backticks and ``console`` holds commands after ``$ `` and what they
print. The README's blocks are executed in order in a folder that holds ``photos/``, then the
``console`` and ``python`` blocks of each page in a copy of what the README's commands made,
unless the fence says ``not-run: reason``. Each ``edgessl`` command must parse in any case.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from edgessl.cli.app import VERBS, build_app

BLOCK = re.compile(
    r"^```(?P<language>console|python)[ \t]*(?P<tag>[^\n]*)\n(?P<body>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    tag: str
    commands: tuple[str, ...]
    code: str = ""

    @property
    def runs(self) -> bool:
        return not self.tag.startswith("not-run")

    def argv(self) -> list[str]:
        """What executes the block: bash for commands, Python for code."""
        if self.code:
            return [sys.executable, "-c", self.code]
        return ["bash", "-euo", "pipefail", "-c", "\n".join(self.commands)]


def blocks_of(page: str, text: str) -> Iterator[Block]:
    for match in BLOCK.finditer(text):
        line = text[: match.start()].count("\n") + 1
        if match["language"] == "python":
            yield Block(page, line, match["tag"].strip(), (), match["body"])
            continue
        commands: list[str] = []
        continued = False
        for row in match["body"].splitlines():
            if row.startswith("$ "):
                commands.append(row[2:])
            elif continued:
                commands[-1] += "\n" + row
            continued = (row.startswith("$ ") or continued) and row.endswith("\\")
        yield Block(page, line, match["tag"].strip(), tuple(commands))


def blocks(root: Path) -> list[Block]:
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    found = []
    for page in pages:
        if page.is_file():
            name = page.relative_to(root).as_posix()
            found += blocks_of(name, page.read_text(encoding="utf-8"))
    return found


def make_photos(place: Path) -> None:
    """A folder with ``photos/``: three classes of 20 pictures that differ in colour."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("blue", "green", "red")):
        folder = place / "photos" / name
        folder.mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 128, (48, 48, 3), dtype=np.uint8)
            pixels[:, :, 2 - channel] += 127
            Image.fromarray(pixels).save(folder / f"{index:02}.png")


def execute(page: str, root: Path, place: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for block in blocks(root):
        if block.page != page or not block.runs:
            continue
        done = subprocess.run(
            block.argv(),
            cwd=place,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block.page}:{block.line}\n{done.stderr}"


@pytest.fixture(scope="session")
def after_readme(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's commands leave; test processes share it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    place, done = shared / "readme", shared / "readme.done"
    with open(shared / "readme.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            make_photos(place)
            execute("README.md", root, place)
            done.touch()
    return place


def pages_that_run() -> list[str]:
    here = Path(__file__).parents[2]
    return sorted({b.page for b in blocks(here) if b.runs and b.page != "README.md"})


def test_the_readme_works(after_readme: Path) -> None:
    assert any(after_readme.rglob("*.edge"))


@pytest.mark.parametrize("page", pages_that_run())
def test_page_works(page: str, root: Path, after_readme: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(after_readme, place, symlinks=True)
    execute(page, root, place)


def test_what_is_not_run_says_why(root: Path) -> None:
    for block in blocks(root):
        if not block.runs:
            assert re.match(r"not-run: \S", block.tag), f"{block.page}:{block.line}"


def edgessl_commands(block: Block) -> Iterator[list[str]]:
    """Words of each ``edgessl`` call, without redirections and pipes."""
    for command in block.commands:
        for part in re.split(r"\s(?:\||&&|;)\s", command.replace("\\\n", " ")):
            words = shlex.split(part.partition(" > ")[0].partition(" 2> ")[0], comments=True)
            if words[:1] == ["edgessl"]:
                yield words[1:]


def test_every_command_on_every_page_parses(root: Path) -> None:
    seen = 0
    for block in blocks(root):
        for words in edgessl_commands(block):
            where = f"{block.page}:{block.line}: edgessl {' '.join(words)}"
            words = [word for word in words if word != "--debug"]
            if words[0].startswith("-"):
                assert words[0] in ("--help", "--version", "-h"), where
                continue
            assert words[0] in VERBS, where
            parse(words, where)
            seen += 1
    assert seen, "no page shows a command"


def parse(words: list[str], where: str) -> None:
    """Unknown options and missing words are errors; nothing runs."""
    verb, *rest = words
    command = getattr(get_command(build_app(verb)), "commands")[verb]  # noqa: B009
    if {"-h", "--help"} & set(rest):
        return
    try:
        command.make_context(verb, rest)
    except Exception as error:
        pytest.fail(f"{where}: {error}")


def test_the_reader_of_blocks_sees_commands_and_tags() -> None:
    text = (
        "a\n```console\n$ edgessl run \\\n    r.toml | cat\ndone\n$ ls\n```\n"
        "```console not-run: takes hours\n$ edgessl doctor\n```\n```toml\n$ no\n```\n"
        "```python\nprint(1)\n```\n"
    )
    first, second, third = blocks_of("p", text)
    assert third.code == "print(1)\n"
    assert third.commands == ()
    assert first.commands == ("edgessl run \\\n    r.toml | cat", "ls")
    assert (first.line, first.runs, second.line, second.runs) == (2, True, 8, False)
    assert list(edgessl_commands(first)) == [["run", "r.toml"]]


def test_a_wrong_option_is_noticed() -> None:
    with pytest.raises(pytest.fail.Exception, match="--nothing"):
        parse(["doctor", "--nothing"], "here")
