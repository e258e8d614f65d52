"""What of a view belongs to the C-arm and stands still while the patient moves: its field and its defective pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..geometry import FloatArray
from ..xray.field import Field, find_field
from ..xray.geometry import XrayGeometry
from .pieces import widened

#: A blade's or a circle's edge is soft over so many pixels.
_PENUMBRA_PIXELS = 6
#: So much of what has to be seen must lie in the field.
_SHOWN = 0.9
#: A pixel whose logarithm differs by so much from each neighbour's is dead or hot, not anatomy.
_DEAD = 0.4
#: Filters spread it to its neighbours. These, too, are replaced by what lies so far away [pixels].
_NEAR = 2


@dataclass(frozen=True)
class Detector:
    """
    Attributes:
        field: circle and blades.
        clear: pixels (rows, columns) within the field, away from its soft border.
        defective: dead and hot pixels and their neighbours.
    """

    field: Field
    clear: NDArray[np.bool_]
    defective: NDArray[np.bool_]

    def mended(self, signal: NDArray[np.float32]) -> NDArray[np.float32]:
        """A signal with the mean of the sound pixels nearby in place of defective ones."""
        rows, columns = np.nonzero(self.defective)
        near = np.array([*np.ndindex(2 * _NEAR + 1, 2 * _NEAR + 1)]) - _NEAR
        beside = (
            np.clip(rows[:, None] + near[:, 0], 0, signal.shape[0] - 1),
            np.clip(columns[:, None] + near[:, 1], 0, signal.shape[1] - 1),
        )
        sound = ~self.defective[beside]
        result = signal.copy()
        means = (signal[beside] * sound).sum(axis=1) / np.maximum(sound.sum(axis=1), 1)
        result[rows, columns] = np.where(sound.any(axis=1), means, signal[rows, columns])
        return result


def find_detector(
    stack: Sequence[NDArray[np.float32]], geometry: XrayGeometry, needed_ras: FloatArray | None = None
) -> Detector:
    """Field and defects of frames as they were taken.

    Args:
        geometry: of these frames.
        needed_ras: (n, 3) places that have to be seen. A field without them is none, but a dark patient beside bright
            air.

    Raises:
        ImageError: for black frames.
    """
    mean = np.mean(stack, axis=0)
    try:
        field = find_field(mean)
    except ImageError:
        raise ImageError("the reference frames are black; correct the exposure first") from None
    if needed_ras is not None and shown_share(field.mask, geometry, needed_ras) < _SHOWN:
        field = Field(np.ones(mean.shape, bool), None, ())
    return Detector(field, ~widened(~field.mask, _PENUMBRA_PIXELS), _defective(mean))


def shown_share(mask: NDArray[np.bool_], geometry: XrayGeometry, points_ras: FloatArray) -> float:
    """Which share of points (n, 3) falls on the mask (rows, columns) of that geometry."""
    column, row = np.rint(np.nan_to_num(geometry.project(points_ras), nan=-1.0)).astype(int).T
    rows, columns = mask.shape
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    return float(np.mean(inside & mask[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)]))


def _defective(mean: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels that are much darker or brighter than all of their eight neighbours, and these neighbours."""
    from scipy.ndimage import maximum_filter, minimum_filter

    log_signal = np.log(np.maximum(mean, 1e-4 * float(mean.mean())))
    around = np.ones((3, 3), bool)
    around[1, 1] = False
    lowest, highest = minimum_filter(log_signal, footprint=around), maximum_filter(log_signal, footprint=around)
    return widened((log_signal < lowest - _DEAD) | (log_signal > highest + _DEAD), 1)
