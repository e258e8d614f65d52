"""How a frame differs from the background beside cement: exposure, and movement of the patient or the C-arm.

Exposure changes the logarithm by a constant, by a factor when the tube voltage or the share of scatter changes, and by
slow changes over the picture. A movement shifts the picture, turns it, and stretches it a little where the patient
comes nearer to the source. All figures come from robust fits to the pixels without cement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from .background import Background, Image, detail

_Pixel = TypeVar("_Pixel", bound=np.generic)

#: About this many pixels are enough for so few figures.
_PIXELS = 8_000
_ROUNDS = 5
#: Residuals beyond so many standard deviations pull no more than these.
_HUBER = 1.5
#: What exposure does beside a constant is small: standard deviations of the factor and of slow changes.
_FACTOR_SD, _SLOW_SD = 0.15, 0.15
_LARGEST_FACTOR, _LEAST_CONTRAST, _NEVER = 0.4, 5.0, 1e12
#: With fewer pixels on edges a shift cannot be told, and does not matter.
_FEWEST_EDGES = 100
#: Without anything fine to be seen there is no shift: weight against it [per square pixel].
_STILL = 10.0
#: By how much a picture turns and stretches at its borders, standard deviation [pixels].
_WARP_SD = 0.1
#: Median of the absolute value of a normal variable of standard deviation one.
MEDIAN_OF_NORMAL = 0.6745
#: A shift of more than half a pixel is followed by whole pixels, so often at most.
_WHOLE, _DEEPEST = 0.6, 6
#: Pixels of the picture in which whole shifts are searched, and how far [binned pixels].
_SEARCH_STEP = 4


@dataclass(frozen=True)
class Alignment:
    """
    Attributes:
        whole: (rows, columns) by which the frame is moved back, in whole pixels.
        part: the rest of the shift in the middle, in pixels.
        warp: (2, 2), how much further (rows, columns) are shifted at the borders, by row and by column from -1 to 1.
        exposure: constant and factor of the logarithm.
        slow: coefficients of its slow changes over the picture (see `_slow_terms`).
        noise: of the quiet pixels, in units of the expected one; 1 when all is as before.
    """

    whole: tuple[int, int]
    part: FloatArray
    warp: FloatArray
    exposure: FloatArray
    slow: FloatArray
    noise: float

    @property
    def shift_pixels(self) -> FloatArray:
        """(rows, columns) by which the middle of the frame's picture lies beside the background's."""
        return np.asarray(self.whole, float) + self.part

    def field(self, shape: tuple[int, ...]) -> tuple[Image, Image]:
        """The shift of each pixel (rows, columns) less the whole one."""
        y, x = _grid(shape)
        row, column = (
            np.float32(shift) + np.float32(by_row) * y + np.float32(by_column) * x
            for shift, (by_row, by_column) in zip(self.part, self.warp, strict=True)
        )
        return row, column


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


def aligned(image: Image, alignment: Alignment) -> Image:
    """A frame resampled in the place of the background."""
    from scipy.ndimage import affine_transform

    per_pixel = 2 * alignment.warp / (np.array(image.shape) - 1)
    offset = alignment.shift_pixels - alignment.warp.sum(axis=1)
    result: Image = affine_transform(image, np.eye(2) + per_pixel, offset, order=3, mode="nearest")
    return result


def moved_back(image: NDArray[_Pixel], whole: tuple[int, int]) -> NDArray[_Pixel]:
    """An image moved by whole pixels; zero or false comes in from outside."""
    if whole == (0, 0):
        return image
    result = np.zeros_like(image)
    (to_rows, from_rows), (to_columns, from_columns) = map(_overlap, image.shape, whole)
    result[to_rows, to_columns] = image[from_rows, from_columns]
    return result


def settled(image: Image, alignment: Alignment) -> Image:
    """An image that was moved back by whole pixels, moved by the rest of the shift in its middle."""
    from scipy.ndimage import shift

    result: Image = shift(image, -alignment.part, order=1, mode="nearest")
    return result


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """Where an axis moved back by a shift is filled, and from where."""
    return slice(max(-shift, 0), size - max(shift, 0)), slice(max(shift, 0), size - max(-shift, 0))


def expected_log(background: Background, alignment: Alignment, base: Image | None = None) -> Image:
    """What the frame would be without cement, moved back by whole pixels; `base` instead of the smoothed background."""
    shifted = background.log_signal.at(alignment.field(background.log_signal.values.shape), base)
    return shifted + _change(shifted, background, alignment)


def exposure_change(background: Background, alignment: Alignment) -> Image:
    """By how much the logarithm of a frame that was put in the place of the background differs from it."""
    return _change(background.log_signal.values, background, alignment)


def _change(log_signal: Image, background: Background, alignment: Alignment) -> Image:
    constant, factor = alignment.exposure.astype(np.float32)
    change: Image = constant + factor * (log_signal - np.float32(background.median_log))
    for coefficient, term in zip(alignment.slow.astype(np.float32), _slow_terms(log_signal.shape), strict=True):
        change += coefficient * term
    return change


def _fit(
    background: Background, log_frame: Image, quiet: NDArray[np.bool_], whole: tuple[int, int], depth: int = 0
) -> Alignment:
    stride = max(1, round(float(np.sqrt(np.count_nonzero(quiet) / _PIXELS))))
    grid = (slice(stride // 2, None, stride),) * 2
    quiet = quiet & moved_back(np.ones(quiet.shape, bool), whole)
    here = quiet[grid]

    def taken(image: NDArray) -> FloatArray:
        return image[grid][here].astype(float)

    sigma = taken(background.sigma)
    # Scatter hardly moves with the patient and exposure is slow too: the shift is told by what is fine.
    part, warp = _fine_shift(background, moved_back(detail(log_frame), whole), quiet & background.edges)
    if depth < _DEEPEST and np.abs(part).max() > _WHOLE:
        further = np.rint(part).astype(int)
        return _fit(background, log_frame, quiet, (whole[0] + further[0], whole[1] + further[1]), depth + 1)
    unexposed = Alignment(whole, part, warp, np.zeros(2), np.zeros(len(_slow_terms(quiet.shape))), 1.0)
    shifted = taken(expected_log(background, unexposed))
    slow = [taken(np.broadcast_to(term, quiet.shape)) for term in _slow_terms(quiet.shape)]
    system = np.column_stack([np.ones_like(shifted), shifted - background.median_log, *slow])
    # In a picture without contrast the noise of the background would be taken for one.
    contrast = float(np.std(shifted)) > _LEAST_CONTRAST * float(np.median(sigma))
    prior = np.array([0.0, 1 / _FACTOR_SD**2 if contrast else _NEVER, *[1 / _SLOW_SD**2] * len(slow)])
    values, noise = _robust(system, taken(moved_back(log_frame, whole)) - shifted, sigma, prior)
    values[1] = np.clip(values[1], -_LARGEST_FACTOR, _LARGEST_FACTOR)
    return Alignment(whole, part, warp, values[:2], values[2:], noise)


def _fine_shift(background: Background, moved: Image, edges: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """The rest of the shift and its change towards the borders, in pixels, and with them the contrast, by Gauss and
    Newton's method; 0 without edges."""
    places = np.flatnonzero(edges)
    if len(places) < _FEWEST_EDGES:
        return np.zeros(2), np.zeros((2, 2))
    places = places[:: max(1, len(places) // _PIXELS)]
    detailed = background.log_detail
    fine, moved, sigma = (one.ravel()[places].astype(float) for one in (detailed.values, moved, background.sigma))
    rows, columns = (one.ravel()[places].astype(float) for one in detailed.gradient)
    rr, rc, cc = (one.ravel()[places].astype(float) for one in detailed.curvature)
    y, x = (np.broadcast_to(axis, edges.shape).ravel()[places].astype(float) for axis in _grid(edges.shape))
    # What each of the figures shifts a pixel by: the middle, and how that changes by row and by column.
    by = np.stack([np.ones_like(y), y, x])
    figures = np.zeros((2, 3))
    # The shift first: far from the truth a picture would be turned and stretched to fit.
    for known in (1, 3):
        prior = np.array([1 / _FACTOR_SD**2, *[_STILL, 1 / _WARP_SD**2, 1 / _WARP_SD**2][:known] * 2])
        for _ in range(_ROUNDS):
            a, b = -figures @ by
            shifted = fine + a * rows + b * columns + a * a / 2 * rr + a * b * rc + b * b / 2 * cc
            down, across = -(rows + a * rr + b * rc) * by[:known], -(columns + a * rc + b * cc) * by[:known]
            step = _robust(np.column_stack([shifted, *down, *across]), moved - shifted, sigma, prior, rounds=1)[0][1:]
            figures[:, :known] = np.clip(figures[:, :known] + step.reshape(2, known), -1.5, 1.5)
            if np.abs(step).max() < 0.003:
                break
        if np.abs(figures[:, 0]).max() > _WHOLE:
            break
    return figures[:, 0], figures[:, 1:]


def _robust(
    system: FloatArray, values: FloatArray, sigma: FloatArray, prior: FloatArray, rounds: int = _ROUNDS
) -> tuple[FloatArray, float]:
    """Coefficients of a linear fit that outliers do not pull (Huber's weights), and the noise in units of `sigma`."""
    fitted = np.zeros(system.shape[1])
    noise = 1.0
    for _ in range(rounds):
        residual = values - system @ fitted
        score = np.abs(residual) / sigma
        noise = float(np.median(score)) / MEDIAN_OF_NORMAL
        weight = np.minimum(1.0, _HUBER * max(noise, 1.0) / np.maximum(score, 1e-9)) / sigma**2
        weighted = weight[:, None] * system
        step = np.linalg.solve(system.T @ weighted + np.diag(prior + 1e-9), weighted.T @ residual - prior * fitted)
        fitted = fitted + step
        if np.abs(step).max() < 1e-4:
            break
    return fitted, noise


def _coarse_shift(background: Background, log_frame: Image, quiet: NDArray[np.bool_]) -> tuple[int, int]:
    """The whole shift of the best match between coarse pictures, by correlation."""

    def coarse(image: Image) -> NDArray:
        rows, columns = (size // _SEARCH_STEP * _SEARCH_STEP for size in image.shape)
        small = image[:rows, :columns].reshape(rows // _SEARCH_STEP, _SEARCH_STEP, columns // _SEARCH_STEP, -1)
        return small.mean(axis=(1, 3))

    weight = coarse(quiet.astype(np.float32))

    fine = [(coarse(one) * weight) for one in (detail(log_frame), background.log_detail.values)]
    spectrum = np.fft.rfft2(fine[0]) * np.conj(np.fft.rfft2(fine[1]))
    match = np.fft.irfft2(spectrum, s=weight.shape)
    row, column = np.unravel_index(int(np.argmax(match)), match.shape)
    rows, columns = match.shape
    row, column = (row + rows // 2) % rows - rows // 2, (column + columns // 2) % columns - columns // 2
    return int(row) * _SEARCH_STEP, int(column) * _SEARCH_STEP


def _slow_terms(shape: tuple[int, ...]) -> list[Image]:
    """Planes and parabolas over the picture, rows and columns from -1 to 1, to be broadcast."""
    y, x = _grid(shape)
    return [y, x, y * y, x * y, x * x]


def _grid(shape: tuple[int, ...]) -> tuple[Image, Image]:
    """Rows and columns from -1 to 1, to be broadcast."""
    rows, columns = shape
    y, x = (axis.astype(np.float32) for axis in np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j])
    return y, x
