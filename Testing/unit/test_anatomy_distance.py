"""The shared distance field against analytic shapes."""

from __future__ import annotations

import numpy as np
import pytest
from sacroplasty.anatomy.distance import DistanceField
from sacroplasty.errors import AnatomyError
from sacroplasty.geometry import rigid, rotation_about, transform_points
from sacroplasty.image import Volume

CENTER = np.array([12.0, -30.0, 45.0])
RADIUS_MM = 9.0


def sphere_mask(spacing_mm: tuple[float, float, float], rotation: np.ndarray, mirrored: bool = False) -> Volume:
    """A ball's mask on a grid of the given spacing (i, j, k) and orientation."""
    axes = rotation @ np.diag(spacing_mm)
    if mirrored:
        axes[:, 0] *= -1
    counts = [int(50 / spacing) for spacing in spacing_mm]
    IJKToRAS = rigid(axes, CENTER - axes @ (np.array(counts) / 2))
    k, j, i = np.indices(counts[::-1])
    points = transform_points(IJKToRAS, np.stack([i, j, k], axis=-1))
    return Volume((np.linalg.norm(points - CENTER, axis=-1) <= RADIUS_MM).astype(np.uint8), IJKToRAS)


@pytest.mark.parametrize(
    ("spacing_mm", "angle_deg", "mirrored"),
    [((1, 1, 1), 0, False), ((0.7, 0.7, 1.5), 30, False), ((1, 1, 1), 40, True)],
)
def test_distance_to_a_ball_leans_towards_too_near_on_any_grid(
    spacing_mm: tuple[float, float, float], angle_deg: float, mirrored: bool
) -> None:
    field = DistanceField(sphere_mask(spacing_mm, rotation_about([1, 2, 3], angle_deg), mirrored))
    points = CENTER + np.random.default_rng(1).uniform(-25, 25, (3000, 3))
    truth = np.linalg.norm(points - CENTER, axis=1) - RADIUS_MM
    error = (field.at(points) - truth)[truth > 0]
    assert error.min() > -1.1
    assert error.max() < 0.6
    assert -0.6 < error.mean() < 0


def test_distance_outside_the_grid_never_exceeds_the_truth() -> None:
    field = DistanceField(sphere_mask((1, 1, 1), np.eye(3)), margin_mm=5)
    directions = np.random.default_rng(2).normal(size=(500, 3))
    points = CENTER + directions / np.linalg.norm(directions, axis=1)[:, None] * np.linspace(40, 200, 500)[:, None]
    distances = field.at(points)
    assert (distances <= np.linalg.norm(points - CENTER, axis=1) - RADIUS_MM + 0.5).all()
    assert (distances > 20).all()


def test_a_point_that_is_no_number_counts_as_forbidden() -> None:
    field = DistanceField(sphere_mask((1, 1, 1), np.eye(3)))
    distances = field.at([[np.nan, 0, 0], np.add(CENTER, [4, 0, 0])])
    assert distances[0] == -np.inf
    assert distances[1] == pytest.approx(4 - RADIUS_MM, abs=0.8)
    assert field.along([np.nan, 0, 0], CENTER) == -np.inf


def test_a_shaft_beside_the_ball_keeps_its_clearance() -> None:
    field = DistanceField(sphere_mask((1, 1, 1), np.eye(3)))
    start = np.add(CENTER, [RADIUS_MM + 4, -60, 0])
    assert field.along(start, np.add(start, [0, 120, 0]), radius_mm=1.5) == pytest.approx(2.5, abs=0.8)
    assert field.along(np.add(CENTER, [0, 4, 0]), np.add(CENTER, [0, 50, 0])) == pytest.approx(4 - RADIUS_MM, abs=0.8)


def test_an_empty_structure_is_refused() -> None:
    with pytest.raises(AnatomyError, match="no voxels"):
        DistanceField(Volume(np.zeros((5, 5, 5), np.uint8), np.eye(4)))
