"""Voxels and pixels of a view: what cement in a voxel puts into the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from ..xray.geometry import XrayGeometry


class Rays:
    """Pixels are put together to bins about as large as a voxel, which would else leave gaps between its neighbors'
    shadows.

    Args:
        points: (n, 3) voxel centers, RAS.
        geometry: of the pixels that will be handed in.
        voxel_mm: edge of a voxel.
    """

    def __init__(self, points: FloatArray, geometry: XrayGeometry, voxel_mm: float) -> None:
        columns, rows = geometry.detector_pixels
        spacing = np.array(geometry.pixel_spacing_mm)
        source = geometry.source_in_detector_mm
        depth = source[2] - (points @ geometry.RASToDetector[2, :3] + geometry.RASToDetector[2, 3])
        magnification = np.where(depth > 0, source[2] / np.maximum(depth, 1e-6), np.nan)
        self._bin = max(1, round(voxel_mm * float(np.nanmedian(magnification)) / float(spacing.mean())))
        self.pixels = rows, columns
        self.shape = -(-rows // self._bin), -(-columns // self._bin)
        self.voxel_ml = voxel_mm**3 / 1000
        # A pixel's share of the volume: path x cosine x area on the detector = volume x magnification squared.
        u = np.arange(columns) * spacing[0] - source[0]
        v = np.arange(rows) * spacing[1] - source[1]
        self._to_mass = (spacing.prod() * source[2] / np.sqrt(source[2] ** 2 + u**2 + v[:, None] ** 2)).astype(
            np.float32
        )
        self._mass = (1000 * self.voxel_ml * magnification**2).astype(np.float32)
        at = (geometry.project(points)[:, ::-1] + 0.5) / self._bin - 0.5
        self._inside = np.asarray(((at >= 0) & (at <= np.array(self.shape) - 1)).all(axis=1))
        at = np.where(self._inside[:, None], at, 0.0)
        self._first = np.minimum(np.floor(at).astype(np.int32), np.array(self.shape, np.int32) - 2)
        self._part = (at - self._first).astype(np.float32)

    def mass(self, path_mm: NDArray) -> NDArray[np.float32]:
        """Cement in each bin [mm3 on the detector], of paths (rows, columns)."""
        return self._sums(path_mm * self._to_mass)

    def variance(self, sigma_mm: NDArray) -> NDArray[np.float32]:
        """Variance of each bin's cement, of the deviations (rows, columns) of independent pixels."""
        return self._sums((sigma_mm * self._to_mass) ** 2)

    def share(self, mask: NDArray) -> NDArray[np.float32]:
        """Share of each bin's pixels that a mask holds, or the mean of an image (rows, columns)."""
        return self._sums(mask) / np.float32(self._bin**2)

    def at(self, image: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What the bins show at each voxel; true off the detector, where nothing speaks against cement."""
        row, column = (self._first + (self._part >= 0.5)).T
        shown: NDArray[np.bool_] = image[row, column]
        return shown | ~self._inside

    def volume_ml(self, mass: NDArray[np.float32], voxels: NDArray[np.intp]) -> float:
        """What bins hold, were it all in the middle of these voxels; NaN counts as nothing."""
        if not voxels.size:
            return 0.0
        return float(np.nansum(mass)) / float(np.median(self._mass[voxels])) * self.voxel_ml

    def system(self, voxels: NDArray[np.intp]) -> Any:
        """Sparse matrix (bins, voxels): what a full voxel puts into each bin, shared by its four nearest."""
        from scipy.sparse import csr_matrix

        row, column = self._first[voxels].T
        down, right = self._part[voxels].T
        mass = np.where(self._inside[voxels], self._mass[voxels], 0.0)
        bins = [(row + i) * self.shape[1] + column + j for i in (0, 1) for j in (0, 1)]
        parts = [mass * one * other for one in (1 - down, down) for other in (1 - right, right)]
        order = np.tile(np.arange(voxels.size), 4)
        shape = self.shape[0] * self.shape[1], voxels.size
        return csr_matrix((np.concatenate(parts), (np.concatenate(bins), order)), shape)

    def _sums(self, image: NDArray) -> NDArray[np.float32]:
        rows, columns = image.shape
        size = self._bin
        padded = np.pad(image.astype(np.float32), ((0, -rows % size), (0, -columns % size)))
        sums: NDArray[np.float32] = padded.reshape(self.shape[0], size, self.shape[1], size).sum(axis=(1, 3))
        return sums
