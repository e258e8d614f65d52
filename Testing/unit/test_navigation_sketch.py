"""What guidance draws lies where geometry puts it, and without a pose no trocar is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.navigation.guidance import GuidanceReading, blank, guide
from sacroplasty.navigation.sketch import (
    AMBER,
    GREEN,
    RED,
    Ellipse,
    Label,
    Line,
    Shape,
    axis_view,
    bulls_eye,
    depth_gauge,
    deviation_color,
    trocar_over_xray,
)
from sacroplasty.planning.pose_uncertainty import PoseUncertainty
from sacroplasty.xray.geometry import CArm
from scene.simple_case import make_ct, make_plan

TRAJECTORY = make_plan(make_ct()).trajectories[0]
AHEAD = (TRAJECTORY.target - TRAJECTORY.entry_skin) / np.linalg.norm(TRAJECTORY.target - TRAJECTORY.entry_skin)
RIGHT, UP = axis_view(AHEAD)
UNCERTAINTY = PoseUncertainty.isotropic(TRAJECTORY.target, 0.5, 0.0)
SIZE = 400
LOST = blank("the trocar is hidden")


def reading(right_mm: float = 0.0, up_mm: float = 0.0, left_mm: float = 0.0, tilt_deg: float = 0.0) -> GuidanceReading:
    """A tip off the line to the right and up, so far before the target, tilted about the direction up."""
    tip = TRAJECTORY.target + right_mm * RIGHT + up_mm * UP - left_mm * AHEAD
    turn = rotation_about(UP, tilt_deg) @ np.column_stack([RIGHT, -UP, AHEAD])
    return guide(rigid(turn, tip), 0.0, TRAJECTORY, None, UNCERTAINTY)


def dots(shapes: list[Shape]) -> list[Ellipse]:
    return [shape for shape in shapes if isinstance(shape, Ellipse) and shape.filled]


def test_looking_along_the_needle_the_head_is_up_and_the_patients_right_is_on_the_right_of_a_prone_patient() -> None:
    right, up = axis_view([0, 1, 0])
    assert np.allclose(right, [1, 0, 0]) and np.allclose(up, [0, 0, 1])
    letters = [shape.text for shape in bulls_eye(LOST, TRAJECTORY, None, SIZE) if isinstance(shape, Label)]
    assert letters[-4:] == ["R", "L", "H", "F"]
    # Along the body's axis, from the feet: what is behind points up.
    assert np.allclose(axis_view([0, 0, 1])[1], [0, -1, 0])


def test_the_dot_stands_where_the_tip_is_off_the_line() -> None:
    (dot,) = dots(bulls_eye(reading(right_mm=3.0, up_mm=4.0), TRAJECTORY, UNCERTAINTY, SIZE))
    per_mm = 0.42 * SIZE / 10
    assert dot.center == pytest.approx([200 + 3 * per_mm, 200 - 4 * per_mm])
    assert dot.color == RED
    # Five times as far, another scale; and beyond its last ring at the border, in the same direction.
    (dot,) = dots(bulls_eye(reading(right_mm=15.0, up_mm=20.0), TRAJECTORY, UNCERTAINTY, SIZE))
    assert dot.center == pytest.approx([200 + 15 * per_mm / 5, 200 - 20 * per_mm / 5])
    (dot,) = dots(bulls_eye(reading(right_mm=300.0, up_mm=400.0), TRAJECTORY, UNCERTAINTY, SIZE))
    assert dot.center == pytest.approx(200 + 1.1 * 0.42 * SIZE * np.array([0.6, -0.8]))


def test_the_far_end_of_a_straight_trocar_hides_behind_its_tip() -> None:
    shaft = [shape for shape in bulls_eye(reading(), TRAJECTORY, None, SIZE) if isinstance(shape, Line)][-1]
    assert shaft.start == pytest.approx(shaft.end) and shaft.color == GREEN
    tilted = [shape for shape in bulls_eye(reading(tilt_deg=4.0), TRAJECTORY, None, SIZE) if isinstance(shape, Line)][
        -1
    ]
    assert np.linalg.norm(tilted.start - tilted.end) == pytest.approx(60 * np.sin(np.radians(4)) * 0.42 * SIZE / 10)
    assert tilted.color == AMBER


def test_the_error_of_the_tip_is_drawn_in_true_size() -> None:
    shapes = bulls_eye(reading(), TRAJECTORY, UNCERTAINTY, SIZE)
    radii = [shape.radii for shape in shapes if isinstance(shape, Ellipse)]
    assert any(found == pytest.approx((1.96 * 0.5 * 16.8, 1.96 * 0.5 * 16.8)) for found in radii)


def test_colors_follow_offset_and_angle() -> None:
    assert [deviation_color(*off) for off in ((1, 1), (2, 1), (1, 3), (4, 1), (1, 6))] == [
        GREEN,
        AMBER,
        AMBER,
        RED,
        RED,
    ]


def test_without_a_pose_no_trocar_is_drawn_anywhere() -> None:
    geometry = CArm().pose(TRAJECTORY.target, [0, 1, 0], [0, 0, 1])
    assert dots(bulls_eye(LOST, TRAJECTORY, UNCERTAINTY, SIZE)) == []
    assert dots(depth_gauge(LOST, TRAJECTORY, 80, 400)) == []
    assert len(trocar_over_xray(LOST, TRAJECTORY, geometry, 300)) == 2


def test_the_gauge_follows_the_depth_and_names_cortex_and_target() -> None:
    marks = {left: dots(depth_gauge(reading(left_mm=left), TRAJECTORY, 80, 400))[0] for left in (20.0, 10.0, 0.0)}
    heights = [mark.center[1] for mark in marks.values()]
    assert np.diff(heights) == pytest.approx([heights[1] - heights[0]] * 2) and heights[1] > heights[0]
    assert marks[0.0].color == GREEN
    assert dots(depth_gauge(replace(reading(left_mm=-5.0), phase="past-target"), TRAJECTORY, 80, 400))[0].color == RED
    depths = [shape.text for shape in depth_gauge(LOST, TRAJECTORY, 80, 400) if isinstance(shape, Label)]
    to_bone = np.linalg.norm(TRAJECTORY.entry_bone - TRAJECTORY.entry_skin)
    assert depths == [f"{to_bone:.0f}", f"{np.linalg.norm(TRAJECTORY.target - TRAJECTORY.entry_skin):.0f}"]


@pytest.mark.parametrize("beam", [[0.0, 1, 0], [1.0, 0, 0], [0.0, 1, 0.9]])
def test_the_trocar_lies_in_the_xray_where_its_rays_fall(beam: list[float]) -> None:
    geometry = CArm().pose(TRAJECTORY.target, beam, [0, 0, 1]).resampled(512)
    seen = reading(right_mm=5.0, left_mm=20.0)
    shaft = [shape for shape in trocar_over_xray(seen, TRAJECTORY, geometry, 256, 2.0) if isinstance(shape, Line)][-1]
    # The ray from the source through the tip meets the detector at that pixel; pictures are shown at half their size.
    tip_pixel = shaft.end * 2 - 0.5
    on_detector = geometry.pixel_ras(tip_pixel)
    ray, towards = on_detector - geometry.source_ras, seen.tip_ras - geometry.source_ras
    assert np.linalg.norm(np.cross(ray, towards)) / np.linalg.norm(ray) < 1e-6 * np.linalg.norm(towards)
    circle = [shape for shape in trocar_over_xray(seen, TRAJECTORY, geometry, 256, 2.0) if isinstance(shape, Ellipse)][
        -1
    ]
    sideways = np.cross(geometry.view_direction_ras, [0.0, 0, 1])
    beside = geometry.project(seen.tip_ras + 2.0 * sideways / np.linalg.norm(sideways)) / 2
    assert circle.radii[0] == pytest.approx(np.linalg.norm(beside - geometry.project(seen.tip_ras) / 2), rel=0.01)
