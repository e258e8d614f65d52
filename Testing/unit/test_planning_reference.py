"""The exhaustive reference that plans are measured against loses no path by its short cuts."""

from __future__ import annotations

import numpy as np
import pytest
from planning_reference import Reference, Zone
from scipy import ndimage

_GRID_MM = 0.5
#: Of entries lateral to the foramen edge, and what is needed of the axis [mm].
_BESIDE_MM, _NEEDED_MM = (8.0, 13.0), 2.0


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Two walls with a hole each, one hole beside the other, between a back at y = 22 mm and aims at y < 5 mm."""
    shape = (48, 70, 40)
    left, back, up = np.indices(shape) * _GRID_MM
    walls = {}
    for name, depth, x in (("near", 18.0, 10.0), ("deep", 10.0, 13.0)):
        mask = (np.abs(back - depth) <= 0.5) & (np.hypot(left - x, up - 10.0) > 3.2)
        walls[name] = (ndimage.distance_transform_edt(~mask) * _GRID_MM).astype(np.float32)
    aim = (back < 5.0) & (left > 8.0) & (left < 18.0) & (np.abs(up - 10.0) < 4.0)
    zone = Zone(1.0, 0.0, (7.0, 13.0), np.full((shape[0], shape[2]), 22.0), aim)
    return Reference(np.eye(4), np.zeros(3), walls, zone)


def kept_mm(reference: Reference, entries: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What axes (n, 3) to (n, 3) keep, point by point."""
    room = np.minimum.reduce(list(reference.distance_mm.values()))
    way = entries - targets
    length = np.linalg.norm(way, axis=1, keepdims=True)
    along = np.minimum(np.arange(0, 90, 0.5), length + 60.0)
    points = targets[:, None] + (along / length)[..., None] * way[:, None]
    return ndimage.map_coordinates(room, np.moveaxis(points, -1, 0) / _GRID_MM, order=1, mode="nearest").min(axis=1)


def test_no_pair_of_the_grid_keeps_more_than_the_widest_corridor(reference: Reference) -> None:
    x, z = (grid.ravel() for grid in np.meshgrid(np.arange(*_BESIDE_MM), np.arange(7.0, 13.0), indexing="ij"))
    entries = np.column_stack([x, np.full(len(x), 22.0), z])
    targets = np.argwhere(reference.zone.aim[::3, ::3, ::3]) * 3 * _GRID_MM
    best = -np.inf
    for entry in entries:
        way = entry - targets
        length = np.linalg.norm(way, axis=1)
        allowed = targets[(length >= 12.0) & (way[:, 1] >= 0.5 * length)]
        best = max(best, kept_mm(reference, np.broadcast_to(entry, allowed.shape), allowed).max())
    found = reference.widest(_NEEDED_MM, lateral_mm=_BESIDE_MM)
    assert found is not None and found.kept_mm >= best > _NEEDED_MM
    assert found.kept_mm == pytest.approx(kept_mm(reference, found.entry[None], found.target[None])[0], abs=1e-3)


def test_what_is_asked_for_decides(reference: Reference) -> None:
    widest = reference.widest(_NEEDED_MM, lateral_mm=_BESIDE_MM)
    assert widest is not None
    assert reference.widest(widest.kept_mm + 0.05, lateral_mm=_BESIDE_MM) is None
    enough = reference.widest(_NEEDED_MM, lateral_mm=_BESIDE_MM, enough_mm=_NEEDED_MM)
    assert enough is not None and _NEEDED_MM <= enough.kept_mm <= widest.kept_mm
    # An entry far beside both holes would have to pass a wall.
    assert reference.widest(_NEEDED_MM, lateral_mm=(17.0, 20.0)) is None


def test_without_a_wall_there_is_more_room(reference: Reference) -> None:
    widest = reference.widest(_NEEDED_MM, lateral_mm=_BESIDE_MM)
    assert widest is not None
    for name in reference.distance_mm:
        freed = reference.widest(widest.kept_mm + 0.1, without=(name,), lateral_mm=_BESIDE_MM)
        assert freed is not None and freed.kept_mm > widest.kept_mm
