"""Cement on the CT after the injection, against cement painted in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from cement_scene import CENTER, PLACES, block_anatomy
from sacroplasty.cement.zones import Zones, make_zones
from sacroplasty.errors import ImageError
from sacroplasty.image import Volume
from sacroplasty.procedure.verify import find_cement

BONE_HU, CEMENT_HU = 150.0, 2400.0


@pytest.fixture(scope="module")
def zones() -> Zones:
    return make_zones(block_anatomy(), CENTER, ("left",))


def before(spacing_mm: float) -> Volume:
    grid = block_anatomy(spacing_mm).bones
    return grid.like(np.where(grid.voxels > 0, BONE_HU, 30.0).astype(np.int16))


def with_sphere(ct: Volume, center: np.ndarray, volume_ml: float, rng: np.random.Generator | None = None) -> Volume:
    """A sphere of cement with exact partial voxels (5 x 5 x 5 samples each)."""
    radius = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    middle = np.rint(ct.kji_of(center)).astype(int)
    reach = int(np.ceil(radius / ct.spacing_mm.min())) + 2
    low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach + 1, ct.voxels.shape)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    at = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    share = np.zeros(at.shape[:-1])
    steps = (np.arange(5) - 2) / 5
    for dk in steps:
        for dj in steps:
            for di in steps:
                share += np.linalg.norm(ct.ras_of(at + np.array([dk, dj, di])) - center, axis=-1) <= radius
    share /= 125
    voxels = ct.voxels.astype(float)
    voxels[window] += share * (CEMENT_HU - voxels[window])
    if rng is not None:
        voxels += rng.normal(0, 20, voxels.shape)
    return ct.like(voxels.round().astype(np.int16))


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("volume_ml", [0.5, 2.0, 5.0])
def test_the_volume_of_a_sphere_is_found(
    zones: Zones, rng: np.random.Generator, spacing_mm: float, volume_ml: float
) -> None:
    ct = before(spacing_mm)
    found = find_cement(ct, with_sphere(ct, CENTER, volume_ml, rng), zones, CENTER)
    assert found.volume_ml == pytest.approx(volume_ml, rel=0.08, abs=0.03)
    assert sum(found.by_zone_ml.values()) == pytest.approx(found.volume_ml)


@pytest.mark.parametrize("zone", PLACES)
def test_cement_is_told_by_where_it_lies(zones: Zones, zone: str) -> None:
    ct = before(1.5)
    found = find_cement(ct, with_sphere(ct, np.array(PLACES[zone]), 0.15), zones, CENTER, reach_mm=60.0)
    assert found.by_zone_ml.get(zone, 0.0) > 0.7 * found.volume_ml
    assert found.volume_ml == pytest.approx(0.15, rel=0.15)


def test_good_cement_lies_in_the_planned_zone(zones: Zones) -> None:
    ct = before(1.5)
    found = find_cement(ct, with_sphere(ct, CENTER, 1.0), zones, CENTER)
    assert found.by_zone_ml == {"planned": pytest.approx(1.0, rel=0.05)}


def test_noise_alone_is_no_cement(zones: Zones, rng: np.random.Generator) -> None:
    ct = before(1.5)
    noisy = ct.like((ct.voxels + rng.normal(0, 30, ct.voxels.shape)).astype(np.int16))
    found = find_cement(ct, noisy, zones, CENTER)
    assert found.volume_ml == 0 and not found.mask.voxels.any() and found.by_zone_ml == {}


def test_the_cement_of_the_other_side_is_not_counted(zones: Zones) -> None:
    ct = before(1.5)
    after = with_sphere(with_sphere(ct, CENTER, 1.0), CENTER * [-1, 1, 1], 3.0)
    assert find_cement(ct, after, zones, CENTER, reach_mm=35.0).volume_ml == pytest.approx(1.0, rel=0.05)


def test_cts_on_different_grids_are_refused(zones: Zones) -> None:
    with pytest.raises(ImageError, match="do not share a grid"):
        find_cement(before(1.5), before(2.0), zones, CENTER)
