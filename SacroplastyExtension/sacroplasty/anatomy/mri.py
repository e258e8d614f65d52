"""Reading an MRI of the pelvis, and refusing what cannot be one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ImageError
from ..image import Volume, check_whole, read_volume

_FEWEST_SLICES = 8
_SMALLEST_EXTENT_MM, _LARGEST_EXTENT_MM = 40.0, 2500.0
_THICKEST_SLICES_MM = 8.0
#: A label map has few values; the noise of an MRI has many.
_FEWEST_VALUES = 64


def read_mri(path: Path, series: str | None = None) -> Volume:
    """Read an MRI (NIfTI, NRRD, MHA or a DICOM folder) and check that it can be one.

    Raises:
        ImageError: saying what is wrong with the file and what to do.
    """
    volume = read_volume(path, series, modality="MR")
    check_mri(volume, str(path))
    return volume


def check_mri(volume: Volume, where: str) -> None:
    """Raise ImageError unless the volume can be an MRI that shows a sacrum. Its contrast is checked later."""
    check_whole(volume, where, _FEWEST_SLICES)
    voxels = volume.voxels
    extent = volume.spacing_mm * voxels.shape[::-1]
    if extent.min() < _SMALLEST_EXTENT_MM or extent.max() > _LARGEST_EXTENT_MM:
        raise ImageError(
            f"{where} measures {' x '.join(f'{length:.3g}' for length in extent)} mm; an MRI of the sacrum has at "
            f"least {_SMALLEST_EXTENT_MM:.0f} mm each way: is its voxel size given in another unit than mm?"
        )
    if volume.spacing_mm.max() > _THICKEST_SLICES_MM:
        raise ImageError(
            f"{where} has slices {volume.spacing_mm.max():.3g} mm apart; above {_THICKEST_SLICES_MM:.0f} mm it cannot "
            "be laid on the CT"
        )
    # As many voxels as tell: a few slices of noise hold hundreds of values.
    values = np.unique(voxels[:: max(1, len(voxels) // 8)])
    if len(values) < _FEWEST_VALUES:
        raise ImageError(f"{where} holds {len(values)} different values; it is a label map or a mask, not an MRI")
    low = float(np.percentile(voxels, 5))
    if low < 0 and float(voxels.min()) < -100:
        raise ImageError(
            f"{where} holds negative values (5 % below {low:.0f}); the signal of an MRI is not negative: is it a CT?"
        )
