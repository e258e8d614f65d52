"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import CommandLine
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import segment_from_labels
from simple_sacrum import SimpleSacrum, simple_sacrum


@pytest.fixture(scope="session")
def simple() -> SimpleSacrum:
    """A sacrum of planes and cylinders; not to be changed."""
    return simple_sacrum()


@pytest.fixture(scope="session")
def simple_anatomy(simple: SimpleSacrum) -> Anatomy:
    """What is found in `simple`; not to be changed."""
    return segment_from_labels(simple.ct, simple.bones)


@pytest.fixture
def sacroplasty(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capfd)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder in which a refused command must leave nothing."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder
