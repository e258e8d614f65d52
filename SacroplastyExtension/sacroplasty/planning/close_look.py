"""The distances of a single shaft from the labels themselves, where the fields of 1 mm are too coarse to decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..anatomy.frame import sample_mask
from ..geometry import FloatArray, perpendicular, transform_points, unit
from ..image import Volume
from .sacrum_view import STEP_MM, sacral_level
from .structures import PRESACRAL, Structures, surely_faces_back

#: Points of a shaft are so far apart [mm]; between two the axis is nearer by less than 0.03 mm.
SHAFT_STEP_MM = 1.0
#: Surfaces are looked for on rays from these points, at these distances, so many around each, and around the tip every
#: so many degrees: less than a millimetre apart at the distance that counts.
_NEAREST_MM, _RADIUS_STEP_MM, _AROUND, _TIP_STEP_DEG = 1.5, 0.5, 40, 9.0
#: The most that a label leaves open of its surface [mm]: so much farther than it counts a surface may be.
_LARGEST_DOUBT_MM = 1.75
#: Farther than this by the fields nothing is measured again, if no more is asked for [mm].
REACH_MM = 6.0
#: The fields put the end of a joint too far in by so much at most: they have the two bones so much too far away [mm].
_JOINT_END_MM = 0.25
_WITHOUT_DENTS = 1.1
#: Where a field says more at the nearest grid point, that structure is not [mm]: up to 0.9 between the two points, and
#: up to 0.8 that a field misses.
_NOT_FAR_MM = 2.0
#: Beside the wall, up to some 1 mm from it: where the smoothed level of the sacrum is at least this.
_BESIDE_WALL = 0.13


@dataclass(frozen=True)
class SurfacePoints:
    """Where rays from a shaft first meet something.

    Attributes:
        place: (n,) index of the point of the shaft that the ray starts from.
        away_mm: (n,) along the ray, less the doubt; infinity where nothing is met.
        points: (n, 3) in view coordinates.
        doubt_mm: (n,)
    """

    place: NDArray[np.int_]
    away_mm: FloatArray
    points: FloatArray
    doubt_mm: FloatArray


class CloseLook:
    """Where the surfaces of structures are, from labels interpolated at any point instead of at grid points.

    The fields read a distance from the grid point inside of a structure that is nearest. What of a surface lies between
    grid points, as edges and corners of a label do, is up to 0.8 mm nearer than that.
    """

    def __init__(self, structures: Structures) -> None:
        self._structures, self._view = structures, structures.view

    def surfaces(
        self, shaft: FloatArray, by_fields: Mapping[str, FloatArray], reach_mm: float = REACH_MM
    ) -> dict[str, SurfacePoints]:
        """What rays across a shaft meet of each structure that is near it by the fields.

        Args:
            shaft: (n, 3) view points of the axis from the tip backwards, 1 mm apart.
            by_fields: (n,) their distances by the fields, by name of the structure.
            reach_mm: what is farther by the fields is not near.
        """
        near = {name: values for name, values in by_fields.items() if values.min() < reach_mm}
        if self._structures.through_ilium is not None:
            # Where the ilium may be passed, only the field knows what of the pelvis counts.
            near.pop(PRESACRAL, None)
        if not near:
            return {}
        place, ways = _rays(shaft, np.flatnonzero(np.minimum.reduce(list(near.values())) < reach_mm))
        radii = np.arange(_NEAREST_MM, reach_mm + _LARGEST_DOUBT_MM, _RADIUS_STEP_MM)
        points = shaft[place][:, None] + radii[:, None] * ways[:, None]
        doubt = self._structures.doubt.along_mm(list(ways.T.astype(np.float32)), np.ones(len(ways), np.float32))
        doubt_mm: FloatArray = np.broadcast_to(doubt, len(ways)).astype(float)
        found = {}
        for name, level in self._levels(points.reshape(-1, 3), list(near)).items():
            met_mm = _first_surface_mm(level.reshape(len(ways), -1), radii)
            meets = np.where(np.isfinite(met_mm), met_mm, 0.0)
            found[name] = SurfacePoints(place, met_mm - doubt_mm, shaft[place] + meets[:, None] * ways, doubt_mm)
        return found

    def _levels(self, points: FloatArray, names: list[str]) -> dict[str, NDArray[np.float32]]:
        """Level of each of the structures at view points (n, 3)."""
        view, structures = self._view, self._structures
        place = view.nearest(points)
        near = {name: np.flatnonzero(structures.outer_field(name).values[place] <= _NOT_FAR_MM) for name in names}
        levels = {name: np.zeros(len(points), np.float32) for name in names}
        for name, at in near.items():
            if name in structures.masks:
                levels[name][at] = self._masked(structures.masks[name], points[at])
            if name in structures.unclaimed:
                unclaimed = view.interpolated(structures.unclaimed[name], points[at])
                levels[name][at] = np.maximum(levels[name][at], unclaimed)
        for name, within_mm in structures.joints_within_mm.items():
            if name in names:
                beside = points[near[name]]
                hip = self._masked(structures.masks[name.replace("si_joint", "hip")], beside)
                end = 0.5 + view.interpolated(within_mm, beside) + _JOINT_END_MM
                levels[name][near[name]] = np.minimum(1 - np.maximum(self._sacrum(beside), hip), end)
        if PRESACRAL in names:
            at = near[PRESACRAL]
            others = [level[at] for name, level in levels.items() if name != PRESACRAL]
            levels[PRESACRAL][at] = self._presacral(points[at], others)
        return levels

    def _masked(self, mask: Volume, points: FloatArray) -> NDArray[np.float32]:
        return sample_mask(mask, transform_points(self._view.ViewToRAS, points))

    def _sacrum(self, points: FloatArray) -> NDArray[np.float32]:
        """Level of the sacrum at view points (n, 3)."""
        # What is filled ends at grid points, between which it would have dents.
        filled = np.minimum(_WITHOUT_DENTS * self._view.interpolated(self._view.filled, points), 1)
        return sacral_level(self._masked(self._view.bone, points), self._masked(self._view.hollow, points), filled)

    def _presacral(self, points: FloatArray, others: list[NDArray]) -> NDArray[np.float32]:
        view = self._view
        sacrum = self._sacrum(points)
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
        wall[beside] |= self._structures.wall[view.nearest(at[beside])]
        counts[open_yet] = wall
        return np.where(counts, 1 - sacrum, np.float32(0))


def distances_mm(by_fields: Mapping[str, FloatArray], surfaces: Mapping[str, SurfacePoints]) -> dict[str, FloatArray]:
    """Distances (n,) of the points of a shaft: those by the fields, and where surfaces were looked for, from those."""
    result = dict(by_fields)
    for name, met in surfaces.items():
        field = by_fields[name]
        least = np.full(len(field), np.inf)
        np.minimum.at(least, met.place, met.away_mm)
        # Inside of a structure, or next to it, the field knows how deep; where no ray was sent, it is far enough.
        looked = np.bincount(met.place, minlength=len(field)) > 0
        result[name] = np.where(looked & (field > _NEAREST_MM), np.minimum(least, field + STEP_MM), field)
    return result


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


def _first_surface_mm(level: NDArray, radii: FloatArray) -> FloatArray:
    """Along each ray (n, m) where the level first reaches one half; infinity where it does not."""
    inside = level >= 0.5
    first = np.argmax(inside, axis=1)
    before = np.maximum(first - 1, 0)
    rows = np.arange(len(level))
    low, high = level[rows, before], level[rows, first]
    share = np.where(first > 0, (0.5 - low) / np.maximum(high - low, 1e-6), 0.0)
    found = radii[before] + share * (radii[first] - radii[before])
    return np.where(inside.any(axis=1), found, np.inf)
