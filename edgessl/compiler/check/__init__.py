"""Node by node, before any long work: what of a model a target takes, and what falls back."""

from edgessl.compiler.check.check import check_model
from edgessl.compiler.check.report import CheckGateError, CheckReport, EngineReport, NodeReport

__all__ = ["CheckGateError", "CheckReport", "EngineReport", "NodeReport", "check_model"]
