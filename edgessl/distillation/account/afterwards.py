"""The account that `distill` writes when it has finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgessl.distillation.account.account import account
from edgessl.distillation.account.subjects import TeacherEmbedder
from edgessl.distillation.teachers import Teacher
from edgessl.errors import EdgeSSLError
from edgessl.pretraining.session import Session
from edgessl.progress import ProgressEvent
from edgessl.run_directory import RunDirectory

__all__ = ["account_afterwards"]


def account_afterwards(
    session: Session,
    run: RunDirectory,
    data: str | Path,
    teachers: Sequence[Teacher],
) -> None:
    """Write ``RUN/account``; a finished training does not fail for want of a page.

    Args:
        session: The training; only its first process writes.
        run: What it left.
        data: What it was trained on.
        teachers: Those that taught it, open.
    """
    if not session.fabric.is_global_zero:
        return
    try:
        account(
            run.path,
            data,
            teachers=[TeacherEmbedder(teacher) for teacher in teachers],
            progress=session.progress,
        )
    except EdgeSSLError as error:
        text = f"no account: {error}"
        session.progress(ProgressEvent("account", message=text, warning=True))
