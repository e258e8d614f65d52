"""The projector's inner loops, compiled by numba. Imported only where numba is installed.

The compiled code is kept on disk (beside this file, or in the user's cache folder where that may not be written to), so
it is made once for each installation: `python -m sacroplasty.xray.compiled` does it ahead of the first picture. It
holds no interpreter lock and shares no state, so it may run in any number of threads at a time; threads are plain ones,
because numba's own thread pools must not be entered from two threads at once.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .projectable import Packed
from .rays import Rays
from .threads import share

_config: Any = numba.config
if _config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set: the loops would run uncompiled")

#: Rays of a square of this many pixels go through the same bricks, which then stay in the cache.
_TILE = 16
#: Extent of a brick, along the rays and across, as powers of two.
_BRICK_ALONG, _BRICK_ACROSS = 5, 3
#: Asking bricks costs about a tenth; it pays when a fifth of the way leads through nothing.
_WORTH_ASKING = 0.8
#: One level is this part of the largest attenuation.
_LEVELS = 32767
_PIXELS_AT_ONCE = 512

_compile: Any = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")


def survey(voxels: NDArray[np.float32]) -> tuple[bool, float, NDArray[np.int64]]:
    """Whether all values are numbers, the greatest size of any, and first and last index (3, 2) that is not zero."""
    finite, greatest, bounds = _survey(voxels)
    return bool(finite), float(greatest), bounds


def pack(voxels: NDArray[np.float32], axis: int, greatest: float) -> Packed:
    """Voxels (k, j, i) ready to be stepped through along an axis.

    Args:
        greatest: size of the largest, which becomes the largest level.
    """
    step = greatest / _LEVELS
    other_y, other_x = (number for number in range(3) if number != axis)
    length_y, length_x, length = voxels.shape[other_y], voxels.shape[other_x], voxels.shape[axis]
    # The second layer at the far end lets a sample on the last index read its neighbour.
    levels = np.zeros((length_y + 3, length_x + 3, length), np.int16)
    _pack(np.moveaxis(voxels, (other_y, other_x, axis), (0, 1, 2)), np.float32(1 / step), levels)
    shifts = (_BRICK_ACROSS, _BRICK_ACROSS, _BRICK_ALONG)
    bricks = np.zeros([(size >> shift) + 1 for size, shift in zip(levels.shape, shifts, strict=True)], np.uint8)
    _mark_bricks(levels, bricks)
    sparse = bool(np.count_nonzero(bricks) < _WORTH_ASKING * bricks.size)
    return Packed(levels, bricks, step, sparse)


def project_window(
    packed: Packed, rays: Rays, image: NDArray[np.float32], window: tuple[slice, slice], threads: int
) -> None:
    """Write the line integrals of a window (rows, columns) of an image whose pixel 0, 0 is the rays' corner."""
    rows, columns = window
    arguments = _arguments(packed, rays)

    def part(number: int) -> None:
        first = rows.start + number * _TILE
        last = min(first + _TILE, rows.stop)
        _project_window(*arguments, image, first, last, columns.start, columns.stop)

    share(part, math.ceil((rows.stop - rows.start) / _TILE), threads)


def project_pixels(packed: Packed, rays: Rays, pixels_uv: NDArray[np.float64], threads: int) -> NDArray[np.float32]:
    """Line integrals (n,) to pixel coordinates (n, 2)."""
    values = np.zeros(len(pixels_uv), np.float32)
    arguments = _arguments(packed, rays)

    def part(number: int) -> None:
        span = slice(number * _PIXELS_AT_ONCE, (number + 1) * _PIXELS_AT_ONCE)
        _project_pixels(*arguments, pixels_uv[span], values[span])

    share(part, math.ceil(len(values) / _PIXELS_AT_ONCE), threads)
    return values


def _arguments(packed: Packed, rays: Rays) -> tuple[Any, ...]:
    """What all loops take, with the indices in the order stepping axis, y, x."""
    order = [rays.axis, *rays.others]
    matrix = np.ascontiguousarray(np.stack([rays.source, rays.corner, rays.along_u, rays.along_v])[:, order])
    metric = np.ascontiguousarray(rays.metric[np.ix_(order, order)])
    return packed.levels, packed.bricks, packed.sparse, packed.step, matrix, metric


