"""Does every TensorRT name that edgessl uses exist in 10.3, 10.13 and 11.4?

Collects the names from the source of `edgessl.runtime.tensorrt`, fetches the wheels of the Python
bindings with pip, imports each over stub libraries (made with gcc, enough to import, nothing runs)
in a process of its own, and asks for each name. Writes
``benchmarks/results/tensorrt_names.json``:

    python benchmarks/compile/tensorrt_names.py [--out F.json]

It proves names, not behaviour.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "edgessl" / "runtime" / "tensorrt"
RESULT = ROOT / "benchmarks" / "results" / "tensorrt_names.json"
WHEELS = {
    "10.3.0": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
# The module that asks before it uses a name; see its docstring.
ASKING = "versions.py"
# Variable → class, as the package's docstring promises.
OWNERS = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "error": "ParserError",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
# Called by TensorRT on our subclasses.
CALLBACKS = {
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "ILogger": ("log",),
    "IProfiler": ("report_layer_time",),
}
STUBS = """
void *createInferBuilder_INTERNAL(void) { return 0; }
void *createInferRefitter_INTERNAL(void) { return 0; }
void *createInferRuntime_INTERNAL(void) { return 0; }
void *createNvOnnxParser_INTERNAL(void) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void) { return 0; }
void *getBuilderPluginRegistry(void) { return 0; }
void *getPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void) { return 0; }
"""
PROBE = """
import functools, json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings as trt

def exists(name):
    try:
        functools.reduce(getattr, name.split("."), trt)
    except AttributeError:
        return False
    return True

from edgessl.progress import silent
from edgessl.runtime.tensorrt import build, logger, profiler, versions

# edgessl's own subclasses and questions, on the real bindings.
collecting = logger.collecting_logger(trt)
collecting.log(trt.ILogger.ERROR, "an error")
assert collecting.errors() == "an error"
times = profiler.collecting_profiler(trt)
times.report_layer_time("conv1", 0.5)
assert times.take() == [("conv1", 0.5)]
monitor = build._monitor(trt, silent)
monitor.phase_start("phase", None, 2)
assert monitor.step_complete("phase", 0)
strong = versions.strongly_typed(trt)
names = json.load(sys.stdin)
print(json.dumps({"version": trt.__version__, "strongly_typed": strong,
                  "flag": versions.network_flags(trt, strong=True),
                  "ranges_for_the_dla": versions.implicit_dla(trt),
                  "exists": {name: exists(name) for name in names}}))
"""


def names_in(path: Path) -> Iterator[str]:
    """Every ``Class.member`` of the bindings that a module reaches."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aliases: dict[str, list[str]] = {}  # kinds = trt.LayerType
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            chain = _chain(node.value)
            if chain[:1] == ["trt"] and len(chain) == 2:
                aliases[node.targets[0].id] = chain
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            chain = _chain(node)
            chain = [*aliases.get(chain[0], chain[:1]), *chain[1:]] if chain else []
            if "trt" in chain:
                yield ".".join(chain[chain.index("trt") + 1 :])
            elif len(chain) >= 2:
                owner = OWNERS.get(chain[-2].lstrip("_"))
                if owner is not None and (len(chain) == 2 or chain[0] == "self"):
                    yield f"{owner}.{chain[-1]}"
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "hasattr":
            where, name = node.args
            if isinstance(name, ast.Constant):
                chain = _chain(where)
                if "trt" in chain:
                    yield ".".join([*chain[chain.index("trt") + 1 :], str(name.value)])


def _chain(node: ast.AST) -> list[str]:
    """``a.b.c`` as its parts; empty if it begins with anything but a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


def used_names(folder: Path = SOURCE) -> dict[str, list[str]]:
    """Name → modules that use it."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.py")):
        for name in names_in(path):
            if name.split(".")[0][:1].isupper() or name == "init_libnvinfer_plugins":
                found.setdefault(name, set()).add(path.name)
    for owner, members in CALLBACKS.items():
        for member in members:
            found.setdefault(f"{owner}.{member}", set()).add("build.py")
    return {name: sorted(found[name]) for name in sorted(found)}


def fetch(folder: Path) -> dict[str, Path]:
    """Version → unpacked wheel; raises CalledProcessError where pip cannot get one."""
    places = {}
    for version, package in WHEELS.items():
        wheels = folder / "wheels" / version
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        subprocess.run(
            [*command, str(wheels), f"{package}=={version}"], check=True, capture_output=True
        )
        places[version] = folder / version
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as archive:
            archive.extractall(places[version])
    return places


def stub_libraries(folder: Path) -> Path:
    """Libraries that export what the bindings link to, and do nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for major in (10, 11):
        for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            out = folder / f"lib{library}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", "-x", "c", "-o", str(out), "-"]
            subprocess.run(command, input=STUBS, text=True, check=True, capture_output=True)
    return folder


def probe(place: Path, stubs: Path, names: list[str]) -> dict[str, Any]:
    """What a wheel says about the names."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(place)],
        input=json.dumps(names),
        text=True,
        check=True,
        capture_output=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(stubs)},
    )
    return dict(json.loads(done.stdout))


def survey(folder: Path) -> dict[str, Any]:
    """Names, who uses them, and in which versions they are."""
    used = used_names()
    stubs = stub_libraries(folder / "stubs")
    answers = {v: probe(place, stubs, list(used)) for v, place in fetch(folder).items()}
    return {
        "python": platform.python_version(),
        "wheels": {version: f"{package}=={version}" for version, package in WHEELS.items()},
        **{
            fact: {v: answer[fact] for v, answer in answers.items()}
            for fact in ("strongly_typed", "flag", "ranges_for_the_dla")
        },
        "names": {
            name: {
                "modules": modules,
                "in": [v for v, answer in answers.items() if dict(answer["exists"])[name]],
            }
            for name, modules in used.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = survey(Path(folder))
    arguments.out.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    names = dict(result["names"])
    partly = {n: e["in"] for n, e in names.items() if len(e["in"]) < len(WHEELS)}
    print(f"{len(names)} names, {len(names) - len(partly)} in all of {', '.join(WHEELS)}")
    for name, versions in partly.items():
        print(f"  {name}: only {', '.join(versions) or 'nowhere'} ({names[name]['modules']})")


if __name__ == "__main__":
    main()
