"""What cement is called by where it lies, in a sacrum of blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cement_scene import CENTER, block_anatomy
from sacroplasty.anatomy.labels import REGION_LABEL
from sacroplasty.cement.cannula import Cannula
from sacroplasty.cement.zones import make_zones
from sacroplasty.errors import AnatomyError

ANATOMY = block_anatomy()
BACKWARDS = np.array([0.0, -1.0, 0.0])


def zone_at(zones, point):
    return zones.names[zones.labels.voxels[tuple(np.rint(zones.labels.kji_of([point])[0]).astype(int))]]


def with_voxels(volume, mask_of, value):
    """A label volume with another label where `mask_of(x, y, z)` holds."""
    points = volume.ras_of(np.moveaxis(np.indices(volume.voxels.shape), 0, -1))
    voxels = volume.voxels.copy()
    voxels[mask_of(*np.moveaxis(points, -1, 0))] = value
    return volume.like(voxels)


def test_between_sacrum_and_ilium_is_the_joint_and_before_both_is_in_front():
    short_hip = with_voxels(ANATOMY.bones, lambda x, y, z: (x < -54) & (y > 20), 0)
    zones = make_zones(replace(ANATOMY, bones=short_hip), CENTER, ("left",))
    assert zone_at(zones, [-52.0, 10.0, 0.0]) == "si_joint_left"
    assert zone_at(zones, [-52.0, 24.0, 0.0]) == "presacral"


def test_the_cleft_behind_the_joint_is_the_joints_unless_the_cannula_leaves_there():
    cleft = [-52.0, -23.0, 0.0]
    cannula = Cannula(np.array([-48.0, 0.0, 0.0]), BACKWARDS, 3.05)
    assert zone_at(make_zones(ANATOMY, CENTER, ("left",)), cleft) == "si_joint_left"
    assert zone_at(make_zones(ANATOMY, CENTER, ("left",), cannula=cannula), cleft) == "posterior"


def test_along_a_cannula_through_the_ilium_the_joint_stays_the_joint():
    sideways = Cannula(CENTER, np.array([-1.0, 0.0, 0.0]), 3.05)
    assert zone_at(make_zones(ANATOMY, CENTER, ("left",), cannula=sideways), [-52.0, 0.0, 0.0]) == "si_joint_left"


def test_the_zones_reach_up_the_cannula_where_it_leaves_the_bone_far_from_the_tip():
    tip = np.array([-35.0, 0.0, -25.0])
    cannula = Cannula(tip, np.array([0.0, 0.0, 1.0]), 3.05)
    zones = make_zones(ANATOMY, tip, ("left",), cannula=cannula)
    assert zone_at(zones, [-35.0, 0.0, 58.0]) == "posterior"
    assert zone_at(zones, [-35.0, 10.0, 45.0]) == "presacral"


def test_a_body_that_is_filled_is_planned_and_the_ala_is_not():
    body = with_voxels(ANATOMY.regions, lambda x, y, z: (abs(x) < 15) & (y > 0) & (y < 18), REGION_LABEL["body_s1"])
    center = [-6.0, 10.0, 10.0]
    zones = make_zones(replace(ANATOMY, regions=body), center, ("left",), technique="body-s1")
    assert zone_at(zones, center) == "planned" and zone_at(zones, [-33.0, 10.0, 10.0]) == "bone"
    assert zone_at(zones, [0.0, -9.0, 10.0]) == "sacral_canal"
    with pytest.raises(AnatomyError, match="no body_s1"):
        make_zones(ANATOMY, center, ("left",), technique="body-s1")
