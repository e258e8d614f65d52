"""How far a point or a shaft is from a structure: signed distance fields that planning and navigation share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import AnatomyError
from ..geometry import FloatArray
from ..image import Volume

#: Grids finer than this only cost time; coarser ones would round off a foramen of 8 mm.
_FINEST_SPACING_MM, _COARSEST_SPACING_MM = 0.5, 1.0

#: Occupancy at which a structure begins. One half would be unbiased on a flat face but shave off thin parts; less than
#: that leans towards "too near".
_THRESHOLD = 0.4


class DistanceField:
    """Signed distance in mm from the surface of a mask: positive outside, negative inside.

    The mask, of any spacing and orientation, is interpolated on an isotropic RAS-aligned grid that reaches `margin_mm`
    beyond it; the field there is the Euclidean distance transform, shifted by half a grid spacing to the faces between
    inner and outer grid points, and is itself interpolated. It leans towards "too near".

    Attributes:
        spacing_mm: of the isotropic grid.
        lower_ras, upper_ras: corners (3,) of the box around the mask; nothing of the mask lies outside it.
    """

    def __init__(self, mask: Volume, margin_mm: float = 25.0, spacing_mm: float | None = None) -> None:
        """
        Args:
            mask: voxels that are not zero belong to the structure.
            margin_mm: how far around the structure distances are exact; beyond, `at` gives a lower bound.
            spacing_mm: of the grid; by default the mask's finest spacing, within 0.5 to 1 mm.

        Raises:
            AnatomyError: for an empty mask, from which no distance exists.
        """
        from scipy.ndimage import distance_transform_edt

        inside = np.asarray(mask.voxels) != 0
        if not inside.any():
            raise AnatomyError("a structure has no voxels, so its distance is unknown; segment it first")
        self.spacing_mm = (
            float(np.clip(mask.spacing_mm.min(), _FINEST_SPACING_MM, _COARSEST_SPACING_MM))
            if spacing_mm is None
            else float(spacing_mm)
        )
        used = _used(inside)
        self.lower_ras, self.upper_ras = _box_ras(mask, used)
        self._origin_ras = self.lower_ras - margin_mm
        counts = np.ceil((self.upper_ras - self.lower_ras + 2 * margin_mm) / self.spacing_mm).astype(int) + 1
        occupied = _occupancy(mask, inside, used, self._origin_ras, self.spacing_mm, counts) >= _THRESHOLD
        if not occupied.any():
            raise AnatomyError(f"a structure is thinner than the grid of {self.spacing_mm} mm; give a finer spacing_mm")
        sampling = (self.spacing_mm,) * 3
        outward = distance_transform_edt(~occupied, sampling=sampling) - self.spacing_mm / 2
        inward = distance_transform_edt(occupied, sampling=sampling) - self.spacing_mm / 2
        self._field: NDArray[np.float32] = np.where(occupied, -inward, outward).astype(np.float32)
        self._flat = self._field.ravel()

    def at(self, points_ras: ArrayLike) -> FloatArray:
        """Signed distances (...) in mm of RAS points (..., 3).

        Outside the grid the value is the distance to the box around the structure: never more than the truth. A point
        with NaN has the distance minus infinity, so that no comparison lets it pass.
        """
        points = np.asarray(points_ras, float)
        shape, points = points.shape[:-1], points.reshape(-1, 3)
        continuous = (points - self._origin_ras) / self.spacing_mm
        slices, rows, columns = self._field.shape
        last = np.array([columns, rows, slices]) - 1
        within = ((continuous >= 0) & (continuous <= last)).all(axis=1)
        if within.all():
            return self._interpolate(continuous).reshape(shape)
        beyond = np.maximum(np.maximum(self.lower_ras - points, points - self.upper_ras), 0)
        distances = np.linalg.norm(beyond, axis=1)
        distances[~np.isfinite(points).all(axis=1)] = -np.inf
        distances[within] = self._interpolate(continuous[within])
        return distances.reshape(shape)

    def along(self, start_ras: ArrayLike, end_ras: ArrayLike, radius_mm: float = 0.0) -> float:
        """Smallest distance in mm of a straight shaft's surface from the structure, negative where it enters.

        The axis is sampled every half grid spacing, both ends included, so that the true minimum is at most a quarter
        of the grid spacing smaller.
        """
        start, end = np.asarray(start_ras, float), np.asarray(end_ras, float)
        if not (np.isfinite(start).all() and np.isfinite(end).all()):
            return float("-inf")
        samples = int(np.ceil(np.linalg.norm(end - start) / (self.spacing_mm / 2))) + 1
        fractions = np.linspace(0, 1, max(samples, 2))[:, None]
        return float(self.at(start + fractions * (end - start)).min()) - radius_mm

    def _interpolate(self, continuous_ijk: FloatArray) -> FloatArray:
        """Trilinear values at grid coordinates (n, 3) that lie within the grid."""
        slices, rows, columns = self._field.shape
        base = np.minimum(continuous_ijk.astype(int), np.array([columns, rows, slices]) - 2)
        fx, fy, fz = (continuous_ijk - base).T
        first = (base[:, 2] * rows + base[:, 1]) * columns + base[:, 0]
        values, plane = self._flat, rows * columns
        # Eight neighbours, folded along x, then y, then z.
        along_x = [
            values[first + offset] * (1 - fx) + values[first + offset + 1] * fx
            for offset in (0, columns, plane, plane + columns)
        ]
        return (along_x[0] * (1 - fy) + along_x[1] * fy) * (1 - fz) + (along_x[2] * (1 - fy) + along_x[3] * fy) * fz


def _used(inside: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index that the mask uses along each array axis."""
    spans = []
    for axis in range(3):
        used = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append((int(used[0]), int(used[-1])))
    return spans


def _box_ras(mask: Volume, used: list[tuple[int, int]]) -> tuple[FloatArray, FloatArray]:
    """Corners of the RAS-aligned box around the boxes of all voxels within the given index ranges."""
    kk, jj, ii = [(first - 0.5, last + 0.5) for first, last in used]
    corners = mask.ras_of([[k, j, i] for k in kk for j in jj for i in ii])
    return corners.min(axis=0), corners.max(axis=0)


def _occupancy(
    mask: Volume,
    inside: NDArray[np.bool_],
    used: list[tuple[int, int]],
    origin_ras: FloatArray,
    spacing_mm: float,
    counts: NDArray[np.int_],
) -> NDArray[np.float32]:
    """Share of the mask, interpolated linearly between voxel centres, on a RAS-aligned grid [z, y, x].

    Args:
        counts: points of the grid along x, y, z.
    """
    from scipy.ndimage import affine_transform

    first = np.array([span[0] for span in used])
    crop = inside[tuple(slice(start, last + 1) for start, last in used)]
    # A rim of nothing, so that interpolation fades out at the border of the image as it does inside it.
    padded = np.pad(crop, 1).astype(np.float32)
    RASToKJI = mask.RASToIJK[[2, 1, 0]]
    matrix = RASToKJI[:, [2, 1, 0]] * spacing_mm
    offset = RASToKJI[:, :3] @ origin_ras + RASToKJI[:, 3] - first + 1
    return affine_transform(padded, matrix, offset, output_shape=tuple(counts[::-1]), order=1, mode="constant")
