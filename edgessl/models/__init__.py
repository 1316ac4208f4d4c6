"""Backbones by name: any timm model as an encoder, and the file an encoder is kept in."""

from edgessl.models.encoder import Encoder, build_encoder, load_teacher
from edgessl.models.weights import load_encoder, load_weights, save_encoder

__all__ = [
    "Encoder",
    "build_encoder",
    "load_encoder",
    "load_teacher",
    "load_weights",
    "save_encoder",
]
