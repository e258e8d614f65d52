"""C-arm poses: every sign that turns a picture into its mirror image, and every record that no C-arm can have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.errors import DocumentError, GeometryError
from sacroplasty.geometry import angle_between_deg, rigid, rotation_about, transform_points
from sacroplasty.image import Volume
from sacroplasty.xray.geometry import (
    SACRUM_CENTER_MM,
    VIEW_ANGLES_DEG,
    CArm,
    XrayGeometry,
    read_geometry,
    write_geometry,
)
from sacroplasty.xray.views import frame_without_anatomy

#: A sacrum that lies straight: axes left, posterior, superior.
STRAIGHT = rigid(np.diag([-1.0, -1.0, 1.0]), [5, -20, 100])
CENTER = transform_points(STRAIGHT, SACRUM_CENTER_MM)
RIGHT, ANTERIOR, SUPERIOR = np.eye(3)
LEFT, POSTERIOR, INFERIOR = -np.eye(3)


def shift(geometry: XrayGeometry, direction: np.ndarray) -> np.ndarray:
    """Where a step of 10 mm from the middle of the sacrum goes in the image: columns to the right, rows down."""
    pixels = geometry.project([CENTER, CENTER + 10 * direction])
    return pixels[1] - pixels[0]


@pytest.mark.parametrize("view", VIEW_ANGLES_DEG)
def test_the_head_is_up_in_every_view(view: str) -> None:
    columns, rows = shift(CArm().view(view, STRAIGHT), SUPERIOR)
    assert rows < -20
    assert abs(columns) < 1e-6


@pytest.mark.parametrize("view", ["ap", "outlet", "inlet"])
def test_the_patients_right_is_on_the_left_of_a_frontal_image(view: str) -> None:
    columns, rows = shift(CArm().view(view, STRAIGHT), RIGHT)
    assert columns < -50
    assert abs(rows) < 1e-6


def test_the_patient_faces_left_in_the_lateral_image() -> None:
    geometry = CArm().view("lateral", STRAIGHT)
    assert shift(geometry, ANTERIOR)[0] < -50
    np.testing.assert_allclose(geometry.view_direction_ras, LEFT, atol=1e-9)


def test_outlet_looks_onto_the_front_of_the_sacrum_and_inlet_along_it() -> None:
    # The front of a sacrum that slopes 40 degrees faces forwards and down.
    facing_front = np.cos(np.radians(40)) * ANTERIOR + np.sin(np.radians(40)) * INFERIOR
    c_arm = CArm()
    assert angle_between_deg(c_arm.view("outlet", STRAIGHT).view_direction_ras, facing_front) < 5
    assert angle_between_deg(c_arm.view("inlet", STRAIGHT).view_direction_ras, facing_front) > 55
    # In an outlet image what lies in front moves up, as the symphysis does over the sacrum.
    assert shift(c_arm.view("outlet", STRAIGHT), ANTERIOR)[1] < -20
    assert shift(c_arm.view("inlet", STRAIGHT), ANTERIOR)[1] > 10


def test_oblique_left_has_the_detector_towards_the_left_front() -> None:
    direction = CArm().view("oblique-left", STRAIGHT).view_direction_ras
    assert direction @ LEFT == pytest.approx(0.5)
    assert direction @ ANTERIOR == pytest.approx(np.sqrt(0.75))


@pytest.mark.parametrize("view", VIEW_ANGLES_DEG)
def test_the_sacrum_is_in_the_middle_and_magnified_by_the_distances(view: str) -> None:
    c_arm = CArm()
    geometry = c_arm.view(view, STRAIGHT)
    np.testing.assert_allclose(geometry.project(CENTER), [767.5, 767.5], atol=1e-6)
    assert np.linalg.norm(geometry.source_ras - CENTER) == pytest.approx(c_arm.source_to_isocenter_mm)
    across = np.linalg.norm(shift(geometry, np.cross(geometry.view_direction_ras, SUPERIOR)))
    magnification = c_arm.source_to_detector_mm / c_arm.source_to_isocenter_mm
    level = np.linalg.norm(np.cross(geometry.view_direction_ras, SUPERIOR))
    assert across * 0.194 == pytest.approx(10 * level * magnification, rel=1e-6)


def test_a_pelvis_turned_on_the_table_still_gets_a_true_lateral() -> None:
    turned = rigid(rotation_about(SUPERIOR, 12) @ STRAIGHT[:3, :3], STRAIGHT[:3, 3])
    geometry = CArm().view("lateral", turned)
    assert angle_between_deg(geometry.view_direction_ras, turned[:3, 0]) < 1e-6


def test_an_unknown_view_is_refused_with_the_known_ones() -> None:
    with pytest.raises(GeometryError, match=r"no view 'judet'; the views are ap, outlet"):
        CArm().view("judet", STRAIGHT)


def test_a_view_along_the_up_direction_is_refused() -> None:
    with pytest.raises(GeometryError, match="parallel"):
        CArm().pose([0, 0, 0], SUPERIOR, SUPERIOR)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    st.lists(st.floats(0, 1535), min_size=2, max_size=2),
    st.floats(0.05, 0.95),
)
def test_every_point_of_a_ray_projects_to_its_pixel(direction: list[float], pixel: list[float], part: float) -> None:
    if np.linalg.norm(np.cross(direction, SUPERIOR)) < 0.1:
        return
    geometry = CArm().pose([3, 4, 5], direction, SUPERIOR)
    on_ray = geometry.source_ras + part * (geometry.pixel_ras(pixel) - geometry.source_ras)
    np.testing.assert_allclose(geometry.project(on_ray), pixel, atol=1e-5)


@pytest.mark.parametrize("columns", [96, 256, 500])
def test_fewer_pixels_cover_the_same_field(columns: int) -> None:
    fine = CArm().view("outlet", STRAIGHT)
    coarse = fine.resampled(columns)
    factor = 1536 / columns
    np.testing.assert_allclose(coarse.source_ras, fine.source_ras, atol=1e-9)
    points = CENTER + np.random.default_rng(3).uniform(-60, 60, (20, 3))
    # Pixel centres: column 0 of the coarse image covers the fine columns 0 to factor - 1.
    np.testing.assert_allclose((coarse.project(points) + 0.5) * factor, fine.project(points) + 0.5, rtol=1e-3)


def test_points_behind_the_source_have_no_pixel() -> None:
    geometry = CArm().view("ap", STRAIGHT)
    behind = geometry.source_ras - 5 * geometry.view_direction_ras
    assert np.isnan(geometry.project([behind, geometry.source_ras])).all()
    assert np.isfinite(geometry.project(CENTER)).all()


GOOD = CArm().view("ap", STRAIGHT)
MIRROR = np.diag([-1.0, 1, 1, 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixel_spacing_mm": (0.0, 0.2)}, "pixel_spacing_mm"),
        ({"pixel_spacing_mm": (0.2, -0.2)}, "pixel_spacing_mm"),
        ({"pixel_spacing_mm": (float("nan"), 0.2)}, "pixel_spacing_mm"),
        ({"detector_pixels": (0, 10)}, "detector_pixels"),
        ({"RASToDetector": MIRROR @ GOOD.RASToDetector}, "left-handed"),
        ({"RASToDetector": np.diag([2.0, 2, 2, 1]) @ GOOD.RASToDetector}, "not rigid"),
        ({"RASToDetector": np.full((4, 4), np.nan)}, "NaN"),
        ({"RASToDetector": np.eye(3)}, "4x4"),
        ({"source_in_detector_mm": (0.0, 0.0, -1020.0)}, "behind the detector"),
        ({"source_in_detector_mm": (0.0, np.nan, 1020.0)}, "not finite"),
        ({"source_in_detector_mm": (0.0, 0.0, 1.02), "source_to_detector_mm": 1.02}, "in mm"),
        ({"source_to_detector_mm": 900.0}, "source_to_detector_mm"),
        ({"source_to_detector_mm": float("nan")}, "source_to_detector_mm"),
    ],
)
def test_an_impossible_geometry_is_refused_by_name(change: dict, words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        replace(GOOD, **change).check()


def test_a_geometry_survives_its_file(tmp_path: Path) -> None:
    geometry = CArm().view("oblique-right", STRAIGHT).resampled(300)
    write_geometry(tmp_path / "geometry.json", geometry)
    back = read_geometry(tmp_path / "geometry.json")
    np.testing.assert_allclose(back.RASToDetector, geometry.RASToDetector)
    assert replace(back, RASToDetector=geometry.RASToDetector) == geometry


@pytest.mark.parametrize("missing", ["RASToDetector", "detector_pixels", "source_in_detector_mm"])
def test_a_record_from_a_device_that_lacks_a_part_is_refused(missing: str) -> None:
    record = GOOD.to_dict()
    del record[missing]
    with pytest.raises(GeometryError, match=f"lacks {missing}"):
        XrayGeometry.from_dict(record)


def test_a_record_in_another_frame_or_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="LPS"):
        XrayGeometry.from_dict({**GOOD.to_dict(), "coordinateSystem": "LPS"})
    with pytest.raises(GeometryError, match="cannot be read"):
        XrayGeometry.from_dict({**GOOD.to_dict(), "detector_pixels": "many"})
    (tmp_path / "geometry.json").write_text('{"schema": {"name": "geometry", "version": 1}}', encoding="utf-8")
    with pytest.raises(DocumentError, match="coordinateSystem"):
        read_geometry(tmp_path / "geometry.json")


def test_without_anatomy_the_middle_of_the_ct_is_in_the_middle_of_the_image() -> None:
    ct = Volume(np.zeros((11, 21, 31), np.int16), rigid(rotation_about([1, 1, 0], 20), [50, 60, 70]))
    geometry = CArm().view("lateral", frame_without_anatomy(ct))
    np.testing.assert_allclose(geometry.project(ct.ras_of([[5, 10, 15]])[0]), [767.5, 767.5], atol=1e-6)
