"""Where a label map reaches into a canal, on a tube through marrow with a wall of cortex."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sacroplasty.anatomy.labels import NERVE_BORDER, REGION_LABEL
from sacroplasty.anatomy.regions import border_joined, fill_protected
from sacroplasty.image import Volume

_SHAPE = (12, 40, 40)
_CANAL, _ALA = REGION_LABEL["sacral_canal"], REGION_LABEL["ala_left"]
#: The S1 endplate far above the tube, so that all of it counts as canal.
_SacrumToRAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SacrumToRAS[2, 3] = 100.0


def _radius() -> np.ndarray:
    rows, columns = np.indices(_SHAPE)[1:]
    return np.hypot(rows - 19.5, columns - 19.5)


@pytest.fixture(scope="module")
def nerve() -> np.ndarray:
    return _radius() < 6


@pytest.fixture(scope="module")
def scan() -> Volume:
    """Fat in the tube, cortex of 2 mm around it, marrow of -50 HU, blurred as a scanner does; noise of 10 HU."""
    sharp = np.where(_radius() < 6, -80.0, np.where(_radius() < 8, 700.0, -50.0))
    hu = ndimage.gaussian_filter(sharp, 0.6) + np.random.default_rng(5).normal(0, 10, _SHAPE)
    return Volume(hu.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))


def _found(scan: Volume, sacrum: np.ndarray) -> np.ndarray:
    """Regions when the label map's sacrum leaves the rest as canal."""
    painted = np.where(sacrum, _ALA, _CANAL).astype(np.uint8)
    return fill_protected(painted, sacrum, scan, _SacrumToRAS)


def test_a_label_that_reaches_a_voxel_into_the_canal_leaves_no_nerve_unprotected(
    nerve: np.ndarray, scan: Volume
) -> None:
    regions = _found(scan, _radius() >= 5)
    assert (nerve & (regions == _ALA)).sum() < 0.005 * nerve.sum()
    assert (regions == REGION_LABEL[NERVE_BORDER]).any()


def test_bone_that_is_clearly_bone_stays_bone(nerve: np.ndarray, scan: Volume) -> None:
    regions = _found(scan, ~nerve)
    assert ((regions != _ALA) & (_radius() >= 7)).sum() == 0


def test_the_border_becomes_part_of_the_channel_beside_it(scan: Volume) -> None:
    foramen = REGION_LABEL["foramen_s1_left"]
    voxels = np.full((1, 1, 8), _ALA, np.uint8)
    voxels[0, 0] = [_CANAL, _CANAL, 30, _ALA, _ALA, 30, foramen, foramen]
    joined = border_joined(Volume(voxels, scan.IJKToRAS)).voxels[0, 0]
    assert joined.tolist() == [_CANAL, _CANAL, _CANAL, _ALA, _ALA, foramen, foramen, foramen]


def test_without_a_border_regions_stay_as_they_are(scan: Volume) -> None:
    regions = scan.like(np.full(_SHAPE, _ALA, np.uint8))
    assert border_joined(regions) is regions
