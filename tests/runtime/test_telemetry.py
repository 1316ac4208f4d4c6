"""onnxruntime and OpenVINO report to their makers by default; edgessl turns that off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from contracts.tiny_bundle import write_bundle

_CODE = "import edgessl, sys; edgessl.load(sys.argv[1]).close()"


def test_no_telemetry(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny.edge")
    folder = tmp_path / "temporary"
    folder.mkdir()
    # onnxruntime is also silent in CI, which would make this test pass whatever edgessl does.
    hidden = {"ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment["TMPDIR"] = str(folder)
    subprocess.run([sys.executable, "-c", _CODE, str(bundle)], env=environment, check=True)
    assert list(folder.iterdir()) == []  # telemetry leaves a session file there


def test_no_telemetry_of_openvino(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny.edge", engine="openvino")
    home = tmp_path / "home"
    home.mkdir()
    # Like onnxruntime it is silent in CI.
    hidden = {"CI", "TF_BUILD", "JENKINS_URL"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {"HOME": str(home), "EDGESSL_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", _CODE, str(bundle)], env=environment, check=True)
    assert list(home.iterdir()) == []  # telemetry keeps an identity there
    again = [sys.executable, "-c", f"import openvino_telemetry; {_CODE}", str(bundle)]
    subprocess.run(again, env=environment, check=True)
    assert (home / "intel").is_dir()  # a user's own import counts, and the test can fail


def test_a_users_choice_counts(tmp_path: Path) -> None:
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    code = "import edgessl.optional, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"
