"""How a frame differs from the background beside cement: exposure, and movement of the patient or the C-arm.

Exposure changes the logarithm by a constant, by a factor when the tube voltage or the share of scatter changes, and by
a slow slope over the picture. A movement in the plane of the picture shifts it. All six figures come from one robust
fit to the pixels without cement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from .background import Background, Image

_Pixel = TypeVar("_Pixel", bound=np.generic)

#: About this many pixels are enough for six figures.
_PIXELS = 8_000
_ROUNDS = 5
#: Residuals beyond so many standard deviations pull no more than these.
_HUBER = 1.5
#: What exposure does beside a constant is small: standard deviations of factor and slopes.
_FACTOR_SD, _SLOPE_SD = 0.15, 0.15
#: A shift of more than half a pixel is followed by whole pixels.
_WHOLE = 0.6
#: Pixels of the picture in which whole shifts are searched, and how far [binned pixels].
_SEARCH_STEP = 4


@dataclass(frozen=True)
class Alignment:
    """
    Attributes:
        whole: (rows, columns) by which the frame is moved back, in whole pixels.
        part: the rest of the shift, in pixels.
        exposure: constant, factor, and slopes along rows and columns of the logarithm.
        noise: of the quiet pixels, in units of the expected one; 1 when all is as before.
    """

    whole: tuple[int, int]
    part: FloatArray
    exposure: FloatArray
    noise: float

    @property
    def shift_pixels(self) -> FloatArray:
        """(rows, columns) by which the frame's picture lies beside the background's."""
        return np.asarray(self.whole, float) + self.part


def align(
    background: Background, log_frame: Image, quiet: NDArray[np.bool_], start: tuple[int, int] = (0, 0)
) -> Alignment:
    """Fit a smoothed frame to the background.

    Args:
        log_frame: (rows, columns) logarithm of the smoothed frame.
        quiet: pixels without cement, tools and faults.
        start: whole shift of the frame before.
    """
    first = _fit(background, log_frame, quiet, start)
    if first.noise < 2.0:
        return first
    searched = _fit(background, log_frame, quiet, _coarse_shift(background, log_frame, quiet))
    return min(first, searched, key=lambda found: found.noise)


def moved_back(image: NDArray[_Pixel], whole: tuple[int, int]) -> NDArray[_Pixel]:
    """An image moved by whole pixels; zero or false comes in from outside."""
    if whole == (0, 0):
        return image
    result = np.zeros_like(image)
    (to_rows, from_rows), (to_columns, from_columns) = map(_overlap, image.shape, whole)
    result[to_rows, to_columns] = image[from_rows, from_columns]
    return result


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """Where an axis moved back by a shift is filled, and from where."""
    return slice(max(-shift, 0), size - max(shift, 0)), slice(max(shift, 0), size - max(-shift, 0))


def expected_log(background: Background, alignment: Alignment, base: Image | None = None) -> Image:
    """What the frame would be without cement, moved back by whole pixels; `base` instead of the smoothed background."""
    log = background.log_signal if base is None else base
    a, b = -alignment.part
    shifted = log + np.float32(a) * background.gradient[0] + np.float32(b) * background.gradient[1]
    if alignment.part.any():
        rr, rc, cc = background.curvature
        shifted += np.float32(a * a / 2) * rr + np.float32(a * b) * rc + np.float32(b * b / 2) * cc
    constant, factor, along_rows, along_columns = alignment.exposure.astype(np.float32)
    y, x = _coordinates(log.shape)
    return (
        shifted + constant + factor * (shifted - np.float32(background.median_log)) + along_rows * y + along_columns * x
    )


def _fit(
    background: Background, log_frame: Image, quiet: NDArray[np.bool_], whole: tuple[int, int], depth: int = 0
) -> Alignment:
    stride = max(1, round(float(np.sqrt(np.count_nonzero(quiet) / _PIXELS))))
    grid = (slice(stride // 2, None, stride),) * 2
    here = quiet[grid]
    moved = moved_back(log_frame, whole)[grid][here].astype(float)
    log, sigma = background.log_signal[grid][here].astype(float), background.sigma[grid][here].astype(float)
    rows, columns = (one[grid][here].astype(float) for one in background.gradient)
    rr, rc, cc = (one[grid][here].astype(float) for one in background.curvature)
    y, x = np.broadcast_arrays(*_coordinates(quiet.shape))
    system = np.column_stack([np.ones_like(log), log - background.median_log, y[grid][here], x[grid][here]])
    prior = np.array([0.0, 1 / _FACTOR_SD**2, 1 / _SLOPE_SD**2, 1 / _SLOPE_SD**2, 0.0, 0.0])
    values, part = np.zeros(6), np.zeros(2)
    noise = 1.0
    for _ in range(_ROUNDS):
        a, b = -part
        shifted = log + a * rows + b * columns + a * a / 2 * rr + a * b * rc + b * b / 2 * cc
        jacobian = np.column_stack([system, -(rows + a * rr + b * rc), -(columns + a * rc + b * cc)])
        residual = moved - shifted - system @ values[:4]
        score = np.abs(residual) / sigma
        noise = float(np.median(score)) / 0.6745
        weight = np.minimum(1.0, _HUBER * max(noise, 1.0) / np.maximum(score, 1e-9)) / sigma**2
        normal = jacobian.T @ (weight[:, None] * jacobian) + np.diag(prior) + 1e-9 * np.eye(6)
        step = np.linalg.solve(normal, jacobian.T @ (weight * residual) - prior * values)
        values = values + step
        part = np.clip(part + step[4:], -1.5, 1.5)
        if np.abs(step).max() < 1e-4:
            break
    if depth < 3 and np.abs(part).max() > _WHOLE:
        further = np.rint(part).astype(int)
        return _fit(background, log_frame, quiet, (whole[0] + further[0], whole[1] + further[1]), depth + 1)
    return Alignment(whole, part, values[:4], noise)


def _coarse_shift(background: Background, log_frame: Image, quiet: NDArray[np.bool_]) -> tuple[int, int]:
    """The whole shift of the best match between coarse pictures, by correlation."""
    from scipy.ndimage import gaussian_filter

    def coarse(image: Image) -> NDArray:
        rows, columns = (size // _SEARCH_STEP * _SEARCH_STEP for size in image.shape)
        small = image[:rows, :columns].reshape(rows // _SEARCH_STEP, _SEARCH_STEP, columns // _SEARCH_STEP, -1)
        return small.mean(axis=(1, 3))

    weight = coarse(quiet.astype(np.float32))

    def detail(image: Image) -> NDArray:
        small = coarse(image)
        return (small - gaussian_filter(small, 4.0)) * weight

    spectrum = np.fft.rfft2(detail(log_frame)) * np.conj(np.fft.rfft2(detail(background.log_signal)))
    match = np.fft.irfft2(spectrum, s=weight.shape)
    row, column = np.unravel_index(int(np.argmax(match)), match.shape)
    rows, columns = match.shape
    row, column = (row + rows // 2) % rows - rows // 2, (column + columns // 2) % columns - columns // 2
    return int(row) * _SEARCH_STEP, int(column) * _SEARCH_STEP


def _coordinates(shape: tuple[int, ...]) -> tuple[Image, Image]:
    """Rows and columns from -1 to 1 over the picture, to be broadcast."""
    rows, columns = shape
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    return y.astype(np.float32), x.astype(np.float32)
