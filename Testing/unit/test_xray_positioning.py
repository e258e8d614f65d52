"""Every way to say where a C-arm stands, there and back: joints, DICOM angles and tags, matrices, cameras, presets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sacroplasty.documents import read_document
from sacroplasty.errors import DocumentError, GeometryError
from sacroplasty.geometry import rigid
from sacroplasty.xray.camera import geometry_of_camera, vtk_camera
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.images import geometry_from_tags, tags_of_geometry
from sacroplasty.xray.positioning import (
    PATIENT_POSITIONS,
    JointAngles,
    joints_of_pose,
    pose_of_joints,
    room_to_ras,
)
from sacroplasty.xray.presets import DEFAULT_PRESET, c_arms, write_c_arms

ISOCENTER = np.array([12.0, -30.0, 55.0])
LEFT, ANTERIOR, SUPERIOR = np.array([-1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0])

any_angle = st.floats(-179, 179)
tilt = st.floats(-89, 89)
offsets = st.floats(-40, 40)


def off_center(geometry: XrayGeometry, x: float, y: float) -> XrayGeometry:
    """The same source and rays with the detector shifted in its plane."""
    source = geometry.source_in_detector_mm
    return replace(
        geometry,
        source_in_detector_mm=(source[0] + x, source[1] + y, source[2]),
        RASToDetector=rigid(np.eye(3), [x, y, 0]) @ geometry.RASToDetector,
    )


def assert_same(found: XrayGeometry, wanted: XrayGeometry) -> None:
    assert found.detector_pixels == wanted.detector_pixels
    np.testing.assert_allclose(found.pixel_spacing_mm, wanted.pixel_spacing_mm, rtol=1e-9)
    np.testing.assert_allclose(found.RASToDetector, wanted.RASToDetector, atol=1e-6)
    np.testing.assert_allclose(found.source_in_detector_mm, wanted.source_in_detector_mm, atol=1e-6)


@pytest.mark.parametrize(
    ("position", "detector"),
    [("HFS", ANTERIOR), ("HFP", -ANTERIOR), ("FFS", ANTERIOR), ("FFP", -ANTERIOR), ("HFDR", LEFT), ("HFDL", -LEFT)],
)
def test_at_zero_the_detector_is_over_the_patient(position: str, detector: np.ndarray) -> None:
    geometry = pose_of_joints(CArm(), ISOCENTER, JointAngles(0, 0), position)
    np.testing.assert_allclose(geometry.view_direction_ras, detector, atol=1e-9)


def test_prone_with_the_tube_below_is_180_degrees_and_shows_the_patients_right_on_the_right() -> None:
    geometry = pose_of_joints(CArm(), ISOCENTER, JointAngles(0, 0), "HFP")
    assert geometry.positioner_angles_deg == pytest.approx((180, 0))
    step = np.diff(geometry.project([ISOCENTER, ISOCENTER - 10 * LEFT]), axis=0)[0]
    assert step[0] > 50
    assert step[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("position", ["HFS", "HFP"])
def test_angulation_moves_the_detector_to_the_head_and_the_orbit_to_the_observers_right(position: str) -> None:
    to_head = pose_of_joints(CArm(), ISOCENTER, JointAngles(0, 20), position).view_direction_ras
    assert to_head @ SUPERIOR == pytest.approx(np.sin(np.radians(20)))
    to_right = pose_of_joints(CArm(), ISOCENTER, JointAngles(30, 0), position).view_direction_ras
    # The observer at the foot end has a supine patient's left on the right, a prone one's on the left.
    assert to_right @ LEFT == pytest.approx(0.5 if position == "HFS" else -0.5)


def test_the_c_arm_swings_counterclockwise_seen_from_above() -> None:
    geometry = pose_of_joints(CArm(), ISOCENTER, JointAngles(0, 90 - 1e-3, 30), "HFS")
    # The detector hangs over the head end and swings to the observer's left.
    assert geometry.view_direction_ras @ LEFT == pytest.approx(-0.5, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(any_angle, tilt, any_angle, st.sampled_from(PATIENT_POSITIONS))
def test_joint_angles_come_back(orbital: float, angulation: float, wigwag: float, position: str) -> None:
    angles = JointAngles(orbital, angulation, wigwag)
    found = joints_of_pose(pose_of_joints(CArm(), ISOCENTER, angles, position), position)
    assert (found.orbital, found.angulation, found.wigwag) == pytest.approx((orbital, angulation, wigwag), abs=1e-5)


def test_where_two_joints_turn_alike_the_pose_comes_back_all_the_same() -> None:
    wanted = pose_of_joints(CArm(), ISOCENTER, JointAngles(25, 90, 40))
    found = joints_of_pose(wanted)
    assert found.wigwag == 0
    assert_same(pose_of_joints(CArm(), ISOCENTER, found), wanted)


@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_a_patient_position_is_a_rotation(position: str) -> None:
    rotation = room_to_ras(position)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_unknown_positions_and_angles_are_refused() -> None:
    with pytest.raises(GeometryError, match="HFS, HFP"):
        room_to_ras("SITTING")
    with pytest.raises(GeometryError, match="not all numbers"):
        pose_of_joints(CArm(), ISOCENTER, JointAngles(float("nan"), 0))


@settings(max_examples=60, deadline=None)
@given(any_angle, tilt)
def test_positioner_angles_and_tags_come_back(primary: float, secondary: float) -> None:
    geometry = CArm().at_positioner_angles(ISOCENTER, primary, secondary)
    assert geometry.positioner_angles_deg == pytest.approx((primary, secondary), abs=1e-6)
    assert_same(geometry_from_tags(tags_of_geometry(geometry, 620.0), ISOCENTER), geometry)


def test_the_signs_of_the_positioner_angles_are_those_of_dicom() -> None:
    def detector(primary: float, secondary: float) -> np.ndarray:
        return CArm().at_positioner_angles(ISOCENTER, primary, secondary).view_direction_ras

    np.testing.assert_allclose(detector(0, 0), ANTERIOR, atol=1e-9)
    assert detector(30, 0) @ LEFT == pytest.approx(0.5)  # LAO
    assert detector(0, 30) @ SUPERIOR == pytest.approx(0.5)  # CRA


def test_tags_that_cannot_hold_a_geometry_are_refused() -> None:
    geometry = CArm().at_positioner_angles(ISOCENTER, 20, 10)
    with pytest.raises(GeometryError, match="off the middle"):
        tags_of_geometry(off_center(geometry, 20, 0), 620.0)
    turned = CArm().pose(ISOCENTER, ANTERIOR, LEFT)
    with pytest.raises(GeometryError, match="head is not up"):
        tags_of_geometry(turned, 620.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"DistanceSourceToDetector": None}, "lacks DistanceSourceToDetector"),
        ({"PositionerPrimaryAngle": ""}, "lacks PositionerPrimaryAngle"),
        ({"DistanceSourceToPatient": 1200.0}, "1200 mm and the detector"),
        ({"ImagerPixelSpacing": [0.2]}, "cannot be read"),
        ({"ImagerPixelSpacing": [0.2, -0.2]}, "pixel_spacing_mm"),
    ],
)
def test_a_header_no_c_arm_can_have_is_refused(change: dict, words: str) -> None:
    tags = tags_of_geometry(CArm().at_positioner_angles(ISOCENTER, 20, 10), 620.0)
    with pytest.raises(GeometryError, match=words):
        geometry_from_tags({**tags, **change}, ISOCENTER)


@settings(max_examples=60, deadline=None)
@given(any_angle, tilt, offsets, offsets, st.floats(0.01, 100))
def test_the_projection_matrix_projects_and_comes_back(
    primary: float, secondary: float, x: float, y: float, scale: float
) -> None:
    geometry = off_center(CArm().at_positioner_angles(ISOCENTER, primary, secondary).resampled(400), x, y)
    points = ISOCENTER + np.random.default_rng(4).uniform(-120, 120, (50, 3))
    homogeneous = np.c_[points, np.ones(50)] @ geometry.projection_matrix.T
    assert (homogeneous[:, 2] > 0).all()
    np.testing.assert_allclose(homogeneous[:, :2] / homogeneous[:, 2:], geometry.project(points), atol=1e-6)
    again = XrayGeometry.from_projection_matrix(
        scale * geometry.projection_matrix, geometry.detector_pixels, geometry.pixel_spacing_mm
    )
    assert_same(again, geometry)


MATRIX = CArm().at_positioner_angles(ISOCENTER, 20, 10).projection_matrix


@pytest.mark.parametrize(
    ("matrix", "spacing", "words"),
    [
        (np.diag([-1.0, 1, 1]) @ MATRIX, (0.194, 0.194), "seen from the source"),
        (-MATRIX, (0.194, 0.194), "seen from the source"),
        (MATRIX, (0.194, 0.3), "mm away by columns"),
        (np.full((3, 4), np.nan), (0.194, 0.194), "finite"),
        (MATRIX[:, :3], (0.194, 0.194), "3x4"),
        (np.ones((3, 4)), (0.194, 0.194), "singular"),
        (MATRIX, (0.194, 0.0), "pixel_spacing_mm"),
        (np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]]) @ MATRIX, (0.194, 0.194), "skewed"),
    ],
)
def test_a_matrix_no_such_detector_can_have_is_refused(matrix: np.ndarray, spacing: tuple, words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        XrayGeometry.from_projection_matrix(matrix, (1536, 1536), spacing)


@settings(max_examples=40, deadline=None)
@given(any_angle, tilt, offsets, offsets, st.sampled_from([(200, 200), (240, 160), (150, 300)]))
def test_a_vtk_camera_sees_the_mirrored_x_ray_and_comes_back(
    primary: float, secondary: float, x: float, y: float, pixels: tuple[int, int]
) -> None:
    c_arm = CArm(detector_pixels=pixels, pixel_spacing_mm=(1.0, 1.0))
    geometry = off_center(c_arm.at_positioner_angles(ISOCENTER, primary, secondary), x, y)
    camera = vtk_camera(geometry)
    columns, rows = pixels
    composite = camera.GetCompositeProjectionTransformMatrix(columns / rows, -1, 1)
    matrix = np.array([[composite.GetElement(row, column) for column in range(4)] for row in range(4)])
    points = ISOCENTER + np.random.default_rng(5).uniform(-50, 50, (20, 3))
    homogeneous = np.c_[points, np.ones(20)] @ matrix.T
    window = homogeneous[:, :2] / homogeneous[:, 3:]
    mirrored = np.stack([(1 - window[:, 0]) / 2 * columns - 0.5, (1 - window[:, 1]) / 2 * rows - 0.5], axis=1)
    np.testing.assert_allclose(mirrored, geometry.project(points), atol=1e-4)
    assert_same(geometry_of_camera(camera, pixels, 1020.0), geometry)


def test_a_parallel_camera_is_refused() -> None:
    camera = vtk_camera(CArm().at_positioner_angles(ISOCENTER, 0, 0))
    camera.SetParallelProjection(True)
    with pytest.raises(GeometryError, match="parallel"):
        geometry_of_camera(camera, (100, 100), 1000.0)


def test_the_default_c_arm_is_the_default_preset() -> None:
    assert c_arms()[DEFAULT_PRESET] == CArm()
    intensifier = c_arms()["mobile-intensifier-9-inch"]
    assert intensifier.field_diameter_mm == 229
    assert intensifier.pose(ISOCENTER, ANTERIOR, SUPERIOR).check()


@settings(max_examples=20, deadline=None)
@given(st.floats(700, 1500), st.floats(0.05, 1), st.integers(1, 3000), st.one_of(st.none(), st.floats(50, 400)))
def test_edited_presets_come_back(distance: float, spacing: float, pixels: int, diameter: float | None) -> None:
    import tempfile

    arm = CArm(distance, 600.0, (pixels, pixels + 3), (spacing, 2 * spacing), diameter)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.json"
        write_c_arms(path, {"mine": arm, **c_arms()})
        assert c_arms(path) == {"mine": arm, **c_arms()}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"pixel_spacing_mm": [0.2, 0]}, DocumentError, "pixel_spacing_mm"),
        ({"source_to_isocenter_mm": 1100}, GeometryError, "isocenter of 'bad' lies behind its detector"),
        ({"detector": 1}, DocumentError, "must not contain detector"),
        ({"field_diameter_mm": -5}, DocumentError, "field_diameter_mm"),
    ],
)
def test_presets_that_cannot_be_are_refused(tmp_path: Path, change: dict, error: type, words: str) -> None:
    write_c_arms(tmp_path / "c_arms.json", {"bad": CArm()})
    document = read_document(tmp_path / "c_arms.json", "c_arms")
    document["c_arms"]["bad"].update(change)
    (tmp_path / "c_arms.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(error, match=words):
        c_arms(tmp_path / "c_arms.json")


def test_known_points_project_where_the_matrix_puts_them() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        geometry = CArm().at_positioner_angles(ISOCENTER, *rng.uniform([-180, -80], [180, 80]))
        points = ISOCENTER + rng.uniform(-150, 150, (40, 3))
        homogeneous = np.c_[points, np.ones(40)] @ geometry.projection_matrix.T
        assert np.abs(homogeneous[:, :2] / homogeneous[:, 2:] - geometry.project(points)).max() < 0.01


@given(st.floats(-60, 60), st.floats(-60, 60))
@settings(max_examples=30, deadline=None)
def test_the_window_around_points_holds_their_shadows(x: float, z: float) -> None:
    geometry = CArm().pose(ISOCENTER, ANTERIOR, SUPERIOR).resampled(100)
    points = np.add(ISOCENTER, [[x, 0, z], [x + 20, 5, z + 10]])
    pixels = geometry.project(points)
    window = geometry.window_around(points)
    inside = (pixels >= 0).all(axis=1) & (pixels <= 99).all(axis=1)
    assume(inside.all())
    assert window is not None
    rows, columns = window
    assert (columns.start <= pixels[:, 0]).all() and (pixels[:, 0] <= columns.stop - 1).all()
    assert (rows.start <= pixels[:, 1]).all() and (pixels[:, 1] <= rows.stop - 1).all()
