"""From line integrals to frames and back: exposure, noise, and how a frame is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..geometry import FloatArray

#: Signal behind the patient that automatic exposure aims at: an eighth of the 16-bit range, so that soft tissue beside
#: the bone does not saturate.
EXPOSURE_TARGET = 8000.0

#: Largest value of a frame.
WHITE = 65535

#: A line integral below this (5 cm of soft tissue have 1.0) counts as air beside the patient.
_BEHIND_PATIENT = 0.5

#: Line integral of 3 mm of steel: what lies further above the patient than this is shown equally black.
_ROOM_FOR_METAL = 3.0


def automatic_air_level(line_integrals: NDArray) -> float:
    """Signal of the unattenuated beam once automatic exposure brings the image's middle to `EXPOSURE_TARGET`.

    The middle half of rows and columns counts, as in a C-arm's dominant field. The level usually lies far beyond 16
    bit: air beside the patient saturates, as it does in fluoroscopy.

    Args:
        line_integrals: of shape (rows, columns).
    """
    return EXPOSURE_TARGET / float(np.exp(-middle(line_integrals).astype(float)).mean())


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
    signal = count_photons(air_level * np.exp(-np.asarray(line_integrals, float)), photons_per_pixel, rng)
    if blur_pixels > 0:
        from scipy.ndimage import gaussian_filter

        signal = gaussian_filter(signal, blur_pixels, mode="nearest")
    return np.clip(np.rint(signal), 0, WHITE).astype(np.uint16)


def count_photons(signal: NDArray, photons_per_pixel: float, rng: np.random.Generator) -> FloatArray:
    """A signal as that many photons make it, where the signal is `EXPOSURE_TARGET`; of the same shape."""
    level_per_photon = EXPOSURE_TARGET / photons_per_pixel
    # More photons than any saturated pixel needs would only overflow the generator.
    mean = np.minimum(np.asarray(signal, float), 4 * WHITE) / level_per_photon
    return rng.poisson(mean) * level_per_photon


def middle(image: NDArray) -> NDArray:
    """The middle half of rows and columns, which automatic exposure measures."""
    rows, columns = image.shape
    return image[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]


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
    line_integrals: NDArray, window: tuple[float, float] | None = None, field: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Grey values as on a fluoroscope: bone, metal and cement dark, air white; uint8 of the same shape.

    Slow changes across the image are flattened by half first, as C-arms do, since a pelvis spans several powers of ten.

    Args:
        window: line integrals after flattening that are shown white and black; by default what lies behind the patient
            in the middle of the image, with room for metal. Give it to compare images.
        field: what an intensifier or a collimator shows, of the same shape; the rest is black. By default all.
    """
    from scipy.ndimage import gaussian_filter

    values = np.nan_to_num(np.asarray(line_integrals, np.float32))
    inside = np.ones(values.shape, bool) if field is None else field
    behind = (values > _BEHIND_PATIENT) & inside
    if not behind.any():
        return np.where(inside, 255, 0).astype(np.uint8)
    # A trocar seen end-on is worth 80 mm of steel and would turn everything else white.
    fifth, most = np.percentile(values[behind], [5, 95])
    values = np.minimum(values, most + max(most - fifth, _ROOM_FOR_METAL))
    scale = min(values.shape) / 8
    # Blurred over the patient alone: the air around would make a halo.
    weight = gaussian_filter(behind.astype(np.float32), scale, mode="nearest")
    slow = gaussian_filter(np.where(behind, values, 0), scale, mode="nearest") / np.maximum(weight, 1e-3)
    flat = values - (slow - values[behind].mean()) / 2
    if window is None:
        patient = middle(flat)[middle(behind)]
        low, high = np.percentile(patient if patient.size else flat[behind], [2, 95])
        # The darkest twentieth may be metal; leave room for it beyond the bone.
        high += 0.2 * (high - low)
    else:
        low, high = window
    shown = np.clip((flat - low) / max(high - low, 1e-6), 0, 1)
    shown[~behind] = 0
    shown[~inside] = 1
    return np.rint(255 * (1 - shown)).astype(np.uint8)
