"""The spread model against analytic spheres, an independent solution of Darcy's law, barriers and book-keeping."""

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darcy_reference import reference_fill
from sacroplasty.cement.grid import grid_points, local_grid
from sacroplasty.cement.spread import (
    CANCELLOUS_POROSITY,
    balloon_cavity,
    invade,
    invade_depots,
    planned_cavity,
    reach_mm,
    resistance_from_hu,
)
from sacroplasty.errors import PlanError
from sacroplasty.image import Volume
from sacroplasty.planning.model import Balloon, Depot


def block(half_size_mm: float = 30.0) -> Volume:
    grid = local_grid([0, 0, 0], half_size_mm, 1.0)
    return grid.like(np.ones(grid.voxels.shape, bool))


@cache
def cones() -> tuple[np.ndarray, np.ndarray]:
    """26 directions to the faces, edges and corners of a cube, and the solid angle that is nearest to each."""
    directions = np.array([way for way in product((-1, 0, 1), repeat=3) if any(way)], float)
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    rays = np.random.default_rng(1).normal(size=(200_000, 3))
    return directions, 4 * math.pi * np.bincount(np.argmax(rays @ directions.T, axis=1)) / len(rays)


def radii_mm(cement: Volume, tip: np.ndarray, porosity: float = CANCELLOUS_POROSITY) -> np.ndarray:
    """Radius of the cement in each of 26 cones of directions: of the ball whose share of such a cone it would be."""
    directions, angle = cones()
    # Every voxel as 5 x 5 x 5 points, so that the cones' edges do not follow the voxels.
    steps = (np.arange(5) + 0.5) / 5 - 0.5
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3) * cement.spacing_mm[0]
    filled = cement.voxels > 0
    arm = (grid_points(cement)[filled] - tip)[:, None] + offsets
    share = np.repeat(cement.voxels[filled].astype(float) / porosity * cement.voxel_volume_ml * 1000 / 125, 125)
    arm = arm.reshape(-1, 3)
    cone = np.argmax((arm / np.maximum(np.linalg.norm(arm, axis=1), 1e-9)[:, None]) @ directions.T, axis=1)
    return (3 * np.bincount(cone, share, minlength=26) / angle) ** (1 / 3)


@pytest.mark.parametrize("volume_ml", [0.5, 1.0, 3.0, 8.0])
def test_even_bone_fills_as_the_analytic_sphere(volume_ml):
    tip = np.array([0.3, -0.4, 0.2])
    cement = invade(tip, block(40.0), until_ml=volume_ml).at(volume_ml)
    radius = (volume_ml * 1000 / CANCELLOUS_POROSITY * 3 / (4 * math.pi)) ** (1 / 3)
    found = radii_mm(cement, tip)
    assert found.mean() == pytest.approx(radius, rel=0.005)
    assert np.abs(found / radius - 1).max() < 0.02
    assert cement.voxels.sum(dtype=float) * cement.voxel_volume_ml == pytest.approx(volume_ml, rel=1e-5)


@settings(max_examples=8, deadline=None)
@given(volume_ml=st.floats(0.0, 3.0), seed=st.integers(0, 1000))
def test_volume_is_conserved_in_uneven_bone(volume_ml, seed):
    rng = np.random.default_rng(seed)
    region = block(6.0)
    resistance = region.like(rng.uniform(1.0, 3.0, region.voxels.shape).astype(np.float32))
    invasion = invade([0, 0, 0], region, resistance, until_ml=3.0, grid=region)
    cement = invasion.at(volume_ml)
    assert cement.voxels.sum(dtype=float) * cement.voxel_volume_ml == pytest.approx(
        min(volume_ml, invasion.room_ml), abs=1e-4
    )
    assert (invasion.full_ml > invasion.begins_ml).all()
    assert (np.diff(invasion.begins_ml) >= 0).all()
    assert cement.voxels.max() <= CANCELLOUS_POROSITY + 1e-6


def test_more_cement_never_leaves_a_filled_voxel():
    invasion = invade([0, 0, 0], block(), until_ml=2.5)
    small, large = invasion.at(2.0).voxels, invasion.at(2.3).voxels
    assert (large >= small - 1e-6).all()


def test_a_volume_that_was_not_followed_is_refused():
    invasion = invade([0, 0, 0], block(), until_ml=1.0)
    with pytest.raises(ValueError, match="followed"):
        invasion.at(2.0)
    with pytest.raises(ValueError, match="0 or more"):
        invasion.at(-0.1)


def test_a_cortex_one_voxel_thick_holds_the_cement_back():
    region = block()
    wall = np.abs(grid_points(region)[..., 0] - 5.0) < 0.6
    invasion = invade([0, 0, 0], region.like(~wall), until_ml=4.0)
    assert invasion.voxel_ras[:, 0].max() < 5.0
    assert invasion.at(4.0).voxels.sum(dtype=float) / 1000 == pytest.approx(4.0, rel=1e-5)


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Which voxels are permeable, and how much, around a tip in the middle of 23 x 23 x 23 voxels."""
    k, j, i = np.indices((23, 23, 23)) - 11
    everywhere, even = np.ones((23,) * 3, bool), np.ones((23,) * 3)
    return {
        "even bone": (everywhere, even),
        "a wall beside the tip": (i != 4, even),
        "a hole in the wall": ((i != 4) | ((abs(j) <= 1) & (abs(k) <= 1)), even),
        "a cleft ten times as permeable": (everywhere, np.where(abs(j - 2) <= 0, 10.0, 1.0)),
        "denser on one side": (everywhere, np.where(i > 0, 1 / 3, 1.0)),
    }


@pytest.mark.parametrize("name", cases())
def test_fronts_agree_with_a_reference_solution_of_darcys_law(name):
    permeable, permeability = cases()[name]
    grid = local_grid([0, 0, 0], 11.0, 1.0)
    cement = invade(
        [0, 0, 0], grid.like(permeable), grid.like(1 / permeability), porosity=1.0, until_ml=1.0, grid=grid
    ).at(1.0)
    reference = reference_fill(permeable, permeability, 1000.0)
    # Cement that lies elsewhere, as a share of the cement: both are on the same voxels.
    assert np.abs(cement.voxels - reference).sum() / 2 / 1000 < 0.035
    middle = np.argwhere(cement.voxels > 0).mean(axis=0), np.argwhere(reference > 0).mean(axis=0)
    assert np.abs(middle[0] - middle[1]).max() < 0.35


def test_cement_runs_through_a_cleft_ahead_of_the_bone():
    region = block()
    cleft = np.abs(grid_points(region)[..., 1]) < 0.6
    resistance = region.like(np.where(cleft, 0.1, 1.0).astype(np.float32))
    cement = invade([0, 0, 0], region, resistance, until_ml=3.0).at(3.0)
    filled = grid_points(cement)[cement.voxels > 0]
    along, across = np.abs(filled[:, 0]).max(), np.abs(filled[:, 1]).max()
    assert along > across + 3.0


def test_a_balloon_fills_first_and_whole():
    cavity = balloon_cavity([0, 0, 0], 2.0)
    invasion = invade([1.0, 0, 0], block(), until_ml=3.0, cavity=cavity)
    radius = np.linalg.norm(grid_points(invasion.grid), axis=-1)
    half = invasion.at(1.0)
    assert half.voxels[radius > 8.6].max() == 0, "nothing leaves the cavity before it is full"
    all_of_it = invasion.at(3.0)
    assert all_of_it.voxels[radius < 7.0].min() == pytest.approx(1.0)
    beyond = all_of_it.voxels[radius > 8.5].sum(dtype=float) / 1000
    # A ball of 2 mL without bone and 1 mL in bone around it has a radius of 9.1 mm.
    assert beyond == pytest.approx((4 / 3 * math.pi * (9.12**3 - 8.5**3)) / 1000 * CANCELLOUS_POROSITY, abs=0.06)
    # Beside a tip in bone a cavity is as any other room.
    outside = invade([12.0, 0, 0], block(), until_ml=1.0, cavity=cavity)
    assert np.linalg.norm(outside.voxel_ras[0] - [12.0, 0, 0]) < 1.0


@pytest.mark.parametrize("soft", [True, False])
def test_a_second_depot_goes_where_the_first_is_not(soft):
    first, second = invade_depots(
        [Depot(np.zeros(3), 2.0), Depot(np.array([-9.0, 0, 0]), 2.0)], block(), earlier_is_soft=soft
    )
    one, two = first.at(2.0).voxels, second.at(2.0).voxels
    assert two.sum(dtype=float) / 1000 == pytest.approx(2.0, rel=1e-5)
    assert (one + two).max() <= CANCELLOUS_POROSITY + 1e-6
    x = grid_points(first.grid)[..., 0]
    assert x[two > 0].mean() < -6.0


def test_soft_cement_is_pushed_on_and_set_cement_is_not():
    region = block()
    tube = np.linalg.norm(grid_points(region)[..., 1:], axis=-1) < 3.0
    dead_end = tube & (grid_points(region)[..., 0] > -15.0)
    depots = [Depot(np.zeros(3), 0.3), Depot(np.array([-12.0, 0, 0]), 0.2)]
    soft = invade_depots(depots, region.like(dead_end))
    hard = invade_depots(depots, region.like(dead_end), earlier_is_soft=False)
    assert hard[1].room_ml < 0.25 < 0.5 < soft[1].room_ml


def test_withdrawal_into_the_cement_of_the_first_depot_grows_it():
    first, second = invade_depots([Depot(np.zeros(3), 2.0), Depot(np.array([-3.0, 0, 0]), 1.0)], block())
    together = first.grid.like(first.at(2.0).voxels + second.at(1.0).voxels)
    found = radii_mm(together, np.zeros(3))
    assert found.mean() == pytest.approx((3000 / CANCELLOUS_POROSITY * 3 / (4 * math.pi)) ** (1 / 3), rel=0.02)


def test_voids_fill_completely():
    region = block()
    points = grid_points(region)
    void = np.abs(points[..., 2]) < 1.5
    porosity = region.like(np.where(void, 1.0, CANCELLOUS_POROSITY).astype(np.float32))
    cement = invade([0, 0, 0], region, porosity=porosity, until_ml=2.0, grid=region).at(2.0)
    core = np.linalg.norm(points, axis=-1) < 4
    assert cement.voxels[core & void] == pytest.approx(1.0)
    assert cement.voxels[core & ~void] == pytest.approx(0.85)


def test_any_orientation_of_the_region_gives_the_same_cement():
    region = block()
    flipped = Volume(region.voxels[::-1, :, ::-1].copy(), region.IJKToRAS @ np.diag([-1, 1, -1, 1.0]))
    flipped.IJKToRAS[:3, 3] = region.ras_of([[60, 0, 60]])[0]
    assert np.array_equal(
        invade([1, 2, 3], region, until_ml=2.0).at(2.0).voxels, invade([1, 2, 3], flipped, until_ml=2.0).at(2.0).voxels
    )


def test_a_tip_outside_bone_is_refused_with_the_distance():
    region = block(10.0)
    with pytest.raises(PlanError, match=r"10.0 mm from bone"):
        invade([20, 0, 0], region)
    with pytest.raises(PlanError, match="not known"):
        invade([np.nan, 0, 0], region)


@pytest.mark.parametrize("volume_ml", [0.0, -1.0, math.nan, math.inf])
def test_absurd_volumes_are_refused(volume_ml):
    with pytest.raises(PlanError, match="positive"):
        invade([0, 0, 0], block(5.0), until_ml=volume_ml)


def test_a_tip_in_the_cortex_starts_in_the_bone_beside_it():
    invasion = invade([12.0, 0, 0], block(10.0), until_ml=1.0)
    assert invasion.voxel_ras[0] == pytest.approx([10.0, 0, 0], abs=1.0)


def test_resistance_grows_with_density_within_its_range():
    assert resistance_from_hu(np.array([-200, -50, 125, 300, 900])) == pytest.approx([1, 1, 2, 3, 3])


def test_the_grid_has_room_for_the_cement():
    assert reach_mm(0.1) == 12.0
    assert 24.0 < reach_mm(4.0) < 30.0
    assert reach_mm(16.0) <= 40.0


def test_the_cavity_of_a_planned_balloon_is_round_at_both_ends_and_as_wide_as_planned():
    balloon = Balloon(np.array([0.0, 0.0, 0.0]), np.array([18.0, 0.0, 0.0]), 8.0)
    cavity = planned_cavity(balloon)
    inside = grid_points(cavity)[cavity.voxels]
    assert inside[:, 0].min() == pytest.approx(0.0, abs=0.5) and inside[:, 0].max() == pytest.approx(18.0, abs=0.5)
    assert np.linalg.norm(inside[:, 1:], axis=1).max() == pytest.approx(4.0, abs=0.5)
    of_shape = math.pi * 4.0**2 * 10.0 + 4 / 3 * math.pi * 4.0**3
    assert cavity.voxels.sum() * cavity.voxel_volume_ml * 1000 == pytest.approx(of_shape, rel=0.03)


def test_a_balloon_that_is_shorter_than_wide_makes_no_more_room_than_its_length():
    cavity = planned_cavity(Balloon(np.zeros(3), np.array([6.0, 0.0, 0.0]), 12.0))
    assert cavity.voxels.sum() * cavity.voxel_volume_ml * 1000 == pytest.approx(4 / 3 * math.pi * 3.0**3, rel=0.05)
