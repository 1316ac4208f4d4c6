"""The nine timm models of the compile benchmarks, as ONNX.

    python benchmarks/compile/timm_models.py FOLDER [--data IMAGES] [--size 224] [name …]

Weights are random (published ones are not fetched); batch-norm statistics come from real images:
each model runs over 256 of them in training mode, with a cumulative average. With the statistics
that a fresh model has, its activations would be nothing like a trained one's. The export is
edgessl's own, with re-parameterisable blocks fused. Beside each model lies its ``.safetensors``,
from which peers export their own formats, and beside all ``images.npy``: 300 other images,
``(300, 3, size, size)`` float32, normalised.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from model_names import DATA, MODELS
from numpy.typing import NDArray
from torch import nn

from edgessl.exporting import export
from edgessl.images import read_image
from edgessl.models import Encoder, build_encoder, save_encoder
from edgessl.preprocessing import ImageInput, fit, normalize

__all__ = ["DATA", "MODELS", "write_images", "write_model"]

SEED = 0
_STATISTICS = 256
_KEPT = 300
_BATCH = 32


def write_images(data: Path, size: int, out: Path) -> None:
    """Write the images that calibrate and test; none of them sets batch-norm statistics."""
    np.save(out, _read(_files(data)[_STATISTICS : _STATISTICS + _KEPT], _spec(size)))


def write_model(name: str, data: Path, size: int, out: Path) -> None:
    """Write one model with a free batch, opset 18, and its weights beside it."""
    torch.manual_seed(SEED)
    encoder = build_encoder(name, _spec(size))
    images = torch.from_numpy(_read(_files(data)[:_STATISTICS], encoder.spec))
    _set_statistics(encoder, images)
    weights = out.with_suffix(".safetensors")
    save_encoder(encoder, weights, lineage={})
    # The comparison runs on noise, far from the images that set the statistics, where deep
    # networks multiply rounding errors.
    export(weights, out=out, overrides={"max_abs_difference": 0.02})


@torch.no_grad()
def _set_statistics(encoder: Encoder, images: torch.Tensor) -> None:
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average instead of an exponential one
    encoder.train(bool(norms))
    for start in range(0, len(images) if norms else 0, _BATCH):
        encoder(images[start : start + _BATCH])
    encoder.eval()


def _files(data: Path) -> list[Path]:
    files = sorted(p for p in data.rglob("*") if p.suffix in (".jpg", ".jpeg", ".png"))
    if len(files) < _STATISTICS + _KEPT:
        raise SystemExit(f"{data}: holds {len(files)} images, {_STATISTICS + _KEPT} are needed")
    order = np.random.default_rng(SEED).permutation(len(files))
    return [files[i] for i in order]


def _read(files: list[Path], spec: ImageInput) -> NDArray[np.float32]:
    fitted = np.stack([fit(read_image(file, name=file.name), spec) for file in files])
    return np.asarray(normalize(fitted, spec), dtype=np.float32)


def _spec(size: int) -> ImageInput:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return ImageInput(channels=3, height=size, width=size, mean=mean, std=std)


def main() -> None:
    """Write the models that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    images = arguments.folder / "images.npy"
    if not images.exists():
        write_images(arguments.data, arguments.size, images)
    for name in arguments.names:
        out = arguments.folder / f"{name}.onnx"
        if not (out.exists() and out.with_suffix(".safetensors").exists()):
            write_model(name, arguments.data, arguments.size, out)
            print(f"{name}: {out.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
