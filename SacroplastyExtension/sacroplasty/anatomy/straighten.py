"""Coordinates that follow the curve of the sacrum, so that every level is cut at a right angle.

A straightened point is (left, deep, down) in mm: `left` from the mirror plane, `down` along the ventral curve from the
promontory, `deep` backwards along the curve's normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import AnatomyError
from ..geometry import FloatArray, invert_rigid, transform_points
from ..image import Volume
from .frame import SacralFrame, slab

#: Steps of the tabulated curve [mm].
_STEP_MM = 0.5
#: How far the curve goes on in a straight line above the promontory and below the tip [mm].
_LEAD_MM = 45.0
#: Half of the window in which the direction of the surface is read, and the smoothing (SD) of that direction [mm].
_WINDOW_MM = 8.0
_SMOOTHING_MM = 14.0


@dataclass(frozen=True)
class Straightening:
    """The ventral curve in the mirror plane, tabulated every half millimetre.

    Attributes:
        SacrumToRAS: the sacral frame in whose (posterior, superior) plane the curve lies.
        down_mm: arc length (n,), 0 at the promontory.
        points_mm: (n, 2) posterior, superior.
        normals: (n, 2) unit vectors pointing backwards.
        tip_mm: arc length of the caudal end of the bone.
    """

    SacrumToRAS: FloatArray
    down_mm: FloatArray
    points_mm: FloatArray
    normals: FloatArray
    tip_mm: float

    def to_ras(self, straightened: FloatArray) -> FloatArray:
        """RAS points (..., 3) of straightened points (..., 3)."""
        left, deep, down = np.moveaxis(np.asarray(straightened, float), -1, 0)
        plane = [
            np.interp(down, self.down_mm, self.points_mm[:, axis])
            + deep * np.interp(down, self.down_mm, self.normals[:, axis])
            for axis in range(2)
        ]
        return transform_points(self.SacrumToRAS, np.stack([left, *plane], axis=-1))

    def from_ras(self, points_ras: FloatArray) -> FloatArray:
        """Straightened points (..., 3) of RAS points (..., 3), by the nearest point of the curve."""
        from scipy.spatial import cKDTree

        sacral = transform_points(invert_rigid(self.SacrumToRAS), points_ras)
        plane = sacral[..., 1:].reshape(-1, 2)
        nearest = cKDTree(self.points_mm).query(plane)[1]
        away = plane - self.points_mm[nearest]
        normal = self.normals[nearest]
        tangent = np.column_stack([normal[:, 1], -normal[:, 0]])
        deep = (away * normal).sum(axis=1)
        down = self.down_mm[nearest] + (away * tangent).sum(axis=1)
        shape = sacral.shape[:-1]
        return np.stack([sacral[..., 0], deep.reshape(shape), down.reshape(shape)], axis=-1)


def straighten(sacrum: Volume, frame: SacralFrame) -> Straightening:
    """Follow the ventral surface of the sacrum in its mirror plane.

    Raises:
        AnatomyError: when the surface cannot be followed over the first three segments.
    """
    from scipy import ndimage

    step = 0.75
    along = np.arange(-150, 80, step)
    bone = slab(sacrum, frame.SacrumToRAS, along, along) > 0.5
    parts, _ = ndimage.label(bone)
    corner = round((frame.promontory_mm[0] + 3 - along[0]) / step), round((-4.0 - along[0]) / step)
    bone = parts == (parts[corner] or np.argmax(np.bincount(parts.ravel())[1:]) + 1)
    if not bone.any():
        raise AnatomyError("the sacrum label is empty below the S1 endplate; check it")
    surface = _ventral_surface(bone, along, frame.promontory_mm)
    if np.linalg.norm(np.diff(surface, axis=0), axis=1).sum() < 50:
        raise AnatomyError("the ventral surface of the sacrum is shorter than 50 mm; is the sacrum label cut off?")
    return _tabulate(surface, frame)


def _ventral_surface(bone: np.ndarray, along: FloatArray, promontory: FloatArray) -> FloatArray:
    """First bone that rays meet from a point in the pelvis, ordered from the promontory down (m, 2)."""
    inside = np.argwhere(bone) * (along[1] - along[0]) + along[0]
    below = inside[inside[:, 1] < promontory[1]]
    tip = below[np.argmax(np.linalg.norm(below - promontory, axis=1))]
    chord = tip - promontory
    length = float(np.linalg.norm(chord))
    ventral = np.array([chord[1], -chord[0]]) / length
    ventral = ventral if ventral[0] < 0 else -ventral
    origin = (promontory + tip) / 2 + ventral * 0.25 * length
    start = np.arctan2(*(promontory - origin)[::-1])
    stop = np.arctan2(*(tip - origin)[::-1])
    turn = (stop - start + np.pi) % (2 * np.pi) - np.pi
    radii = np.arange(2.0, 1.3 * length, 0.4)
    surface = [promontory]
    for angle in start + turn * np.linspace(0.02, 0.995, 150):
        ray = origin + radii[:, None] * [np.cos(angle), np.sin(angle)]
        index = np.round((ray - along[0]) / (along[1] - along[0])).astype(int)
        valid = ((index >= 0) & (index < len(along))).all(axis=1)
        hit = np.zeros(len(ray), bool)
        hit[valid] = bone[index[valid, 0], index[valid, 1]]
        if hit.any():
            surface.append(ray[np.argmax(hit)])
    return np.array(surface)


def _tabulate(surface: FloatArray, frame: SacralFrame) -> Straightening:
    """A smooth curve along the ventral surface that only ever bends towards the pelvis, with straight leads.

    Its direction is the surface's, made monotone and smoothed, so that neither the rounded promontory nor the ridges
    between the fused bodies turn the cuts. The curve may leave the surface by some millimetres; only normals count.
    """
    from scipy import ndimage

    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(surface, axis=0), axis=1))])
    even = np.arange(0, arc[-1], _STEP_MM)
    path = np.column_stack([np.interp(even, arc, surface[:, axis]) for axis in range(2)])
    reach = int(_WINDOW_MM / _STEP_MM)
    first, last = np.maximum(np.arange(len(even)) - reach, 0), np.minimum(np.arange(len(even)) + reach, len(even) - 1)
    chord = path[last] - path[first]
    angle = np.unwrap(np.arctan2(chord[:, 1], chord[:, 0]))
    # The rounded corner of the promontory and the loose coccyx at the other end turn the other way.
    angle[: 2 * reach] = angle[2 * reach]
    # Seen from the left with the front at the left, the concave ventral surface turns clockwise on its way down.
    monotone = (np.minimum.accumulate(angle) + np.maximum.accumulate(angle[::-1])[::-1]) / 2
    smooth = ndimage.gaussian_filter1d(monotone, _SMOOTHING_MM / _STEP_MM, mode="nearest")
    tangents = np.column_stack([np.cos(smooth), np.sin(smooth)])
    points = frame.promontory_mm + np.cumsum(tangents * _STEP_MM, axis=0)
    points += np.median(path - points, axis=0)
    lead = np.arange(_STEP_MM, _LEAD_MM, _STEP_MM)[:, None]
    points = np.vstack([points[0] - lead[::-1] * tangents[0], points, points[-1] + lead * tangents[-1]])
    tangents = np.vstack([np.repeat(tangents[:1], len(lead), 0), tangents, np.repeat(tangents[-1:], len(lead), 0)])
    down: FloatArray = (np.arange(len(points), dtype=float) - len(lead)) * _STEP_MM
    normals = np.column_stack([-tangents[:, 1], tangents[:, 0]])
    return Straightening(frame.SacrumToRAS, down, points, normals, float(even[-1]))
