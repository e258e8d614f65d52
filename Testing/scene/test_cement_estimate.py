"""The cement as the live views show it, in the scene."""

from __future__ import annotations

import numpy as np
import pytest

from cement_scene import CENTER, block_anatomy, sphere_line_integrals, views
from sacroplasty.cement.estimate import Shadow
from sacroplasty.cement.monitor import SpreadMonitor
from sacroplasty.cement.zones import make_zones
from sacroplasty.scene.cement_estimate import LiveEstimate, hide_estimate, set_estimates_visible
from sacroplasty.scene.nodes import first_node
from sacroplasty.xray.project import CEMENT_PER_MM

VIEWS = views(96)


class Seeing(SpreadMonitor):
    """A monitor that sees a sphere at the tip."""

    volume_ml = 1.0

    def shadows(self):
        paths = {name: sphere_line_integrals(VIEWS[name], CENTER, self.volume_ml) / CEMENT_PER_MM for name in VIEWS}
        return {name: Shadow(path, path > 0, VIEWS[name]) for name, path in paths.items()}


@pytest.fixture(scope="module")
def zones():
    return make_zones(block_anatomy(), CENTER, ("left",))


def surface(scene):
    return first_node(scene, "vtkMRMLModelNode", "Cement seen left")


def height_mm(model):
    bounds = model.GetPolyData().GetBounds()
    return bounds[5] - bounds[4]


def test_a_surface_follows_the_cement_once_a_second(scene, zones):
    monitor, live = Seeing(zones, CENTER), LiveEstimate(scene)
    live.tick(monitor, "left", 1.0, 0.0)
    small = height_mm(surface(scene))
    # The radius of 1 mL of cement in bone is 6.5 mm.
    assert small == pytest.approx(13.0, abs=2.5)
    middle = np.array(surface(scene).GetPolyData().GetCenter())
    assert np.linalg.norm(middle - CENTER) < 1.5
    assert surface(scene).GetDisplayNode().GetVisibility2D()
    monitor.volume_ml = 3.0
    live.tick(monitor, "left", 3.0, 0.5)
    assert height_mm(surface(scene)) == small
    live.tick(monitor, "left", 3.0, 1.1)
    assert height_mm(surface(scene)) > small + 3.0
    assert scene.GetNumberOfNodesByClass("vtkMRMLModelNode") == 1
    set_estimates_visible(scene, False)
    assert not surface(scene).GetDisplayNode().GetVisibility()
    hide_estimate(scene, "left")
    assert surface(scene) is None
    set_estimates_visible(scene, True)


def test_without_zones_nothing_is_placed(scene, zones):
    live = LiveEstimate(scene)
    live.tick(None, "left", 1.0, 0.0)
    live.tick(Seeing(None, CENTER), "left", 1.0, 1.0)
    live.tick(SpreadMonitor(zones, CENTER), "left", 1.0, 2.0)
    assert surface(scene) is None and live.estimate is None
