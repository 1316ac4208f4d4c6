"""The table of verbs and the Typer app around it.

Only the module of the verb that was called is imported; the others stand in the help with the
line that this table gives them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from edgessl import __version__
from edgessl.errors import UsageError, nearest

__all__ = ["VERBS", "build_app", "called_verb"]

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "The whole way on bundled real data, on this CPU."),
    "doctor": ("doctor:doctor", "What this machine can build and run, and what to install."),
    "targets": ("targets:targets", "List the devices edgessl compiles for, or show one."),
    "pretrain": ("pretrain:pretrain", "Train a backbone on samples without labels."),
    "budget": ("budget:budget", "The largest student that fits a budget, by measuring."),
    "distill": ("distill:distill", "Teach a compact student what a teacher sees."),
    "account": ("account:account", "What a student kept of its teacher, what it lost where."),
    "evaluate": ("evaluate:evaluate", "Judge an embedding: kNN, linear probe, few-shot."),
    "export": ("export:export", "Write a run's encoder as one ONNX file, checked."),
    "check": ("check:check", "What of a model a target takes, node by node."),
    "sensitivity": ("sensitivity:sensitivity", "Which layers lose most by a target's integers."),
    "compile": ("compile:compile_", "Quantize, measure and pack a model for a target."),
    "finalize": ("finalize:finalize", "Finish a bundle on the device, by measuring."),
    "verify": ("verify:verify", "Check a bundle's hashes and canaries."),
    "infer": ("infer:infer", "Embed images with a bundle."),
    "benchmark": ("benchmark:benchmark", "Measure latency and memory, side by side."),
    "compare": ("compare:compare", "Judge a stored benchmark again, or set two side by side."),
    "run": ("run:run", "Run a recipe; unchanged stages come from the cache."),
}


def called_verb(arguments: Sequence[str]) -> str | None:
    """The verb among the arguments: the first word, as no global option takes a value.

    Raises:
        UsageError: There is no such verb; the message suggests the nearest.
    """
    word = next((a for a in arguments if not a.startswith("-")), None)
    if word is not None and word not in VERBS:
        raise UsageError(f"unknown verb '{word}'; {nearest(word, VERBS)}; see edgessl --help")
    return word


def build_app(verb: str | None) -> typer.Typer:
    """The app, with one verb's real command and the others as entries in the help."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    for name, (_, summary) in VERBS.items():
        command = _load(name) if name == verb else _not_called
        app.command(name, short_help=summary)(command)
    return app


def _load(verb: str) -> Callable[..., None]:
    module, _, function = VERBS[verb][0].partition(":")
    loaded: Callable[..., None] = getattr(
        importlib.import_module(f"edgessl.cli.{module}"), function
    )
    return loaded


def _not_called() -> None:
    """Stand in for a verb that was not called."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgessl {__version__}")
        raise typer.Exit


def _global_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """From unlabelled data to a small, verified model on a device.

    Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a gate said no,
    2 bad usage or input, 3 inconclusive, 4 this machine cannot.
    """
