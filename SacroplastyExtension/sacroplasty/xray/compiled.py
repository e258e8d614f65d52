"""The projector's inner loops, compiled by numba. Imported only where numba is installed.

The compiled code is kept on disk (beside `compiled_loops.py`, or in the user's cache folder where that may not be
written to), so it is made once for each installation: `python -m sacroplasty.xray.compiled` does it ahead of the first
picture. It holds no interpreter lock and shares no state, so it may run in any number of threads at a time; threads are
plain ones, because numba's own thread pools must not be entered from two threads at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import compiled_loops as loops
from .projectable import Packed
from .rays import Rays
from .threads import share

#: Rows of the detector that one thread takes at a time.
_ROWS_AT_ONCE = 8
_PIXELS_AT_ONCE = 512
#: One level is this part of the largest attenuation.
_LEVELS = 32767
#: Asking the bricks pays when a fifth of the way leads through nothing.
_WORTH_ASKING = 0.8


def survey(voxels: NDArray[np.float32]) -> tuple[bool, float, NDArray[np.int64]]:
    """Whether all values are numbers, the greatest size of any, and first and last index (3, 2) that is not zero."""
    finite, greatest, bounds = loops.survey(voxels)
    return bool(finite), float(greatest), bounds


def pack(voxels: NDArray[np.float32], axis: int, greatest: float) -> Packed:
    """Voxels (k, j, i) ready to be stepped through along an axis.

    Args:
        greatest: size of the largest, which becomes the largest level.
    """
    step = greatest / _LEVELS
    slices = np.moveaxis(voxels, axis, 0)
    count, rows, columns = slices.shape
    # The second layer at the far end lets a sample on the last index read its neighbours.
    levels = np.zeros((count, rows + 3, columns + 3), np.int16)
    loops.pack(slices, np.float32(1 / step), levels)
    bricks = np.zeros(
        [(size >> shift) + 1 for size, shift in zip(levels.shape, loops.BRICK_SHIFTS, strict=True)], np.uint8
    )
    loops.mark_bricks(levels, bricks)
    sparse = bool(np.count_nonzero(bricks) < _WORTH_ASKING * bricks.size)
    return Packed(levels, bricks, step, sparse)


def project_window(
    packed: Packed, rays: Rays, image: NDArray[np.float32], window: tuple[slice, slice], threads: int
) -> None:
    """Write the line integrals of a window (rows, columns) of an image whose pixel 0, 0 is the rays' corner."""
    rows, columns = window
    arguments = _arguments(packed, rays)

    def part(number: int) -> None:
        first = rows.start + number * _ROWS_AT_ONCE
        last = min(first + _ROWS_AT_ONCE, rows.stop)
        loops.project_window(*arguments, image, first, last, columns.start, columns.stop)

    share(part, math.ceil((rows.stop - rows.start) / _ROWS_AT_ONCE), threads)


def project_pixels(packed: Packed, rays: Rays, pixels_uv: NDArray[np.float64], threads: int) -> NDArray[np.float32]:
    """Line integrals (n,) to pixel coordinates (n, 2)."""
    values = np.zeros(len(pixels_uv), np.float32)
    arguments = _arguments(packed, rays)

    def part(number: int) -> None:
        span = slice(number * _PIXELS_AT_ONCE, (number + 1) * _PIXELS_AT_ONCE)
        loops.project_pixels(*arguments, pixels_uv[span], values[span])

    share(part, math.ceil(len(values) / _PIXELS_AT_ONCE), threads)
    return values


def _arguments(packed: Packed, rays: Rays) -> tuple[Any, ...]:
    """What all loops take, with the indices in the order stepping axis, y, x."""
    order = [rays.axis, *rays.others]
    matrix = np.ascontiguousarray(np.stack([rays.source, rays.corner, rays.along_u, rays.along_v])[:, order])
    metric = np.ascontiguousarray(rays.metric[np.ix_(order, order)])
    return packed.levels, packed.bricks, packed.sparse, packed.step, matrix, metric


def warm_up() -> None:
    """Compile everything, or load it from the disk, and see that it works.

    Raises:
        Exception: of numba's, when it cannot compile; RuntimeError when what it compiled is wrong.
    """
    voxels = np.ones((4, 4, 4), np.float32)
    rays = Rays(
        axis=0,
        source=np.array([-10.0, 1.5, 1.5]),
        corner=np.array([10.0, 1.5, 1.5]),
        along_u=np.array([0.0, 0.0, 0.1]),
        along_v=np.array([0.0, 0.1, 0.0]),
        metric=np.eye(3),
    )
    finite, greatest, bounds = survey(voxels)
    packed = pack(voxels, 0, greatest)
    image = np.zeros((1, 1), np.float32)
    project_window(packed, rays, image, (slice(0, 1), slice(0, 1)), 1)
    values = project_pixels(packed, rays, np.zeros((1, 2)), 1)
    if not (finite and bounds.tolist() == [[0, 3]] * 3 and np.allclose([image[0, 0], values[0]], 4.0, rtol=1e-3)):
        raise RuntimeError(f"the compiled projector finds {image[0, 0]} where there is 4")


if __name__ == "__main__":
    warm_up()
