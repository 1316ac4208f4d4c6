"""TensorRT: build the engine from the recipe, look into it, and ship it in place of the graph."""

from __future__ import annotations

import re
from pathlib import Path

from edgessl.bundle.manifest import OptionValue
from edgessl.errors import UsageError
from edgessl.files import cache_directory
from edgessl.runtime.finalize.builds import Job, Prepared
from edgessl.runtime.session import ENGINES
from edgessl.runtime.tensorrt.build import build_engine
from edgessl.runtime.tensorrt.memory import DeviceFacts, device_facts
from edgessl.runtime.tensorrt.recipe import RECIPE_NAME, Recipe, read_recipe

__all__ = ["finish", "timing_cache_file"]

_PLAN, _LAYERS = "engine.plan", "layers.json"


def finish(job: Job) -> Prepared:
    """Build, unless the bundle holds only an engine that was built here before.

    Raises:
        UnavailableError: No GPU, no TensorRT, or no accelerator that was asked for.
        ModelError: The build fails.
        GateError: The engine's layers compute in another precision than was asked for.
    """
    manifest = job.build.manifest
    source = _graph(job)
    if source is None:
        job.preflight()
        return _as_it_is(job)
    # What an earlier engine needed is no concern of one that is built now.
    job.preflight(engine_version=None)
    version = ENGINES.get("tensorrt").version()
    facts = device_facts()
    recipe = _asked(read_recipe(source.parent / RECIPE_NAME), job)
    built = build_engine(
        source.parent,
        recipe,
        timing_cache=timing_cache_file(version, facts),
        progress=job.progress,
    )
    built.inspection.require_as_asked(
        dla=recipe.dla_core is not None, where=f"{job.where}: {job.name}"
    )
    place = Path(manifest.model).parent
    (source.parent / _PLAN).write_bytes(built.plan)
    (source.parent / _LAYERS).write_text(built.layers, encoding="utf-8")
    names = (_PLAN, _LAYERS, RECIPE_NAME)
    options: dict[str, OptionValue] = {
        k: v for k, v in manifest.engine.options.items() if k != "dla_core"
    }
    if recipe.dla_core is not None:
        options["dla_core"] = recipe.dla_core
    requirements = manifest.requirements.model_copy(
        update={"engine_version": version, "compute_capability": facts.compute_capability}
    )
    return Prepared(
        build=job.build,
        model=(place / _PLAN).as_posix(),
        members={(place / name).as_posix(): source.parent / name for name in names},
        grid=[options],
        version=version,
        requirements=requirements,
        stand_ins=manifest.stand_ins,
        versions={"gpu": facts.name, "cuda_driver": facts.driver},
        remarks=(f"{job.name}: {built.inspection.describe()}", *built.remarks),
    )


def timing_cache_file(version: str, facts: DeviceFacts) -> Path:
    """Where kernels' times are kept: times of one GPU under one TensorRT serve no other."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{facts.name} {facts.compute_capability}").strip("-")
    return cache_directory("tensorrt", f"{version}-{name}.timing")


def _graph(job: Job) -> Path | None:
    """The ONNX graph that the engine is built from: the model itself, or what stands in for it."""
    manifest = job.build.manifest
    names = [manifest.model, *(stand_in.model for stand_in in manifest.stand_ins)]
    for name in names:
        beside = (job.folder / name).parent / RECIPE_NAME
        if name.endswith(".onnx") and beside.is_file():
            return job.folder / name
    return None


def _asked(recipe: Recipe, job: Job) -> Recipe:
    """The recipe with the user's word above it."""
    changes: dict[str, int] = {}
    if job.options.workspace_mib is not None:
        changes["workspace_mib"] = job.options.workspace_mib
    if job.options.dla_core is not None:
        if recipe.dla_core is None:
            raise UsageError(
                f"{job.where}: {job.name} is for the GPU; leave --dla-core out, or compile for a "
                "-dla target"
            )
        changes["dla_core"] = job.options.dla_core
    return recipe.model_copy(update=changes)


def _as_it_is(job: Job) -> Prepared:
    manifest = job.build.manifest
    return Prepared(
        build=job.build,
        model=manifest.model,
        members=job.build.files(job.folder),
        grid=[dict(manifest.engine.options)],
        version=ENGINES.get("tensorrt").version(),
        requirements=manifest.requirements,
        stand_ins=manifest.stand_ins,
        remarks=(f"{job.name}: holds no graph to build from; the engine is measured as it is",),
    )
