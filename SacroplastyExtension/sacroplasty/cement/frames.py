"""A frame as it comes from any source, made into numbers that the monitor can compare."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..xray.geometry import XrayGeometry

#: Pixels finer than this at the detector only cost time; cement of interest measures 3 mm and more [mm].
COARSEST_PIXEL_MM = 1.0


def grey_signal(pixels: NDArray) -> NDArray:
    """The frame as (rows, columns) of unsigned or floating numbers, larger ones brighter.

    Args:
        pixels: (rows, columns), or (rows, columns, 3 or 4) with equal colors, as frame grabbers send grey.

    Raises:
        ImageError: for colors, another shape, or numbers that are none.
    """
    values = np.asarray(pixels)
    if values.ndim == 3 and values.shape[-1] in (3, 4):
        if not (np.array_equal(values[..., 0], values[..., 1]) and np.array_equal(values[..., 0], values[..., 2])):
            raise ImageError("the frame is in color; send the C-arm's grey picture without overlays")
        values = values[..., 0]
    if values.ndim != 2 or min(values.shape) < 32:
        raise ImageError(f"a frame of shape {values.shape} is no picture of rows and columns")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageError("the frame holds values that are no numbers (NaN)")
    if values.dtype.kind not in "uif":
        raise ImageError(f"a frame of {values.dtype} is no picture")
    return values


def binning_of(geometry: XrayGeometry) -> int:
    """Detector pixels that are joined into one, each way."""
    return max(1, int(COARSEST_PIXEL_MM / max(geometry.pixel_spacing_mm)))


def binned(values: NDArray, binning: int) -> NDArray[np.float32]:
    """Means over squares of so many pixels; what is left over at the end of rows and columns is dropped."""
    if binning == 1:
        return values.astype(np.float32)
    rows, columns = (size // binning for size in values.shape)
    total = np.zeros((rows, columns), np.float32)
    # Adding strided pictures is several times faster than a mean over two axes.
    for row in range(binning):
        for column in range(binning):
            total += values[row : rows * binning : binning, column : columns * binning : binning]
    total /= np.float32(binning**2)
    return total


def binned_geometry(geometry: XrayGeometry, binning: int) -> XrayGeometry:
    """The geometry of a binned frame: its first pixel's centre is that of the first square."""
    if binning == 1:
        return geometry
    u, v = geometry.pixel_spacing_mm
    shift = np.array([(binning - 1) / 2 * u, (binning - 1) / 2 * v, 0.0])
    RASToDetector = geometry.RASToDetector.copy()
    RASToDetector[:3, 3] -= shift
    x, y, z = np.asarray(geometry.source_in_detector_mm) - shift
    columns, rows = geometry.detector_pixels
    return XrayGeometry(
        source_to_detector_mm=geometry.source_to_detector_mm,
        detector_pixels=(columns // binning, rows // binning),
        pixel_spacing_mm=(u * binning, v * binning),
        RASToDetector=RASToDetector,
        source_in_detector_mm=(float(x), float(y), float(z)),
    )