@_compile
def _survey(voxels: Any) -> Any:
    slices, rows, columns = voxels.shape
    bounds = np.empty((3, 2), np.int64)
    bounds[:, 0], bounds[:, 1] = voxels.size, -1
    greatest, spoiled = np.float32(0), np.float32(0)
    for k in range(slices):
        for j in range(rows):
            most, total = np.float32(0), np.float32(0)
            for i in range(columns):
                value = voxels[k, j, i]
                most = max(most, abs(value))
                total += value * np.float32(0)  # Stays zero unless a value is infinite or no number.
            spoiled += total
            if most > 0:
                greatest = max(greatest, most)
                first, last = 0, columns - 1
                while voxels[k, j, first] == 0:
                    first += 1
                while voxels[k, j, last] == 0:
                    last -= 1
                bounds[0, 0], bounds[0, 1] = min(bounds[0, 0], k), k
                bounds[1, 0], bounds[1, 1] = min(bounds[1, 0], j), max(bounds[1, 1], j)
                bounds[2, 0], bounds[2, 1] = min(bounds[2, 0], first), max(bounds[2, 1], last)
    return spoiled == 0, greatest, bounds


@_compile
def _pack(voxels: Any, per_step: Any, packed: Any) -> None:
    rows, columns, slices = voxels.shape
    # In blocks, since one of the two arrays is walked across its memory.
    for y0 in range(0, rows, 16):
        for a0 in range(0, slices, 16):
            for y in range(y0, min(y0 + 16, rows)):
                for x in range(columns):
                    for a in range(a0, min(a0 + 16, slices)):
                        packed[y + 1, x + 1, a] = np.int16(math.floor(voxels[y, x, a] * per_step + np.float32(0.5)))


@_compile
def _mark_bricks(packed: Any, bricks: Any) -> None:
    rows, columns, slices = packed.shape
    for y in range(rows):
        for x in range(columns):
            for b in range(bricks.shape[2]):
                if bricks[y >> _BRICK_ACROSS, x >> _BRICK_ACROSS, b] == 0:
                    filled = np.int16(0)
                    for a in range(b << _BRICK_ALONG, min((b + 1) << _BRICK_ALONG, slices)):
                        filled |= packed[y, x, a]
                    if filled != 0:
                        bricks[y >> _BRICK_ACROSS, x >> _BRICK_ACROSS, b] = 1


@_compile
def _levels_along(
    flat: Any, stride_y: Any, stride_x: Any, y: Any, x: Any, dy: Any, dx: Any, first: Any, last: Any
) -> Any:
    """Sum of bilinear samples in slices first ... last - 1; y and x are those of the first."""
    total = np.float32(0)
    for a in range(first, last):
        row, column = np.int64(y), np.int64(x)
        fraction_y, fraction_x = y - np.float32(row), x - np.float32(column)
        # Unsigned, or each index would be tested for counting from the end.
        at = np.uint64(row) * stride_y + np.uint64(column) * stride_x + np.uint64(a)
        below = at + stride_y
        upper, lower = np.float32(flat[at]), np.float32(flat[below])
        upper += fraction_x * (np.float32(flat[at + stride_x]) - upper)
        lower += fraction_x * (np.float32(flat[below + stride_x]) - lower)
        total += upper + fraction_y * (lower - upper)
        y += dy
        x += dx
    return total


@_compile
def _within(low: Any, high: Any, start: Any, slope: Any, end: Any) -> Any:
    """The part of low ... high in which 0 <= start + slope * a <= end."""
    if slope == 0:
        return (low, high) if 0 <= start <= end else (1.0, 0.0)
    one, other = -start / slope, (end - start) / slope
    return max(low, min(one, other)), min(high, max(one, other))


