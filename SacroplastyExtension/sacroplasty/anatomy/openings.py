"""An opening of a foramen measured where it cuts the surface that the bone would have without it.

Around the opening the surface of the bone is continued over it as a thin plate. Just below that plate, deeper than the
rounding of the rim, the hole is cut; the cut's centre is then moved along the channel back onto the plate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from .straight_image import STEP_MM, StraightImage

#: Depth below the surface at which the hole is cut: the rims of foramina are rounded, and slices blur them [mm].
_CUT_MM = 1.5
#: Width of the surface around a hole that carries the plate, and distance from the hole from which it counts [mm].
_RING_MM, _ROUNDED_MM = 7.0, 2.0
#: Bone this near to the outline of the sacrum carries no plate: there, the surface turns to the side [mm].
_EDGE_MM = 3.0
#: Smoothing of the plate: voxel steps and the bone's own unevenness have about this variance [mm^2].
_STEP_VARIANCE = 3.0
#: More points on the ring than this change nothing.
_RING_POINTS = 250
#: Grid on which the hole is cut [mm].
_FINE_MM = 0.5
#: A hole whose largest inscribed circle has a smaller radius is none [mm].
_NARROWEST_MM = 0.75
#: Parts of a hole behind a neck narrower than this share of its own width are not counted.
_NECK = 0.75
#: The hole reaches no further than this beyond where its pit is deep [mm].
_BEYOND_MM = 2.5
#: Plate and cut are made this often.
_ROUNDS = 2

#: Depth of a surface at (left, down) points (n, 2).
_Plate = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class StraightOpening:
    """An opening in straightened coordinates (left, deep, down) in mm.

    Attributes:
        center: middle of the hole, on the surface.
        rim: (n, 3) points around it, of the ellipse that has the hole's second moments.
    """

    center: FloatArray
    rim: FloatArray

    @property
    def radius_mm(self) -> float:
        """Mean distance of the rim from the centre, along the surface's directions."""
        return float(np.hypot(*(self.rim - self.center)[:, [0, 2]].T).mean())


@dataclass(frozen=True)
class Surface:
    """The front or the back of the straightened sacrum, with depths that grow into the bone (`sign` times deep).

    Attributes:
        hit_mm: [left, down] depth of the first bone; NaN for none.
        pit_mm: [left, down] how far that lies below the smooth surface.
        sign: 1 for the front, -1 for the back.
    """

    hit_mm: FloatArray
    pit_mm: FloatArray
    sign: float


@dataclass(frozen=True)
class _Cut:
    """Points (n, 2) left and down, in a hole cut on average `below_mm` below the plate, along the depth axis."""

    points: FloatArray
    below_mm: float


def round_opening(center: FloatArray, radius_mm: float) -> StraightOpening:
    """A circle about a place where nothing is seen."""
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    ring = np.column_stack([np.cos(angles), np.zeros_like(angles), np.sin(angles)])
    return StraightOpening(np.asarray(center, float), center + radius_mm * ring)


def measure_opening(
    image: StraightImage,
    surface: Surface,
    solid: NDArray[np.float32],
    hole: NDArray[np.bool_],
    channel: FloatArray,
) -> StraightOpening | None:
    """
    Args:
        solid: [left, deep, down] 0 to 1, below 0.5 where a hole may be.
        hole: [left, down] about where the opening is.
        channel: direction of the channel as change of (left, down) per mm deep.

    Returns:
        None when no hole is cut below the surface.
    """
    cut = None
    for _ in range(_ROUNDS):
        plate = _plate(image, surface, hole)
        cut = plate and _cut(image, solid, surface, hole, plate)
        if cut is None:
            return None
        # The first guess of the hole is rough: bone on its rounded rim would bend the plate inwards.
        hole = np.zeros_like(hole)
        hole[tuple(np.round((cut.points - [image.left_mm[0], image.down_mm[0]]) / STEP_MM).astype(int).T)] = True
    assert cut is not None and plate is not None
    center = cut.points.mean(axis=0)
    shift = -channel * surface.sign * cut.below_mm
    values, axes = np.linalg.eigh(np.cov(cut.points.T))
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    ring = np.column_stack([np.cos(angles), np.sin(angles)]) * 2 * np.sqrt(values) @ axes.T
    flat = np.vstack([center, center + ring]) + shift
    points = np.column_stack([flat[:, 0], surface.sign * plate(flat), flat[:, 1]])
    return StraightOpening(points[0], points[1:])


