"""The spread model against spheres, barriers and book-keeping."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.cement.grid import grid_points, local_grid
from sacroplasty.cement.spread import CANCELLOUS_POROSITY, invade, resistance_from_hu
from sacroplasty.errors import PlanError
from sacroplasty.image import Volume


def block(half_size_mm: float = 30.0) -> Volume:
    grid = local_grid([0, 0, 0], half_size_mm, 1.0)
    return grid.like(np.ones(grid.voxels.shape, bool))


@pytest.mark.parametrize("volume_ml", [0.5, 1.0, 3.0, 5.0, 8.0])
def test_even_bone_fills_as_a_sphere_of_the_right_size(volume_ml):
    tip = np.array([0.3, -0.4, 0.2])
    cement = invade(tip, block()).at(volume_ml)
    radius = (volume_ml * 1000 / CANCELLOUS_POROSITY * 3 / (4 * math.pi)) ** (1 / 3)
    distance = np.linalg.norm(grid_points(cement) - tip, axis=-1)
    inside = cement.voxels > 0
    assert distance[inside].max() < radius + 1.0
    assert distance[~inside].min() > radius - 1.0


@settings(max_examples=25, deadline=None)
@given(volume_ml=st.floats(0.0, 12.0), seed=st.integers(0, 1000))
def test_volume_is_conserved_in_uneven_bone(volume_ml, seed):
    rng = np.random.default_rng(seed)
    region = block(14.0)
    resistance = region.like(rng.uniform(1.0, 3.0, region.voxels.shape).astype(np.float32))
    invasion = invade([0, 0, 0], region, resistance, half_size_mm=12.0)
    cement = invasion.at(volume_ml)
    assert cement.voxels.sum(dtype=float) * cement.voxel_volume_ml == pytest.approx(
        min(volume_ml, invasion.room_ml), abs=1e-4
    )
    assert (np.diff(invasion.arrival) >= 0).all()


def test_more_cement_never_leaves_a_filled_voxel():
    invasion = invade([0, 0, 0], block())
    small, large = invasion.at(2.0).voxels, invasion.at(2.3).voxels
    assert (large >= small - 1e-7).all()


def test_a_cortex_one_voxel_thick_holds_the_cement_back():
    region = block()
    wall = np.abs(grid_points(region)[..., 0] - 5.0) < 0.6
    invasion = invade([0, 0, 0], region.like(~wall))
    assert invasion.voxel_ras[:, 0].max() < 5.0


def test_a_hole_in_the_cortex_lets_it_through_after_the_straight_way():
    region = block()
    points = grid_points(region)
    wall = np.abs(points[..., 0] - 5.0) < 0.6
    hole = np.linalg.norm(points[..., 1:], axis=-1) < 2.5
    invasion = invade([0, 0, 0], region.like(~wall | hole))
    through = invasion.voxel_ras[:, 0] > 6.0
    assert through.any()
    # Behind the wall cement arrives on the way round, beside the tip on the straight one.
    behind = np.argmin(np.linalg.norm(invasion.voxel_ras - [8.0, 12.0, 0.0], axis=1))
    beside = np.argmin(np.linalg.norm(invasion.voxel_ras - [-8.0, 12.0, 0.0], axis=1))
    assert invasion.arrival[behind] > invasion.arrival[beside] + 1.0
    detour = math.hypot(5.5, 2.5) + math.hypot(2.5, 9.5)
    assert invasion.arrival[behind] == pytest.approx(detour, rel=0.08)


def test_cement_runs_ahead_where_bone_is_loose():
    region = block()
    loose = grid_points(region)[..., 0] > 0
    resistance = region.like(np.where(loose, 1.0, 3.0).astype(np.float32))
    reach = invade([0, 0, 0], region, resistance).at(3.0)
    x = grid_points(reach)[..., 0][reach.voxels > 0]
    assert x.max() > 2 * -x.min()


def test_voids_fill_completely():
    region = block()
    points = grid_points(region)
    void = np.abs(points[..., 2]) < 1.5
    porosity = region.like(np.where(void, 1.0, CANCELLOUS_POROSITY).astype(np.float32))
    cement = invade([0, 0, 0], region, porosity=porosity).at(2.0)
    core = np.linalg.norm(grid_points(cement), axis=-1) < 4
    in_void = np.abs(grid_points(cement)[..., 2]) < 0.5
    assert cement.voxels[core & in_void] == pytest.approx(1.0)
    assert cement.voxels[core & ~in_void & (np.abs(grid_points(cement)[..., 2]) > 2.5)] == pytest.approx(0.85)


def test_any_orientation_of_the_region_gives_the_same_cement():
    region = block()
    flipped = Volume(region.voxels[::-1, :, ::-1].copy(), region.IJKToRAS @ np.diag([-1, 1, -1, 1.0]))
    flipped.IJKToRAS[:3, 3] = region.ras_of([[60, 0, 60]])[0]
    assert np.array_equal(invade([1, 2, 3], region).at(2.0).voxels, invade([1, 2, 3], flipped).at(2.0).voxels)


def test_a_tip_outside_bone_is_refused_with_the_distance():
    region = block(10.0)
    with pytest.raises(PlanError, match=r"10.0 mm from bone"):
        invade([20, 0, 0], region)
    with pytest.raises(PlanError, match="not known"):
        invade([np.nan, 0, 0], region)


def test_a_tip_in_the_cortex_starts_in_the_bone_beside_it():
    invasion = invade([12.0, 0, 0], block(10.0))
    assert invasion.voxel_ras[0] == pytest.approx([10.0, 0, 0], abs=1.0)


def test_resistance_grows_with_density_within_its_range():
    assert resistance_from_hu(np.array([-200, -50, 125, 300, 900])) == pytest.approx([1, 1, 2, 3, 3])
