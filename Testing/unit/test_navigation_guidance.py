"""Guidance readings: figures against plane geometry, silence whenever the pose cannot be trusted."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.navigation.clearance import DistanceOf, ShaftClearance
from sacroplasty.navigation.guidance import GuidanceReading, guide
from sacroplasty.planning.model import Trajectory
from sacroplasty.planning.needles import custom_needle

#: A trocar straight from the back: skin at A = -120, bone at -60, target at -40; ahead is anterior.
TRAJECTORY = Trajectory(
    side="left",
    technique="short-axis",
    entry_skin=np.array([-30.0, -120.0, 0.0]),
    entry_bone=np.array([-30.0, -60.0, 0.0]),
    target=np.array([-30.0, -40.0, 0.0]),
    needle=custom_needle(3.0, 150.0),
    length_mm=80.0,
    clearance_mm={},
    accepted=True,
    reasons=(),
)
#: Turns the tip's z axis to anterior.
AHEAD = rotation_about([1, 0, 0], -90)


def pose(tip: list[float], rotation: np.ndarray = AHEAD) -> np.ndarray:
    return rigid(rotation, tip)


def ball(center: list[float], radius: float) -> DistanceOf:
    return lambda points: np.linalg.norm(points - center, axis=1) - radius


def read(TipToRAS: np.ndarray | None, age_s: float = 0.02, error_mm: float = 1.0) -> GuidanceReading:
    clearance = ShaftClearance({"sacral_canal": ball([-15, -80, 0], 6), "foramen_s1_left": ball([0, 0, 0], 4)})
    return guide(TipToRAS, age_s, TRAJECTORY, clearance, error_mm)


def test_a_tip_beside_the_line_reads_its_offset_and_depths() -> None:
    reading = read(pose([-26.0, -75.0, 3.0]))
    assert reading.valid
    assert reading.offset_from_line_mm == pytest.approx(5)
    np.testing.assert_allclose(reading.offset_vector_ras_mm, [4, 0, 3], atol=1e-9)
    assert reading.angle_deg == pytest.approx(0, abs=1e-6)
    assert reading.depth_to_target_mm == pytest.approx(35)
    assert reading.depth_to_bone_mm == pytest.approx(15)


def test_a_tilted_trocar_reads_its_angle() -> None:
    reading = read(pose([-30, -60, 0], rotation_about([0, 0, 1], 12) @ AHEAD))
    assert reading.angle_deg == pytest.approx(12)
    assert reading.offset_from_line_mm == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("tip", "phase"),
    [
        ([-30, -100, 0], "skin"),
        ([-30, -61, 0], "cortex"),
        ([-30, -58.5, 0], "cortex"),
        ([-30, -50, 0], "in-bone"),
        ([-30, -41, 0], "at-target"),
        ([-30, -38.5, 0], "at-target"),
        ([-20, -40, 0], "in-bone"),
        ([-30, -35, 0], "past-target"),
    ],
)
def test_the_phase_follows_the_tip(tip: list[float], phase: str) -> None:
    assert read(pose(tip)).phase == phase


def test_clearance_is_that_of_the_whole_shaft_not_of_the_tip() -> None:
    # The tip is 40 mm beyond the ball, the shaft passes it at 15 mm: 15 - 6 - 1.5 = 7.5.
    reading = read(pose([-30, -40, 0]))
    assert reading.nearest_structure == "sacral_canal"
    assert reading.clearance_mm == pytest.approx(7.5, abs=0.01)
    assert reading.assured_clearance_mm == pytest.approx(reading.clearance_mm - 1.0)
    # Still far outside, the part of the shaft that lies behind counts, not the part still to come.
    assert read(pose([-30, -120, 0])).clearance_mm == pytest.approx(np.hypot(15, 40) - 7.5, abs=0.01)


@pytest.mark.parametrize(
    ("TipToRAS", "age_s", "error_mm", "reason"),
    [
        (None, 0.0, 1.0, "no pose"),
        (pose([0, 0, 0]), 0.11, 1.0, "0.11 s old"),
        (pose([0, 0, 0]), float("nan"), 1.0, "age"),
        (pose([0, 0, 0]), -5.0, 1.0, "old"),
        (pose([0, 0, 0]), 0.02, float("nan"), "register"),
        (pose([0, np.nan, 0]), 0.02, 1.0, "NaN"),
        (pose([0, 0, 0], 1.2 * AHEAD), 0.02, 1.0, "not rigid"),
        (pose([0, 0, 0], np.diag([1.0, 1, -1])), 0.02, 1.0, "left-handed"),
        (np.eye(3), 0.02, 1.0, "shape"),
    ],
)
def test_a_pose_that_cannot_be_trusted_gives_a_blank_reading(
    TipToRAS: np.ndarray | None, age_s: float, error_mm: float, reason: str
) -> None:
    reading = read(TipToRAS, age_s, error_mm)
    assert not reading.valid
    assert reason in reading.reason
    assert all(
        getattr(reading, field.name) is None for field in fields(reading) if field.name not in ("valid", "reason")
    )


def test_without_distance_fields_the_clearance_is_unknown_not_large() -> None:
    reading = guide(pose([-30, -50, 0]), 0.0, TRAJECTORY, None, 1.0)
    assert reading.valid
    assert reading.nearest_structure == "unknown"
    assert reading.clearance_mm == -np.inf
    assert guide(pose([-30, -50, 0]), 0.0, TRAJECTORY, ShaftClearance({}), 1.0).clearance_mm == -np.inf


def test_a_structure_that_was_not_found_forbids_shafts_on_its_side() -> None:
    clearance = ShaftClearance({"sacral_canal": ball([0, 0, 0], 5)}, unknown=["foramen_s2_right"])
    shaft = ([100, 0, 0], [100, -90, 0], 3.0)
    assert clearance.nearest(*shaft, "right").distance_mm == -np.inf
    assert clearance.nearest(*shaft).structure == "foramen_s2_right"
    assert clearance.nearest(*shaft, "left").distance_mm == pytest.approx(100 - 5 - 1.5)
    middle = ShaftClearance({}, unknown=["sacral_canal"])
    assert middle.nearest(*shaft, "left").distance_mm == -np.inf


def test_a_shaft_that_is_no_number_is_not_clear_of_anything() -> None:
    clearance = ShaftClearance({"sacral_canal": ball([0, 0, 0], 5)})
    assert clearance.nearest([np.nan, 0, 0], [0, 0, 0], 3.0).distance_mm == -np.inf
    assert clearance.nearest([50, 0, 0], [60, 0, 0], float("nan")).distance_mm == -np.inf