def _plate(image: StraightImage, surface: Surface, hole: NDArray[np.bool_]) -> _Plate | None:
    """Depth of the surface as a function of (left, down) points (n, 2), from the bone around a hole; None without."""
    from scipy import ndimage
    from scipy.interpolate import RBFInterpolator

    away = ndimage.distance_transform_edt(~hole) * STEP_MM
    ring = (away > _ROUNDED_MM) & (away <= _ROUNDED_MM + _RING_MM) & np.isfinite(surface.hit_mm)
    # In the next foramen the first bone lies far below the surface; towards its outline the bone rounds away.
    ring &= (surface.pit_mm <= _ROUNDED_MM) & (ndimage.distance_transform_edt(image.outline) * STEP_MM > _EDGE_MM)
    points = np.argwhere(ring)
    if len(points) < 20:
        return None
    points = points[:: max(1, len(points) // _RING_POINTS)]
    depth = surface.sign * surface.hit_mm[tuple(points.T)]
    places = points * STEP_MM + [image.left_mm[0], image.down_mm[0]]
    return RBFInterpolator(places, depth, kernel="thin_plate_spline", smoothing=_STEP_VARIANCE)


def _cut(
    image: StraightImage, solid: NDArray[np.float32], surface: Surface, hole: NDArray[np.bool_], plate: _Plate
) -> _Cut | None:
    """The hole a little below the plate, or None."""
    from scipy import ndimage

    reach = 2 * _BEYOND_MM
    columns, rows = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    left, down = (
        np.arange(axis[used[0]] - reach, axis[used[-1]] + reach, _FINE_MM)
        for axis, used in ((image.left_mm, columns), (image.down_mm, rows))
    )
    grid = np.stack(np.meshgrid(left, down, indexing="ij"), axis=-1)
    height = plate(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    steep = np.sqrt(1 + sum(slope**2 for slope in np.gradient(height, _FINE_MM)))
    deep = surface.sign * (height + _CUT_MM * steep)
    origin = np.array([image.left_mm[0], image.deep_mm[0], image.down_mm[0]])
    index = np.moveaxis((np.stack([grid[..., 0], deep, grid[..., 1]], axis=-1) - origin) / STEP_MM, -1, 0)
    empty = ndimage.map_coordinates(solid, index, order=1, mode="nearest") < 0.5
    near = ndimage.map_coordinates(hole.astype(np.float32), index[[0, 2]], order=1) > 0.5
    # A plate that runs out of the bone beside the hole finds emptiness there.
    empty &= ndimage.distance_transform_edt(~near) * _FINE_MM <= _BEYOND_MM
    empty &= ndimage.map_coordinates(image.outline.astype(np.float32), index[[0, 2]], order=1) > 0.5
    # What a neck much narrower than the hole leads to is another hole, a crack or the open canal.
    room = ndimage.distance_transform_edt(empty) * _FINE_MM
    widest = float(room[near].max())
    if widest < _NARROWEST_MM:
        return None
    neck = _NECK * widest
    parts, _ = ndimage.label(room > neck)
    core = parts == parts[np.unravel_index(int(np.argmax(np.where(near, room, 0))), room.shape)]
    inside = empty & (ndimage.distance_transform_edt(~core) * _FINE_MM <= neck)
    return _Cut(grid[inside], _CUT_MM * float(steep[inside].mean()))
