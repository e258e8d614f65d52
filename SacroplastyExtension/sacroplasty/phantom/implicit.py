"""Implicit shapes: signed fields in mm, negative inside, that approximate the distance near the surface.

All functions take and return float arrays of any one shape and are exact, or first-order correct, at the surface
(their gradient has about unit length there), which is what partial volume and cortical thickness need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry import FloatArray

Field = NDArray[np.floating]
#: A signed field of points given as three coordinate arrays.
Shape = Callable[[Field, Field, Field], Field]


def smooth_max(a: Field, b: Field, width_mm: float) -> Field:
    """Intersection of two shapes with an edge rounded over `width_mm` (quadratic polynomial blend)."""
    blend = np.maximum(width_mm - np.abs(a - b), 0)
    return np.maximum(a, b) + blend * blend / (4 * width_mm)


def smooth_min(a: Field, b: Field, width_mm: float) -> Field:
    """Union of two shapes with a fillet of about `width_mm`."""
    return -smooth_max(-a, -b, width_mm)


def ellipsoid(x: Field, y: Field, z: Field, center: ArrayLike, radii: ArrayLike) -> Field:
    """Axis-aligned ellipsoid; first-order distance at the surface."""
    (cx, cy, cz), (rx, ry, rz) = np.asarray(center, float).tolist(), np.asarray(radii, float).tolist()
    dx, dy, dz = (x - cx) / rx, (y - cy) / ry, (z - cz) / rz
    level = np.sqrt(dx * dx + dy * dy + dz * dz)
    slope = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2 + (dz / rz) ** 2)
    return np.where(level > 1e-6, level * (level - 1) / np.maximum(slope, 1e-9), -min(rx, ry, rz))


def capsule(x: Field, y: Field, z: Field, start: ArrayLike, end: ArrayLike, radii: tuple[float, float]) -> Field:
    """Round rod from `start` to `end` whose radius goes from radii[0] to radii[1]."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    axis = b - a
    squared = float(axis @ axis)
    (ax, ay, az), (ex, ey, ez) = a.tolist(), axis.tolist()
    t = np.clip((x * ex + y * ey + z * ez - float(a @ axis)) / squared, 0, 1)
    dx, dy, dz = x - (t * ex + ax), y - (t * ey + ay), z - (t * ez + az)
    return np.sqrt(dx * dx + dy * dy + dz * dz) - (t * (radii[1] - radii[0]) + radii[0])


def tube(x: Field, y: Field, z: Field, points: Sequence[ArrayLike], radii: Sequence[float]) -> Field:
    """Union of capsules along a polyline of points with a radius at each."""
    pieces = zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True)
    fields = [capsule(x, y, z, a, b, (ra, rb)) for a, b, ra, rb in pieces]
    return np.minimum.reduce(fields)


def superellipse(a: Field, b: Field, half_a: Field | float, half_b: Field | float, power: float) -> Field:
    """Cross-section |a/half_a|^power + |b/half_b|^power = 1; the half axes may vary from point to point."""
    pa, pb = np.abs(a) / half_a, np.abs(b) / half_b
    level = (pa**power + pb**power) ** (1 / power)
    safe = np.maximum(level, 1e-6)
    slope = np.hypot((pa / safe) ** (power - 1) / half_a, (pb / safe) ** (power - 1) / half_b)
    return (level - 1) / np.maximum(slope, 1e-9)


def polygon(u: Field, v: Field, corners: ArrayLike) -> Field:
    """Exact signed distance to a closed polygon of corners (n, 2)."""
    points = np.asarray(corners, float)
    nearest = np.full(u.shape, np.inf, u.dtype)
    inside = np.zeros(u.shape, bool)
    for (ax, ay), (bx, by) in zip(points.tolist(), np.roll(points, -1, axis=0).tolist(), strict=True):
        ex, ey = bx - ax, by - ay
        t = np.clip(((u - ax) * ex + (v - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (u - ax - t * ex) ** 2 + (v - ay - t * ey) ** 2)
        if ey != 0:
            crosses = ((ay > v) != (by > v)) & (u < ax + (v - ay) * (ex / ey))
            inside ^= crosses
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def coverage(field: Field, width_mm: float) -> Field:
    """Fraction of a voxel of `width_mm` inside the shape: 0.5 at the surface, linear over one voxel."""
    return np.clip(0.5 - field / width_mm, 0, 1)


def interpolate_table(
    rows: ArrayLike, columns: ArrayLike, table: ArrayLike, row_points: ArrayLike, column_points: ArrayLike
) -> FloatArray:
    """Monotone cubic interpolation of a table (rows, columns) at the grid of the points; constant outside."""
    from scipy.interpolate import PchipInterpolator

    r, c, values = np.asarray(rows, float), np.asarray(columns, float), np.asarray(table, float)
    along_rows = PchipInterpolator(r, values, axis=0)(np.clip(row_points, r[0], r[-1]))
    return np.asarray(PchipInterpolator(c, along_rows, axis=1)(np.clip(column_points, c[0], c[-1])))


class HeightMap:
    """A height h(row, column) in mm on a regular grid, with its slope, for bilinear look-up.

    Args:
        heights: array (rows, columns) in mm.
        origin: (row, column) coordinate of the first sample in mm.
        step_mm: distance of the samples.
    """

    def __init__(self, heights: ArrayLike, origin: tuple[float, float], step_mm: float) -> None:
        self.heights = np.asarray(heights, np.float32)
        self.origin, self.step_mm = origin, step_mm
        row_slope, column_slope = np.gradient(self.heights, step_mm)
        self._steepness = 1 / np.sqrt(1 + row_slope**2 + column_slope**2)

    def __call__(self, row: Field, column: Field) -> Field:
        """The height at points; outside the grid the nearest edge value."""
        from scipy.ndimage import map_coordinates

        where = np.stack([(row - self.origin[0]) / self.step_mm, (column - self.origin[1]) / self.step_mm])
        return map_coordinates(self.heights, where, order=1, mode="nearest", output=np.float32)

    def above(self, row: Field, column: Field, height: Field) -> Field:
        """Signed first-order distance of points to the surface, positive above it."""
        nearest = (
            np.clip(((c - o) / self.step_mm + 0.5).astype(np.int32), 0, n - 1)
            for c, o, n in zip((row, column), self.origin, self.heights.shape, strict=True)
        )
        return (height - self(row, column)) * self._steepness[tuple(nearest)]
