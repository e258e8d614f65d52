"""Cement in one fluoroscopic view: what has become darker since before the injection, and by how much.

The logarithm of the image before over the image now is the cement's attenuation along each ray. Noise, the exposure's
drift and small shifts of the patient are taken from the images themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..xray.geometry import XrayGeometry

#: Fewer frames do not tell the noise from the anatomy.
FEWEST_REFERENCE_FRAMES = 4

#: Side of the square over which counts are averaged [pixels].
_SMOOTHING = 3

#: Pixels finer than this only cost time; cement blobs of interest measure 5 mm. At the detector [mm].
_COARSEST_PIXEL_MM = 1.0

#: A pixel's cement must stand out of the noise by this many standard deviations, in at least this many pixels that hang
#: together. Of 65 536 pixels of pure noise 0.02 exceed 5 by chance, and not six together.
_CORE_SIGMA = 5.0
_CORE_PIXELS = 6
#: From there cement reaches on to where it hardly stands out.
_RIM_SIGMA = 2.5

#: Noisier than this (standard deviation of the logarithm) a pixel cannot show 2 mm of cement: too few quanta.
_NOISIEST = 0.25
_SATURATED = 0.98 * 65535

#: A residual shift that is left after compensation, as part of a pixel.
_RESIDUAL_SHIFT_PIXELS = 0.05

#: Larger shifts in the plane of the patient are not compensated: the view counts as moved [mm].
_LARGEST_SHIFT_MM = 0.5

_DARK = 0.2
_BRIGHT_SHARE = 0.05
_EXPOSURE_CHANGE = 0.7


@dataclass(frozen=True)
class Background:
    """A view before the injection.

    Attributes:
        geometry: of the binned image.
        binning: detector pixels per image pixel, each way.
        log_signal: (rows, columns) logarithm of the mean signal, smoothed.
        log_sharp: likewise, not smoothed.
        noise_factor: variance of the logarithm of a pixel times its signal: one over the quanta per unit of signal.
        sigma: standard deviation of the logarithm of a later, smoothed frame against it.
        usable: where a pixel is neither saturated nor too dark.
        saturated_share: of the pixels.
    """

    geometry: XrayGeometry
    full_geometry: XrayGeometry
    binning: int
    log_signal: NDArray[np.float64]
    log_sharp: NDArray[np.float64]
    noise_factor: float
    gradient: tuple[NDArray[np.float64], NDArray[np.float64]]
    sigma: NDArray[np.float64]
    usable: NDArray[np.bool_]
    median_signal: float
    saturated_share: float


@dataclass(frozen=True)
class CementMap:
    """Cement seen in one frame, on the background's pixels.

    Attributes:
        attenuation: (rows, columns) line integral of the cement, smoothed, with noise around zero where there is none.
        sharp: likewise without smoothing, which would lose cement at steep edges: the logarithm of a mean is not the
            mean of the logarithms.
        sigma: standard deviation of `attenuation`.
        core: pixels that certainly show cement.
        detected: core with its faint rim.
        fault: why the frame tells nothing; empty when it does.
        shift_mm: of the patient in the image plane, as far as compensated.
    """

    attenuation: NDArray[np.float64]
    sharp: NDArray[np.float64]
    sigma: NDArray[np.float64]
    core: NDArray[np.bool_]
    detected: NDArray[np.bool_]
    fault: str
    shift_mm: float


def learn_background(frames: Sequence[NDArray], geometry: XrayGeometry) -> Background:
    """The view before the injection from at least four frames of one pose, trocar in place.

    Args:
        frames: each (rows, columns), raw detector signal.

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
    binning = _binning(geometry)
    binned = np.stack([_bin(frame, binning) for frame in frames])
    smooth = np.stack([_smooth(frame) for frame in binned])
    mean = smooth.mean(axis=0)
    saturated = mean >= _SATURATED
    lit = (mean > 0) & ~saturated
    if np.count_nonzero(lit) < 0.1 * lit.size:
        raise ImageError("the reference frames are black or saturated; correct the exposure first")

    # Quantum noise: the variance of the logarithm is inverse to the signal, with one factor for the whole detector.
    logs = np.log(np.maximum(smooth, _least_signal(binning)))
    log_signal = np.log(np.maximum(mean, _least_signal(binning)))
    residual = logs - log_signal
    residual -= np.median(residual[:, lit], axis=1)[:, None, None]
    count = len(frames)
    factor = float(((residual**2).sum(axis=0) * mean)[lit].mean()) / (count - 1)
    gradient_rows, gradient_columns = np.gradient(log_signal)
    variance = factor / np.maximum(mean, _least_signal(binning)) * (1 + 1 / count)
    sigma = np.sqrt(variance + _RESIDUAL_SHIFT_PIXELS**2 * (gradient_rows**2 + gradient_columns**2))
    return Background(
        geometry=geometry if binning == 1 else geometry.resampled(columns // binning),
        full_geometry=geometry,
        binning=binning,
        log_signal=log_signal,
        log_sharp=_log(binned.mean(axis=0), factor * _SMOOTHING**2 / count, binning),
        noise_factor=factor * _SMOOTHING**2,
        gradient=(gradient_rows, gradient_columns),
        sigma=np.maximum(sigma, 1e-4),
        usable=lit & (variance < _NOISIEST**2),
        median_signal=float(np.median(mean[lit])),
        saturated_share=float(saturated.mean()),
    )


def map_cement(background: Background, frame: NDArray, known: NDArray[np.bool_] | None, plane_mm: float) -> CementMap:
    """Find cement in a frame.

    Args:
        frame: (rows, columns) raw signal in the pose of the background.
        known: cement of the frame before, which is left out when the patient's shift is measured.
        plane_mm: size of a background pixel in the patient.
    """
    from scipy.ndimage import binary_dilation

    binned = _bin(frame, background.binning)
    smooth = _smooth(binned)
    usable = background.usable
    attenuation = background.log_signal - np.log(np.maximum(smooth, _least_signal(background.binning)))
    quiet = usable if known is None else usable & ~binary_dilation(known, iterations=6)
    drift = float(np.median(attenuation[quiet])) if quiet.any() else 0.0
    attenuation -= drift
    shift = _shift_pixels(background, attenuation, quiet)
    attenuation -= background.gradient[0] * shift[0] + background.gradient[1] * shift[1]
    sharp = background.log_sharp - _log(binned, background.noise_factor, background.binning) - drift
    sharp -= background.gradient[0] * shift[0] + background.gradient[1] * shift[1]
    attenuation[~usable] = sharp[~usable] = 0.0

    score = np.where(usable, attenuation / background.sigma, 0.0)
    core = large_pieces(score > _CORE_SIGMA, _CORE_PIXELS)
    detected = _connected_to(core, score > _RIM_SIGMA)
    shift_mm = float(np.hypot(*shift)) * plane_mm
    return CementMap(
        attenuation=attenuation,
        sharp=sharp,
        sigma=np.where(usable, background.sigma, np.inf),
        core=core,
        detected=detected,
        fault=_fault(background, smooth, drift, shift_mm),
        shift_mm=shift_mm,
    )


def _fault(background: Background, smooth: NDArray, drift: float, shift_mm: float) -> str:
    if float(np.median(smooth)) < _DARK * background.median_signal:
        return "black"
    if float((smooth >= _SATURATED).mean()) > background.saturated_share + _BRIGHT_SHARE:
        return "saturated"
    if abs(drift) > _EXPOSURE_CHANGE:
        return "exposure changed"
    if not shift_mm <= _LARGEST_SHIFT_MM:
        return "moved"
    return ""


def _shift_pixels(background: Background, attenuation: NDArray, quiet: NDArray[np.bool_]) -> tuple[float, float]:
    """Shift (rows, columns) that explains the differences best: Lucas and Kanade's equations, solved robustly."""
    rows, columns = (gradient[quiet] for gradient in background.gradient)
    difference, sigma = attenuation[quiet], background.sigma[quiet]
    shift = np.zeros(2)
    for _ in range(4):
        left = difference - rows * shift[0] - columns * shift[1]
        # Huber's weights: what is new in the image, cement above all, may not pull.
        weight = np.minimum(1.0, 2.0 * sigma / np.maximum(np.abs(left), 1e-9)) / sigma**2
        normal = np.array(
            [
                [(weight * rows * rows).sum(), (weight * rows * columns).sum()],
                [(weight * rows * columns).sum(), (weight * columns * columns).sum()],
            ]
        )
        if not np.linalg.det(normal) > 1e-6:
            return 0.0, 0.0
        shift = np.linalg.solve(normal, [(weight * rows * difference).sum(), (weight * columns * difference).sum()])
    return float(shift[0]), float(shift[1])


def widened(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """The mask grown by so many pixels in all directions, diagonals included."""
    from scipy.ndimage import maximum_filter

    # A square is separable, which makes this many times faster than repeated dilation.
    grown: NDArray[np.bool_] = maximum_filter(mask.view(np.uint8), 2 * pixels + 1, mode="constant").view(np.bool_)
    return grown


def _binning(geometry: XrayGeometry) -> int:
    columns, rows = geometry.detector_pixels
    wanted = int(_COARSEST_PIXEL_MM / max(geometry.pixel_spacing_mm))
    return next((size for size in range(wanted, 1, -1) if columns % size == 0 and rows % size == 0), 1)


def _bin(frame: NDArray, binning: int) -> NDArray[np.float64]:
    values = np.asarray(frame, float)
    if binning > 1:
        rows, columns = values.shape
        values = values.reshape(rows // binning, binning, columns // binning, binning).mean(axis=(1, 3))
    return values


def _smooth(binned: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.ndimage import uniform_filter

    return uniform_filter(binned, _SMOOTHING, mode="nearest")


def _log(binned: NDArray[np.float64], noise_factor: float, binning: int) -> NDArray[np.float64]:
    """Logarithm of the mean behind a noisy signal: that of the noisy signal is on average half its variance lower."""
    signal = np.maximum(binned, _least_signal(binning))
    return np.log(signal) + 0.5 * np.minimum(noise_factor / signal, 1.0)


def _least_signal(binning: int) -> float:
    """Half a count in the pixels behind a smoothed one: keeps the logarithm finite."""
    return 0.5 / (_SMOOTHING * binning) ** 2


def large_pieces(mask: NDArray[np.bool_], fewest: int) -> NDArray[np.bool_]:
    """The mask without pieces of fewer pixels; diagonal neighbours hang together."""
    from scipy.ndimage import label

    pieces, count = label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return mask
    large = np.bincount(pieces.ravel()) >= fewest
    large[0] = False
    return large[pieces]


def _connected_to(core: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    pieces, count = label(mask | core, structure=np.ones((3, 3)))
    keep = np.zeros(count + 1, bool)
    keep[np.unique(pieces[core])] = True
    keep[0] = False
    return keep[pieces]
