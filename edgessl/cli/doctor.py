"""``edgessl doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["doctor"]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what this machine can build and run, and what to install for the rest."""
    from edgessl.cli import terminal
    from edgessl.doctor import diagnose

    found = diagnose()
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
        return
    facts = [
        ("edgessl", found.edgessl),
        ("python", f"{found.python}, {found.system}"),
        ("cpu", f"{found.cpu}, {found.arch}, {found.cores} physical cores usable"),
        ("cpu features", " ".join(found.cpu_features) or "none that matter"),
        ("memory", f"{found.memory_bytes / 1e9:.1f} GB"),
        *(("gpu", f"{g.name}, {g.memory}, driver {g.driver}") for g in found.gpus),
        *(("accelerator", name) for name in found.accelerators),
        ("gpu use", found.gpu_remark),
        ("contrastive losses", found.contrastive_losses),
        ("cache", f"{found.cache} ({found.cache_free_bytes / 1e9:.1f} GB free)"),
    ]
    terminal.table(["this machine", ""], facts)
    engines = [(e.name, e.version, e.obstacle or ", ".join(e.devices)) for e in found.engines]
    terminal.table(["engine", "version", "devices"], engines)
    targets = [
        (t.name, "yes" if t.runs else "no", len(t.builds), "; ".join(t.obstacles) or "nothing")
        for t in sorted(found.targets, key=lambda target: (target.family, target.name))
    ]
    terminal.table(["target", "runs here", "builds here", "what is missing"], targets)
    packages = [
        (p.name, p.version or f"pip install 'edgessl[{p.extras[0]}]'", ", ".join(p.extras))
        for p in found.packages
    ]
    terminal.table(["package", "version", "in extra"], packages)
