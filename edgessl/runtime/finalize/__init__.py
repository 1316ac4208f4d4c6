"""Finish a bundle on its device: build, check, measure, keep the fastest."""

from edgessl.runtime.finalize.finalization import FinalizeReport, finalize
from edgessl.runtime.finalize.measuring import Setting

__all__ = ["FinalizeReport", "Setting", "finalize"]
