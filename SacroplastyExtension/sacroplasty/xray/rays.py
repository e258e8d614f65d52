"""The rays of a C-arm pose, in indices of a volume's voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from ..geometry import FloatArray

#: Smallest part of a way along the stepping axis, in indices, so that slopes stay finite.
LEAST_ADVANCE = 1e-6


@dataclass(frozen=True)
class Rays:
    """The rays of a geometry in indices of a volume's voxels (k, j, i).

    Attributes:
        axis: of the voxel array, that all rays are stepped along.
        source: of all rays.
        corner: the centre of the top-left pixel.
        along_u, along_v: from one column and one row to the next.
        metric: (3, 3) whose quadratic form is the squared length in mm of a vector of indices.
    """

    axis: int
    source: FloatArray
    corner: FloatArray
    along_u: FloatArray
    along_v: FloatArray
    metric: FloatArray

    @property
    def others(self) -> tuple[int, int]:
        """The two axes that are interpolated along: slower and faster index."""
        other_y, other_x = (number for number in range(3) if number != self.axis)
        return other_y, other_x

    def from_pixel(self, column: int, row: int) -> Rays:
        """The same rays, counted from another pixel."""
        return replace(self, corner=self.corner + column * self.along_u + row * self.along_v)

    def ways(self, u: ArrayLike, v: ArrayLike) -> list[FloatArray]:
        """From the source to pixels u, v, along k, j, i; each of their shape."""
        ways = [
            self.corner[number] - self.source[number] + u * self.along_u[number] + v * self.along_v[number]
            for number in range(3)
        ]
        # A ray at a right angle to the stepping axis crosses no slice.
        ways[self.axis] = np.where(np.abs(ways[self.axis]) < LEAST_ADVANCE, LEAST_ADVANCE, ways[self.axis])
        return ways

    def lengths_mm(self, ways: list[FloatArray]) -> FloatArray:
        """Length of each way."""
        return np.sqrt(np.einsum("a...,ab,b...->...", ways, self.metric, ways, optimize=True))
