"""Pieces of masks: pixels that hang together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def widened(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """The mask grown by so many pixels in all directions, diagonals included."""
    from scipy.ndimage import maximum_filter

    # A square is separable, which makes this many times faster than repeated dilation.
    grown: NDArray[np.bool_] = maximum_filter(mask.view(np.uint8), 2 * pixels + 1, mode="constant").view(np.bool_)
    return grown


def large_pieces(mask: NDArray[np.bool_], fewest: int) -> NDArray[np.bool_]:
    """The mask without pieces of fewer pixels; diagonal neighbours hang together."""
    from scipy.ndimage import label

    pieces, count = label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return mask
    large = np.bincount(pieces.ravel()) >= fewest
    large[0] = False
    return large[pieces]


def connected_to(core: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pieces of the mask that touch the core, core included."""
    from scipy.ndimage import label

    pieces, count = label(mask | core, structure=np.ones((3, 3)))
    keep = np.zeros(count + 1, bool)
    keep[np.unique(pieces[core])] = True
    keep[0] = False
    return keep[pieces]
