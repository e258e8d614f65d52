"""A small isotropic grid along the RAS axes around a point, so that nothing here depends on the CT's orientation."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry import FloatArray
from ..image import Volume


def local_grid(center_ras: ArrayLike, half_size_mm: float, spacing_mm: float) -> Volume:
    """An empty boolean volume whose middle voxel's centre is `center_ras`."""
    steps = round(half_size_mm / spacing_mm)
    IJKToRAS = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    IJKToRAS[:3, 3] = np.asarray(center_ras, float) - steps * spacing_mm
    return Volume(np.zeros((2 * steps + 1,) * 3, bool), IJKToRAS)


def reaching(grid: Volume, point_ras: ArrayLike) -> Volume:
    """An empty grid with the same voxels and as many more as reach a point."""
    k, j, i = grid.kji_of(np.asarray(point_ras, float)[None])[0]
    low = np.floor(np.minimum([k, j, i], 0)).astype(int)
    high = np.ceil(np.maximum([k, j, i], np.array(grid.voxels.shape) - 1)).astype(int)
    IJKToRAS = grid.IJKToRAS.copy()
    IJKToRAS[:3, 3] = grid.ras_of(low[None])[0]
    return Volume(np.zeros(high - low + 1, bool), IJKToRAS)


def sample(volume: Volume, grid: Volume, outside: float = 0.0, nearest: bool = False) -> NDArray:
    """Values of `volume` at the voxel centres of `grid`, linearly interpolated (float32) or of the nearest voxel."""
    from scipy.ndimage import affine_transform

    if volume.same_grid(grid, tolerance_mm=1e-6):
        return volume.voxels if nearest else volume.voxels.astype(np.float32)
    # Indices of the volume from those of the grid, both in array order k, j, i.
    IJKToIJK = volume.RASToIJK @ grid.IJKToRAS
    matrix, offset = IJKToIJK[2::-1, 2::-1], IJKToIJK[2::-1, 3]
    corners = np.array(list(product(*((0, size - 1) for size in grid.voxels.shape)))) @ matrix.T + offset
    # Only the part of the image around the grid is converted: a CT is a hundred times as large.
    low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 1, 0, volume.voxels.shape)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 2, 0, volume.voxels.shape)
    if (low >= high).any():
        return np.full(grid.voxels.shape, outside, volume.voxels.dtype if nearest else np.float32)
    voxels = volume.voxels[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
    return affine_transform(
        voxels if nearest else voxels.astype(np.float32),
        matrix,
        offset - low,
        grid.voxels.shape,
        order=0 if nearest else 1,
        cval=outside,
        prefilter=False,
    )


def sample_mask(volume: Volume, grid: Volume) -> NDArray[np.bool_]:
    """A mask on another grid; the surface runs where the interpolated mask falls below one half."""
    return sample(volume, grid) >= 0.5


def grid_points(grid: Volume) -> FloatArray:
    """RAS points (k, j, i, 3) of all voxel centres."""
    return grid.ras_of(np.moveaxis(np.indices(grid.voxels.shape), 0, -1))
