"""The distances of a single shaft from the labels themselves, where the fields of 1 mm are too coarse to decide."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..anatomy.frame import sample_mask
from ..geometry import FloatArray, perpendicular, transform_points, unit
from .structures import PRESACRAL, STEP_MM, Structures, sacral_level, surely_faces_back

#: Points of a shaft are so far apart [mm]; between two the axis is nearer by less than 0.03 mm.
SHAFT_STEP_MM = 1.0
#: Surfaces are looked for on rays from these points, at these distances, so many around each, and around the tip every
#: so many degrees: less than a millimetre apart at the distance that counts.
_RADII_MM = np.arange(1.5, 7.51, 0.5)
_AROUND, _TIP_STEP_DEG = 40, 9.0
#: Farther than this by the fields nothing is near enough to be measured again [mm].
_LOOKED_MM = 6.0
#: The fields put the end of a joint too far in by so much at most: they have the two bones so much too far away [mm].
_JOINT_END_MM = 0.25
#: Beside the wall, up to some 1 mm from it: where the smoothed level of the sacrum is at least this.
_BESIDE_WALL = 0.13


class CloseLook:
    """Where the surfaces of structures are, from labels interpolated at any point instead of at grid points.

    The fields read a distance from the grid point inside of a structure that is nearest. What of a surface lies between
    grid points, as edges and corners of a label do, is up to 0.8 mm nearer than that.
    """

    def __init__(self, structures: Structures) -> None:
        self._structures, self._view = structures, structures.view

    def distances_mm(self, shaft: FloatArray, by_fields: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Distances of the points of a shaft, less the doubt.

        Args:
            shaft: (n, 3) view points of the axis from the tip backwards, 1 mm apart.
            by_fields: (n,) the same by the fields, by name of the structure; those near enough are measured again.
        """
        near = {name: values for name, values in by_fields.items() if values.min() < _LOOKED_MM}
        if self._structures.through_ilium is not None:
            # Where the ilium may be passed, only the field knows what of the pelvis counts.
            near.pop(PRESACRAL, None)
        if not near:
            return dict(by_fields)
        looked = np.minimum.reduce(list(near.values())) < _LOOKED_MM
        place, ways = _rays(shaft, np.flatnonzero(looked))
        points = shaft[place][:, None] + _RADII_MM[:, None] * ways[:, None]
        levels = self._levels(points.reshape(-1, 3), list(near))
        doubt = self._structures.doubt.along_mm(list(ways.T.astype(np.float32)), np.ones(len(ways), np.float32))
        result = dict(by_fields)
        for name, level in levels.items():
            reached = _first_surface_mm(level.reshape(len(ways), -1)) - doubt
            least = np.full(len(shaft), np.inf)
            np.minimum.at(least, place, reached)
            # Inside of a structure, or next to it, the field knows how deep.
            far = near[name] > _RADII_MM[0]
            result[name] = np.where(looked & far, np.minimum(least, near[name] + STEP_MM), near[name])
        return result

    def _levels(self, points: FloatArray, names: list[str]) -> dict[str, NDArray[np.float32]]:
        """Level of each of the structures at view points (n, 3)."""
        ras = transform_points(self._view.ViewToRAS, points)
        view, structures = self._view, self._structures
        sacrum = sacral_level(
            sample_mask(view.bone, ras), sample_mask(view.hollow, ras), view.interpolated(view.filled, points)
        )
        levels = {name: sample_mask(structures.masks[name], ras) for name in names if name in structures.masks}
        for name, unclaimed in structures.unclaimed.items():
            if name in levels:
                levels[name] = np.maximum(levels[name], view.interpolated(unclaimed, points))
        for name, within_mm in structures.joints_within_mm.items():
            if name not in names:
                continue
            hip = name.replace("si_joint", "hip")
            bone = np.maximum(sacrum, levels[hip] if hip in levels else sample_mask(structures.masks[hip], ras))
            end = 0.5 + view.interpolated(within_mm, points) + _JOINT_END_MM
            levels[name] = np.minimum(1 - bone, end).astype(np.float32)
        if PRESACRAL in names:
            levels[PRESACRAL] = self._presacral(points, sacrum, list(levels.values()))
        return levels

    def _presacral(self, points: FloatArray, sacrum: NDArray, others: list[NDArray]) -> NDArray[np.float32]:
        view = self._view
        counts = np.ones(len(points), bool)
        for level in others:
            counts &= level < 0.5
        open_yet = np.flatnonzero(counts & (sacrum < 0.5))
        at = points[open_yet]
        wall = view.ahead_of_back(at)
        beside = np.flatnonzero(~wall & (view.interpolated(view.smoothed, at) >= _BESIDE_WALL))
        steps = STEP_MM * np.eye(3)
        slope = [
            view.interpolated(view.smoothed, at[beside] - step) - view.interpolated(view.smoothed, at[beside] + step)
            for step in steps
        ]
        wall[beside] = ~surely_faces_back(slope, self._structures.doubt)
        counts[open_yet] = wall
        return np.where(counts, 1 - sacrum, np.float32(0))


def _rays(shaft: FloatArray, places: NDArray[np.int_]) -> tuple[NDArray[np.int_], FloatArray]:
    """Rays across the axis at places of a shaft, and from its tip to all sides: index of the place, direction."""
    axis = unit(shaft[-1] - shaft[0])
    across = perpendicular(axis)
    angle = 2 * np.pi * np.arange(_AROUND) / _AROUND
    circle = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * np.cross(axis, across)
    place, ways = np.repeat(places, _AROUND), np.tile(circle, (len(places), 1))
    if 0 not in places:
        return place, ways
    ahead = np.radians(np.arange(_TIP_STEP_DEG, 90.1, _TIP_STEP_DEG))[:, None, None]
    cap = (np.cos(ahead) * circle - np.sin(ahead) * axis).reshape(-1, 3)
    return np.concatenate([place, np.zeros(len(cap), int)]), np.concatenate([ways, cap])


def _first_surface_mm(level: NDArray) -> FloatArray:
    """Along each ray (n, m) where the level first reaches one half; infinity where it does not."""
    inside = level >= 0.5
    first = np.argmax(inside, axis=1)
    before = np.maximum(first - 1, 0)
    rows = np.arange(len(level))
    low, high = level[rows, before], level[rows, first]
    share = np.where(first > 0, (0.5 - low) / np.maximum(high - low, 1e-6), 0.0)
    found = _RADII_MM[before] + share * (_RADII_MM[first] - _RADII_MM[before])
    return np.where(inside.any(axis=1), found, np.inf)
