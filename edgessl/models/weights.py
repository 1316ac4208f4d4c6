"""The file an encoder is kept in: safetensors, with the facts to rebuild it in its header."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pydantic
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgessl.config import Options, describe_validation
from edgessl.errors import ModelError
from edgessl.files import atomic_path
from edgessl.models.encoder import Encoder, build_encoder
from edgessl.preprocessing import ImageInput
from edgessl.run_directory import RunDirectory

__all__ = [
    "EncoderFacts",
    "encoder_file",
    "load_encoder",
    "load_weights",
    "save_encoder",
    "weights_sha256",
    "write_tensors",
]

_KEY = "edgessl.encoder"


class EncoderFacts(Options):
    """What is written beside the weights.

    Attributes:
        lineage: Hashes and names of what the encoder was made from.
    """

    backbone: str
    dim: Annotated[int, Field(ge=1)]
    preprocessing: ImageInput
    lineage: dict[str, str] = Field(default_factory=dict)


def save_encoder(encoder: Encoder, path: Path, *, lineage: Mapping[str, str]) -> None:
    """Write an encoder's weights and facts atomically."""
    facts = EncoderFacts(
        backbone=encoder.name, dim=encoder.dim, preprocessing=encoder.spec, lineage=dict(lineage)
    )
    tensors = {k: v.detach().cpu().contiguous() for k, v in encoder.backbone.state_dict().items()}
    write_tensors(path, tensors, {_KEY: facts.model_dump_json()})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically.

    Raises:
        OutputError: The disk is full, or ``path`` cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:
            # It keeps the operating system's number in the text only.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def encoder_file(path: Path) -> Path:
    """The weights file of a run directory; a file is its own.

    Raises:
        RunError: The folder is no finished run.
    """
    return RunDirectory.open(path).encoder_path if path.is_dir() else path


def load_encoder(path: Path) -> tuple[Encoder, EncoderFacts]:
    """Rebuild an encoder from a run directory or an ``encoder.safetensors``.

    Raises:
        RunError: The folder is no finished run.
        ModelError: The file is damaged, or is not an encoder of edgessl.
    """
    file = encoder_file(path)
    facts = _read_facts(file)
    encoder = build_encoder(facts.backbone, facts.preprocessing)
    load_weights(encoder.backbone, file)
    return encoder.eval(), facts


def load_weights(module: nn.Module, file: Path) -> None:
    """Load a safetensors file into a module, strictly.

    Raises:
        ModelError: The file is damaged, or names or shapes do not fit; the first is named.
    """
    tensors = _read_tensors(file)
    expected = module.state_dict()
    for name in sorted({*expected, *tensors}):
        if name not in tensors or name not in expected:
            where = "the file lacks" if name not in tensors else "the model has no"
            raise ModelError(f"{file}: {where} '{name}'; give weights of the same backbone")
        if tensors[name].shape != expected[name].shape:
            raise ModelError(
                f"{file}: '{name}' is {tuple(tensors[name].shape)}, the model takes "
                f"{tuple(expected[name].shape)}; use the same backbone, channels and image_size"
            )
    module.load_state_dict(tensors)


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over all parameters and buffers of a module, with their names, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; check the path") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file}: not a readable safetensors file ({error}); copy it again"
        ) from error


def _read_facts(file: Path) -> EncoderFacts:
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_KEY)
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; check the path") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file}: not a readable safetensors file ({error}); copy it again"
        ) from error
    if text is None:
        raise ModelError(f"{file}: has no edgessl facts in its header; give a run directory")
    try:
        return EncoderFacts.model_validate(json.loads(text))
    except (pydantic.ValidationError, ValueError) as error:
        reason = (
            describe_validation(error) if isinstance(error, pydantic.ValidationError) else error
        )
        raise ModelError(f"{file}: its facts are not valid: {reason}; export it again") from error
