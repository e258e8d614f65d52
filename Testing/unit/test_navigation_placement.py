"""Deviations of a placed trocar from its plan, by plane geometry."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.errors import GeometryError
from sacroplasty.geometry import rotation_about
from sacroplasty.navigation.placement import deviation
from scene.simple_case import make_ct, make_plan

TRAJECTORY = make_plan(make_ct()).trajectories[0]
LINE = TRAJECTORY.target - TRAJECTORY.entry_skin
PLANNED = LINE / np.linalg.norm(LINE)
ASIDE = np.array([1.0, 0, 0])


def test_a_parallel_trocar_is_off_by_the_same_everywhere() -> None:
    tip = TRAJECTORY.target + 2.0 * ASIDE + 3.0 * PLANNED
    found = deviation(tip, tip - 90 * PLANNED, TRAJECTORY)
    assert (found.entry_mm, found.aside_mm, found.depth_mm) == (pytest.approx(2), pytest.approx(2), pytest.approx(3))
    assert found.target_mm == pytest.approx(np.hypot(2, 3)) and found.angle_deg == pytest.approx(0, abs=1e-6)


def test_a_trocar_turned_about_its_tip_is_off_at_the_entry_only() -> None:
    turned = rotation_about(np.cross(PLANNED, ASIDE), 5.0) @ PLANNED
    found = deviation(TRAJECTORY.target, TRAJECTORY.target - 90 * turned, TRAJECTORY)
    to_entry = float(np.linalg.norm(TRAJECTORY.target - TRAJECTORY.entry_bone))
    assert found.entry_mm == pytest.approx(to_entry * np.sin(np.radians(5)))
    assert (found.target_mm, found.angle_deg) == (pytest.approx(0, abs=1e-9), pytest.approx(5))


def test_a_tip_that_stops_short_has_a_negative_depth() -> None:
    tip = TRAJECTORY.target - 4.0 * PLANNED
    assert deviation(tip, tip - 90 * PLANNED, TRAJECTORY).depth_mm == pytest.approx(-4)


def test_a_trocar_without_direction_is_refused() -> None:
    with pytest.raises(GeometryError, match="no length"):
        deviation([0, 0, 0], [0, 0, 0], TRAJECTORY)