@_compile
def _ray(packed: Any, bricks: Any, sparse: Any, source: Any, way_a: Any, way_y: Any, way_x: Any) -> Any:
    """Sum of levels over the slices that a ray from the source over a way crosses."""
    rows, columns, slices = packed.shape
    slope_y, slope_x = way_y / way_a, way_x / way_a
    # Only between source and detector.
    low, high = max(0.0, min(source[0], source[0] + way_a)), min(slices - 1.0, max(source[0], source[0] + way_a))
    start_y, start_x = source[1] + 1 - slope_y * source[0], source[2] + 1 - slope_x * source[0]
    low, high = _within(low, high, start_y, slope_y, rows - 2.0)
    low, high = _within(low, high, start_x, slope_x, columns - 2.0)
    if not low <= high:
        return np.float32(0)
    first, last = np.int64(math.ceil(low)), np.int64(math.floor(high)) + 1
    flat = packed.reshape(packed.size)
    stride_y, stride_x = np.uint64(columns * slices), np.uint64(slices)
    dy, dx = np.float32(slope_y), np.float32(slope_x)
    if not sparse:
        y, x = np.float32(start_y + slope_y * first), np.float32(start_x + slope_x * first)
        return _levels_along(flat, stride_y, stride_x, y, x, dy, dx, first, last)
    total = np.float32(0)
    while first < last:
        brick = first >> _BRICK_ALONG
        end = min(last, (brick + 1) << _BRICK_ALONG)
        y0, y1 = start_y + slope_y * first, start_y + slope_y * (end - 1)
        x0, x1 = start_x + slope_x * first, start_x + slope_x * (end - 1)
        top, bottom = np.int64(min(y0, y1)) >> _BRICK_ACROSS, (np.int64(max(y0, y1)) + 1) >> _BRICK_ACROSS
        left, right = np.int64(min(x0, x1)) >> _BRICK_ACROSS, (np.int64(max(x0, x1)) + 1) >> _BRICK_ACROSS
        filled = False
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                filled |= bricks[row, column, brick] != 0
        if filled:
            total += _levels_along(flat, stride_y, stride_x, np.float32(y0), np.float32(x0), dy, dx, first, end)
        first = end
    return total


@_compile
def _integral(packed: Any, bricks: Any, sparse: Any, step: Any, rays: Any, metric: Any, u: Any, v: Any) -> Any:
    way_a = rays[1, 0] - rays[0, 0] + u * rays[2, 0] + v * rays[3, 0]
    way_y = rays[1, 1] - rays[0, 1] + u * rays[2, 1] + v * rays[3, 1]
    way_x = rays[1, 2] - rays[0, 2] + u * rays[2, 2] + v * rays[3, 2]
    if abs(way_a) < 1e-6:
        way_a = 1e-6
    squared = (
        metric[0, 0] * way_a * way_a
        + metric[1, 1] * way_y * way_y
        + metric[2, 2] * way_x * way_x
        + 2 * (metric[0, 1] * way_a * way_y + metric[0, 2] * way_a * way_x + metric[1, 2] * way_y * way_x)
    )
    levels = _ray(packed, bricks, sparse, rays[0], way_a, way_y, way_x)
    return np.float32(levels * step * math.sqrt(squared) / abs(way_a))


@_compile
def _project_window(
    packed: Any, bricks: Any, sparse: Any, step: Any, rays: Any, metric: Any, image: Any, row0: Any, row1: Any,
    column0: Any, column1: Any,
) -> None:  # fmt: skip
    for left in range(column0, column1, _TILE):
        for row in range(row0, row1):
            for column in range(left, min(left + _TILE, column1)):
                image[row, column] = _integral(packed, bricks, sparse, step, rays, metric, column, row)


@_compile
def _project_pixels(
    packed: Any, bricks: Any, sparse: Any, step: Any, rays: Any, metric: Any, pixels_uv: Any, values: Any
) -> None:
    for number in range(len(values)):
        u, v = pixels_uv[number, 0], pixels_uv[number, 1]
        values[number] = _integral(packed, bricks, sparse, step, rays, metric, u, v)


def warm_up() -> None:
    """Compile everything there is, or load it from the disk."""
    from ..geometry import rigid
    from ..image import Volume
    from .geometry import CArm
    from .project import line_integrals, pixel_line_integrals

    geometry = CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(16)
    volume = Volume(np.ones((4, 4, 4), np.float32), rigid(np.eye(3), np.zeros(3)))
    line_integrals(volume, geometry)
    pixel_line_integrals(volume, geometry, [[8, 8]])


if __name__ == "__main__":
    warm_up()
