"""Guidance readings: figures against plane geometry, silence whenever the pose cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest

from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.navigation.guidance import GuidanceReading, guide
from sacroplasty.planning.model import Trajectory
from sacroplasty.planning.needles import custom_needle
from sacroplasty.planning.pose_uncertainty import PoseUncertainty
from shaft_distances import clearance_from

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


def ball(center: list[float], radius: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda points: np.linalg.norm(points - center, axis=1) - radius


def off_by(sd_mm: float, sd_deg: float = 0.0) -> PoseUncertainty:
    return PoseUncertainty.isotropic(TRAJECTORY.target, sd_mm, sd_deg)


USUAL = off_by(0.5)


def read(
    TipToRAS: np.ndarray | None, age_s: float = 0.02, uncertainty: PoseUncertainty | None = USUAL
) -> GuidanceReading:
    clearance = clearance_from({"sacral_canal": ball([-15, -80, 0], 6), "foramen_s1_left": ball([0, 0, 0], 4)})
    return guide(TipToRAS, age_s, TRAJECTORY, clearance, uncertainty)


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
    nearest = read(pose([-30, -40, 0])).nearest
    assert nearest.structure == "sacral_canal"
    assert nearest.distance_mm == pytest.approx(7.5, abs=0.01)
    assert nearest.from_tip_mm == pytest.approx(40, abs=0.5)
    # Still far outside, the part of the shaft that lies behind counts, not the part still to come.
    outside = read(pose([-30, -120, 0])).nearest
    assert outside.distance_mm == pytest.approx(np.hypot(15, 40) - 7.5, abs=0.01)


def test_the_shaft_is_widened_by_the_error_of_its_place() -> None:
    certain = read(pose([-30, -40, 0]), uncertainty=off_by(0.0)).nearest
    assert certain.assured_mm == pytest.approx(certain.distance_mm, abs=0.01)
    assert certain.breach_probability < 1e-9
    shifted = read(pose([-30, -40, 0]), uncertainty=off_by(2.0)).nearest
    assert shifted.assured_mm == pytest.approx(7.5 - 1.96 * 2.0, abs=0.02)
    # A turn about the target moves the shaft most where it is farthest from there: 40 mm * tan(5 deg) = 3.5 mm.
    turned = read(pose([-30, -40, 0]), uncertainty=off_by(0.0, 5.0)).nearest
    assert turned.assured_mm == pytest.approx(7.5 - 1.96 * 3.5, abs=0.3)
    assert not read(pose([-30, -40, 0])).may_touch
    assert read(pose([-30, -40, 0]), uncertainty=off_by(4.0)).may_touch


@pytest.mark.parametrize(("sd_mm", "sd_deg"), [(5.0, 0.0), (2.0, 6.0), (0.0, 8.0)])
@pytest.mark.parametrize("shape", ["wall", "ball"])
def test_the_breach_probability_is_the_share_of_true_shafts_that_touch(shape: str, sd_mm: float, sd_deg: float) -> None:
    distance_of = {"wall": lambda points: -21 - points[:, 0], "ball": ball([-15, -80, 0], 6)}[shape]
    uncertainty = off_by(sd_mm, sd_deg)
    structures = guide(pose([-30, -40, 0]), 0.0, TRAJECTORY, clearance_from({shape: distance_of}), uncertainty)
    stated = structures.nearest.breach_probability
    rng = np.random.default_rng(7)
    shaft = np.array([-30, -40, 0]) - np.linspace(0, 80, 161)[:, None] * [0, 1, 0]
    touching = 0
    for _ in range(4000):
        turn = np.radians(rng.normal(0, sd_deg, 3))
        true = shaft + rng.normal(0, sd_mm, 3) + np.cross(turn, shaft - TRAJECTORY.target)
        touching += bool((distance_of(true) < 1.5).any())
    # A shaft may pass a round structure by, which counts as a breach to first order.
    assert touching / 4000 == pytest.approx(stated, rel=0.15) if shape == "wall" else stated > touching / 4000
    assert 0.02 < stated < 0.3


def test_what_lies_ahead_of_the_tip_is_named_with_the_way_to_it() -> None:
    ahead = read(rigid(rotation_about([0, 1, 0], 90), [-30, 0, 0])).ahead
    # Pointing to the right, the ball around the origin begins at -4 and the shaft is 1.5 mm thick.
    assert (ahead.structure, ahead.distance_mm) == ("foramen_s1_left", pytest.approx(30 - 5.5, abs=0.5))
    assert read(pose([-30, -40, 0])).ahead is None


@pytest.mark.parametrize(
    ("TipToRAS", "age_s", "uncertainty", "reason"),
    [
        (None, 0.0, off_by(0.5), "no pose"),
        (pose([0, 0, 0]), 0.11, off_by(0.5), "0.11 s old"),
        (pose([0, 0, 0]), float("nan"), off_by(0.5), "age"),
        (pose([0, 0, 0]), -5.0, off_by(0.5), "old"),
        (pose([0, 0, 0]), 0.02, None, "register"),
        (pose([0, np.nan, 0]), 0.02, off_by(0.5), "NaN"),
        (pose([0, 0, 0], 1.2 * AHEAD), 0.02, off_by(0.5), "not rigid"),
        (pose([0, 0, 0], np.diag([1.0, 1, -1])), 0.02, off_by(0.5), "left-handed"),
        (np.eye(3), 0.02, off_by(0.5), "shape"),
    ],
)
def test_a_pose_that_cannot_be_trusted_gives_a_blank_reading(
    TipToRAS: np.ndarray | None, age_s: float, uncertainty: PoseUncertainty | None, reason: str
) -> None:
    reading = read(TipToRAS, age_s, uncertainty)
    assert not reading.valid
    assert reason in reading.reason
    assert all(
        getattr(reading, field.name) is None for field in fields(reading) if field.name not in ("valid", "reason")
    )
    assert reading.nearest is None and reading.may_touch


def test_the_source_of_poses_says_why_there_is_none() -> None:
    assert guide(None, 0.0, TRAJECTORY, None, off_by(0.5), "Trocar is hidden").reason == "Trocar is hidden"


def test_without_distance_fields_the_clearance_is_unknown_not_large() -> None:
    for clearance in (None, clearance_from({})):
        reading = guide(pose([-30, -50, 0]), 0.0, TRAJECTORY, clearance, off_by(0.5))
        assert reading.valid and reading.may_touch
        assert (reading.nearest.structure, reading.nearest.distance_mm) == ("unknown", -np.inf)


def test_a_structure_that_was_not_found_forbids_shafts_on_its_side() -> None:
    clearance = clearance_from({"sacral_canal": ball([0, 0, 0], 5)}, unknown=["foramen_s2_right"])
    shaft = ([100, 0, 0], [100, -90, 0], 3.0)
    assert clearance.assess(*shaft, "right").nearest.distance_mm == -np.inf
    assert clearance.assess(*shaft).nearest.structure == "foramen_s2_right"
    assert clearance.assess(*shaft, "left").nearest.distance_mm == pytest.approx(100 - 5 - 1.5)
    middle = clearance_from({}, unknown=["sacral_canal"])
    assert middle.assess(*shaft, "left").nearest.distance_mm == -np.inf


def test_a_shaft_that_is_no_number_is_not_clear_of_anything() -> None:
    clearance = clearance_from({"sacral_canal": ball([0, 0, 0], 5)})
    assert clearance.assess([np.nan, 0, 0], [0, 0, 0], 3.0).nearest.distance_mm == -np.inf
    assert clearance.assess([50, 0, 0], [60, 0, 0], float("nan")).nearest.distance_mm == -np.inf
