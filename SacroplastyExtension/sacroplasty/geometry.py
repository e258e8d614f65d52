"""Points, lines and rigid transforms in RAS millimetres.

A transform named ``AToB`` is a 4x4 matrix that maps column vectors of A coordinates to B coordinates.
Points are arrays of shape (3,) or (n, 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import GeometryError

FloatArray = NDArray[np.float64]

#: LPS to RAS and back: the first two axes change sign. Its own inverse.
LPSToRAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])


def flip_lps_ras(points: ArrayLike) -> FloatArray:
    """Points of shape (..., 3) from LPS to RAS or from RAS to LPS."""
    return np.asarray(points, float) * (-1.0, -1.0, 1.0)


def transform_points(AToB: ArrayLike, points: ArrayLike) -> FloatArray:
    """Map points of shape (..., 3) by an affine 4x4 matrix."""
    matrix = np.asarray(AToB, float)
    return np.asarray(points, float) @ matrix[:3, :3].T + matrix[:3, 3]


def transform_vectors(AToB: ArrayLike, vectors: ArrayLike) -> FloatArray:
    """Map directions of shape (..., 3): rotation and scale without translation."""
    return np.asarray(vectors, float) @ np.asarray(AToB, float)[:3, :3].T


def rigid(rotation: ArrayLike, translation: ArrayLike) -> FloatArray:
    """The 4x4 matrix of a 3x3 rotation and a translation in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation
    return matrix


def check_rigid(matrix: ArrayLike, name: str, tolerance: float = 1e-3) -> FloatArray:
    """The matrix as a 4x4 array if it is a finite, right-handed rigid transform.

    Raises:
        GeometryError: naming the transform and what is wrong with it.
    """
    array = np.asarray(matrix, float)
    if array.shape != (4, 4):
        raise GeometryError(f"{name} has shape {array.shape}; a rigid transform is a 4x4 matrix")
    if not np.isfinite(array).all():
        raise GeometryError(f"{name} holds NaN or infinite numbers; discard this pose")
    # np.allclose would take most of the time of a tracker's 2000 poses a second.
    if np.abs(array[3] - (0.0, 0.0, 0.0, 1.0)).max() > tolerance:
        raise GeometryError(f"{name} has the last row {array[3].tolist()}; it must be 0 0 0 1 (matrix transposed?)")
    rotation = array[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > tolerance:
        raise GeometryError(f"{name} is not rigid: its axes are not orthonormal (scaled or sheared, or wrong units?)")
    if np.linalg.det(rotation) < 0:
        raise GeometryError(f"{name} is left-handed (a mirror image); check the axis order of the source")
    return array


def invert_rigid(AToB: ArrayLike) -> FloatArray:
    """BToA of a rigid AToB."""
    matrix = np.asarray(AToB, float)
    rotation = matrix[:3, :3].T
    return rigid(rotation, -rotation @ matrix[:3, 3])


def unit(vector: ArrayLike) -> FloatArray:
    """The vector scaled to length one.

    Raises:
        GeometryError: for a vector of length zero or with NaN.
    """
    array = np.asarray(vector, float)
    length = np.linalg.norm(array)
    if not length > 1e-12:
        raise GeometryError(f"the direction {array.tolist()} has no length")
    return array / length


def rotation_about(axis: ArrayLike, angle_deg: float) -> FloatArray:
    """3x3 rotation about an axis through the origin, right-hand rule (Rodrigues' formula)."""
    x, y, z = unit(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(angle_deg)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def nearest_rotation(matrix: ArrayLike) -> FloatArray:
    """The 3x3 rotation nearest to a matrix, such as a mean of rotations (orthogonal Procrustes problem)."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, float))
    turn: FloatArray = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    return turn


def rotation_between(source: ArrayLike, target: ArrayLike) -> FloatArray:
    """The smallest 3x3 rotation that turns direction `source` onto direction `target`."""
    a, b = unit(source), unit(target)
    axis = np.cross(a, b)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        if a @ b > 0:
            return np.eye(3)
        axis, sine = perpendicular(a), 0.0
    return rotation_about(axis, float(np.degrees(np.arctan2(sine, a @ b))))


def perpendicular(direction: ArrayLike) -> FloatArray:
    """Some unit vector at a right angle to `direction`, the same one each time."""
    axis = unit(direction)
    helper = np.zeros(3)
    helper[int(np.argmin(np.abs(axis)))] = 1.0
    return unit(np.cross(axis, helper))


def angle_between_deg(a: ArrayLike, b: ArrayLike) -> float:
    """Angle between two directions, 0 to 180 degrees, exact near 0 and 180 too."""
    u, v = unit(a), unit(b)
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))))


def distance_to_segment(points: ArrayLike, start: ArrayLike, end: ArrayLike) -> FloatArray:
    """Distance in mm of points (..., 3) to the segment from `start` to `end`."""
    p, a, b = np.asarray(points, float), np.asarray(start, float), np.asarray(end, float)
    along = b - a
    length_squared = float(along @ along)
    fraction = np.clip((p - a) @ along / length_squared, 0, 1) if length_squared > 0 else np.zeros(p.shape[:-1])
    return np.linalg.norm(p - (a + fraction[..., None] * along), axis=-1)


def segment_to_segment_distance(a0: ArrayLike, a1: ArrayLike, b0: ArrayLike, b1: ArrayLike) -> float:
    """Smallest distance in mm between the segments a0-a1 and b0-b1 (of any length, zero too)."""
    p0, p1, q0, q1 = (np.asarray(point, float) for point in (a0, a1, b0, b1))
    u, v, w = p1 - p0, q1 - q0, p0 - q0
    uu, uv, vv, uw, vw = u @ u, u @ v, v @ v, u @ w, v @ w
    determinant = uu * vv - uv * uv
    ends = [
        distance_to_segment(p0, q0, q1),
        distance_to_segment(p1, q0, q1),
        distance_to_segment(q0, p0, p1),
        distance_to_segment(q1, p0, p1),
    ]
    smallest = min(float(distance) for distance in ends)
    if determinant > 1e-12 * max(uu * vv, 1e-300):
        s, t = (uv * vw - vv * uw) / determinant, (uu * vw - uv * uw) / determinant
        if 0 <= s <= 1 and 0 <= t <= 1:
            smallest = min(smallest, float(np.linalg.norm(w + s * u - t * v)))
    return smallest
