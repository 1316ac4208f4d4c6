"""The models of the compile matrix and what each is calibrated with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Case", "cases"]

_TOKENS, _PADDING = 1024, 256
_FILES = 192
_SEED = 0


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: How the table calls it.
        model: The ``.onnx`` file.
        calibration: What is given as ``--calibration``.
        data: The same in words.
        settings: Options of `compile_model` that this model needs.
        refused: True if it must be refused with a clear error.
    """

    name: str
    model: Path
    calibration: Path
    data: str
    settings: dict[str, Any] = field(default_factory=dict)
    refused: bool = False


def cases(models: Path, shared: Path) -> list[Case]:
    """The nine timm models, and every model under ``shared/models``.

    Args:
        models: Folder that `timm_models.py` wrote; the bytes for magika go there too.
        shared: Folder of real data and models.
    """
    from timm_models import MODELS  # imports torch, whose memory the cells must not count

    images = models / "images.npy"
    found = [Case(name, models / f"{name}.onnx", images, "trashnet images") for name in MODELS]
    third = shared / "models"
    found.append(
        Case(
            "ultraface-rfb-320",
            third / "ultraface" / "version-RFB-320.onnx",
            shared / "data" / "trashnet-192",
            "trashnet images",
            {"preprocess": "mean=127,std=128,range=0-255,resize=squash"},
        )
    )
    found += [
        Case(
            name,
            third / "silero-vad" / f"{name}.onnx",
            shared / "data" / "fsdd",
            "spoken digits; rate frozen at 16 kHz, state 0",
            {
                "preprocess": "rate=16000,samples=576,hop=512",
                "freeze": {"sr": 16_000},
                "constants": {"state": 0},
                "shapes": {"input": [1, 576], "state": [2, 1, 128]},
            },
        )
        for name in ("silero_vad", "silero_vad_op18_ifless")
    ]
    texts = models / "texts.npz"
    found.append(
        Case(
            "magika-v3.3",
            third / "magika" / "magika_standard_v3_3.onnx",
            texts,
            "bytes of text files",
        )
    )
    superres = third / "superres" / "superresolution_prepost_op18.onnx"
    found.append(Case("superres", superres, texts, "refused before data are read", refused=True))
    if not texts.exists():
        np.savez(texts, bytes=_tokens(shared / "data"))
    return found


def _tokens(data: Path) -> NDArray[np.int32]:
    """Beginnings and ends of files as magika takes them: ``(192, 2048)``, 256 where none is."""
    rng = np.random.default_rng(_SEED)
    whole = [
        p.read_bytes()
        for p in sorted(data.rglob("*"))
        if p.suffix in (".md", ".csv", ".txt", ".json") and p.stat().st_size
    ]
    play = (data / "tinyshakespeare" / "train.txt").read_bytes()
    while len(whole) < _FILES:
        start, length = rng.integers(0, len(play) - 8000), rng.integers(100, 8000)
        whole.append(play[start : start + length])
    rows = np.full((_FILES, 2 * _TOKENS), _PADDING, np.int32)
    for row, number in zip(rows, rng.permutation(len(whole))[:_FILES], strict=True):
        text = whole[number].strip()
        first = np.frombuffer(text[:_TOKENS], np.uint8)
        last = np.frombuffer(text[-_TOKENS:], np.uint8)
        row[: len(first)] = first
        row[2 * _TOKENS - len(last) :] = last
    return rows
