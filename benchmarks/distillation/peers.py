"""Our distillation against lightly-train's and against plain feature regression.

    python benchmarks/distillation/peers.py [--data FOLDER] [--environment FOLDER] [--quick]
        [--epochs N] [--seed N …]

The same teacher, the same student from the same first weights, the same photographs, size, epochs
and batch, one thread; every arm is a process of its own, and arms follow each other within a seed.
Ours runs twice per seed: with an empty cache, and again, when decoded photographs and the teacher's
embeddings are there; a later student, recipe or learning rate finds the same cache. lightly-train
keeps nothing between runs. It lives in an environment of its own (made on first use where
``--environment`` says, with ``pip install lightly-train timm``), because it is under the AGPL.
Seeds that are done are kept. Writes ``benchmarks/results/distillation_peers.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from data_sets import CACHE, DATA, DATA_SETS
from scores import accuracies, embed_subject
from student_page import PEERS
from teachers import BACKBONE, teacher

from edgessl import __version__
from edgessl.benchmarking.environment import fingerprint
from edgessl.data.source import open_source
from edgessl.files import write_json
from edgessl.models import build_encoder, load_encoder, save_encoder

HERE = Path(__file__).parent
DATA_SET = DATA_SETS["trashnet"]
STUDENT, SIZE, BATCH, RATE = "resnet18@0.25", 96, 64, 2e-3
# lightly-train scales its rate by the square root of batch / 1536; this one ends as ours.
THEIR_RATE = RATE / (BATCH / 1536) ** 0.5
ARMS: dict[str, Mapping[str, Any]] = {
    "edgessl": {"objectives": {"similarity": 1.0, "cosine": 1.0}},
    "feature regression": {"objectives": {"cosine": 1.0}},
    "lightly-train, its learning rate": {"learning_rate": None},
    "lightly-train, ours": {"learning_rate": THEIR_RATE},
}
_SAYS = """\
Photographs of {data} at {size} pixels, {student}, {epochs} epochs in batches of {batch}, one
thread, wall time of whole processes on a machine that other work shares (CPU seconds are in the
JSON). The student starts from the same weights in every arm of a seed, and all see the teacher's
{backbone}. *later run* is ours with the cache of the first; lightly-train has none. Its default
method (`distillation`) takes mixed-up images and also compares feature maps; its augmentations are
its own. Its learning rate is scaled by the square root of the batch, which makes it small here, so
it is also run with ours."""


def main() -> None:
    """Run what is missing; write the JSON."""
    arguments = _arguments()
    epochs = 1 if arguments.quick else arguments.epochs
    weights = teacher(DATA_SET, arguments.data, epochs=1 if arguments.quick else None)
    python = _environment(arguments.environment)
    result = _load(arguments, epochs)
    for seed in arguments.seed[:1] if arguments.quick else arguments.seed:
        for arm, settings in ARMS.items():
            runs = result["arms"].setdefault(arm, [])
            if any(run["seed"] == seed for run in runs):
                continue
            with tempfile.TemporaryDirectory() as folder:
                work = _Work(Path(folder), weights, arguments.data, epochs, seed)
                found = (
                    work.ours(settings)
                    if "objectives" in settings
                    else work.theirs(python, settings)
                )
            runs.append({"seed": seed, **found})
            print(arm, json.dumps(runs[-1]), flush=True)
            if not arguments.quick:
                write_json(PEERS, {**result, "verdict": _verdict(result["arms"])})


class _Work:
    """What the arms of one seed have in common."""

    def __init__(self, folder: Path, weights: Path, data: Path, epochs: int, seed: int) -> None:
        self.folder, self.weights, self.epochs, self.seed = folder, weights, epochs, seed
        self.data = DATA_SET.samples(data)

    def ours(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Distil twice: with an empty cache, and with the one that is then there."""
        found: dict[str, Any] = {}
        cache = {**os.environ, "EDGESSL_CACHE": str(self.folder / "cache")}
        for when in ("first", "later"):
            request = {
                "teacher": str(self.weights),
                "student": STUDENT,
                "data": str(self.data),
                "out": str(self.folder / when),
                "overrides": {
                    **DATA_SET.views,
                    **settings,
                    "image_size": SIZE,
                    "batch_size": BATCH,
                    "epochs": self.epochs,
                    "learning_rate": RATE,
                    "seed": self.seed,
                    "threads": 1,
                    "probe_epochs": 0,
                },
            }
            command = [sys.executable, str(HERE / "peer_edgessl.py"), json.dumps(request)]
            seconds = _timed(command, cache)[1]
            found |= {f"{when}_s": seconds["wall"], f"{when}_cpu_s": seconds["cpu"]}
        scores = _scores(self.folder / "later", self.data)
        return {**found, "scores": scores, "cache_bytes": self._cache_bytes()}

    def theirs(self, python: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Distil once; there is nothing that a second run would find."""
        modality = DATA_SET.modality(SIZE)
        spec = modality.input_spec(open_source(self.data).train, mean_std=None)
        torch.manual_seed(self.seed)
        encoder = build_encoder(STUDENT, spec)
        torch.save(encoder.backbone, self.folder / "student.pt")
        state = load_encoder(self.weights)[0].backbone.state_dict()
        torch.save(state, self.folder / "teacher.pt")
        request = {
            **settings,
            "data": str(self.data / "train"),
            "teacher": str(self.folder / "teacher.pt"),
            "backbone": BACKBONE,
            "student": str(self.folder / "student.pt"),
            "out": str(self.folder / "out"),
            "weights": str(self.folder / "weights.pt"),
            "epochs": self.epochs,
            "batch_size": BATCH,
            "image_size": SIZE,
            "seed": self.seed,
        }
        told, seconds = _timed(
            [str(python), str(HERE / "peer_lightly_train.py"), json.dumps(request)],
            {k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
        encoder.backbone.load_state_dict(torch.load(self.folder / "weights.pt"))
        save_encoder(encoder, self.folder / "student.safetensors", lineage={})
        scores = _scores(self.folder / "student.safetensors", self.data)
        return {"first_s": seconds["wall"], "first_cpu_s": seconds["cpu"], "scores": scores, **told}

    def _cache_bytes(self) -> int:
        folder = self.folder / "cache" / "teachers"
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _scores(student: Path, data: Path) -> dict[str, float]:
    embedded = embed_subject(student, data)
    return accuracies(embedded, gallery=embedded)


def _timed(
    command: Sequence[str], env: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """The JSON in a process's last line, and its wall and CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command[1]} failed:\n{done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.strip().splitlines()[-1]), {"wall": wall, "cpu": cpu}


def _environment(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "lightly-train", "timm"], check=True)
    return python


