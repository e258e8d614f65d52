"""Fixtures of the desktop tests: `desktop` is an empty desk, with everything put away after each test module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

pytest.importorskip("PySide6", reason="the desktop tests need PySide6 (the test extra)")
pytest.importorskip("slicer", reason="the desktop tests need slicer-core (the headless extra)")


@pytest.fixture(scope="session")
def host() -> Any:
    """The headless Slicer beneath the desk; made once, since its start takes seconds."""
    from sacroplasty.scene.host import HeadlessHost

    return HeadlessHost()


@pytest.fixture(scope="module")
def desk(host: Any) -> Iterator[Any]:
    """The stand-ins in place for one test module; away again after it, so that other tests see none of them."""
    from desktop.harness.desktop import Desktop

    made = Desktop(host)
    made.set_up()
    yield made
    made.tear_down()


@pytest.fixture
def desktop(desk: Any) -> Iterator[Any]:
    """An empty desk. A test fails when an exception left a Qt slot and the test did not look at it."""
    desk.clear()
    yield desk
    errors = list(desk.slot_errors)
    desk.clear()
    assert not errors, f"a Qt slot raised {errors[0]!r}"


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Where pictures of the modules go: the documentation when it is to be renewed, else a temporary folder."""
    if os.environ.get("SACROPLASTY_UPDATE_PICTURES") == "1":
        return Path(__file__).parents[2] / "docs" / "images" / "modules"
    return tmp_path
