"""Cement in one fluoroscopic view: what has become darker since before the injection, and by how much.

The logarithm of the image before over the image now is the cement's attenuation along each ray, once exposure and
movement are taken out (see `alignment`). Noise is told by the images themselves. Cement only darkens: what becomes
brighter was an instrument that moved, or another patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .alignment import Alignment, align, expected_log, moved_back
from .background import SMOOTHING, Background, Image, smoothed
from .frames import binned
from .pieces import connected_to, large_pieces, widened

#: A pixel's cement must stand out of the noise by this many standard deviations, in at least this many pixels that hang
#: together. Of 100 000 pixels of pure noise 0.03 exceed 5 by chance, and not six together.
CORE_SIGMA = 5.0
CORE_PIXELS = 6
#: From there cement reaches on to where it hardly stands out.
_RIM_SIGMA = 2.5

#: Changes over more pixels than this are none of cement; and the share of quiet pixels that tells little of them.
_SLOW_PIXELS, _FEW = 41, 0.1

#: Larger shifts in the plane of the patient are not compensated: the view counts as moved [mm].
_LARGEST_SHIFT_MM = 8.0
#: Signal against the reference below which the tube is off, and the factors of exposure that are compensated.
_DARK, _LARGEST_EXPOSURE = 0.05, 5.0
#: More of the picture saturated than before by this share is useless.
_BRIGHT_SHARE = 0.05
#: Noise beyond this many times the expected one is another picture.
_LARGEST_NOISE = 3.0
#: What has become brighter may fill so much of the patient's plane: noise and the rims of the trocar [mm2].
_BRIGHTER_MM2 = 30.0
#: Pixels beside known cement are left out of the fit.
_BESIDE_CEMENT_PIXELS = 6


@dataclass(frozen=True)
class CementMap:
    """Cement seen in one frame, on the background's pixels and in its place.

    Attributes:
        attenuation: (rows, columns) line integral of the cement, smoothed, with noise around zero where there is none.
        sharp: likewise without smoothing, which would lose cement at steep edges: the logarithm of a mean is not the
            mean of the logarithms.
        sigma: standard deviation of `attenuation`; infinite where nothing can be told.
        core: pixels that certainly show cement.
        detected: core with its faint rim.
        fault: why the frame tells nothing; empty when it does.
        shift_mm: of the patient in the image plane, as far as compensated.
        alignment: exposure and movement that were taken out; None when the frame is useless.
    """

    attenuation: Image
    sharp: Image
    sigma: Image
    core: NDArray[np.bool_]
    detected: NDArray[np.bool_]
    fault: str
    shift_mm: float
    alignment: Alignment | None


def map_cement(
    background: Background,
    frame: NDArray,
    known: CementMap | None,
    plane_mm: float,
) -> CementMap:
    """Find cement in a frame.

    Args:
        frame: (rows, columns), larger values brighter, in the pose of the background.
        known: the frame before, whose cement is left out when the exposure is fitted and whose shift is gone on from.
        plane_mm: size of a background pixel in the patient.
    """
    signal = background.detector.mended(binned(frame, background.binning))
    smooth = smoothed(signal)
    usable = background.usable
    level = float(np.median(smooth[usable])) / float(np.exp(background.median_log))
    if level < _DARK:
        return _useless(background, "black")
    # Smoothing spreads what is saturated, or text that is burned in, to the pixels beside it.
    saturated = widened(signal >= 0.98 * _white(background, frame), SMOOTHING // 2)
    if np.count_nonzero(saturated & usable) > _BRIGHT_SHARE * np.count_nonzero(usable):
        return _useless(background, "saturated")
    if not 1 / _LARGEST_EXPOSURE <= level <= _LARGEST_EXPOSURE:
        return _useless(background, "exposure changed")
    log = np.log(np.maximum(smooth, background.least_signal))
    quiet = usable & ~saturated
    if known is not None:
        quiet &= ~widened(known.detected, _BESIDE_CEMENT_PIXELS)
    start = (0, 0) if known is None or known.alignment is None else known.alignment.whole
    alignment = align(background, log, quiet, start)
    shift_mm = float(np.hypot(*alignment.shift_pixels)) * plane_mm
    if not shift_mm <= _LARGEST_SHIFT_MM:
        return _useless(background, "moved")
    if alignment.noise > _LARGEST_NOISE:
        return _useless(background, "another picture")

    attenuation = expected_log(background, alignment) - moved_back(log, alignment.whole)
    sharp_log: Image = np.log(np.maximum(signal, background.least_signal)) + background.sharp_variance / np.float32(2)
    sharp = expected_log(background, alignment, background.log_sharp) - moved_back(sharp_log, alignment.whole)
    # Tube voltage and scatter change the contrast of patient and cement alike.
    contrast = np.float32(1 + alignment.exposure[1])
    attenuation /= contrast
    sharp /= contrast
    # What was moved in from outside the field, or from beside a fault, tells nothing.
    usable = usable & moved_back(background.detector.clear & ~saturated, alignment.whole)
    sigma = background.sigma * np.float32(max(alignment.noise, 1.0))
    rest = _slow_rest(attenuation, sigma, usable & quiet)
    attenuation -= rest
    sharp -= rest
    attenuation[~usable] = sharp[~usable] = 0.0
    score = np.where(usable & background.watched, attenuation / sigma, 0.0)
    brighter = large_pieces(score < -CORE_SIGMA, CORE_PIXELS)
    fault = ""
    if np.count_nonzero(brighter) * plane_mm**2 > _BRIGHTER_MM2:
        fault = "the picture became brighter: an instrument moved, or its greys are inverted"
    core = large_pieces(score > CORE_SIGMA, CORE_PIXELS)
    return CementMap(
        attenuation=attenuation,
        sharp=sharp,
        sigma=np.where(usable, sigma, np.float32(np.inf)),
        core=core,
        detected=connected_to(core, score > _RIM_SIGMA),
        fault=fault,
        shift_mm=shift_mm,
        alignment=alignment,
    )


def _slow_rest(attenuation: Image, sigma: Image, quiet: NDArray[np.bool_]) -> Image:
    """What the quiet pixels around each pixel show though it is no cement: scatter that changes in a place as the
    patient breathes. Nothing where few of them are quiet."""
    from scipy.ndimage import uniform_filter

    bound = CORE_SIGMA * sigma
    # What stands out so far may be cement that was not there before.
    quiet = quiet & (attenuation <= bound)
    # Edges, and the field's border, tell little.
    usual = np.median(sigma[quiet]) if quiet.any() else np.float32(1)
    weight = np.where(quiet, np.minimum(usual / sigma, 1) ** 2, 0).astype(np.float32)
    shown = weight * np.maximum(attenuation, -bound)
    rest: Image = uniform_filter(shown, _SLOW_PIXELS) / (uniform_filter(weight, _SLOW_PIXELS) + _FEW)
    return rest.astype(np.float32)


def _white(background: Background, frame: NDArray) -> float:
    """Signal at which this frame saturates: as the reference did, or at the largest number that fits."""
    return min(background.white, float(np.iinfo(frame.dtype).max) if frame.dtype.kind == "u" else float("inf"))


def _useless(background: Background, fault: str) -> CementMap:
    shape = background.log_signal.values.shape
    nothing, none = np.zeros(shape, np.float32), np.zeros(shape, bool)
    return CementMap(nothing, nothing, np.full(shape, np.inf, np.float32), none, none, fault, float("nan"), None)
