from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def _host():
    pytest.importorskip("trame_slicer", reason="the headless Slicer is not installed")
    from sacroplasty.scene.host import HeadlessHost

    return HeadlessHost()


@pytest.fixture
def host(_host):
    """The headless Slicer with an empty scene; one for the whole run, as starting it takes seconds."""
    _host.scene.Clear(False)
    return _host


@pytest.fixture
def scene(host):
    return host.scene
