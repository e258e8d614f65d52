"""The projector's inner loops in numpy: for installations without numba, and to check the compiled ones against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from ..image import Volume
from .geometry import XrayGeometry
from .rays import Rays

_Image = NDArray[np.float32]
Window = tuple[slice, ...]


def with_rim(voxels: NDArray[np.float32], axis: int) -> _Image:
    """Voxels with `axis` first and a rim of nothing around each slice."""
    # So that interpolation fades out at the border; the second layer at the far end makes clipped coordinates read zero
    # on both sides.
    slices = np.moveaxis(voxels, axis, 0)
    return np.pad(slices, ((0, 0), (1, 2), (1, 2)))


def integrate(
    slices: _Image, rays: Rays, ways: list[FloatArray], image: _Image, windows: dict[int, Window] | None
) -> None:
    """Add the attenuation of every slice that a ray crosses, as sampled, to `image`.

    Args:
        slices: see `with_rim`.
        ways: from the source to each pixel along k, j, i, each of the image's shape.
        windows: for each slice the part of the image that it can darken; None for all.
    """
    other_y, other_x = rays.others
    advance = ways[rays.axis]
    slope_y = (ways[other_y] / advance).astype(np.float32)
    slope_x = (ways[other_x] / advance).astype(np.float32)
    start_y, start_x = rays.source[other_y] + 1, rays.source[other_x] + 1
    count_y, count_x = slices.shape[1:]
    everywhere = (slice(None),) * image.ndim
    fractions = [(end - rays.source[rays.axis]) / advance for end in (0, len(slices) - 1)]
    partly_hidden = any((fraction <= 0).any() or (fraction > 1).any() for fraction in fractions)
    for number, window in (windows or dict.fromkeys(range(len(slices)), everywhere)).items():
        depth = number - rays.source[rays.axis]
        x = np.clip(slope_x[window] * np.float32(depth) + np.float32(start_x), 0, count_x - 2)
        y = np.clip(slope_y[window] * np.float32(depth) + np.float32(start_y), 0, count_y - 2)
        column, row = x.astype(np.intp), y.astype(np.intp)
        x -= column
        y -= row
        row *= count_x
        row += column
        values = slices[number].ravel()
        upper = values.take(row, mode="clip")
        upper += x * (values[1:].take(row, mode="clip") - upper)
        row += count_x
        lower = values.take(row, mode="clip")
        lower += x * (values[1:].take(row, mode="clip") - lower)
        lower -= upper
        lower *= y
        upper += lower
        if partly_hidden:  # Only what stands between source and detector counts.
            fraction = depth / advance[window]
            upper[(fraction <= 0) | (fraction > 1)] = 0
        image[window] += upper


def slice_windows(filled: Volume, rays: Rays, geometry: XrayGeometry, region: tuple[slice, slice]) -> dict[int, Window]:
    """For each slice that is not empty the part of a region of the detector that it can darken."""
    slices = np.moveaxis(filled.voxels, rays.axis, 0) != 0
    rows_used, columns_used = slices.any(axis=2), slices.any(axis=1)
    numbers = np.flatnonzero(rows_used.any(axis=1))
    corners = np.empty((len(numbers), 4, 3))
    corners[:, :, rays.axis] = numbers[:, None]
    for other, used, order in zip(
        rays.others, (rows_used[numbers], columns_used[numbers]), ((0, 1, 0, 1), (0, 0, 1, 1)), strict=True
    ):
        # Interpolation spreads a voxel over one index on either side.
        ends = np.stack([used.argmax(axis=1) - 1, used.shape[1] - used[:, ::-1].argmax(axis=1)], axis=1)
        corners[:, :, other] = ends[:, order]
    windows: dict[int, Window] = {}
    for number, ras in zip(numbers, filled.ras_of(corners), strict=True):
        window = geometry.window_around(ras, region)
        if window is not None:
            first_row, first_column = region[0].start, region[1].start
            windows[int(number)] = (
                slice(window[0].start - first_row, window[0].stop - first_row),
                slice(window[1].start - first_column, window[1].stop - first_column),
            )
    return windows
