"""Outlines over X-rays against exact shadows of balls, tubes and ellipses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.anatomy.model import Foramen, Opening
from sacroplasty.errors import GeometryError
from sacroplasty.geometry import FloatArray, rigid, unit
from sacroplasty.image import Volume
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.overlay import (
    Outline,
    anatomy_surfaces,
    draw,
    foramen_surface,
    line_pixels,
    outline,
    outlines,
    shaft_surface,
    surface_of,
)
from sacroplasty.xray.project import cylinder_line_integrals, line_integrals

CENTER = np.array([10.0, -20.0, 30.0])
POSES = [CArm().at_positioner_angles(np.add(CENTER, [5, 0, -8]), *angles) for angles in ((0, 0), (20, -40), (90, 0))]


def ball(radius_mm: float, spacing_mm: float, center: FloatArray = CENTER) -> Volume:
    count = int(2 * radius_mm / spacing_mm) + 7
    IJKToRAS = rigid(
        np.diag([-1.0, -1.0, 1.0]) * spacing_mm, center - np.array([-1, -1, 1]) * spacing_mm * (count - 1) / 2
    )
    grid = Volume(np.zeros([count] * 3, np.uint8), IJKToRAS)
    off = grid.ras_of(np.argwhere(np.ones(grid.voxels.shape))) - center
    return grid.like((np.linalg.norm(off, axis=1) <= radius_mm).reshape(grid.voxels.shape).astype(np.uint8))


def distance_of_rays(item: Outline, geometry: XrayGeometry, point: FloatArray) -> FloatArray:
    """How near the rays to an outline's points pass a point [mm]."""
    source = geometry.source_ras
    rays = geometry.pixel_ras(np.concatenate(item.polylines)) - source
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return np.linalg.norm(np.cross(rays, point - source), axis=1)


def inside_convex(pixels: FloatArray, polygon: FloatArray) -> np.ndarray:
    """Which pixels (..., 2) lie within a convex polygon: on one side of all its edges."""
    edges = np.diff(polygon, axis=0)
    away = pixels[..., None, :] - polygon[:-1]
    turns = edges[:, 0] * away[..., 1] - edges[:, 1] * away[..., 0]
    return (turns >= 0).all(axis=-1) | (turns <= 0).all(axis=-1)


@pytest.mark.parametrize("geometry", POSES)
@pytest.mark.parametrize(("radius", "spacing"), [(5.0, 0.5), (12.0, 1.0), (25.0, 1.5)])
def test_the_rays_to_a_ball_s_outline_touch_the_ball(geometry: XrayGeometry, radius: float, spacing: float) -> None:
    item = outline(surface_of("ball", ball(radius, spacing)), geometry)
    off = distance_of_rays(item, geometry, CENTER) - radius
    assert len(item.polylines) == 1
    # The corners of voxels stand out of a ball, and the outline is theirs.
    assert -0.15 < off.mean() < 0.1 + 0.15 * spacing
    assert np.abs(off).max() < 0.4 * spacing + 0.35


def test_an_outline_does_not_depend_on_the_pixels() -> None:
    surface, geometry = surface_of("ball", ball(12.0, 1.0)), POSES[1]
    for columns in (96, 512):
        item = outline(surface, geometry.resampled(columns))
        off = distance_of_rays(item, geometry.resampled(columns), CENTER) - 12.0
        assert abs(off.mean()) < 0.2


def test_a_structure_behind_another_keeps_its_whole_outline() -> None:
    geometry = POSES[0]
    behind = np.add(CENTER, [0, 60, 0])
    surfaces = {"front": surface_of("front", ball(15.0, 1.0)), "back": surface_of("back", ball(6.0, 1.0, behind))}
    front, back = outlines(surfaces, geometry)
    assert np.abs(distance_of_rays(back, geometry, behind) - 6.0).max() < 0.8
    assert np.abs(distance_of_rays(front, geometry, CENTER) - 15.0).max() < 0.8


def test_a_ring_seen_from_above_has_two_rims() -> None:
    disk = ball(15.0, 1.0)
    off = disk.ras_of(np.argwhere(np.ones(disk.voxels.shape))) - CENTER
    ring = (np.hypot(off[:, 0], off[:, 2]) > 6) & (np.hypot(off[:, 0], off[:, 2]) < 12) & (np.abs(off[:, 1]) < 4)
    item = outline(surface_of("ring", disk.like(ring.reshape(disk.voxels.shape).astype(np.uint8))), POSES[0])
    assert len(item.polylines) == 2


