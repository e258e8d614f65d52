"""Ways out of simulated bone, in a sacrum of blocks."""

from __future__ import annotations

import numpy as np
import pytest

from cement_scene import CENTER, block_anatomy
from sacroplasty.simulation.exits import ExitModel, draw_leaky_bone

ANATOMY = block_anatomy()
CT = ANATOMY.bones.like(np.full(ANATOMY.bones.voxels.shape, -50.0, np.float32))
#: Near to the front of the ala.
TIP = CENTER + np.array([0.0, 12.0, 0.0])
CLOSED = ExitModel(spots=0.0, cracks=0.0, veins=0.0)


def drawn(model, seed=1):
    return draw_leaky_bone(CT, ANATOMY, TIP, model, np.random.default_rng(seed))


def share_in(bone, points):
    """The share of points (RAS) that lies in a bone of the blocks."""
    kji = np.rint(ANATOMY.bones.kji_of(points)).astype(int)
    within = ((kji >= 0) & (kji < ANATOMY.bones.voxels.shape)).all(axis=1)
    return ANATOMY.bone(bone)[tuple(kji[within].T)].sum() / len(points)


def test_a_closed_bone_keeps_all_cement():
    bone = drawn(CLOSED)
    assert not bone.outside.any()
    assert bone.leaked_ml(5.0) == 0.0


@pytest.mark.parametrize("way", ["spots", "cracks", "veins"])
def test_cement_leaves_by_every_kind_of_way_and_more_the_more_is_given(way):
    model = ExitModel(**{"spots": 0.0, "cracks": 0.0, "veins": 0.0, way: 8.0})
    bone = drawn(model)
    leaked = [bone.leaked_ml(volume) for volume in (0.5, 1.0, 2.0, 3.0, 4.0)]
    assert leaked[-1] > 0.05
    assert leaked == sorted(leaked)


def test_what_leaked_lies_outside_the_bone_and_is_not_lost():
    bone = drawn(ExitModel(spots=8.0))
    filling = bone.filling
    leaked = filling.voxel_ras[bone.outside & (filling.filled_ml(4.0) > 0)]
    # Two grids: a voxel at the surface may count to either side.
    assert len(leaked) > 50 and share_in("sacrum", leaked) < 0.1
    assert filling.filled_ml(4.0).sum() == pytest.approx(4.0)


def test_no_way_leads_into_the_hip():
    bone = drawn(ExitModel(spots=12.0, cracks=6.0))
    assert share_in("hip_left", bone.filling.voxel_ras) < 0.02


def test_the_same_seed_draws_the_same_bone():
    one, again, other = drawn(ExitModel(), 3), drawn(ExitModel(), 3), drawn(ExitModel(), 4)
    assert np.array_equal(one.filling.kji, again.filling.kji)
    assert not np.array_equal(one.filling.kji, other.filling.kji)
