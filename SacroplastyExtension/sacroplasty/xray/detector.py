"""From line integrals to frames and back: exposure, noise, and how a frame is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError

#: Signal behind the patient that automatic exposure aims at: an eighth of the 16-bit range, so that soft tissue beside
#: the bone does not saturate.
EXPOSURE_TARGET = 8000.0

_WHITE = 65535


def automatic_air_level(line_integrals: NDArray) -> float:
    """Signal of the unattenuated beam once automatic exposure brings the image's middle to `EXPOSURE_TARGET`.

    The middle half of rows and columns counts, as in a C-arm's dominant field. The level usually lies far beyond 16
    bit: air beside the patient saturates, as it does in fluoroscopy.

    Args:
        line_integrals: of shape (rows, columns).
    """
    rows, columns = line_integrals.shape
    middle = line_integrals[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
    return EXPOSURE_TARGET / float(np.exp(-middle.astype(float)).mean())


def expose(
    line_integrals: NDArray,
    rng: np.random.Generator,
    *,
    air_level: float,
    photons_per_pixel: float = 2000.0,
    blur_pixels: float = 0.0,
) -> NDArray[np.uint16]:
    """One frame of a detector that counts photons, uint16 of shape (rows, columns).

    Poisson noise of the photons, then the spread of light in the scintillator (which blurs image and noise alike), then
    digitisation. There is no scatter, no lag and no electronic noise.

    Args:
        line_integrals: of shape (rows, columns).
        air_level: signal of the unattenuated beam (see `automatic_air_level`); constant while the exposure is.
        photons_per_pixel: mean number where the signal is `EXPOSURE_TARGET`. 2000 is the default noise of the xReg
            library's synthetic fluoroscopy; pulsed low-dose fluoroscopy counts fewer.
        blur_pixels: standard deviation of the blur.

    Raises:
        ImageError: for line integrals that are no numbers, or a level or count that is not positive.
    """
    if not np.isfinite(line_integrals).all():
        raise ImageError("the line integrals hold values that are no numbers (NaN); no frame can be exposed")
    if not (np.isfinite(air_level) and air_level > 0 and np.isfinite(photons_per_pixel) and photons_per_pixel > 0):
        raise ImageError(f"air level {air_level} and photons per pixel {photons_per_pixel} must both be positive")
    level_per_photon = EXPOSURE_TARGET / photons_per_pixel
    # More photons than any saturated pixel needs would only overflow the generator.
    most = 4 * _WHITE / level_per_photon
    mean = np.minimum(air_level / level_per_photon * np.exp(-np.asarray(line_integrals, float)), most)
    signal = rng.poisson(mean) * level_per_photon
    if blur_pixels > 0:
        from scipy.ndimage import gaussian_filter

        signal = gaussian_filter(signal, blur_pixels, mode="nearest")
    return np.clip(np.rint(signal), 0, _WHITE).astype(np.uint16)


def log_image(frame: NDArray, air_level: float) -> NDArray[np.float32]:
    """Line integrals of a frame, float32 of the same shape.

    A pixel of zero counts as half a step, so that the result stays finite; a saturated pixel gives a lower bound.

    Raises:
        ImageError: for an air level that is not positive.
    """
    if not (np.isfinite(air_level) and air_level > 0):
        raise ImageError(f"the air level is {air_level}; it must be a positive signal")
    return -np.log(np.maximum(frame, 0.5) / air_level).astype(np.float32)


def display_image(
    line_integrals: NDArray, center: float | None = None, width: float | None = None
) -> NDArray[np.uint8]:
    """Grey values as on a fluoroscope: bone, metal and cement dark, air white; uint8 of the same shape.

    Args:
        center, width: of the window in line integrals. By default the window spans the middle 98 % of what lies behind
            the patient.
    """
    values = np.asarray(line_integrals, np.float32)
    if center is None or width is None:
        behind = values[np.isfinite(values) & (values > 0.5)]
        low, high = np.percentile(behind, [1, 99]) if behind.size else (0.0, 1.0)
    else:
        low, high = center - width / 2, center + width / 2
    scaled = (values - low) / max(high - low, 1e-6)
    return np.rint(255 * (1 - np.clip(np.nan_to_num(scaled), 0, 1))).astype(np.uint8)
