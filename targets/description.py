"""What a person wants to know about targets on this machine."""

from __future__ import annotations

from typing import NamedTuple

from edgessl.config import Options
from edgessl.targets.host import HostFacts, detect
from edgessl.targets.intel import NPU_PLATFORMS
from edgessl.targets.loader import list_targets, load_target
from edgessl.targets.model import CandidateSpec, HardwareFact, Target
from edgessl.targets.qualcomm import find_soc

__all__ = ["Description", "Summary", "describe", "summaries"]


class Summary(NamedTuple):
    """One line of the list; ``obstacle`` says why this machine cannot run it, if so."""

    name: str
    description: str
    obstacle: str | None
    family: str
    arch: str
    engines: tuple[str, ...]

    def row(self) -> list[str]:
        """Cells for a table: family, name, architecture, engines, whether it runs here, what."""
        here = "no" if self.obstacle else "yes"
        return [
            self.family,
            self.name,
            self.arch,
            ", ".join(self.engines),
            here,
            self.description,
        ]


class Description(Options):
    """One target, and what of it this machine can do.

    Attributes:
        obstacle: Why this machine cannot run it; None if it can.
        tried_here: Candidates that a compilation on this machine tries.
        skipped_here: Candidate → CPU features that it needs and this machine lacks.
    """

    target: Target
    obstacle: str | None
    tried_here: tuple[str, ...]
    skipped_here: dict[str, tuple[str, ...]]

    def rows(self) -> list[list[str]]:
        """Cells for a table: key and value."""
        target = self.target
        rows = [
            ["name", target.name],
            ["description", target.description],
            ["family", target.family],
            ["arch", target.arch],
            ["needs", ", ".join(target.requires) or "no CPU feature"],
            *self._chip(),
            ["runs here", self.obstacle or "yes"],
        ]
        for candidate in target.candidates:
            missing = self.skipped_here.get(candidate.name)
            state = f"not here: the CPU lacks {', '.join(missing)}" if missing else "tried"
            rows.append([f"candidate {candidate.name}", state])
        rows += [[f"refused {name}", reason] for name, reason in sorted(target.refused.items())]
        for engine, options in sorted(target.engine_options.items()):
            rows += [[f"{engine} {key}", str(value)] for key, value in sorted(options.items())]
        rows += [
            ["shapes", "static" if target.shapes.static else "static or dynamic"],
            ["max rank", str(target.shapes.max_rank or "no limit")],
            ["min fidelity", f"{target.min_fidelity:g} mean cosine to float32"],
            ["min neighbour agreement", f"{target.min_neighbour_agreement:g}"],
            ["min SQNR", f"{target.min_sqnr_db:g} dB, for models that are not encoders"],
            ["calibration samples", str(target.quantization.calibration_samples)],
            ["calibration method", target.quantization.method],
            ["weights per channel", "yes" if target.quantization.per_channel else "no"],
            ["reduced range", target.quantization.reduce_range],
        ]
        return [*rows, *(_fact_row(n, fact) for n, fact in sorted(target.hardware.items()))]

    def _chip(self) -> list[list[str]]:
        target = self.target
        if target.qualcomm is not None:
            soc = find_soc(target.qualcomm.soc)
            return [
                ["chip", f"{target.qualcomm.soc}, {soc.marketing_name}"],
                ["soc_model", "not published" if soc.soc_model is None else str(soc.soc_model)],
                ["htp_arch", f"v{soc.htp_arch}"],
                *(["chip's source", source] for source in soc.sources),
            ]
        if target.intel_npu is not None:
            platform = target.intel_npu.platform
            return [["NPU platform", f"{platform}, {NPU_PLATFORMS[platform].codenames}"]]
        if target.nvidia is not None:
            nvidia = target.nvidia
            core = "none" if nvidia.dla_core is None else f"core {nvidia.dla_core}"
            return [
                ["module", nvidia.module or "any GPU"],
                ["compute capability", nvidia.compute_capability or "any"],
                ["DLA", core],
                ["TensorRT", ", ".join(nvidia.tensorrt) or "any from 10.3"],
            ]
        return []


def summaries(host: HostFacts | None = None) -> list[Summary]:
    """All known targets as seen from a host, by family; by default this machine."""
    host = host or detect()
    targets = [load_target(name) for name in list_targets()]
    targets.sort(key=lambda target: (target.family, target.name))
    return [_summary(target, host) for target in targets]


def describe(name: str, host: HostFacts | None = None) -> Description:
    """One target as seen from a host; by default this machine.

    Raises:
        TargetError: The target is unknown or not valid.
    """
    host = host or detect()
    target = load_target(name)
    lacking = {c.name: _lacks(c, host) for c in target.candidates}
    return Description(
        target=target,
        obstacle=target.runs_here(host),
        tried_here=tuple(name for name, missing in lacking.items() if not missing),
        skipped_here={name: missing for name, missing in lacking.items() if missing},
    )


def _summary(target: Target, host: HostFacts) -> Summary:
    return Summary(
        name=target.name,
        description=target.description,
        obstacle=target.runs_here(host),
        family=target.family,
        arch=target.arch,
        engines=tuple(dict.fromkeys(candidate.engine for candidate in target.candidates)),
    )


def _fact_row(name: str, fact: HardwareFact) -> list[str]:
    values = fact.value if isinstance(fact.value, tuple) else (fact.value,)
    text = ", ".join(_readable(value) for value in values)
    source = f" ({fact.source})" if fact.source else ""
    return [name, f"{text} {fact.unit or ''}".strip() + source]


def _readable(value: bool | int | float | str) -> str:
    """Whole gibibytes and mebibytes beside the number of bytes."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        for size, word in ((2**30, "GiB"), (2**20, "MiB")):
            if value and value % size == 0:
                return f"{value} ({value // size} {word})"
    return str(value)


def _lacks(candidate: CandidateSpec, host: HostFacts) -> tuple[str, ...]:
    return tuple(feature for feature in candidate.requires if feature not in host.features)