def test_what_the_picture_does_not_show_has_no_outline() -> None:
    geometry = POSES[0]
    far = surface_of("far", ball(5.0, 1.0, np.add(CENTER, [400, 0, 0])))
    assert outline(far, geometry).polylines == ()
    behind_source = surface_of("behind", ball(5.0, 1.0, geometry.source_ras - 50 * geometry.view_direction_ras))
    assert outline(behind_source, geometry).polylines == ()
    assert (
        outline(surface_of("none", ball(5.0, 1.0).like(np.zeros_like(ball(5.0, 1.0).voxels))), geometry).polylines == ()
    )


def test_a_trocar_s_outline_is_the_rim_of_its_exact_shadow() -> None:
    geometry = POSES[1].resampled(768)
    start, end = np.add(CENTER, [20, -40, 10]), np.add(CENTER, [-5, 30, -12])
    shadow = cylinder_line_integrals(geometry, start, end, 6.0) > 0
    item = outline(shaft_surface("trocar", start, end, 6.0), geometry)
    v, u = np.indices(shadow.shape)
    inside = inside_convex(np.stack([u, v], axis=-1), item.polylines[0])
    assert np.count_nonzero(inside ^ shadow) < 0.04 * np.count_nonzero(shadow)


def test_a_trocar_of_unknown_pose_is_refused() -> None:
    with pytest.raises(GeometryError, match="NaN"):
        shaft_surface("trocar", CENTER, [np.nan, 0, 0], 3.0)
    with pytest.raises(GeometryError, match="no length"):
        shaft_surface("trocar", CENTER, CENTER, 3.0)


def test_a_foramen_is_outlined_by_the_shadows_of_both_rims() -> None:
    axis = unit([0.1, 1.0, 0.3])
    foramen = Foramen(
        Opening(CENTER, axis, 12.0, 12.0), Opening(CENTER - 25 * axis, -axis, 8.0, 8.0), CENTER - 25 * axis
    )
    along = CArm().pose(CENTER, axis, [0, 0, 1])
    item = outline(foramen_surface("foramen", foramen), along)
    # Straight down the channel the wider rim is all that is seen: its plane lies at a right angle to the beam.
    off = (item.polylines[0] - along.project(CENTER)) * along.pixel_spacing_mm * 620 / 1020
    assert np.hypot(*off.T) == pytest.approx(6.0, abs=0.05)
    across = CArm().pose(CENTER, np.cross(axis, [0, 0, 1]), [0, 0, 1])
    item = outline(foramen_surface("foramen", foramen), across)
    assert np.ptp(item.polylines[0], axis=0).max() * 0.194 * 620 / 1020 == pytest.approx(27, abs=3)


def test_the_outline_of_a_mask_encloses_its_line_integrals() -> None:
    """The projector knows nothing of surfaces, the overlay nothing of line integrals."""
    geometry = POSES[1].resampled(512)
    mask = ball(14.0, 1.0)
    shadow = line_integrals(mask.like(mask.voxels.astype(np.float32)), geometry) > 0.5
    marked = line_pixels(outline(surface_of("ball", mask), geometry), geometry)
    rim = np.argwhere(marked)
    from scipy.ndimage import binary_dilation, binary_erosion

    inner, outer = binary_erosion(shadow, iterations=3), binary_dilation(shadow, iterations=3)
    assert not inner[tuple(rim.T)].any() and outer[tuple(rim.T)].all()


def test_lines_have_their_width_and_a_dark_rim() -> None:
    geometry = replace(POSES[0].resampled(64))
    item = Outline("sacral_canal", (np.array([[10.0, 30.0], [50.0, 30.0]]),))
    assert line_pixels(item, geometry, 1.0).sum(axis=0)[30] == 1
    assert line_pixels(item, geometry, 3.0).sum(axis=0)[30] == 3
    picture = draw(np.full((64, 64), 200, np.uint8), [item], geometry)
    assert tuple(picture[30, 30]) == (250, 217, 26) and tuple(picture[28, 30]) == (0, 0, 0)
    assert tuple(picture[10, 10]) == (200, 200, 200)


def test_structures_of_an_anatomy_and_unknown_ones() -> None:
    from scene.simple_case import make_anatomy, make_ct

    anatomy = make_anatomy(make_ct())
    surfaces = anatomy_surfaces(anatomy)
    assert set(surfaces) == {"sacral_canal", "foramen_s1_left", "foramen_s1_right", "ala_left", "ala_right"}
    with pytest.raises(GeometryError, match="sacral_nerve"):
        anatomy_surfaces(anatomy, ["sacral_nerve"])
