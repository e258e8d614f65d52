"""Parts of the alae that planning asks for: the anterior third, and the void of osteoporosis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from ..image import Volume
from .model import Anatomy
from .surroundings import along_foramina

#: Noise that is left in the smoothed image from which the void is read [HU]: a few times less than the depth of the
#: void, some 50 HU below water, so that noise alone makes none.
_SMOOTHED_NOISE_HU = 8.0
#: More smoothing than this would fill a void from its walls [mm].
_LARGEST_SMOOTHING_MM = 2.0


def anterior_third(anatomy: Anatomy, side: str) -> NDArray[np.bool_]:
    """Mask of the third of an ala that lies nearest to its anterior cortex, seen along the foramina.

    Raises:
        AnatomyError: when the anatomy has no foramen that gives the direction.
    """
    ala = anatomy.region(f"ala_{side}")
    # Where there is no sacrum in front or behind, there is no third of it either.
    inside, depth, front, rear = along_foramina(anatomy, np.argwhere(ala))
    third = np.zeros_like(ala)
    third[tuple(inside[2 * front + rear >= 3 * depth].T)] = True
    return third


def alar_void(ct: Volume, ala: NDArray[np.bool_], noise_hu: float, hu_offset: float = 0.0) -> NDArray[np.bool_]:
    """Mask of the voxels of an ala below 0 HU, where an osteoporotic ala holds fat in place of bone.

    The image is smoothed within the ala only, so that cortex and surrounding fat do not count, by as little as brings
    uncorrelated noise down to 8 HU: a Gaussian of SD s averages over (2 sqrt(pi) s)^3 mm³ of it.

    Args:
        ala: on the CT's grid.
        noise_hu: standard deviation of the noise; unknown (NaN) smooths most.
        hu_offset: calibration to add to the CT's numbers.
    """
    from scipy import ndimage

    void = np.zeros(ala.shape, bool)
    if not ala.any():
        return void
    box = tuple(slice(int(index.min()), int(index.max()) + 1) for index in np.nonzero(ala))
    sigma = smoothing_mm(ct.voxel_volume_ml * 1000, noise_hu) / ct.spacing_mm[::-1]
    inside = ala[box].astype(np.float32)
    weight = ndimage.gaussian_filter(inside, sigma, mode="constant")
    values: FloatArray = ndimage.gaussian_filter(ct.voxels[box] * inside, sigma, mode="constant")
    void[box] = ala[box] & (values + hu_offset * weight < 0)
    return void


def smoothing_mm(voxel_mm3: float, noise_hu: float) -> float:
    """Standard deviation of the Gaussian of `alar_void` [mm]."""
    if not np.isfinite(noise_hu):
        return _LARGEST_SMOOTHING_MM
    averaged_mm3 = voxel_mm3 * (noise_hu / _SMOOTHED_NOISE_HU) ** 2
    return float(min(np.cbrt(averaged_mm3) / (2 * np.sqrt(np.pi)), _LARGEST_SMOOTHING_MM))
