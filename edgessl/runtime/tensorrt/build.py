"""Build an engine on the device it will run on, as a recipe says."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgessl.errors import EdgeSSLError, ModelError, TargetError, UnavailableError
from edgessl.files import atomic_path
from edgessl.progress import Progress, ProgressEvent
from edgessl.runtime.tensorrt.inspection import Inspection, inspect_engine, read_layers
from edgessl.runtime.tensorrt.logger import collecting_logger
from edgessl.runtime.tensorrt.recipe import Recipe
from edgessl.runtime.tensorrt.versions import (
    adjust_for_dla,
    editable_timing_cache,
    implicit_dla,
    load_tensorrt,
    network_flags,
    set_precisions,
    set_ranges,
    strongly_typed,
)

__all__ = ["BuiltEngine", "build_engine"]

_MIB = 1 << 20
_PATIENCE_S = 0.1


@dataclass(frozen=True)
class BuiltEngine:
    """A finished engine.

    Attributes:
        plan: The serialized engine.
        inspection: What its layers do.
        layers: The inspector's own text (JSON).
        remarks: What a person should know although nothing failed.
    """

    plan: bytes
    inspection: Inspection
    layers: str
    remarks: tuple[str, ...]


def build_engine(
    folder: Path, recipe: Recipe, *, timing_cache: Path, progress: Progress
) -> BuiltEngine:
    """Build, and look into what was built.

    Args:
        folder: Where the recipe's files are.
        recipe: What to build.
        timing_cache: File of measured kernels: read if it is there, written in any case, so that a
            second build is faster, also after an interrupted one.
        progress: Told of TensorRT's phases and steps.

    Raises:
        UnavailableError: TensorRT or the accelerator is not here.
        ModelError: The parser refuses the graph, or the build fails.
        KeyboardInterrupt: The build was interrupted; it ends at the next step.
    """
    trt = load_tensorrt()
    logger = collecting_logger(trt)
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    if builder is None:
        raise UnavailableError(f"TensorRT does not start ({logger.errors()}); check the GPU driver")
    _check_dla(trt, builder, recipe)
    ranges = _ranges(trt, recipe)
    strong = strongly_typed(trt) and ranges is None
    network = builder.create_network(network_flags(trt, strong=strong))
    model = folder / (recipe.implicit.model if recipe.implicit and ranges else recipe.model)
    _parse(trt, network, logger, model, dla=recipe.dla_core is not None)
    config = builder.create_builder_config()
    remarks = _configure(trt, builder, config, recipe)
    if not strong:
        flags = set_precisions(trt, config, network, recipe)
        if flags:
            remarks.append(f"TensorRT {trt.__version__}: builder flags {', '.join(flags)}")
    if ranges is not None:
        unknown = set_ranges(network, ranges)
        if unknown:
            remarks.append(f"{len(unknown)} ranges belong to no tensor, first {unknown[0]}")
    cache, remark = _attach_cache(config, timing_cache)
    remarks += [remark] if remark else []
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    try:
        plan = _run(builder, network, config, monitor)
    finally:
        _save_cache(config, cache, timing_cache, progress)
    if plan is None:
        raise ModelError(
            f"{model.name}: TensorRT {trt.__version__} builds no engine ({logger.errors()}); "
            "try another precision, or more --workspace"
        )
    layers = inspect_engine(trt, logger, plan, dla_core=recipe.dla_core)
    return BuiltEngine(plan, read_layers(layers, recipe.expected), layers, tuple(remarks))


def _check_dla(trt: Any, builder: Any, recipe: Recipe) -> None:
    if recipe.dla_core is None:
        return
    cores = int(builder.num_DLA_cores)
    if cores == 0:
        raise UnavailableError(
            f"no deep-learning accelerator for TensorRT {trt.__version__} here (Thor and Orin Nano "
            "have none; TensorRT 10.8 to 11.4.0 drives none); compile for the target without -dla"
        )
    if recipe.dla_core >= cores:
        raise UnavailableError(
            f"DLA core {recipe.dla_core} is not here, the device has {cores}; choose --dla-core 0"
        )


def _ranges(trt: Any, recipe: Recipe) -> dict[str, float] | None:
    """Ranges of tensors if the accelerator of this TensorRT wants these; None for Q/DQ nodes."""
    if recipe.dla_core is None or recipe.precision != "int8" or not implicit_dla(trt):
        return None
    if recipe.implicit is None:
        raise TargetError(
            f"the DLA of TensorRT {trt.__version__} takes no Q/DQ nodes, and the recipe has no "
            "ranges of tensors; compile again for the -dla target"
        )
    return recipe.implicit.ranges


def _parse(trt: Any, network: Any, logger: Any, model: Path, *, dla: bool) -> None:
    parser = trt.OnnxParser(network, logger)
    if dla:
        adjust_for_dla(trt, parser)
    if parser.parse_from_file(str(model)):
        return
    found = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    raise ModelError(
        f"{model.name}: TensorRT {trt.__version__} cannot parse it: "
        f"{'; '.join(found[:3]) or logger.errors()}{more}; run edgessl check for this target"
    )


def _parser_error(error: Any) -> str:
    description = " ".join(str(error.desc()).split())[:200]
    name, operator = str(error.node_name()), str(error.node_operator())
    return f"node '{name}' ({operator}): {description}" if name or operator else description


def _configure(trt: Any, builder: Any, config: Any, recipe: Recipe) -> list[str]:
    remarks: list[str] = []
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = recipe.builder_optimization_level
    # TensorRT computes float32 products in TF32 unless told otherwise: 10 bits of mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    if recipe.workspace_mib is not None:
        workspace = recipe.workspace_mib * _MIB
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if recipe.dla_core is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = recipe.dla_core
        if recipe.gpu_fallback:
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    for sizes in recipe.profiles:
        profile = builder.create_optimization_profile()
        for name, shape in sizes.items():
            profile.set_shape(name, shape.least, shape.typical, shape.most)
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(
                f"TensorRT refuses the optimization profile {sorted(sizes)}; compile the model "
                "again with sizes that its inputs allow"
            )
    editable_timing_cache(trt, config)
    return remarks


def _attach_cache(config: Any, place: Path) -> tuple[Any, str | None]:
    """The timing cache in use, and a remark if the one on the disk did not fit."""
    try:
        known = place.read_bytes()
    except FileNotFoundError:
        known = b""
    except OSError as failure:
        return _new_cache(config), f"{place} cannot be read ({failure.strerror}); kernels are timed"
    cache = config.create_timing_cache(known)
    # A cache of another device or version would choose kernels by foreign times.
    if cache is not None and config.set_timing_cache(cache, False):
        return cache, None
    remark = f"{place.name} is of another device or TensorRT; kernels are timed again"
    return _new_cache(config), remark if known else None


def _new_cache(config: Any) -> Any:
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache


def _save_cache(config: Any, cache: Any, place: Path, progress: Progress) -> None:
    """Keep what was measured together with what another build wrote in the meantime."""
    try:
        if place.exists():
            cache.combine(config.create_timing_cache(place.read_bytes()), False)
        data = bytes(cache.serialize())
        with atomic_path(place) as temporary:
            temporary.write_bytes(data)
    except (EdgeSSLError, OSError) as error:  # the engine is worth more than its cache
        text = f"the timing cache is not kept: {error}"
        progress(ProgressEvent("build", message=text, warning=True))


def _monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's phases as progress; answers False, which ends the build, once cancelled."""

    # TensorRT is no dependency, so mypy takes its classes for Any.
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Called from the thread that builds."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = threading.Event()
            self.failure: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase begins."""
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """A step is done; False ends the build."""
            self._tell(phase_name, step + 1)
            return not self.cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """A phase ends."""
            self._tell(phase_name, self._steps.get(phase_name, 0))

        def _tell(self, phase: str, done: int) -> None:
            if self.failure is not None:
                return
            try:
                progress(ProgressEvent(f"build: {phase}", done, self._steps.get(phase)))
            except BaseException as failure:  # it must not unwind through TensorRT's C++ frames
                self.failure = failure
                self.cancelled.set()

    return Monitor()


def _run(builder: Any, network: Any, config: Any, monitor: Any) -> bytes | None:
    """Build in a thread of its own, so that Ctrl-C reaches this one, which then asks it to end."""
    result: list[bytes | None] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def build() -> None:
        try:
            memory = builder.build_serialized_network(network, config)
            result.append(None if memory is None else bytes(memory))
        except BaseException as failure:  # raised again by the waiting thread
            failures.append(failure)
        finally:
            done.set()

    thread = threading.Thread(target=build, name="tensorrt-build", daemon=True)
    try:
        thread.start()
        # Not Thread.join: interrupted, it takes a running thread for a finished one (bpo-45274).
        while not done.wait(_PATIENCE_S):
            pass
    except BaseException:
        monitor.cancelled.set()
        done.wait()
        raise
    if monitor.failure is not None:
        raise monitor.failure
    if failures:
        raise failures[0]
    return result[0]
