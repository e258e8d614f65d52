"""The error model against its published formula, against drawn errors, and against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import angle_between_deg, rigid, rotation_about, transform_points
from sacroplasty.navigation.error_model import (
    about,
    axis_uncertainty,
    carried,
    combined,
    ellipsoid,
    error_budget,
    isotropic_covariances,
    marker_body_noise,
    point_fit_uncertainty,
    pose_noise,
    shaft_margin_mm,
    translation_uncertainty,
    voxel_uncertainty,
)
from sacroplasty.planning.pose_uncertainty import PoseUncertainty

POINTS = np.array([[-42.0, -55, -20], [44, -54, -22], [1, -48, -5], [-1, -72, -50], [2, -70, -95]])
SQUARE = np.array([[-25.0, -25, 0], [25, -25, 0], [25, 25, 0], [-25, 25, 0]])


def fitzpatrick_rms(points: np.ndarray, fle_mm: float, target: np.ndarray) -> float:
    """TRE of Fitzpatrick, West and Maurer 1998 as it is printed: by principal axes."""
    center = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - center)
    ratio = 0.0
    for axis in axes:
        d = np.linalg.norm(np.cross(target - center, axis))
        f = np.sqrt(np.mean(np.sum(np.cross(points - center, axis) ** 2, axis=1)))
        ratio += d**2 / f**2
    return fle_mm * np.sqrt((1 + ratio / 3) / len(points))


@pytest.mark.parametrize("target", [[-30.0, -30, -30], [0, 40, 0], [5, -60, -40]])
def test_equal_errors_give_the_formula_of_fitzpatrick_west_and_maurer(target: list[float]) -> None:
    found = point_fit_uncertainty(POINTS, isotropic_covariances(np.full(5, 0.7)))
    assert found.rms_mm(target) == pytest.approx(fitzpatrick_rms(POINTS, 0.7, np.array(target)), rel=1e-9)


def test_marker_noise_and_the_lever_arm() -> None:
    noise = marker_body_noise(SQUARE, 0.2)
    assert noise.rms_mm([0, 0, 200]) == pytest.approx(0.66, abs=0.005)
    assert noise.rms_mm([0, 0, 0]) == pytest.approx(0.1)


def test_points_on_a_line_leave_a_turn_open() -> None:
    line = np.outer(np.arange(4.0), [10, 20, 5])
    with pytest.raises(CalibrationError, match="leave a motion of the patient open"):
        point_fit_uncertainty(line, isotropic_covariances(np.ones(4)))


def test_the_same_error_told_about_another_point_is_the_same_error() -> None:
    rng = np.random.default_rng(3)
    root = rng.normal(size=(6, 6)) * ([1] * 3 + [0.01] * 3)
    here = PoseUncertainty(np.array([10.0, 0, -5]), root.T @ root)
    there = about(here, [80.0, -20, 40])
    points = rng.uniform(-100, 100, (5, 3))
    np.testing.assert_allclose(there.covariance_at(points), here.covariance_at(points), rtol=1e-6, atol=1e-9)


def test_an_error_carried_into_another_frame_turns_with_it() -> None:
    pose = rigid(rotation_about([1, 2, 3], 77), [30, -40, 500])
    noise = marker_body_noise(SQUARE * [1, 2, 1], 0.3)
    point = np.array([5.0, -3, 150])
    turned = pose[:3, :3] @ noise.covariance_at(point) @ pose[:3, :3].T
    np.testing.assert_allclose(carried(noise, pose).covariance_at(transform_points(pose, point)), turned, atol=1e-12)


def test_independent_errors_add_up() -> None:
    first = translation_uncertainty([0, 0, 0], np.diag([0.04, 0.0, 0.0]))
    second = axis_uncertainty([0, 0, 0], [0, 0, 1], 1.0)
    both = combined([first, second], [7.0, 8, 9])
    expected = np.sqrt(0.04 + 2 * (100 * np.radians(1)) ** 2)
    assert both.rms_mm([0, 0, 100]) == pytest.approx(expected)


def test_a_place_in_a_voxel_is_known_to_its_twelfth() -> None:
    IJKToRAS = np.diag([0.8, -0.8, 3.0, 1.0])
    drawn = np.random.default_rng(4).uniform(-0.5, 0.5, (20_000, 3)) @ IJKToRAS[:3, :3].T
    np.testing.assert_allclose(
        voxel_uncertainty([1, 2, 3], IJKToRAS).covariance_at([1, 2, 3]), np.cov(drawn.T), atol=0.03
    )


def drawn_motion(noise: PoseUncertainty, rng: np.random.Generator) -> np.ndarray:
    t, w = np.split(rng.multivariate_normal(np.zeros(6), noise.covariance), 2)
    turn = Rotation.from_rotvec(w).as_matrix()
    return rigid(turn, noise.center_ras + t - turn @ noise.center_ras)


def test_the_budget_is_the_spread_of_the_whole_chain() -> None:
    """Errors drawn where they arise, in the frames of tool, reference and patient, and sent through the real chain."""
    rng = np.random.default_rng(5)
    ReferenceToRAS = rigid(rotation_about([1, -2, 0.5], 70), [120, -300, 800])
    TrocarToReference = rigid(rotation_about([2, 1, 0], 160), [60, 150, 40])
    tip, axis = np.array([8.0, -4, 190]), np.array([0.1, 0.0, 0.995])
    registration = point_fit_uncertainty(POINTS, isotropic_covariances(np.full(5, 0.5)))
    calibration = combined(
        [translation_uncertainty(tip, np.diag([0.01, 0.02, 0.03])), axis_uncertainty(tip, axis, 0.2)], tip
    )
    trocar, reference = pose_noise(0.1, 0.1), marker_body_noise(SQUARE, 0.2)
    budget = error_budget(
        ReferenceToRAS @ TrocarToReference,
        tip,
        axis,
        registration=registration,
        calibration=calibration,
        trocar_noise=trocar,
        reference_noise=reference,
        ReferenceToRAS=ReferenceToRAS,
        IJKToRAS=np.diag([1e-6, 1e-6, 1e-6, 1]),
    )
    places = [tip, tip - 150 * axis / np.linalg.norm(axis)]
    exact = [transform_points(ReferenceToRAS @ TrocarToReference, place) for place in places]
    off: list[list[np.ndarray]] = [[], []]
    for _ in range(2000):
        wrong = drawn_motion(registration, rng) @ ReferenceToRAS @ drawn_motion(reference, rng)
        wrong = wrong @ TrocarToReference @ drawn_motion(trocar, rng) @ drawn_motion(calibration, rng)
        for number, place in enumerate(places):
            off[number].append(transform_points(wrong, place) - exact[number])
    for number in range(2):
        expected = budget.total.covariance_at(exact[number])
        np.testing.assert_allclose(np.cov(np.array(off[number]).T), expected, atol=0.1 * np.trace(expected))
    assert next(iter(budget.rms_mm())) == max(budget.rms_mm(), key=budget.rms_mm().__getitem__)
    np.testing.assert_allclose(budget.tip_ras, exact[0])
    turns = [
        angle_between_deg(tip_off - back_off + exact[0] - exact[1], exact[0] - exact[1])
        for tip_off, back_off in zip(*off, strict=True)
    ]
    assert np.sqrt(np.mean(np.square(turns))) == pytest.approx(budget.angle_rms_deg(), rel=0.05)


def test_the_ellipsoid_holds_as_many_points_as_it_says() -> None:
    rng = np.random.default_rng(6)
    root = rng.normal(size=(3, 3))
    found = ellipsoid(root @ root.T, 0.9)
    drawn = rng.multivariate_normal(np.zeros(3), root @ root.T, 20_000)
    inside = np.sum(np.square(drawn @ found.axes / found.radii_mm), axis=1) <= 1
    assert inside.mean() == pytest.approx(0.9, abs=0.01)
    assert np.linalg.det(found.axes) == pytest.approx(1)
    assert (np.diff(found.radii_mm) <= 0).all()


def test_the_shaft_widens_towards_its_end() -> None:
    pose = PoseUncertainty.isotropic([0, 0, 0], 0.3, 0.5)
    points = np.array([[0.0, 0, 0], [0, 0, -100]])
    margin = shaft_margin_mm(pose, points, [0, 0, 1], 0.95)
    # Chi-square with two degrees of freedom: 5.991.
    np.testing.assert_allclose(
        margin, np.sqrt(5.9915 * np.array([0.09, 0.09 + (100 * np.radians(0.5)) ** 2])), rtol=1e-3
    )
