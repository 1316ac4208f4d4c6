"""Run bundles: numpy and one engine, never training code."""

from edgessl.runtime.model import Model, load
from edgessl.runtime.session import Session, open_session

__all__ = ["Model", "Session", "load", "open_session"]
