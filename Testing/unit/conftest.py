"""Fixtures of the command-line tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import CommandLine


@pytest.fixture
def sacroplasty(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capfd)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder in which a refused command must leave nothing."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder
