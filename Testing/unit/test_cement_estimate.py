"""The cement in three dimensions from shadows of spheres in closed form, in a sacrum of blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cement_scene import CENTER, PLACES, block_anatomy, sphere_line_integrals, views
from sacroplasty.cement.estimate import CementEstimator, Shadow
from sacroplasty.cement.spread import CANCELLOUS_POROSITY
from sacroplasty.cement.zones import make_zones
from sacroplasty.xray.project import CEMENT_PER_MM

VIEWS = views(144)
BESIDE = CENTER + np.array([2.0, 4.0, -3.0])


@pytest.fixture(scope="module")
def zones():
    return make_zones(block_anatomy(), CENTER, ("left",))


def shadow(name, *spheres):
    """Of cement that fills the marrow of spheres of bone; volumes are of cement."""
    filled = CANCELLOUS_POROSITY
    total = sum(sphere_line_integrals(VIEWS[name], np.asarray(at, float), ml / filled) for at, ml in spheres)
    path_mm = filled * total / CEMENT_PER_MM
    return Shadow(path_mm, path_mm > 0, VIEWS[name])


def estimate(zones, *spheres, names=("ap", "lateral"), pump_ml=math.nan, tip=CENTER):
    estimator = CementEstimator(zones, tip, {name: VIEWS[name] for name in names})
    return estimator.estimate({name: shadow(name, *spheres) for name in names}, pump_ml)


def test_two_views_find_place_size_and_volume(zones):
    found = estimate(zones, (BESIDE, 2.0))
    assert found.volume_ml == pytest.approx(2.0, rel=0.03)
    assert found.seen_ml == pytest.approx(2.0, rel=0.03)
    assert np.linalg.norm(found.center_ras - BESIDE) < 0.5
    from_middle = np.linalg.norm(zones.labels.ras_of(np.argwhere(found.mask)) - BESIDE, axis=1)
    # In bone 2 mL are a sphere of 8.3 mm.
    assert 7.0 < from_middle.max() < 10.5
    assert found.occupancy.voxels.min() >= 0.0 and found.occupancy.voxels.max() <= 1.0


def test_a_leak_that_both_views_show_lies_where_it_is(zones):
    leak = np.array(PLACES["presacral"])
    found = estimate(zones, (CENTER, 2.0), (leak, 0.3))
    near = np.linalg.norm(zones.labels.ras_of(np.argwhere(found.occupancy.voxels > 0)) - leak, axis=1) < 8.0
    shares = found.occupancy.voxels[found.occupancy.voxels > 0]
    assert shares[near].sum() * found.occupancy.voxel_volume_ml == pytest.approx(0.3, abs=0.1)


def test_one_view_leaves_the_depth_to_the_tip(zones):
    along = {"ap": 1, "lateral": 0}
    for name, axis in along.items():
        found = estimate(zones, (CENTER, 2.0), names=(name,), pump_ml=2.0)
        assert found.volume_ml == pytest.approx(2.0, rel=0.03)
        assert abs(found.center_ras - CENTER)[axis] < 1.0
        spread = zones.labels.ras_of(np.argwhere(found.mask))[:, axis] - CENTER[axis]
        assert 5.0 < np.abs(spread).max() < 11.0


def test_the_pump_decides_how_much_unless_the_views_disagree(zones):
    assert estimate(zones, (CENTER, 2.0), pump_ml=1.9).volume_ml == pytest.approx(1.9, rel=0.01)
    # Half of what was given is not in the picture: it is not put where none is seen.
    assert estimate(zones, (CENTER, 2.0), pump_ml=4.0).volume_ml == pytest.approx(2.0, rel=0.03)


def test_what_a_view_cannot_tell_the_other_does(zones):
    ap, lateral = shadow("ap", (CENTER, 2.0)), shadow("lateral", (CENTER, 2.0))
    blind = ap.path_mm.copy()
    blind[:, : blind.shape[1] // 2] = np.nan
    estimator = CementEstimator(zones, CENTER, VIEWS)
    found = estimator.estimate({"ap": Shadow(blind, ap.shown & ~np.isnan(blind), VIEWS["ap"]), "lateral": lateral}, 2.0)
    assert np.linalg.norm(found.center_ras - CENTER) < 1.5


def test_nothing_seen_is_no_cement(zones):
    empty = {name: Shadow(np.zeros((144, 144)), np.zeros((144, 144), bool), VIEWS[name]) for name in VIEWS}
    found = CementEstimator(zones, CENTER, VIEWS).estimate(empty, 1.0)
    assert found.volume_ml == 0.0 and found.center_ras is None and not found.mask.any()


def test_without_a_view_there_is_no_estimate(zones):
    with pytest.raises(ValueError, match="without a view"):
        CementEstimator(zones, CENTER, VIEWS).estimate({})
