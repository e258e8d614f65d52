"""A view before the injection: what is to be compared with, how noisy it is, and where it can be relied on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..xray.field import Field, find_field
from ..xray.geometry import XrayGeometry
from .frames import binned, binned_geometry, binning_of

Image = NDArray[np.float32]

#: Fewer frames do not tell the noise from the anatomy.
FEWEST_REFERENCE_FRAMES = 4
#: Side of the square over which counts are averaged [pixels].
SMOOTHING = 3

#: Noise is told for this many levels of signal, each a share of the pixels.
_LEVELS = 24
#: A pixel that flickers by this factor beyond the others of its brightness is broken.
_BROKEN = 6.0
#: Noisier than this (standard deviation of the logarithm) a pixel cannot show 2 mm of cement: too few quanta.
_NOISIEST = 0.25
#: A level that this share of the pixels holds, the highest of all, is where the detector saturates.
_SATURATED_SHARE = 1e-3
#: What is left of a shift after compensation, as part of a pixel.
_RESIDUAL_SHIFT_PIXELS = 0.05
#: With less of the image than this to look at there is nothing to be watched.
_LEAST_USABLE = 0.1


@dataclass(frozen=True)
class Background:
    """A view before the injection, on binned pixels.

    Attributes:
        geometry, full_geometry: of the binned and of the detector's own pixels.
        binning: detector pixels per image pixel, each way.
        field: circle and blades.
        log_signal: (rows, columns) logarithm of the mean signal, smoothed over 3 x 3 pixels.
        median_log: of the usable part of `log_signal`.
        log_sharp: likewise, not smoothed, without the bias that noise gives a logarithm.
        gradient: of `log_signal` along rows and columns, per pixel.
        curvature: its second derivatives along rows, rows and columns, and columns.
        sigma: standard deviation of the logarithm of a later smoothed frame against `log_signal`.
        sharp_variance: of the logarithm of a later frame that is not smoothed.
        usable: where a pixel lies in the field, works, is neither saturated nor too dark.
        white: signal at which the detector saturates; infinite when none was seen.
        least_signal: keeps logarithms finite.
    """

    geometry: XrayGeometry
    full_geometry: XrayGeometry
    binning: int
    field: Field
    log_signal: Image
    median_log: float
    log_sharp: Image
    gradient: tuple[Image, Image]
    curvature: tuple[Image, Image, Image]
    sigma: Image
    sharp_variance: Image
    usable: NDArray[np.bool_]
    white: float
    least_signal: float


def learn_background(frames: Sequence[NDArray], geometry: XrayGeometry) -> Background:
    """The view before the injection from at least four frames of one pose, trocar in place.

    Args:
        frames: each (rows, columns), larger values brighter.

    Raises:
        ImageError: for too few, frozen, black or saturated frames.
    """
    if len(frames) < FEWEST_REFERENCE_FRAMES:
        raise ImageError(
            f"{len(frames)} reference frames are too few: take at least {FEWEST_REFERENCE_FRAMES} before the injection"
        )
    columns, rows = geometry.detector_pixels
    if any(frame.shape != (rows, columns) for frame in frames):
        raise ImageError(f"a reference frame does not have the {columns} x {rows} pixels of its geometry")
    if all(np.array_equal(frame, frames[0]) for frame in frames[1:]):
        raise ImageError("all reference frames are identical: fluoroscopy is frozen; start it before the monitor")
    white = _white_level(frames[0])
    binning = binning_of(geometry)
    stack = np.stack([binned(frame, binning) for frame in frames])
    mean = stack.mean(axis=0)
    saturated = smoothed(mean) >= 0.98 * white
    try:
        field = find_field(mean)
    except ImageError:
        raise ImageError("the reference frames are black; correct the exposure first") from None
    lit = field.mask & ~saturated & (mean > 0)
    if np.count_nonzero(lit) < _LEAST_USABLE * lit.size:
        raise ImageError("the reference frames are black or saturated; correct the exposure first")

    least = 1e-4 * float(np.median(mean[lit]))
    log_signal = np.log(np.maximum(smoothed(mean), least))
    variance = _variance([np.log(np.maximum(smoothed(one), least)) for one in stack], log_signal, lit)
    raw_log = np.log(np.maximum(mean, least))
    raw_variance = _variance([np.log(np.maximum(one, least)) for one in stack], raw_log, lit)
    level = _by_level(variance, log_signal, lit)
    sharp_level = _by_level(raw_variance, log_signal, lit)
    broken = variance > _BROKEN * np.maximum(level, 1e-12)
    gradient = tuple(np.gradient(log_signal))
    steep = gradient[0] ** 2 + gradient[1] ** 2
    count = len(frames)
    usable = lit & ~broken & (level < _NOISIEST**2)
    if np.count_nonzero(usable) < _LEAST_USABLE * usable.size:
        raise ImageError("the reference frames are too noisy to show cement; raise the dose")
    return Background(
        geometry=binned_geometry(geometry, binning),
        full_geometry=geometry,
        binning=binning,
        field=field,
        log_signal=log_signal,
        median_log=float(np.median(log_signal[usable])),
        log_sharp=(raw_log + sharp_level / (2 * count)).astype(np.float32),
        gradient=(gradient[0], gradient[1]),
        curvature=(
            np.gradient(gradient[0], axis=0),
            np.gradient(gradient[0], axis=1),
            np.gradient(gradient[1], axis=1),
        ),
        sigma=np.sqrt(level * (1 + 1 / count) + _RESIDUAL_SHIFT_PIXELS**2 * steep + 1e-8).astype(np.float32),
        sharp_variance=sharp_level,
        usable=usable,
        white=white,
        least_signal=least,
    )


def smoothed(signal: Image) -> Image:
    """Means over 3 x 3 pixels."""
    from scipy.ndimage import uniform_filter

    result: Image = uniform_filter(signal, SMOOTHING, mode="nearest")
    return result


def _variance(logs: Sequence[Image], mean: Image, lit: NDArray[np.bool_]) -> Image:
    """Variance of each pixel over the frames, flicker of the whole picture apart."""
    total = np.zeros(mean.shape, np.float32)
    for log in logs:
        residual = log - mean
        total += (residual - np.median(residual[lit])) ** 2
    return total / np.float32(len(logs) - 1)


def _by_level(variance: Image, log_signal: Image, lit: NDArray[np.bool_]) -> Image:
    """The variance that pixels of a brightness have, which is better known than that of each."""
    values, variances = log_signal[lit], variance[lit]
    edges = np.quantile(values, np.linspace(0, 1, _LEVELS + 1))
    group = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _LEVELS - 1)
    count = np.bincount(group, minlength=_LEVELS)
    filled = count > 0
    mean = np.bincount(group, variances, minlength=_LEVELS)[filled] / count[filled]
    middle = np.bincount(group, values, minlength=_LEVELS)[filled] / count[filled]
    # Variances span decades, and brightness is a logarithm already. Darker than seen is noisier still.
    slope = -1.0
    darker = np.minimum(log_signal - middle[0], 0.0) * slope
    return np.exp(np.interp(log_signal, middle, np.log(np.maximum(mean, 1e-10))) + darker).astype(np.float32)


def _white_level(frame: NDArray) -> float:
    """The largest value, if many pixels have it."""
    most = frame.max()
    return float(most) if np.count_nonzero(frame == most) > _SATURATED_SHARE * frame.size else float("inf")
