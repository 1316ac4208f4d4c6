"""Links between the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def test_relative_links_lead_to_files(root: Path) -> None:
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    assert pages
    broken = [
        f"{page.relative_to(root)}: {link}"
        for page in pages
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []


def test_every_verb_has_a_page(root: Path) -> None:
    from edgessl.cli.app import VERBS

    assert [verb for verb in VERBS if not (root / "docs" / f"{verb}.md").is_file()] == []
