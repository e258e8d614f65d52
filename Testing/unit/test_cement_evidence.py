"""Pictures of a leak at the moment it was told, in a sacrum of blocks."""

from __future__ import annotations

import numpy as np
import pytest

from cement_scene import CENTER, PLACES, block_anatomy, body_line_integrals, expose, sphere_line_integrals, views
from sacroplasty.anatomy.colors import color_of
from sacroplasty.cement.evidence import evidence_of
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.cement.picture import LEAK_COLOR
from sacroplasty.cement.zones import make_zones

VIEWS = views(144)
ROUTE = "foramen_s1_left"
LEAK = np.array(PLACES[ROUTE])


def frames(rng, now_s, *spheres):
    found = {}
    for name, geometry in VIEWS.items():
        total = body_line_integrals(geometry, (0.0, 0.0))
        total = total + sum(sphere_line_integrals(geometry, np.asarray(at, float), ml) for at, ml in spheres)
        found[name] = Frame(expose(total, rng), now_s, geometry)
    return found


@pytest.fixture(scope="module")
def leaking():
    """A monitor that has just told of a leak, and its event."""
    rng = np.random.default_rng(5)
    zones = make_zones(block_anatomy(), CENTER, ("left",))
    monitor = SpreadMonitor(zones, CENTER, MonitorSettings(frame_period_s=0.2))
    before = [frames(rng, 0.0) for _ in range(8)]
    for name in VIEWS:
        monitor.set_reference(name, [one[name] for one in before])
    for now_s in (0.2, 0.4):
        reading = monitor.update(frames(rng, now_s, (CENTER, 1.0), (LEAK, 0.2)), now_s)
    return monitor, next(event for event in reading.events if event.level == "leak")


def middle_of(picture, color):
    rows, columns = np.nonzero((picture == np.array(color)).all(axis=2))
    return np.array([columns.mean(), rows.mean()])


def test_each_view_shows_the_place_the_cement_and_the_structure(leaking):
    monitor, event = leaking
    pictures = evidence_of(monitor, event)
    assert set(pictures) == set(VIEWS)
    foramen = tuple(round(255 * one) for one in color_of(ROUTE))
    for name, picture in pictures.items():
        assert picture.dtype == np.uint8 and picture.shape == (*VIEWS[name].detector_pixels[::-1], 3)
        assert np.linalg.norm(middle_of(picture, LEAK_COLOR) - VIEWS[name].project(LEAK)) < 8.0
        assert np.linalg.norm(middle_of(picture, foramen) - VIEWS[name].project(LEAK)) < 12.0
        assert (picture == 255).all(axis=2).any()


def test_a_view_that_does_not_see_is_left_out(leaking):
    monitor, event = leaking
    blank = Frame(np.zeros(VIEWS["ap"].detector_pixels[::-1], np.uint16), 1.0, VIEWS["ap"])
    monitor.update({"ap": blank}, 1.0)
    assert set(evidence_of(monitor, event)) == {"lateral"}
