"""Surfaces of the sacrum, the layer before it, its joints and the vessels, on a sacrum of planes."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.anatomy.files import read_anatomy, write_anatomy
from sacroplasty.anatomy.labels import SIDES
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.anatomy.surroundings import cortical_surfaces, presacral_layer, si_joint
from sacroplasty.geometry import FloatArray, invert_rigid, transform_points
from sacroplasty.planning.sacrum_view import view_along_foramina
from sacroplasty.planning.structures import Structures
from simple_sacrum import SACRUM_TO_RAS, SimpleSacrum, back, front, simple_sacrum


@pytest.fixture(scope="module")
def truth() -> SimpleSacrum:
    return simple_sacrum(spacing_mm=2.5)


@pytest.fixture(scope="module")
def anatomy(truth: SimpleSacrum) -> Anatomy:
    """With TotalSegmentator's numbers, and a left iliac artery 20 mm in front of the left wing."""
    numbers = np.array([0, 25, 27, 77, 78])[truth.bones.voxels]
    x, y, z = _sacral(truth, np.indices(numbers.shape).reshape(3, -1).T).T
    artery = (np.abs(x - 35) <= 5) & (np.abs(y - front(z) + 20) <= 5) & (z > -60)
    numbers.ravel()[artery] = 65
    return segment_from_labels(truth.ct, truth.bones.like(numbers))


def _sacral(truth: SimpleSacrum, kji: np.ndarray) -> FloatArray:
    return transform_points(invert_rigid(SACRUM_TO_RAS), truth.ct.ras_of(kji))


def test_the_cortical_surfaces_are_the_front_and_the_back(anatomy: Anatomy, truth: SimpleSacrum) -> None:
    anterior, posterior = cortical_surfaces(anatomy)
    for mask, surface in ((anterior, front), (posterior, back)):
        x, y, z = _sacral(truth, np.argwhere(mask)).T
        # Away from the sides of the bone, and from the foramina.
        flat = (np.abs(x) > 28) & (np.abs(x) < 50 + 0.2 * z) & (z < -15) & (z > -90)
        assert np.count_nonzero(flat) > 50
        # One voxel deep, in cells of one voxel, of which there are two and a bit in 6 mm; the bone is 40 mm thick.
        assert np.abs(y - surface(z))[flat].max() < 6.0
        assert (mask <= anatomy.bone("sacrum")).all()


def test_the_presacral_layer_lies_in_front_of_the_bone_only(anatomy: Anatomy, truth: SimpleSacrum) -> None:
    layer = presacral_layer(anatomy, 5.0)
    x, y, z = _sacral(truth, np.argwhere(layer)).T
    assert not (layer & (anatomy.bones.voxels > 0)).any()
    flat = (np.abs(x) < 50 + 0.2 * z) & (z < -15) & (z > -90)
    ahead = (front(z) - y)[flat] * np.cos(np.arctan(0.30))
    assert ahead.min() > -2.5 and ahead.max() < 7.5
    # A layer of 5 mm before some 80 x 75 mm of bone has about 30 mL.
    assert 15 < np.count_nonzero(flat) * truth.ct.voxel_volume_ml < 40


def test_the_joints_fill_the_gap_between_sacrum_and_hip(anatomy: Anatomy, truth: SimpleSacrum) -> None:
    for side, sign in zip(SIDES, (1, -1), strict=True):
        joint = si_joint(anatomy, side)
        x, _, z = _sacral(truth, np.argwhere(joint)).T
        assert len(x) > 100
        width = 56.0 + 0.2 * np.minimum(z, 0)
        assert (sign * x > width - 1).all() and (sign * x < width + 4).all()


def test_a_vessel_in_the_label_map_is_kept_and_forbidden(anatomy: Anatomy, truth: SimpleSacrum, tmp_path) -> None:
    assert anatomy.confidence["iliac_vessels"] > 0.5
    structures = Structures(anatomy, view := view_along_foramina(anatomy))
    z = -30.0
    beside = transform_points(SACRUM_TO_RAS, [35.0, float(front(np.array(z))) - 5, z])
    RASToView = invert_rigid(view.ViewToRAS)
    distance = structures.fields["iliac_vessels"].at_view(transform_points(RASToView, [beside]))[0]
    assert float(distance) == pytest.approx(10, abs=2.5)
    write_anatomy(anatomy, truth.ct, tmp_path / "case")
    assert np.array_equal(read_anatomy(tmp_path / "case").regions.voxels, anatomy.regions.voxels)
