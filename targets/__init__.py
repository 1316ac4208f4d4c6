"""Devices that edgessl compiles for: one TOML each, validated on loading."""

from edgessl.targets.description import Description, Summary, describe, summaries
from edgessl.targets.host import HostFacts, NvidiaGpu, detect
from edgessl.targets.loader import list_targets, load_target
from edgessl.targets.model import (
    CandidateSpec,
    HardwareFact,
    IntelNpu,
    Nvidia,
    Qualcomm,
    Quantization,
    ShapeRules,
    Target,
)

__all__ = [
    "CandidateSpec",
    "Description",
    "HardwareFact",
    "HostFacts",
    "IntelNpu",
    "Nvidia",
    "NvidiaGpu",
    "Qualcomm",
    "Quantization",
    "ShapeRules",
    "Summary",
    "Target",
    "describe",
    "detect",
    "list_targets",
    "load_target",
    "summaries",
]
