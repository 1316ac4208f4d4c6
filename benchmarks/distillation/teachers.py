"""A teacher for each data set, trained from labels.

    python benchmarks/distillation/teachers.py [--data FOLDER] [--only NAME] [--epochs N]

990 photographs are too few for a good self-supervised teacher (kNN 63.8 % in
``benchmarks/trashnet.py``), and this benchmark asks what students keep of a teacher, not where it
learnt. So a ResNet-18 learns the classes, loses its classifier, and is kept as an ordinary encoder
in the cache folder. Students never see a label.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from data_sets import CACHE, DATA, DATA_SETS, DataSet
from torch import nn

from edgessl.data.loader import TrainingLoader
from edgessl.data.source import open_source
from edgessl.evaluation import evaluate
from edgessl.files import cache_directory
from edgessl.models import build_encoder, save_encoder

__all__ = ["BACKBONE", "teacher"]

BACKBONE = "resnet18"
_BATCH = 64
_RATE = 1e-3


def teacher(data_set: DataSet, folder: Path, *, epochs: int | None = None) -> Path:
    """The teacher's file; trained now if it is not there yet."""
    epochs = epochs or data_set.teacher_epochs
    path = CACHE / "teachers" / f"{data_set.name}-{BACKBONE}-{epochs}.safetensors"
    if not path.exists():
        _train(data_set, folder, path, epochs)
    return path


def _train(data_set: DataSet, folder: Path, path: Path, epochs: int) -> None:
    torch.manual_seed(0)
    source, modality = (
        open_source(data_set.whole(folder)).train,
        data_set.modality(data_set.teacher_size),
    )
    spec = modality.input_spec(source, mean_std=None)
    store = modality.prepare(source, spec, cache_dir=cache_directory("decoded"), num_workers=1)
    known = source.labels()
    labels = torch.from_numpy(np.asarray(known)[_places(source, store.keys)])
    encoder = build_encoder(BACKBONE, spec)
    model = nn.Sequential(encoder, nn.Dropout(0.2), nn.Linear(encoder.dim, int(labels.max()) + 1))
    loader = TrainingLoader(
        store, modality.views("distill", spec, seed=0), batch_size=_BATCH, seed=0
    )
    steps = epochs * loader.steps_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=steps, pct_start=0.1
    )
    batches, started, losses = loader.batches(0), time.monotonic(), []
    model.train()
    for step in range(steps):
        batch = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            given = model(batch.views[0].contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(given.float(), labels[batch.indices], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % loader.steps_per_epoch == 0:
            passed = time.monotonic() - started
            epoch = (step + 1) // loader.steps_per_epoch
            print(
                f"epoch {epoch} of {epochs}: loss {np.mean(losses):.3f}, {passed:.0f} s", flush=True
            )
            losses.clear()
    batches.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(encoder.eval(), path, lineage={"trained": "from labels"})


def _places(source: object, keys: list[str]) -> list[int]:
    """Where the decoded samples stand in the source, which may have had corrupt ones."""
    place = {source.key(i): i for i in range(len(source))}  # type: ignore[attr-defined,arg-type]
    return [place[key] for key in keys]


def main() -> None:
    """Train what is missing, and say how good each is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", choices=sorted(DATA_SETS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in [arguments.only] if arguments.only else DATA_SETS:
        path = teacher(DATA_SETS[name], arguments.data, epochs=arguments.epochs)
        report = evaluate(path, DATA_SETS[name].samples(arguments.data))
        scores = ", ".join(f"{k} {100 * v:.1f}" for k, v in report.scores.items())
        print(f"{name}: {path}: {scores}", flush=True)


if __name__ == "__main__":
    main()
