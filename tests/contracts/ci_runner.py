"""What a GitHub runner does with a composite action, as far as ours uses it, without GitHub.

Expressions, step outputs, summaries and conditions are evaluated here; scripts run in the bash and
with the options that ``shell: bash`` stands for; the actions of GitHub that ours calls are small
doubles of the same inputs and outputs. What is not known here is an error.

Source: https://docs.github.com/en/actions/reference/workflows-and-actions/metadata-syntax
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Job", "Runner", "lines"]

EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
COMPARISON = re.compile(r"(?P<name>[\w.-]+) (?P<sign>[!=]=) '(?P<literal>[^']*)'")


@dataclass
class Job:
    """How it went.

    Attributes:
        code: Exit code of the step that failed, or 0.
        failed: Name of that step.
        ran: Names of the steps that were not skipped.
    """

    code: int = 0
    failed: str | None = None
    ran: list[str] = field(default_factory=list)
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    log: str = ""


@dataclass
class Runner:
    """One runner.

    Attributes:
        action: Folder that holds ``action.yml``.
        workspace: The checkout.
        env: Environment of every step.
        cache: What GitHub's cache holds; outlives a job.
        uploads: Where uploaded folders go.
        temporary: For the files of steps.
        github: The context of that name.
    """

    action: Path
    workspace: Path
    env: Mapping[str, str]
    cache: Path
    uploads: Path
    temporary: Path
    github: Mapping[str, str] = field(default_factory=dict)

    def run(self, **inputs: str) -> Job:
        """Run the action with these inputs; an underscore stands for a hyphen."""
        action = yaml.safe_load((self.action / "action.yml").read_text(encoding="utf-8"))
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        assert set(given) <= set(action["inputs"]), given
        values = {name: spec.get("default", "") for name, spec in action["inputs"].items()} | given
        job = Job()
        for step in action["runs"]["steps"]:
            condition = str(step.get("if", "success()"))
            if self._holds(condition, values, job):
                job.ran.append(step["name"])
                self._step(step, values, job)
        job.outputs = {
            name: self._evaluated(spec["value"], values, job)
            for name, spec in action["outputs"].items()
        }
        return job

    def _step(self, step: Mapping[str, Any], inputs: Mapping[str, str], job: Job) -> None:
        outputs = job.steps.setdefault(step.get("id", step["name"]), {})
        if "run" in step:
            env = {k: self._evaluated(v, inputs, job) for k, v in step.get("env", {}).items()}
            code = self._script(step["run"], env, outputs, job)
            if code and not job.code:
                job.code, job.failed = code, step["name"]
            return
        given = {k: self._evaluated(v, inputs, job) for k, v in step["with"].items()}
        name = step["uses"].partition("@")[0]
        if name == "actions/cache/restore":
            stored = self.cache / given["key"]
            if stored.is_dir():
                shutil.copytree(stored, self.workspace / given["path"], dirs_exist_ok=True)
                outputs["cache-hit"] = "true"
        elif name == "actions/cache/save":
            shutil.copytree(self.workspace / given["path"], self.cache / given["key"])
        elif name == "actions/upload-artifact":
            folder, hidden = self.workspace / given["path"], shutil.ignore_patterns(".*")
            if folder.exists() or given["if-no-files-found"] != "ignore":
                shutil.copytree(folder, self.uploads / given["name"], ignore=hidden)
        else:
            assert name == "actions/setup-python", name

    def _script(
        self, script: str, env: Mapping[str, str], outputs: dict[str, str], job: Job
    ) -> int:
        self.temporary.mkdir(exist_ok=True)
        file, given, summary = (self.temporary / name for name in ("step.sh", "output", "summary"))
        file.write_text(script, encoding="utf-8")
        given.write_text("", encoding="utf-8")
        summary.write_text("", encoding="utf-8")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)],
            cwd=self.workspace,
            env={
                **self.env,
                **env,
                "GITHUB_ACTIONS": "true",
                "GITHUB_ACTION_PATH": str(self.action),
                "GITHUB_OUTPUT": str(given),
                "GITHUB_STEP_SUMMARY": str(summary),
                "RUNNER_TEMP": str(self.temporary),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        job.log += done.stdout
        job.summary += summary.read_text(encoding="utf-8")
        for line in given.read_text(encoding="utf-8").splitlines():
            name, sign, value = line.partition("=")
            assert sign, line
            outputs[name] = value
        return done.returncode

    def _evaluated(self, text: str, inputs: Mapping[str, str], job: Job) -> str:
        return EXPRESSION.sub(lambda found: self._value(found[1].strip(), inputs, job), text)

    def _value(self, name: str, inputs: Mapping[str, str], job: Job) -> str:
        context, _, rest = name.partition(".")
        if context == "inputs":
            return inputs[rest]
        if context == "github":
            return self.github.get(rest, "")
        step, outputs, output = rest.split(".")
        assert (context, outputs) == ("steps", "outputs"), name
        return job.steps.get(step, {}).get(output, "")

    def _holds(self, condition: str, inputs: Mapping[str, str], job: Job) -> bool:
        inner = EXPRESSION.fullmatch(condition)
        terms = [term.strip() for term in (inner[1] if inner else condition).split("&&")]
        if not any("(" in term for term in terms):
            terms.append("success()")
        return all(self._term(term, inputs, job) for term in terms)

    def _term(self, term: str, inputs: Mapping[str, str], job: Job) -> bool:
        if term == "!cancelled()":
            return True
        if term == "success()":
            return job.failed is None
        found = COMPARISON.fullmatch(term)
        assert found, term
        equal = self._value(found["name"], inputs, job) == found["literal"]
        return equal == (found["sign"] == "==")


def lines(path: str) -> list[str]:
    """What a double noted, line by line."""
    return Path(path).read_text().splitlines()
