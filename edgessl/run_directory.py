"""The run directory: what a training run leaves behind, and the only thing later stages read.

config.toml                     the resolved configuration
checkpoints/last/               state for an exact --resume
exported/encoder.safetensors    the trained encoder with its facts
exported/student.onnx           the same, trained for a target's integers (distill --for-target)
integers/                       the run of that training, with files of the same names
metrics.jsonl                   one JSON object per logged step
run.log                         what was said while it ran
tensorboard/                    the same figures for TensorBoard
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgessl.config import read_toml
from edgessl.errors import OutputError, RunError
from edgessl.files import output_errors, write_text
from edgessl.optional import require

__all__ = ["RunDirectory"]


class RunDirectory:
    """Paths inside a run, and the rules for creating, resuming and replacing one.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoints" / "last" / "state.safetensors"

    @property
    def encoder_path(self) -> Path:
        return self.path / "exported" / "encoder.safetensors"

    @property
    def student_path(self) -> Path:
        return self.path / "exported" / "student.onnx"

    @property
    def integers_path(self) -> Path:
        return self.path / "integers"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log_path(self) -> Path:
        return self.path / "run.log"

    @property
    def tensorboard_path(self) -> Path:
        return self.path / "tensorboard"

    @classmethod
    def is_run(cls, path: Path) -> bool:
        """Tell whether a folder holds a run."""
        return cls(path).config_path.is_file()

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open a finished run.

        Raises:
            RunError: There is no run, or it has no exported encoder yet.
        """
        run = cls(path)
        if not run.config_path.is_file():
            raise RunError(f"{path} is not a run directory (no config.toml); check the path")
        if not run.encoder_path.is_file():
            raise RunError(f"{path} has no exported encoder; finish the run with --resume")
        return run

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], *, overwrite: bool) -> RunDirectory:
        """Start a new run.

        Raises:
            OutputError: The folder holds something already and may not be replaced.
        """
        run = cls(path)
        run.refuse_existing(overwrite=overwrite)
        if cls.is_run(path):
            shutil.rmtree(run.path)
        with output_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        write_text(run.config_path, require("tomlkit", extra="train").dumps(config))
        return run

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Make sure that a new run may be written here; only a run is ever replaced.

        Raises:
            OutputError: The folder holds something already and may not be replaced.
        """
        if not self.path.exists():
            return
        if self.is_run(self.path):
            if not overwrite:
                raise OutputError(
                    f"{self.path} holds a run; pass --resume to continue it, --overwrite to "
                    "replace it, or choose another --out"
                )
        elif not self.path.is_dir() or any(self.path.iterdir()):
            raise OutputError(f"{self.path} exists and is not a run; choose another --out")

    @classmethod
    def resume(cls, path: Path, config: Mapping[str, Any]) -> RunDirectory:
        """Continue a run, which must have the very same configuration.

        Raises:
            RunError: There is no run, or its configuration differs; the first difference is named.
        """
        run = cls(path)
        if not run.config_path.is_file():
            raise RunError(f"{path} holds no run to resume; leave --resume out to start one")
        old, new = _flatten(read_toml(run.config_path)), _flatten(config)
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                raise RunError(
                    f"{path}: --resume continues exactly, but {key} was {old.get(key)!r} and is "
                    f"{new.get(key)!r} now; use the same settings, or --init-from for a new run"
                )
        return run

    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return read_toml(self.config_path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process from writing to the same run.

        Raises:
            RunError: Another process holds the run.
        """
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.path} is being written by another process; wait for it or stop it"
                ) from None
            yield

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines of ``metrics.jsonl``."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def truncate_metrics(self, step: int) -> None:
        """Drop what was logged after a checkpoint's step: it is going to be logged again."""
        kept = [m for m in self.metrics() if m["step"] <= step]
        write_text(self.metrics_path, "".join(json.dumps(m) + "\n" for m in kept))

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one line and hand it to the operating system at once."""
        with output_errors(self.metrics_path), open(self.metrics_path, "ab") as file:
            file.write((json.dumps(metrics) + "\n").encode())

    def log(self, text: str) -> None:
        """Append a line to ``run.log``."""
        with output_errors(self.log_path), open(self.log_path, "a", encoding="utf-8") as file:
            file.write(text + os.linesep)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
