"""Which touched point is which landmark, when they were touched in any order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CalibrationError
from ..geometry import FloatArray
from .registration import residuals_of_orders

#: With more points than this there are too many orders to look through.
MOST_MATCHED = 8
#: Distances between two touched points and between their landmarks differ by less than this, or they are others [mm].
_SAME_DISTANCE_MM = 8.0
#: Another order that fits this well, against the best, leaves the choice open; and nothing fits better than touches do.
_RIVAL_TIMES, _TOUCH_FLOOR_MM = 2.0, 1.0
#: An order that fits no better than this is none [mm].
_LARGEST_RMS_MM = 4.0


def match_landmarks(touched: ArrayLike, fixed: ArrayLike, names: Sequence[str]) -> NDArray[np.int_]:
    """Numbers (m,) of the landmarks that the touched points are, in the order of the points.

    All assignments that keep the distances between points are looked through; the one that a rigid motion (no mirror
    image) fits best is taken if no other comes near it.

    Args:
        touched: (m, 3), 4 <= m <= 8.
        fixed: (n, 3) landmarks in the CT, n >= m.
        names: of the n landmarks.

    Raises:
        CalibrationError: when no order fits, or several do.
    """
    source, target = np.asarray(touched, float), np.asarray(fixed, float)
    if not 4 <= len(source) <= min(MOST_MATCHED, len(target)):
        raise CalibrationError(
            f"{len(source)} touched points cannot be told apart among {len(target)} landmarks; touch 4 to "
            f"{min(MOST_MATCHED, len(target))}, or name them"
        )
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise CalibrationError("a touched point or a landmark is no number (NaN); touch it again")
    found = _same_distances(source, target)
    if not len(found):
        raise CalibrationError("the touched points fit the landmarks in no order; name them, or touch them again")
    # Each assignment is an order of the landmarks for the touched points, which stay as they are.
    residuals = residuals_of_orders(target, source, found)
    order = np.argsort(residuals)
    best = found[order[0]]
    if residuals[order[0]] > _LARGEST_RMS_MM:
        raise CalibrationError(
            f"the touched points fit the landmarks to {residuals[order[0]]:.1f} mm in the best order only; "
            "name them, or touch them again"
        )
    if len(order) > 1 and residuals[order[1]] < _RIVAL_TIMES * max(residuals[order[0]], _TOUCH_FLOOR_MM):
        differing = np.flatnonzero(found[order[1]] != best)
        first = int(differing[0])
        raise CalibrationError(
            f"touched point {first + 1} may be {names[best[first]]!r} or {names[found[order[1]][first]]!r}: "
            "the landmarks look the same both ways; name the points, or touch one that breaks the symmetry"
        )
    return best


def _same_distances(source: FloatArray, target: FloatArray) -> NDArray[np.int_]:
    """All assignments (k, m) of landmarks to points under which no distance between two points changes much."""
    apart_source = np.linalg.norm(source[:, None] - source[None], axis=2)
    apart_target = np.linalg.norm(target[:, None] - target[None], axis=2)
    partial = np.arange(len(target))[:, None]
    for number in range(1, len(source)):
        chosen = np.repeat(partial, len(target), axis=0)
        added = np.tile(np.arange(len(target)), len(partial))
        fits = (chosen != added[:, None]).all(axis=1)
        off = np.abs(apart_target[chosen, added[:, None]] - apart_source[number, :number])
        fits &= (off < _SAME_DISTANCE_MM).all(axis=1)
        partial = np.column_stack([chosen[fits], added[fits]])
    return partial
