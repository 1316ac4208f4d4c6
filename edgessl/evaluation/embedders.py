"""Whatever can be evaluated, behind one function: fitted samples in, embeddings out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgessl.errors import ModelError, UsageError
from edgessl.optional import require
from edgessl.preprocessing import ImageInput, MediaInput, RawImage, model_input, normalize
from edgessl.run_directory import RunDirectory

if TYPE_CHECKING:
    from edgessl.models import Encoder
    from edgessl.runtime import Model, Session

__all__ = ["Embedder", "open_embedder"]


class Embedder(ABC):
    """Something that embeds.

    Attributes:
        name: How reports call it.
        spec: What it takes.
    """

    name: str
    spec: ImageInput

    @abstractmethod
    def embed(self, samples: RawImage) -> NDArray[np.float32]:
        """Embed fitted samples: (N, H, W, C) uint8 or uint16 → (N, D) float32."""

    def close(self) -> None:  # noqa: B027 - most embedders hold nothing
        """Give resources back."""


class _Pixels(Embedder):
    """The input itself, flattened: the baseline that any learning must beat."""

    name = "pixels"

    def __init__(self, spec: ImageInput) -> None:
        self.spec = spec

    def embed(self, samples: RawImage) -> NDArray[np.float32]:
        return normalize(samples, self.spec).reshape(len(samples), -1)


class _Torch(Embedder):
    """An encoder in PyTorch: a run, or a backbone with random weights."""

    def __init__(self, name: str, encoder: Encoder) -> None:
        import torch

        self.name, self.spec = name, encoder.spec
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder = encoder.eval().to(self._device)

    def embed(self, samples: RawImage) -> NDArray[np.float32]:
        import torch

        inputs = torch.from_numpy(normalize(samples, self.spec)).to(self._device)
        with torch.inference_mode():
            embedded: NDArray[np.float32] = self._encoder(inputs).float().cpu().numpy()
        return embedded


class _Onnx(Embedder):
    """An exported model in onnxruntime at fp32."""

    def __init__(self, path: Path) -> None:
        from edgessl.onnx_metadata import decode
        from edgessl.runtime import open_session

        onnxruntime = require("onnxruntime", extra="compile")
        self._session: Session = open_session("onnxruntime", path)
        described = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        facts = decode(described.get_modelmeta().custom_metadata_map, where=str(path))
        if facts.preprocessing is None:
            raise ModelError(
                f"{path}: does not say how its input is made; export it with edgessl export"
            )
        self.name, self.spec = path.name, _image(facts.preprocessing, path)

    def embed(self, samples: RawImage) -> NDArray[np.float32]:
        (taken,), (given, *_) = self._session.inputs, self._session.outputs
        inputs = model_input(samples, self.spec)
        step = taken.shape[0] if isinstance(taken.shape[0], int) else len(inputs)
        parts = [
            self._session.run({taken.name: inputs[i : i + step]})[given.name]
            for i in range(0, len(inputs) - len(inputs) % step, step)
        ]
        if rest := len(inputs) % step:
            padded = np.concatenate([inputs[-rest:], np.repeat(inputs[-1:], step - rest, axis=0)])
            parts.append(self._session.run({taken.name: padded})[given.name][:rest])
        embedded: NDArray[np.float32] = np.concatenate(parts).astype(np.float32)
        return embedded

    def close(self) -> None:
        self._session.close()


class _Bundle(Embedder):
    """A compiled bundle in its own engine."""

    def __init__(self, path: Path) -> None:
        from edgessl.runtime import load

        self._model: Model = load(path)
        spec = self._model.manifest.preprocessing
        if spec is None:
            raise ModelError(f"{path}: does not say how its input is made; it cannot be evaluated")
        self.name, self.spec = path.name, _image(spec, path)

    def embed(self, samples: RawImage) -> NDArray[np.float32]:
        return self._model(samples)

    def close(self) -> None:
        self._model.close()


def _image(spec: MediaInput, path: Path) -> ImageInput:
    if not isinstance(spec, ImageInput):
        raise ModelError(f"{path}: takes sounds; evaluate takes models of images")
    return spec


def open_embedder(subject: str, spec: Callable[[], ImageInput], *, seed: int) -> Embedder:
    """Open what a user names.

    Args:
        subject: A run directory (trained for a target's integers: its integer graph), an
            ``encoder.safetensors``, a ``model.onnx``, a ``model.edge``,
            ``random:BACKBONE`` (random weights) or ``pixels``.
        spec: Gives the input of the last two, which have none of their own.
        seed: Of random weights.

    Raises:
        UsageError: Nothing of that kind is there.
    """
    if subject == "pixels":
        return _Pixels(spec())
    if subject.startswith("random:"):
        import torch

        from edgessl.models import build_encoder

        torch.manual_seed(seed)
        return _Torch(subject, build_encoder(subject.removeprefix("random:"), spec()))
    path = Path(subject)
    if not path.exists():
        raise UsageError(
            f"{subject}: no such file or folder; give a run, a .onnx, a .edge, random:BACKBONE or "
            "pixels"
        )
    if path.suffix == ".onnx":
        return _Onnx(path)
    if path.suffix == ".edge":
        return _Bundle(path)
    from edgessl.models import load_encoder

    student = RunDirectory(path).student_path
    if student.is_file():
        return _Onnx(student)
    return _Torch(path.name, load_encoder(path)[0])
