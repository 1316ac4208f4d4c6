"""Some of ONNX's own node tests, through the compile worker and both CPU engines.

`benchmarks/compile/backend_tests.py` runs all of them; its stored result says which passed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from contracts.scripts import compile_script

CASES = 60
_OTHER = ("refused", "unsupported", "wrong")


def test_what_passed_passes_and_nothing_crashes(root: Path, tmp_path: Path) -> None:
    module = compile_script(root, "backend_tests")
    stored = json.loads(module.RESULTS.read_text(encoding="utf-8"))["engines"]
    tests = {test.name: test for test in module.load_tests()}
    names = random.Random(0).sample(sorted(tests), k=CASES)
    verdicts = {engine: 0 for engine in stored}
    with module.NodeTests(tmp_path / "work") as runner:
        for name in names:
            for engine, (verdict, reason) in runner.run(tests[name]).items():
                known = any(name in stored[engine].get(kind, {}) for kind in _OTHER)
                assert verdict != "crashed", (engine, name, reason)
                assert verdict == "passed" or known, (engine, name, verdict, reason)
                verdicts[engine] += verdict == "passed"
    assert min(verdicts.values()) > CASES / 2
