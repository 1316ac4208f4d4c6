"""A vision model of `transformers` as a teacher: no remote code, no pickle."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgessl.distillation.objectives import TeacherFeatures
from edgessl.distillation.teachers.teacher import Teacher
from edgessl.errors import ModelError, UnavailableError
from edgessl.models.weights import weights_sha256
from edgessl.optional import require
from edgessl.preprocessing import ImageInput

__all__ = ["TransformersTeacher"]

_CLASS_TOKENS = ("cls_token", "class_embedding")


class TransformersTeacher(Teacher):
    """What ``AutoModel`` makes of a folder of ``save_pretrained``, or of a name of the hub.

    Its embedding is ``pooler_output`` if the file has the pooler's weights, else the class token
    of ``last_hidden_state``, else its mean over the places. Of a model with several towers the
    vision tower is taken.

    Args:
        name: The folder, or ``hf:NAME``.
        image_size: Side of its input; None takes that of its ``preprocessor_config.json``, up to
            ``largest`` where the model takes other sizes than its own.
        largest: In pixels.

    Raises:
        ModelError: The folder has no safetensors, or other weights than the model; the model is
            not one of images; nothing says how its input is made.
        UnavailableError: `transformers` is not installed, or the hub cannot be reached.
    """

    def __init__(self, name: str, *, image_size: int | None, largest: int) -> None:
        self._transformers = require("transformers", extra="transformers")
        local = not name.startswith("hf:")
        source = name.removeprefix("hf:")
        self.name = Path(source).name if local else source
        self._model, missing = self._load(source, local)
        if hasattr(self._model, "vision_model"):
            self._model = self._model.vision_model
        self._model.eval().requires_grad_(False)
        config = self._model.config
        taken = inspect.signature(self._model.forward).parameters
        if "pixel_values" not in taken:
            raise self._error(f"{type(self._model).__name__} takes no images; choose a vision one")
        self._extra = (
            {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in taken else {}
        )
        self._pooler = not any("pooler" in key for key in missing)
        names = [n.rpartition(".")[2] for n, _ in self._model.named_parameters()]
        self._class_token = any(n in _CLASS_TOKENS for n in names)
        self.spec = self._input(source, local, config, image_size, largest)
        self.sha256 = weights_sha256(self._model)
        zeros = torch.zeros(1, self.spec.channels, self.spec.height, self.spec.width)
        try:
            self.dim = self.features(zeros, maps=False).embedding.shape[1]
        except (RuntimeError, ValueError, AssertionError) as error:
            raise self._error(
                f"does not take {self.spec.channels}x{self.spec.height}x{self.spec.width} images "
                f"({_first_line(error)}); choose another teacher_image_size"
            ) from error

    @torch.inference_mode()
    def features(self, views: Tensor, *, maps: bool) -> TeacherFeatures:
        """One pass."""
        output = self._model(pixel_values=views, **self._extra)
        hidden = getattr(output, "last_hidden_state", None)
        if not isinstance(hidden, Tensor) or hidden.ndim not in (3, 4):
            raise self._error(f"{type(self._model).__name__} gives no last_hidden_state of places")
        pooled = getattr(output, "pooler_output", None) if self._pooler else None
        if pooled is not None:
            embedding = pooled.flatten(1)
        elif hidden.ndim == 4:
            embedding = hidden.mean(dim=(2, 3))
        else:
            embedding = hidden[:, 0] if self._class_token else hidden.mean(dim=1)
        return TeacherFeatures(embedding.float(), self._map(hidden) if maps else None)

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self._model.to(device)

    def _map(self, hidden: Tensor) -> Tensor:
        if hidden.ndim == 4:
            return hidden.float()
        patch = getattr(self._model.config, "patch_size", None)
        rows = columns = round(hidden.shape[1] ** 0.5)
        if isinstance(patch, int):
            grid = (self.spec.height // patch, self.spec.width // patch)
            if grid[0] * grid[1] <= hidden.shape[1]:
                rows, columns = grid
        if rows * columns > hidden.shape[1] or not rows:
            raise self._error(f"its {hidden.shape[1]} tokens are no grid; leave the maps out")
        # Class and register tokens come first.
        places = hidden[:, hidden.shape[1] - rows * columns :]
        maps: Tensor = places.transpose(1, 2).unflatten(2, (rows, columns))
        return maps.float()

    def _load(self, source: str, local: bool) -> tuple[nn.Module | Any, list[str]]:
        """The model, and the names of weights that the file lacks; only a pooler's may be."""
        logging = self._transformers.utils.logging
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            model, report = self._transformers.AutoModel.from_pretrained(
                source,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=local,
                output_loading_info=True,
                dtype=torch.float32,
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = _first_line(error)
            if local:
                raise self._error(
                    f"cannot be opened ({reason}); give a folder of save_pretrained with "
                    "safetensors and a model type that this transformers knows"
                ) from error
            raise UnavailableError(
                f"teacher hf:{source}: cannot be fetched ({reason}); check the name, or give a "
                "folder of save_pretrained"
            ) from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        missing = sorted(map(str, report["missing_keys"]))
        others = [key for key in missing if "pooler" not in key]
        if others or report["mismatched_keys"]:
            first = others[0] if others else str(sorted(map(str, report["mismatched_keys"]))[0])
            raise self._error(f"its file lacks '{first}'; give the weights of this model")
        return model, missing

    def _input(
        self, source: str, local: bool, config: Any, image_size: int | None, largest: int
    ) -> ImageInput:
        facts = self._processor(source, local)
        channels = int(getattr(config, "num_channels", 3))
        height, width = _size(facts) or _square(getattr(config, "image_size", None)) or (0, 0)
        if image_size is not None:
            height = width = image_size
        elif self._extra or getattr(config, "image_size", None) is None:
            height, width = min(height, largest), min(width, largest)
        normalised = facts.get("do_normalize", True)
        mean, std = (facts.get(key) if normalised else None for key in ("image_mean", "image_std"))
        if not height or (normalised and (mean is None or std is None)):
            raise self._error(
                "its preprocessor_config.json has no size, image_mean or image_std; add them"
            )
        # Its pixels times `rescale_factor` are normalised, ours are in [0, 1].
        scale = 255 * facts.get("rescale_factor", 1 / 255) if facts.get("do_rescale", True) else 255
        return ImageInput(
            channels=channels,
            height=height,
            width=width,
            mean=tuple(value / scale for value in mean or (0.0,) * channels),
            std=tuple(value / scale for value in std or (1.0,) * channels),
        )

    def _processor(self, source: str, local: bool) -> dict[str, Any]:
        """What preprocessor_config.json says, or processor_config.json of newer files."""
        for file in ("preprocessor_config.json", "processor_config.json"):
            try:
                path = self._transformers.utils.cached_file(
                    source,
                    file,
                    local_files_only=local,
                    _raise_exceptions_for_missing_entries=False,
                )
                facts = None if path is None else json.loads(Path(path).read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise self._error(f"{file} cannot be read ({_first_line(error)})") from error
            if isinstance(facts, dict):
                inner = facts.get("image_processor", facts)
                return inner if isinstance(inner, dict) else facts
        raise self._error(
            "has no preprocessor_config.json, which says mean, deviation and size; copy it into "
            "the folder"
        )

    def _error(self, message: str) -> ModelError:
        return ModelError(f"teacher {self.name}: {message}")


def _size(facts: dict[str, Any]) -> tuple[int, int] | None:
    """Rows and columns after cropping, else after resizing."""
    cropped = facts.get("crop_size") if facts.get("do_center_crop", True) else None
    for size in (cropped, facts.get("size")):
        if isinstance(size, dict) and {"height", "width"} <= set(size):
            return int(size["height"]), int(size["width"])
        if isinstance(size, dict) and "shortest_edge" in size:
            return _square(size["shortest_edge"])
        if size is not None and (found := _square(size)) is not None:
            return found
    return None


def _square(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
