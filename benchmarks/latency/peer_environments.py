"""An environment of its own for each peer whose packages do not install beside the others."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["ENVIRONMENTS", "PeerError", "make_environment", "run", "versions"]

ROOT = Path(__file__).resolve().parents[2]
_WORKER = ("numpy", "pillow", "psutil", "pydantic", "typing-extensions")
_TORCH = ("torch==2.13.0", "timm==1.0.31", "safetensors")

ENVIRONMENTS = {
    "executorch": (*_TORCH, "executorch==1.5.1", *_WORKER),
    "litert": (*_TORCH, "ai-edge-litert==2.3.0", "litert-torch==0.10.0", *_WORKER),
    # Olive imports requests and does not ask for it.
    "olive": ("torch==2.13.0", "olive-ai==0.13.0", "onnxruntime==1.31.1", "requests", *_WORKER),
}
_TIMEOUT_S = 1800.0
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "edgessl", "kernels", "targets")


class PeerError(Exception):
    """A peer cannot be installed, cannot convert a model or cannot run it; the message says why."""


def make_environment(name: str, folder: Path) -> Path:
    """Install a peer and this edgessl, as far as that is not done yet.

    Args:
        name: A key of `ENVIRONMENTS`.
        folder: Where the environments are.

    Returns:
        Its interpreter.

    Raises:
        PeerError: pip cannot install it.
    """
    place = folder / name
    python = place / "bin" / "python"
    stamp = place / "installed.json"
    wanted = {"packages": list(ENVIRONMENTS[name]), "edgessl": _sources_sha256()}
    installed = json.loads(stamp.read_text("utf-8")) if stamp.exists() else {}
    if installed == wanted:
        return python
    if not python.exists():
        run([sys.executable, "-m", "venv", str(place)])
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    if installed.get("packages") != wanted["packages"]:
        run([*pip, *ENVIRONMENTS[name]])
    with tempfile.TemporaryDirectory() as scratch:
        # A build inside the checkout would pack what an earlier one left there.
        for source in _SOURCES:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, Path(scratch) / source)
        run([*pip, "--no-deps", "--force-reinstall", scratch])
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def versions(python: Path, name: str) -> dict[str, str]:
    """Package → version of what an environment was made for."""
    packages = [p.partition("==")[0] for p in ENVIRONMENTS[name] if "==" in p]
    code = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({p: version(p) for p in sys.argv[1:]}))"
    )
    found: dict[str, str] = json.loads(run([str(python), "-c", code, *packages]))
    return found


def run(command: list[str], *, cwd: Path | None = None) -> str:
    """Run a command of a peer.

    Raises:
        PeerError: It fails or takes too long; the message is its last line.
    """
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"took more than {_TIMEOUT_S:g} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise PeerError((lines or [f"ended with code {done.returncode}"])[-1][:300])
    return done.stdout


def _sources_sha256() -> str:
    digest = hashlib.sha256()
    for folder in ("edgessl", "targets", "kernels"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml", ".json"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
