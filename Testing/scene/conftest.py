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
    # Views outlive the clearing of a scene, and those of one test must not be seen by the next.
    for kind in ("vtkMRMLSliceNode", "vtkMRMLModelNode"):
        while (node := _host.scene.GetNthNodeByClass(0, kind)) is not None:
            _host.scene.RemoveNode(node)
    return _host


@pytest.fixture
def scene(host):
    return host.scene
