"""Where a run's figures go: metrics.jsonl, TensorBoard, run.log and the progress callback."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from edgessl.progress import Progress, ProgressEvent
from edgessl.run_directory import RunDirectory

__all__ = ["Recorder"]


class Recorder:
    """Records for one process; with ``active=False`` (all but the first) it does nothing.

    Args:
        run: The run directory.
        stage: Name of the progress bar (``"pretrain"``).
        progress: The caller's callback.
        active: Whether this process records.
    """

    def __init__(self, run: RunDirectory, *, stage: str, progress: Progress, active: bool) -> None:
        self.run, self.stage, self.progress, self.active = run, stage, progress, active
        self._shown: dict[str, float] = {}
        self._total, self._unit_samples = 0, 0
        self._clock, self._clock_step = 0.0, 0
        self._board: SummaryWriter | None = None

    def start(self, step: int, total: int, *, unit_samples: int) -> None:
        """Begin at ``step`` of ``total``; ``unit_samples`` is the number of samples per step."""
        self._total, self._unit_samples = total, unit_samples
        self._clock, self._clock_step = time.monotonic(), step
        if self.active:
            self._board = SummaryWriter(str(self.run.tensorboard_path), purge_step=step + 1)
            self.say(f"{'resumed at' if step else 'started,'} step {step} of {total}")

    def say(self, text: str, *, warning: bool = False) -> None:
        """Write a remark to ``run.log`` and pass it on."""
        if self.active:
            self.run.log(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}")
            self.progress(ProgressEvent(self.stage, message=text, warning=warning))

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self.active:
            self.progress(ProgressEvent(self.stage, step, self._total, metrics=dict(self._shown)))

    def record(self, step: int, epoch: float, figures: Mapping[str, float]) -> None:
        """Record a training step."""
        elapsed = max(1e-9, time.monotonic() - self._clock)
        speed = (step - self._clock_step) * self._unit_samples / elapsed
        self._clock, self._clock_step = time.monotonic(), step
        line = {"step": step, "epoch": round(epoch, 4), **figures, "samples_per_second": speed}
        self._shown |= {"loss": figures["loss"], "samples/s": speed}
        self._write(step, line, "train")
        self.advance(step)

    def record_probe(self, step: int, figures: Mapping[str, float]) -> None:
        """Record a look at the embedding."""
        self._shown |= figures
        self._write(step, {"step": step, **figures}, "probe")
        text = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        self.say(f"step {step}: {text}")

    def close(self) -> None:
        """Flush what is open."""
        if self._board is not None:
            self._board.close()

    def _write(self, step: int, line: Mapping[str, float], section: str) -> None:
        if self.active and self._board is not None:
            self.run.append_metrics(line)
            for name, value in line.items():
                if name != "step":
                    self._board.add_scalar(f"{section}/{name}", value, step)
