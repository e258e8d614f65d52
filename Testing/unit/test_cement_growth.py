"""A spot that takes much of the flow is found where it lies, though the good cement hides it in both views."""

from __future__ import annotations

import numpy as np
import pytest

from cement_scene import CENTER, sphere_line_integrals, views
from sacroplasty.cement.growth import GrowthWatch, meeting_point
from sacroplasty.cement.leaks import pixel_size_mm
from sacroplasty.xray.project import CEMENT_PER_MM

VIEWS = views(144)
#: Behind the good cement in one view and before it in the other.
HIDDEN = CENTER + np.array([4.0, -3.0, 5.0])


def watch():
    return GrowthWatch(VIEWS, {name: pixel_size_mm(geometry, CENTER) for name, geometry in VIEWS.items()})


def paths(*spheres, noise_mm=0.15, seed=0):
    """Cement paths of spheres (center, mL) in both views, with noise."""
    rng = np.random.default_rng(seed)
    images = {}
    for name, geometry in VIEWS.items():
        total = sum(sphere_line_integrals(geometry, center, volume) for center, volume in spheres) / CEMENT_PER_MM
        images[name] = (total + rng.normal(0, noise_mm, total.shape)).astype(np.float32)
    return images


def all_pixels():
    return {name: np.ones(geometry.detector_pixels[::-1], bool) for name, geometry in VIEWS.items()}


def spots_of(sequence):
    """Spots found in a sequence of paths that are half a second apart."""
    growth = watch()
    return [growth.update(one, all_pixels(), 0.5 * number) for number, one in enumerate(sequence)]


def test_rays_of_a_point_meet_in_it():
    one, other = VIEWS.values()
    point, gap = meeting_point(one, one.project(HIDDEN), other, other.project(HIDDEN))
    assert np.allclose(point, HIDDEN, atol=1e-6) and gap == pytest.approx(0, abs=1e-6)
    beside = other.project(HIDDEN + np.array([0.0, 0.0, 4.0]))
    assert meeting_point(one, one.project(HIDDEN), other, beside)[1] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("leak_ml_s", [0.02, 0.04])
def test_a_spot_that_takes_the_flow_is_located(leak_ml_s):
    good = [1.5 + 0.5 * number * (0.05 - leak_ml_s) for number in range(12)]
    leaked = [max(0.5 * (number - 4) * leak_ml_s, 0.0) for number in range(12)]
    found = spots_of(
        [
            paths((CENTER, a), *([(HIDDEN, b)] if b else []), seed=number)
            for number, (a, b) in enumerate(zip(good, leaked, strict=True))
        ]
    )
    assert not any(found[:4])
    spots = [spot for spots in found[6:] for spot in spots]
    assert spots
    assert max(np.linalg.norm(spot.position_ras - HIDDEN) for spot in spots) < 2.0


def test_spots_of_good_cement_lie_within_it():
    volumes = [0.05 * number for number in range(1, 60)]
    found = spots_of([paths((CENTER, volume), seed=number) for number, volume in enumerate(volumes)])
    assert any(found)
    for volume, spots in zip(volumes, found, strict=True):
        radius_mm = (3 * 1000 * volume / (4 * np.pi)) ** (1 / 3)
        assert all(np.linalg.norm(spot.position_ras - CENTER) < radius_mm for spot in spots)


def test_noise_alone_grows_nowhere():
    assert not any(spots_of([paths((CENTER, 1.0), seed=number) for number in range(30)]))


def test_one_view_alone_locates_nothing():
    growth = watch()
    for number in range(12):
        one = {"ap": paths((CENTER, 1.0), (HIDDEN, 0.02 * number + 0.01), seed=number)["ap"]}
        assert growth.update(one, {"ap": all_pixels()["ap"]}, 0.5 * number) == []
