"""What is no bone although a label map says so, on a ball of soft marrow in a bright shell with a hole."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sacroplasty.anatomy.cortex import within_cortex, without_soft_surface
from sacroplasty.image import Volume

_SHAPE = (44, 44, 44)


def _distance() -> np.ndarray:
    return np.linalg.norm(np.indices(_SHAPE) - 21.5, axis=0)


@pytest.fixture(scope="module")
def bone() -> np.ndarray:
    """A ball of 16 mm radius with a hole of 4 mm radius that runs right through beside its middle."""
    rows, columns = np.indices(_SHAPE)[1:]
    return (_distance() < 16) & (np.hypot(rows - 29.5, columns - 21.5) >= 4)


@pytest.fixture(scope="module")
def scan(bone: np.ndarray) -> Volume:
    """Fat outside, cortex of 2 mm, marrow of -50 HU, noise of 20 HU."""
    depth = ndimage.distance_transform_edt(bone)
    hu = np.where(bone, np.where(depth <= 2, 600, -50), -80) + np.random.default_rng(3).normal(0, 20, _SHAPE)
    return Volume(hu.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))


def test_a_label_that_fits_keeps_its_soft_marrow(bone: np.ndarray, scan: Volume) -> None:
    assert np.array_equal(without_soft_surface(scan.like(bone), scan).voxels, bone)


def test_a_label_that_is_too_large_and_fills_a_hole_is_cut_back_to_the_cortex(bone: np.ndarray, scan: Volume) -> None:
    label = scan.like(_distance() < 17)
    wrong = label.voxels & ~bone
    left = without_soft_surface(label, scan).voxels
    assert (left & bone).sum() == bone.sum()
    assert (left & wrong).sum() < 0.1 * wrong.sum()


def test_where_the_cortex_has_a_gap_the_marrow_is_not_taken_for_a_hole(bone: np.ndarray, scan: Volume) -> None:
    open_at_one_side = scan.voxels.copy()
    open_at_one_side[:, :, 30:] = np.minimum(open_at_one_side[:, :, 30:], -50)
    left = without_soft_surface(scan.like(bone), scan.like(open_at_one_side)).voxels
    assert (left & bone).sum() > 0.75 * bone.sum()


def test_large_voxels_leave_the_label_as_it_is(bone: np.ndarray, scan: Volume) -> None:
    label = Volume(bone, np.diag([-1.0, -1.0, 3.0, 1.0]))
    coarse = Volume(np.full(_SHAPE, -50, np.int16), label.IJKToRAS)
    assert without_soft_surface(label, coarse) is label


def test_a_label_that_is_too_large_ends_at_the_edge_of_the_cortex(bone: np.ndarray) -> None:
    """Blurred: half of what the label has too much is brighter than any soft tissue."""
    ball = _distance() < 16
    sharp = np.where(ball, np.where(_distance() >= 14, 600, -50), 40).astype(float)
    hu = ndimage.gaussian_filter(sharp, 0.8) + np.random.default_rng(4).normal(0, 15, _SHAPE)
    scan = Volume(hu.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))
    large = _distance() < 18
    left = within_cortex(scan.like(large), scan).voxels
    assert (left & large & ~ball).sum() < 0.1 * (large & ~ball).sum()
    assert (without_soft_surface(scan.like(large), scan).voxels & large & ~ball).sum() > 0.5 * (large & ~ball).sum()
    # Bone stays, and so does its soft marrow; nothing is added.
    assert (left & ball).sum() > 0.97 * ball.sum()
    assert left[21:23, 21:23, 21:23].all() and not (left & ~large).any()
    fitting = within_cortex(scan.like(ball), scan).voxels
    assert fitting.sum() > 0.97 * ball.sum()


def test_large_voxels_are_not_cut_back_to_the_cortex(bone: np.ndarray) -> None:
    label = Volume(bone, np.diag([-1.0, -1.0, 3.0, 1.0]))
    assert within_cortex(label, Volume(np.full(_SHAPE, -50, np.int16), label.IJKToRAS)) is label
