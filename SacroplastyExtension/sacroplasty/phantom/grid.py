"""The voxel grid of the synthetic CT and its division into blocks of points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ImageError
from ..geometry import FloatArray, invert_rigid, transform_points
from .implicit import Field

#: Voxels larger than this are averaged from finer samples, so that thin cortex looks as in a real scanner.
_COARSEST_SAMPLE_MM = 1.7
_AIR_MARGIN_MM = 8.0
_BLOCK_SAMPLES = 2_500_000


@dataclass(frozen=True)
class Block:
    """Patient coordinates (k, j, i) of a run of sample slices."""

    x: Field
    y: Field
    z: Field
    first: int
    last: int

    @cached_property
    def _ranges(self) -> list[tuple[NDArray, NDArray]]:
        lines = []
        for axis, values in enumerate((self.z, self.y, self.x)):
            others = tuple(other for other in range(3) if other != axis)
            lines.append((values.min(axis=others), values.max(axis=others)))
        return lines

    def window(self, low: ArrayLike, high: ArrayLike) -> tuple[slice, ...] | None:
        """The smallest part of the block that holds a box of patient coordinates; None when they do not meet."""
        slices = []
        corners = np.asarray(low, float)[::-1], np.asarray(high, float)[::-1]
        for (least, most), bottom, top in zip(self._ranges, *corners, strict=True):
            hits = np.nonzero((most > bottom) & (least < top))[0]
            if not len(hits):
                return None
            slices.append(slice(int(hits[0]), int(hits[-1]) + 1))
        return tuple(slices)

    def points(self, window: tuple[slice, ...]) -> tuple[Field, Field, Field]:
        return self.x[window], self.y[window], self.z[window]


@dataclass(frozen=True)
class Grid:
    """Voxels along i to the left, j to the back, k to the head, each made of `factors` (i, j, k) finer samples.

    The factors are odd, so that the middle sample of a voxel is its centre.
    """

    shape: tuple[int, int, int]
    spacing_mm: FloatArray
    factors: tuple[int, int, int]
    IJKToRAS: FloatArray
    PatientToRAS: FloatArray

    @property
    def sample_mm(self) -> FloatArray:
        """Spacing of the samples along i, j, k."""
        return self.spacing_mm / self.factors

    def blocks(self) -> Iterator[Block]:
        """All sample points, in runs of whole voxel slices."""
        fi, fj, fk = self.factors
        nk, nj, ni = self.shape
        per_voxel_slice = nj * fj * ni * fi * fk
        step = max(1, _BLOCK_SAMPLES // per_voxel_slice)
        IJKToPatient = invert_rigid(self.PatientToRAS) @ self.IJKToRAS
        for start in range(0, nk, step):
            stop = min(start + step, nk)
            lines = [
                (np.arange(low * f, high * f) - (f - 1) / 2) / f
                for low, high, f in ((0, ni, fi), (0, nj, fj), (start, stop, fk))
            ]
            i, j, k = (line.reshape(shape) for line, shape in zip(lines, ((-1,), (-1, 1), (-1, 1, 1)), strict=True))
            rows = (IJKToPatient[n] for n in range(3))
            x, y, z = ((row[0] * i + row[1] * j + row[2] * k + row[3]).astype(np.float32) for row in rows)
            yield Block(x, y, z, start, stop)

    def centers(self, samples: NDArray) -> NDArray:
        """The samples at the voxel centres of a block of samples."""
        fi, fj, fk = self.factors
        return samples[fk // 2 :: fk, fj // 2 :: fj, fi // 2 :: fi]

    def averages(self, samples: NDArray) -> NDArray:
        """Means over the samples of each voxel."""
        fi, fj, fk = self.factors
        nk, nj, ni = (length // f for length, f in zip(samples.shape, (fk, fj, fi), strict=True))
        return samples.reshape(nk, fk, nj, fj, ni, fi).mean(axis=(1, 3, 5), dtype=np.float32)


def make_grid(
    low: ArrayLike, high: ArrayLike, spacing_mm: tuple[float, float, float], PatientToRAS: FloatArray
) -> Grid:
    """A grid along the RAS axes that holds a box of patient coordinates and a little air around.

    Raises:
        ImageError: for a voxel size that is not between 0.3 and 6 mm.
    """
    spacing = np.asarray(spacing_mm, float)
    if spacing.shape != (3,) or not ((spacing >= 0.3) & (spacing <= 6.0)).all():
        raise ImageError(f"the voxel size {list(spacing_mm)} is impossible; give three lengths from 0.3 to 6 mm")
    bottom, top = np.asarray(low, float), np.asarray(high, float)
    middle = transform_points(PatientToRAS, (bottom + top) / 2)
    extent = top - bottom + (2 * _AIR_MARGIN_MM, 2 * _AIR_MARGIN_MM, 0)
    ni, nj, nk = (max(5, int(n)) for n in np.ceil(extent / spacing))
    factors = [int(np.ceil(length / _COARSEST_SAMPLE_MM)) for length in spacing]
    fi, fj, fk = (factor + 1 - factor % 2 for factor in factors)
    direction = np.array([-1.0, -1.0, 1.0])
    IJKToRAS = np.diag([*(direction * spacing), 1.0])
    IJKToRAS[:3, 3] = middle - direction * spacing * (np.array([ni, nj, nk]) - 1) / 2
    return Grid((nk, nj, ni), spacing, (fi, fj, fk), IJKToRAS, PatientToRAS)
