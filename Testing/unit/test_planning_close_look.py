"""A shaft is as far from a structure as its label is, whatever grid the search works on."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.anatomy.frame import sample_mask
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.geometry import FloatArray, transform_points
from sacroplasty.image import Volume
from sacroplasty.planning.close_look import CloseLook, distances_mm
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.structures import Structures
from simple_sacrum import SACRUM_TO_RAS, simple_sacrum

#: From tips in the ala beside the foramina backwards, in the frame of the sacrum.
TIPS = [(31.0, 2.0, -44.0), (32.5, 8.0, -52.0)]
NAMES = ("foramen_s1_left", "foramen_s2_left", "foramen_s3_left")


@pytest.fixture(scope="module")
def structures() -> Structures:
    truth = simple_sacrum()
    return PlanningContext(truth.ct, segment_from_labels(truth.ct, truth.bones)).structures()


def shaft_from(structures: Structures, tip: FloatArray, lateral: float) -> FloatArray:
    way = np.array([lateral, 1.0, 0.1])
    points = np.asarray(tip) + np.arange(0, 50.0)[:, None] * way / np.linalg.norm(way)
    return transform_points(structures.view.RASToView @ SACRUM_TO_RAS, points)


def nearest_mm(mask: Volume, structures: Structures, shaft: FloatArray) -> float:
    """From the axis to the nearest of all points, a quarter of a millimetre apart, where the label is one half."""
    low, high = shaft.min(axis=0) - 7, shaft.max(axis=0) + 7
    axes = [np.arange(a, b, 0.25) for a, b in zip(low, high, strict=True)]
    least = np.inf
    for x in axes[0]:
        points = np.stack(np.meshgrid([x], *axes[1:], indexing="ij"), axis=-1).reshape(-1, 3)
        inside = points[sample_mask(mask, transform_points(structures.view.ViewToRAS, points)) >= 0.5]
        if len(inside):
            axis = (shaft[-1] - shaft[0]) / np.linalg.norm(shaft[-1] - shaft[0])
            along = np.clip((inside - shaft[0]) @ axis, 0, None)
            least = min(least, float(np.linalg.norm(inside - shaft[0] - along[:, None] * axis, axis=1).min()))
    return least


def test_distances_are_those_of_the_labels(structures: Structures) -> None:
    guard = float(structures.doubt.along_mm([np.ones(1, np.float32)] * 3, np.ones(1, np.float32))[0])
    compared = 0
    for tip in TIPS:
        shaft = shaft_from(structures, np.array(tip), -0.1)
        by_fields = {name: structures.distance_mm(name, shaft) for name in NAMES}
        found = distances_mm(by_fields, CloseLook(structures).surfaces(shaft, by_fields))
        for name in NAMES:
            if not 2.0 < by_fields[name].min() < 5.5:
                continue
            compared += 1
            true = nearest_mm(structures.masks[name], structures, shaft) - guard
            assert found[name].min() == pytest.approx(true, abs=0.2), (tip, name)
    assert compared >= 2


def test_what_no_ray_meets_is_not_nearer_than_the_field_says(structures: Structures) -> None:
    shaft = shaft_from(structures, np.array(TIPS[0]), 0.0)
    far = {"foramen_s3_left": np.full(len(shaft), 9.0)}
    assert CloseLook(structures).surfaces(shaft, far) == {}
    assert distances_mm(far, {})["foramen_s3_left"].min() == 9.0
