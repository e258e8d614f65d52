"""Line integrals against closed-form chords."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sacroplasty.errors import GeometryError, ImageError
from sacroplasty.geometry import rigid, rotation_about, transform_points
from sacroplasty.image import Volume
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.project import attenuation_from_hu, cylinder_line_integrals, line_integrals

ISOCENTER = np.array([20.0, -30.0, 50.0])
SUPERIOR = np.array([0, 0, 1.0])
DIRECTIONS = {
    "along an axis": [0, 1, 0],
    "between two axes": [0, 1, -1],
    "between three axes": [1, 1, 1],
    "steep": [0.3, -0.1, 1.0],
}


def pose(direction: list[float], columns: int = 96) -> XrayGeometry:
    return CArm().pose(ISOCENTER, direction, SUPERIOR).resampled(columns)


def rays(geometry: XrayGeometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source, unit directions (rows, columns, 3) and lengths of all rays."""
    columns, rows = geometry.detector_pixels
    pixels = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
    lines = geometry.pixel_ras(pixels) - geometry.source_ras
    lengths = np.linalg.norm(lines, axis=-1)
    return geometry.source_ras, lines / lengths[..., None], lengths


def sphere_chords(geometry: XrayGeometry, center: np.ndarray, radius: float) -> np.ndarray:
    source, directions, _ = rays(geometry)
    along = directions @ (center - source)
    squared = radius**2 - np.linalg.norm(center - source) ** 2 + along**2
    return 2 * np.sqrt(np.maximum(squared, 0))


def box_chords(geometry: XrayGeometry, RASToBox: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    source, directions, _ = rays(geometry)
    start, lines = transform_points(RASToBox, source), directions @ RASToBox[:3, :3].T
    with np.errstate(divide="ignore"):
        one, other = (lower - start) / lines, (upper - start) / lines
    return np.maximum(np.maximum(one, other).min(axis=-1) - np.minimum(one, other).max(axis=-1), 0)


@cache
def ball(spacing: tuple[float, float, float], angle_deg: float, radius: float) -> Volume:
    """A ball of attenuation 0.02 /mm with partial volume at its rim (3 x 3 x 3 samples per voxel)."""
    axes = rotation_about([1, 2, 3], angle_deg) @ np.diag(spacing)
    counts = np.ceil(2 * radius / np.array(spacing)).astype(int) + 4
    IJKToRAS = rigid(axes, ISOCENTER - axes @ ((counts - 1) / 2))
    fine = np.stack(np.meshgrid(*[(np.arange(3 * n) + 0.5) / 3 - 0.5 for n in counts[::-1]], indexing="ij"), axis=-1)
    inside = np.linalg.norm(transform_points(IJKToRAS, fine[..., ::-1]) - ISOCENTER, axis=-1) <= radius
    k, j, i = counts[::-1]
    return Volume(0.02 * inside.reshape(k, 3, j, 3, i, 3).mean(axis=(1, 3, 5)).astype(np.float32), IJKToRAS)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.25)])
def test_a_ball_is_projected_within_one_percent(direction: list[float], spacing: tuple[float, float, float]) -> None:
    geometry = pose(direction)
    volume = ball(spacing, 25, 30)
    truth = 0.02 * sphere_chords(geometry, ISOCENTER, 30)
    image = line_integrals(volume, geometry)
    error = np.abs(image - truth)[truth > 0.5 * truth.max()]
    assert np.percentile(error, 99) < 0.01 * truth.max()
    assert error.mean() < 0.003 * truth.max()
    assert image.sum() == pytest.approx(truth.sum(), rel=0.003)
    # Far from the ball nothing casts a shadow.
    assert image[sphere_chords(geometry, ISOCENTER, 34) == 0].max() == 0


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_box_is_projected_within_one_percent(direction: list[float], mirrored: bool) -> None:
    axes = rotation_about([3, 1, 2], 35) @ np.diag([-1.0 if mirrored else 1.0, 1.0, 1.5])
    counts = np.array([50, 40, 30])
    IJKToRAS = rigid(axes, ISOCENTER - axes @ ((counts - 1) / 2))
    volume = Volume(np.full(counts[::-1], 0.03, np.float32), IJKToRAS)
    geometry = pose(direction)
    truth = 0.03 * box_chords(geometry, np.linalg.inv(IJKToRAS), np.full(3, -0.5), counts - 0.5)
    image = line_integrals(volume, geometry)
    assert image.sum() == pytest.approx(truth.sum(), rel=0.005)
    deep = truth > 0.5 * truth.max()
    assert np.median(np.abs(image - truth)[deep]) < 0.002 * truth.max()
    assert np.percentile(np.abs(image - truth)[deep], 95) < 0.01 * truth.max()


def test_a_point_shows_up_where_the_geometry_puts_it() -> None:
    geometry = pose([0.4, 1, 0.2], columns=512)
    voxels = np.zeros((40, 50, 60), np.float32)
    voxels[12, 30, 47] = 1
    volume = Volume(voxels, rigid(rotation_about([0, 1, 1], 70), ISOCENTER - 20))
    image = line_integrals(volume, geometry)
    rows, columns = np.indices(image.shape)
    middle = [(columns * image).sum() / image.sum(), (rows * image).sum() / image.sum()]
    np.testing.assert_allclose(middle, geometry.project(volume.ras_of([[12, 30, 47]])[0]), atol=0.05)


