"""A cannula that trembles in the picture is no cement, blinds nobody, and tells which way the greys run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cement_scene import (
    CENTER,
    PLACES,
    block_anatomy,
    body_line_integrals,
    cannula_line_integrals,
    expose,
    sphere_line_integrals,
    views,
)
from sacroplasty.cement.cannula import Cannula
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.cement.zones import make_zones
from sacroplasty.errors import ImageError
from sacroplasty.geometry import unit

VIEWS = views(144)
PERIOD_S = 0.2
TOWARDS_HUB = unit([-0.3, -1.0, 0.25])


@pytest.fixture(scope="module")
def zones():
    return make_zones(block_anatomy(), CENTER, ("left",))


class Room:
    """A monitor with a cannula in both views that never stands still."""

    def __init__(self, zones, told=True, trembling_mm=0.2):
        self.rng = np.random.default_rng(8)
        self.now_s = 0.0
        self.trembling_mm = trembling_mm
        # The tip is told 1.2 mm beside where it is.
        cannula = Cannula(np.add(CENTER, [0.7, 0.6, 0.7]), TOWARDS_HUB, 3.05) if told else None
        self.monitor = SpreadMonitor(zones, CENTER, MonitorSettings(frame_period_s=PERIOD_S), cannula)

    def frames(self, *spheres):
        sideways_mm = self.rng.normal(0, self.trembling_mm, 3)
        taken = {}
        for name, geometry in VIEWS.items():
            cement = sum(sphere_line_integrals(geometry, center, volume) for center, volume in spheres)
            total = (
                body_line_integrals(geometry)
                + cannula_line_integrals(geometry, CENTER + sideways_mm, TOWARDS_HUB)
                + cement
            )
            taken[name] = Frame(expose(total, self.rng), self.now_s, geometry)
        return taken

    def learn(self):
        before = [self.frames() for _ in range(8)]
        for name in VIEWS:
            self.monitor.set_reference(name, [frames[name] for frames in before])
        return self

    def update(self, *spheres):
        self.now_s += PERIOD_S
        return self.monitor.update(self.frames(*spheres), self.now_s)


def test_a_trembling_cannula_is_neither_cement_nor_a_reason_to_be_blind(zones):
    room = Room(zones).learn()
    for _ in range(12):
        reading = room.update()
        assert reading.healthy and reading.volume_ml == 0.0 and reading.events == ()


def test_one_that_is_not_told_and_moves_by_a_millimeter_is_refused(zones):
    with pytest.raises(ImageError, match="something moved"):
        Room(zones, told=False, trembling_mm=1.0).learn()


def test_cement_and_leaks_are_seen_beside_and_behind_it(zones):
    room = Room(zones).learn()
    reading = room.update((CENTER, 1.0))
    assert reading.volume_ml == pytest.approx(1.0, rel=0.1) and not reading.leak
    readings = [room.update((CENTER, 1.0), (PLACES["posterior"], 0.2)) for _ in range(2)]
    assert readings[1].leak
    assert {event.route for event in readings[1].events if event.level == "leak"} == {"posterior"}


def test_inverted_greys_are_refused_at_the_reference(zones):
    room = Room(zones)
    before = [room.frames()["ap"] for _ in range(8)]
    negative = [replace(frame, pixels=65535 - frame.pixels) for frame in before]
    with pytest.raises(ImageError, match=r"view ap: .*greys are inverted"):
        room.monitor.set_reference("ap", negative)


def test_the_shadow_lies_where_the_cannula_does():
    cannula = Cannula(CENTER, TOWARDS_HUB, 3.05, 40.0)
    for geometry in VIEWS.values():
        along_mm = cannula.along_mm(geometry)
        for told_mm in (0.0, 20.0, 39.0):
            column, row = np.rint(geometry.project(CENTER + told_mm * TOWARDS_HUB)).astype(int)
            assert along_mm[row, column] == pytest.approx(told_mm, abs=2.0)
        column, row = np.rint(geometry.project(CENTER - [0.0, 0.0, 8.0])).astype(int)
        assert along_mm[row, column] == -1


def test_distance_is_from_the_axis_and_before_the_tip_from_the_tip():
    cannula = Cannula(np.zeros(3), np.array([0.0, -1.0, 0.0]), 3.0, length_mm=100.0)
    points = np.array([[3.0, -50.0, 4.0], [0.0, 6.0, 8.0], [0.0, -103.0, 4.0]])
    assert cannula.distance_mm(points) == pytest.approx([5.0, 10.0, 5.0])


def test_a_nerves_zone_is_named_though_another_has_more_votes(zones):
    votes = np.zeros(len(zones.names))
    votes[zones.names.index("presacral")], votes[zones.names.index("foramen_s1_left")] = 1.0, 0.3
    assert zones.names[zones.named(votes)] == "foramen_s1_left"
    votes[zones.names.index("foramen_s1_left")] = 0.1
    assert zones.names[zones.named(votes)] == "presacral"
