"""An ONNX file as a teacher, in onnxruntime: edgessl's own, or anyone's with its preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgessl.bundle.manifest import TensorSpec
from edgessl.distillation.objectives import TeacherFeatures
from edgessl.distillation.teachers.teacher import Teacher
from edgessl.errors import ModelError, UsageError, nearest
from edgessl.files import sha256_file, sha256_json
from edgessl.onnx_metadata import decode
from edgessl.optional import require
from edgessl.preprocess_option import parse_preprocess
from edgessl.preprocessing import ImageInput, MediaInput
from edgessl.runtime import open_session

__all__ = ["OnnxTeacher"]

_WHERE = "teacher_preprocess"


class OnnxTeacher(Teacher):
    """A graph with one image input.

    Its embedding is the output that is asked for, else its only one, else its only (N, D) one. A
    spatial output is averaged over its places, and is the feature map.

    Args:
        path: The ``.onnx`` file.
        preprocess: What the graph takes, as in ``compile --preprocess``; not needed for a file of
            edgessl, which says it itself.
        output: Name of the output.

    Raises:
        ModelError: No ONNX file, not one of images, or no output that can be an embedding.
        UsageError: Nothing says how its input is made.
    """

    def __init__(self, path: Path, *, preprocess: str | None, output: str | None) -> None:
        self.name = path.name
        self._session = open_session("onnxruntime", path)
        if len(self._session.inputs) != 1:
            raise self._error(
                f"has {len(self._session.inputs)} inputs; export it with one image input"
            )
        (self._input,) = self._session.inputs
        self._media = self._described(path, preprocess)
        self.spec = ImageInput(
            channels=self._media.channels,
            height=self._media.height,
            width=self._media.width,
            mean=(0.0,) * self._media.channels,
            std=(1.0,) * self._media.channels,
        )
        self._output = self._choose(output).name
        self.sha256 = sha256_json(
            [sha256_file(path), self._media.model_dump(mode="json"), self._output]
        )
        zeros = torch.zeros(1, self.spec.channels, self.spec.height, self.spec.width)
        self.dim = self.features(zeros, maps=False).embedding.shape[1]

    def features(self, views: Tensor, *, maps: bool) -> TeacherFeatures:
        """Run the graph; on the CPU, whatever the views are on."""
        found = self._run(self._graph_input(views.cpu().numpy())).astype(np.float32)
        given = torch.from_numpy(np.ascontiguousarray(found)).to(views.device)
        if given.ndim == 2:
            if maps:
                raise self._error(
                    f"output '{self._output}' is an embedding and no feature map; name a spatial "
                    "one with teacher_output, or leave feature_maps and tokens out"
                )
            return TeacherFeatures(given)
        places = self._as_map(given)
        return TeacherFeatures(places.mean(dim=(2, 3)), places if maps else None)

    def _described(self, path: Path, preprocess: str | None) -> ImageInput:
        onnxruntime = require("onnxruntime", extra="compile")
        opened = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        facts = decode(opened.get_modelmeta().custom_metadata_map, where=str(path))
        media: MediaInput | None = facts.preprocessing
        if preprocess is not None:
            media = parse_preprocess(
                preprocess,
                name=self._input.name,
                shape=self._input.shape,
                dtype=self._input.dtype,
                described=media,
                where=_WHERE,
            )
        if media is None:
            raise UsageError(
                f"teacher {self.name}: does not say how its input is made; add "
                f"{_WHERE}=size=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225 with its numbers"
            )
        if not isinstance(media, ImageInput):
            raise self._error("takes sounds, the student takes images; choose a teacher of images")
        return media

    def _choose(self, output: str | None) -> TensorSpec:
        outputs = {spec.name: spec for spec in self._session.outputs}
        if output is not None:
            if output not in outputs:
                raise UsageError(
                    f"teacher {self.name}: has no output '{output}'; {nearest(output, outputs)}"
                )
            return outputs[output]
        flat = [spec for spec in outputs.values() if len(spec.shape) == 2]
        candidates = list(outputs.values()) if len(outputs) == 1 else flat
        if len(candidates) == 1 and len(candidates[0].shape) in (2, 3, 4):
            return candidates[0]
        found = ", ".join(f"{spec.name} {_dims(spec.shape)}" for spec in outputs.values())
        raise self._error(
            f"no usable output among {found}; name one of N x D or N x C x H x W with "
            "teacher_output=NAME"
        )

    def _graph_input(self, views: NDArray[np.float32]) -> NDArray[Any]:
        """What the graph takes for views in [0, 1]; as `edgessl.preprocessing` does for pixels."""
        media = self._media
        if media.channel_order == "bgr":
            views = views[:, ::-1]
        if media.folded:
            values: NDArray[Any] = np.rint(views * 255).clip(0, 255).astype(np.uint8)
        else:
            low, high = media.value_range
            mean, std = (
                np.asarray(numbers, dtype=np.float32)[:, None, None]
                for numbers in (media.mean, media.std)
            )
            values = (views * np.float32(high - low) + np.float32(low) - mean) / std
        layout = media.layout or ("nhwc" if media.folded else "nchw")
        if layout == "nhwc":
            values = values.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(values.astype(self._input.dtype, copy=False))

    def _run(self, values: NDArray[Any]) -> NDArray[Any]:
        size = self._input.shape[0] if isinstance(self._input.shape[0], int) else len(values)
        filling = -len(values) % size
        filled = np.concatenate([values, np.repeat(values[-1:], filling, axis=0)])
        parts = [
            self._session.run({self._input.name: filled[i : i + size]})[self._output]
            for i in range(0, len(filled), size)
        ]
        found: NDArray[Any] = np.concatenate(parts)[: len(values)]
        if found.ndim not in (2, 3, 4) or len(found) != len(values):
            raise self._error(
                f"output '{self._output}' is {_dims(found.shape)} for {len(values)} images; name "
                "another with teacher_output=NAME"
            )
        return found

    def _as_map(self, given: Tensor) -> Tensor:
        if given.ndim == 4:
            return given.movedim(-1, 1) if self._media.layout == "nhwc" else given
        rows = round(given.shape[1] ** 0.5)
        rows = rows if rows * rows == given.shape[1] else 1
        maps: Tensor = given.transpose(1, 2).unflatten(2, (rows, given.shape[1] // rows))
        return maps

    def _error(self, message: str) -> ModelError:
        return ModelError(f"teacher {self.name}: {message}")


def _dims(shape: Sequence[int | str]) -> str:
    return "[" + "x".join(str(d) for d in shape) + "]"
