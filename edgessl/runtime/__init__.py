"""Run bundles: numpy and one engine, never training code."""

from edgessl.runtime.finalize import FinalizeReport, finalize
from edgessl.runtime.infer import Embeddings, infer, write_embeddings
from edgessl.runtime.model import Model, load
from edgessl.runtime.session import Session, open_session
from edgessl.runtime.verify import VerifyReport, verify

__all__ = [
    "Embeddings",
    "FinalizeReport",
    "Model",
    "Session",
    "VerifyReport",
    "finalize",
    "infer",
    "load",
    "open_session",
    "verify",
    "write_embeddings",
]