def test_what_lies_behind_the_detector_casts_no_shadow() -> None:
    c_arm = CArm(source_to_detector_mm=620.0, source_to_isocenter_mm=620.0)
    volume = ball((1.0, 1.0, 1.0), 0, 30)
    geometry = c_arm.pose(ISOCENTER, [0, 1, 0], SUPERIOR).resampled(96)
    middle = line_integrals(volume, geometry)[45:51, 45:51]
    assert middle.mean() == pytest.approx(0.02 * 30, rel=0.03)


def test_an_empty_volume_and_one_beside_the_beam_give_nothing() -> None:
    volume = ball((1.0, 1.0, 1.0), 0, 10)
    assert not line_integrals(volume.like(np.zeros_like(volume.voxels)), pose([0, 1, 0])).any()
    assert not line_integrals(Volume(volume.voxels, rigid(np.eye(3), [900, 0, 0])), pose([0, 1, 0])).any()


def test_a_source_inside_the_patient_and_voxels_without_value_are_refused() -> None:
    volume = ball((1.0, 1.0, 1.0), 0, 30)
    inside = CArm(source_to_isocenter_mm=10).pose(ISOCENTER, [0, 1, 0], SUPERIOR).resampled(64)
    with pytest.raises(GeometryError, match="source lies inside the patient"):
        line_integrals(volume, inside)
    broken = volume.voxels.copy()
    broken[3, 3, 3] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        line_integrals(volume.like(broken), pose([0, 1, 0]))


def test_hounsfield_units_become_attenuation() -> None:
    air, fat, water, bone = attenuation_from_hu(np.array([-3024, -1000, -100, 0, 1559], np.int16))[[0, 2, 3, 4]]
    assert (air, water) == (0, pytest.approx(0.0206, rel=1e-3))
    assert fat == pytest.approx(0.0206 * 0.9, rel=1e-3)
    assert bone == pytest.approx(0.0604, rel=1e-3)
    ramp = attenuation_from_hu(np.arange(-940, 3071, dtype=np.int16))
    assert (np.diff(ramp) > 0).all()


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_a_rod_hides_its_exact_volume(direction: list[float]) -> None:
    geometry = pose(direction, columns=256)
    start, end = np.add(ISOCENTER, [[-20, -10, 5], [25, 20, -15]])
    image = cylinder_line_integrals(geometry, start, end, 8.0, 5.0, 1.0)
    # Path length over a pixel, scaled back to the object: sum of chord * area / magnification^2 * obliquity = volume.
    source, _, lengths = rays(geometry)
    pixel_area = np.prod(geometry.pixel_spacing_mm)
    cosine = geometry.source_in_detector_mm[2] / lengths
    magnification = geometry.source_to_detector_mm / (((start + end) / 2 - source) @ geometry.view_direction_ras)
    volume = float((image * pixel_area * cosine).sum()) / magnification**2
    truth = np.pi / 4 * (8**2 - 5**2) * np.linalg.norm(end - start)
    assert volume == pytest.approx(truth, rel=0.01)


def test_a_rod_seen_end_on_is_a_ring_as_deep_as_it_is_long() -> None:
    geometry = pose([0, 1, 0], columns=1536)
    image = cylinder_line_integrals(geometry, *np.add(ISOCENTER, [[0, -20, 0], [0, 20, 0]]), 6.0, 3.0, 0.5)
    middle = image[758:778, 758:778]
    assert middle[9, 9] == 0
    assert image.max() == pytest.approx(0.5 * 40, rel=0.02)


def test_a_rod_matches_a_voxelised_one() -> None:
    geometry = pose([0.2, 1, 0.1], columns=192)
    start, end = np.add(ISOCENTER, [[-15, 0, -10], [15, 5, 12]])
    k, j, i = np.indices((100, 100, 100))
    IJKToRAS = rigid(np.eye(3) * 0.5, ISOCENTER - 25)
    points = transform_points(IJKToRAS, np.stack([i, j, k], axis=-1))
    axis = (end - start) / np.linalg.norm(end - start)
    along = (points - start) @ axis
    across = np.linalg.norm(points - start - along[..., None] * axis, axis=-1)
    solid = (across <= 4) & (along >= 0) & (along <= np.linalg.norm(end - start))
    voxelised = line_integrals(Volume(solid.astype(np.float32), IJKToRAS), geometry)
    analytic = cylinder_line_integrals(geometry, start, end, 8.0, 0.0, 1.0)
    assert voxelised.sum() == pytest.approx(analytic.sum(), rel=0.01)
    assert np.abs(voxelised - analytic).mean() < 0.01 * analytic.max()


def test_a_tube_that_cannot_be_is_refused() -> None:
    geometry = pose([0, 1, 0])
    with pytest.raises(GeometryError, match="bore"):
        cylinder_line_integrals(geometry, ISOCENTER, ISOCENTER + 10, 3.0, 3.0)
    with pytest.raises(GeometryError, match="NaN"):
        cylinder_line_integrals(geometry, ISOCENTER, [np.nan, 0, 0], 3.0)
    with pytest.raises(GeometryError, match="behind the X-ray source"):
        cylinder_line_integrals(geometry, ISOCENTER, ISOCENTER - [0, 900, 0], 3.0)


def test_the_projector_needs_no_scipy_at_import(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, sacroplasty.xray.views, sacroplasty.cli.xray; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
