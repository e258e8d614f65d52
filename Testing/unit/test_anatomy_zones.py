"""Denis zones in a sacrum whose foramina are cylinders of known place and radius."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.zones import ALA, CENTRAL, FORAMINAL, UNKNOWN, denis_zone
from sacroplasty.geometry import transform_points
from simple_sacrum import LEVELS, SACRUM_TO_RAS, back, front

#: A zone line may be off by this, about the error of a foramen's margin [mm].
_TOLERANCE_MM = 2.5


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["left", "right"])
def test_points_are_told_by_the_margins_of_the_foramina_from_front_to_back(
    simple_anatomy: Anatomy, sign: float
) -> None:
    for height, beside, radius in LEVELS.values():
        for depth in (front(height) + 3, 0.0, back(height) - 3):
            for distance, zone in (
                (beside + radius + _TOLERANCE_MM, ALA),
                (beside, FORAMINAL),
                (beside - radius - _TOLERANCE_MM, CENTRAL),
                (0.5, CENTRAL),
            ):
                point = transform_points(SACRUM_TO_RAS, [sign * distance, depth, height])
                assert denis_zone(point, simple_anatomy) == zone


def test_between_and_beyond_the_foramina_the_margins_run_on(simple_anatomy: Anatomy) -> None:
    heights = np.array([-8.0, -38.0, -58.0, -76.0, -95.0])
    for distance, zone in ((2.0, CENTRAL), (19.0, FORAMINAL), (45.0, ALA)):
        points = np.column_stack([np.full(5, distance), np.full(5, 5.0), heights])
        assert (denis_zone(transform_points(SACRUM_TO_RAS, points), simple_anatomy) == zone).all()


def test_the_true_canal_is_central_and_any_shape_of_points_is_answered(simple, simple_anatomy: Anatomy) -> None:
    points = simple.ct.ras_of(np.argwhere(simple.canal))
    assert (denis_zone(points, simple_anatomy) == CENTRAL).mean() > 0.99
    stacked = points[:24].reshape(2, 3, 4, 3)
    assert denis_zone(stacked, simple_anatomy).shape == (2, 3, 4)


def test_what_cannot_be_known_has_no_zone(simple_anatomy: Anatomy) -> None:
    right_only = {name: foramen for name, foramen in simple_anatomy.foramina.items() if name.endswith("right")}
    anatomy = replace(simple_anatomy, foramina=right_only)
    left, right = (transform_points(SACRUM_TO_RAS, [sign * 45.0, 5.0, -40.0]) for sign in (1, -1))
    zones = denis_zone([left, right, [np.nan, 0, 0]], anatomy)
    assert zones.tolist() == [UNKNOWN, ALA, UNKNOWN]