def _load(arguments: argparse.Namespace, epochs: int) -> dict[str, Any]:
    settings = {"student": STUDENT, "image_size": SIZE, "batch_size": BATCH, "epochs": epochs}
    if PEERS.exists() and not arguments.quick:
        result: dict[str, Any] = json.loads(PEERS.read_text("utf-8"))
        if result["settings"] == settings:
            return result
    return {
        "benchmark": "distillation: peers",
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "edgessl": __version__,
        "environment": fingerprint().model_dump(mode="json"),
        "settings": settings,
        "says": _SAYS.format(
            data=DATA_SET.says,
            size=SIZE,
            student=STUDENT,
            epochs=epochs,
            batch=BATCH,
            backbone=BACKBONE,
        ),
        "arms": {},
    }


def _verdict(arms: Mapping[str, list[dict[str, Any]]]) -> str:
    """KNN of the best peer beside ours, and the ratios of wall time within each seed."""
    if any(arm not in arms for arm in ARMS):
        return "Not all arms have been run."
    ours = {run["seed"]: run for run in arms["edgessl"]}
    mean = {a: statistics.fmean(run["scores"]["knn"] for run in runs) for a, runs in arms.items()}
    peer = max((arm for arm in mean if arm != "edgessl"), key=mean.__getitem__)
    ratios = [
        ours[run["seed"]]["later_s"] / run["first_s"]
        for arm, runs in arms.items()
        if arm.startswith("lightly-train")
        for run in runs
        if run["seed"] in ours
    ]
    return (
        f"kNN: ours {100 * mean['edgessl']:.1f}, the best of the others ({peer}) "
        f"{100 * mean[peer]:.1f}. Wall time of our later run over lightly-train's, same seed: "
        f"median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}."
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument(
        "--environment", type=Path, default=CACHE / "environments" / "lightly-train"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one epoch; writes no results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
