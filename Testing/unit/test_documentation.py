"""What the documentation names must exist: tests in the safety file, pictures and pages that are linked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_every_test_named_by_the_safety_file_exists() -> None:
    written = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "Testing").glob("*/test_*.py"))
    known = set(re.findall(r"^\s*def (test_\w+)", written, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "safety.md").read_text(encoding="utf-8")))
    assert named, "the safety file names no test"
    assert named <= known, f"not found: {', '.join(sorted(named - known))}"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_pages_and_pictures_that_are_linked_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing, f"{page.relative_to(ROOT)} links to {', '.join(missing)}"
