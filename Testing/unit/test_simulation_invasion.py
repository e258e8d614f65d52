"""The simulated spread, which is not the one that predicts, against spheres, barriers and book-keeping."""

import math

import numpy as np
import pytest

from sacroplasty.cement.grid import grid_points, local_grid
from sacroplasty.image import Volume
from sacroplasty.simulation.invasion import CANCELLOUS_POROSITY, fill_from


def block(half_size_mm: float = 30.0) -> Volume:
    grid = local_grid([0, 0, 0], half_size_mm, 1.0)
    return grid.like(np.ones(grid.voxels.shape, bool))


@pytest.mark.parametrize("volume_ml", [0.5, 3.0, 8.0])
def test_even_bone_fills_as_a_sphere_of_the_right_size(volume_ml):
    tip = np.array([0.3, -0.4, 0.2])
    cement = fill_from(tip, block()).at(volume_ml)
    radius = (volume_ml * 1000 / CANCELLOUS_POROSITY * 3 / (4 * math.pi)) ** (1 / 3)
    distance = np.linalg.norm(grid_points(cement) - tip, axis=-1)
    inside = cement.voxels > 0
    assert distance[inside].max() < radius + 1.0
    assert distance[~inside].min() > radius - 1.0


def test_volume_is_conserved_in_uneven_bone(rng):
    region = block(14.0)
    resistance = region.like(rng.uniform(1.0, 3.0, region.voxels.shape).astype(np.float32))
    filling = fill_from([0, 0, 0], region, resistance, half_size_mm=12.0)
    for volume_ml in (0.0, 0.7, 12.0, 100.0):
        cement = filling.at(volume_ml)
        assert cement.voxels.sum(dtype=float) / 1000 == pytest.approx(min(volume_ml, filling.room_ml), abs=1e-4)
    assert (np.diff(filling.arrival) >= 0).all()


def test_a_hole_in_the_cortex_lets_it_through_after_the_straight_way():
    region = block()
    points = grid_points(region)
    wall = np.abs(points[..., 0] - 5.0) < 0.6
    hole = np.linalg.norm(points[..., 1:], axis=-1) < 2.5
    filling = fill_from([0, 0, 0], region.like(~wall | hole))
    # Behind the wall cement arrives on the way round, beside the tip on the straight one.
    behind = np.argmin(np.linalg.norm(filling.voxel_ras - [8.0, 12.0, 0.0], axis=1))
    beside = np.argmin(np.linalg.norm(filling.voxel_ras - [-8.0, 12.0, 0.0], axis=1))
    assert filling.arrival[behind] > filling.arrival[beside] + 1.0
    assert filling.arrival[behind] == pytest.approx(math.hypot(5.5, 2.5) + math.hypot(2.5, 9.5), rel=0.08)
    closed = fill_from([0, 0, 0], region.like(~wall))
    assert closed.voxel_ras[:, 0].max() < 5.0
