"""What the CPU engines' builds have in common: what the machine must be, and who stands in."""

from __future__ import annotations

from edgessl.bundle.manifest import EngineSpec, OptionValue, Requirements, StandIn
from edgessl.compiler.backends import BuildRequest
from edgessl.targets import detect

__all__ = ["cpu_requirements", "host_stand_in"]

_SATURATING = ("u8s8", "nncf")


def cpu_requirements(request: BuildRequest) -> Requirements:
    """Architecture and features of the CPU.

    On x86 without 8-bit dot products two products of 8-bit weights are added in 16 bits, which
    saturates: what was built with all 8 bits must not run there, although it would.
    """
    arch = detect().arch if request.target.arch == "any" else request.target.arch
    features = {*request.target.requires, *request.candidate.requires}
    saturates = request.candidate.scheme in _SATURATING and not request.reduce_range
    if arch == "x86_64" and saturates:
        features.add("vnni")
    return Requirements(arch=arch, cpu_features=tuple(sorted(features)))


def host_stand_in(
    engine: str, version: str, model: str, options: dict[str, OptionValue]
) -> StandIn:
    """An engine on the machine that compiles."""
    spec = EngineSpec(name=engine, version=version, options=options)
    return StandIn(kind="host", engine=spec, model=model)
