"""What a target file must mean beyond its schema: chips, engines and facts that exist."""

from __future__ import annotations

from collections.abc import Iterator

from edgessl.errors import nearest
from edgessl.targets.engines import objection
from edgessl.targets.facts import FACTS
from edgessl.targets.intel import NPU_PLATFORMS
from edgessl.targets.jetson import MODULES
from edgessl.targets.model import Target
from edgessl.targets.qualcomm import SOCS

__all__ = ["first_objection"]


def first_objection(target: Target) -> str | None:
    """The first thing in a target that cannot be; None if there is none."""
    return next(_objections(target), None)


def _objections(target: Target) -> Iterator[str]:
    yield from _facts(target)
    yield from _chip(target)
    for candidate in target.candidates:
        why = objection(
            family=target.family,
            engine=candidate.engine,
            precision=candidate.precision,
            scheme=candidate.scheme,
            remainder=candidate.remainder,
        )
        if why is not None:
            yield f"candidate {candidate.name}: {why}"
        if candidate.precision in target.refused:
            yield f"candidate {candidate.name}: {target.refused[candidate.precision]}"
        if candidate.scheme == "tensorrt-dla" and _dla_core(target) is None:
            yield f"candidate {candidate.name}: needs nvidia.dla_core"
    engines = {candidate.engine for candidate in target.candidates}
    for engine in target.engine_options:
        if engine not in engines:
            yield f"engine_options.{engine}: no candidate has it; {nearest(engine, engines)}"


def _facts(target: Target) -> Iterator[str]:
    for name, fact in target.hardware.items():
        if name not in FACTS:
            yield f"unknown hardware fact '{name}'; {nearest(name, FACTS)}"
        elif fact.unit is not None and fact.unit != FACTS[name]:
            yield f"hardware.{name} is in {FACTS[name]}, found {fact.unit!r}"


def _chip(target: Target) -> Iterator[str]:
    if target.qualcomm is not None:
        soc = SOCS.get(target.qualcomm.soc)
        if soc is None:
            name = target.qualcomm.soc
            yield f"unknown Qualcomm chip '{name}'; {nearest(name, SOCS)}"
            return
        for candidate in target.candidates:
            if candidate.precision not in soc.precisions:
                yield (
                    f"candidate {candidate.name}: {target.qualcomm.soc} (Hexagon v{soc.htp_arch}) "
                    f"computes in {', '.join(soc.precisions)} only"
                )
    if target.intel_npu is not None:
        platform = target.intel_npu.platform
        if platform not in NPU_PLATFORMS:
            yield f"unknown Intel NPU platform '{platform}'; {nearest(platform, NPU_PLATFORMS)}"
        option = target.engine_options.get("openvino", {}).get("npu_platform")
        if option not in (None, platform):
            yield f"engine_options.openvino.npu_platform is {option!r}, the NPU is '{platform}'"
    yield from _jetson(target)


def _jetson(target: Target) -> Iterator[str]:
    if target.nvidia is None or target.nvidia.module is None:
        if _dla_core(target) is not None:
            yield "nvidia.dla_core: only a Jetson has a DLA; name nvidia.module"
        return
    name = target.nvidia.module
    module = MODULES.get(name)
    if module is None:
        yield f"unknown Jetson module '{name}'; {nearest(name, MODULES)}"
        return
    if target.nvidia.compute_capability not in (None, module.compute_capability):
        yield f"the {module.title} has compute capability {module.compute_capability}"
    core = _dla_core(target)
    if core is not None and core >= module.dla_cores:
        count = module.dla_cores or "no"
        yield f"nvidia.dla_core is {core}, the {module.title} has {count} DLA cores"


def _dla_core(target: Target) -> int | None:
    return None if target.nvidia is None else target.nvidia.dla_core
