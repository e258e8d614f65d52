"""A dial that shows how evenly cement spreads in one view: how far it reaches from the tip, into each direction."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry import FloatArray
from .measures import SECTORS
from .picture import RGB

#: What the rings stand for, and those of a wider dial [mm].
RINGS_MM, WIDE_RINGS_MM = (5.0, 10.0, 15.0), (10.0, 20.0, 30.0)
#: A front this much farther than the mean of all directions is drawn as one that runs away.
RUNS_AWAY = 1.6
#: Below this mean reach there is no shape yet [mm].
_SMALLEST_MM = 2.0
_GROUND, _RING, _EVEN, _AWAY, _RIM = (24, 28, 32), (120, 130, 140), (90, 210, 255), (255, 190, 60), (255, 255, 255)
#: Each pixel of the dial is the mean of so many, each way.
_FINE = 2


def runs_away(front_mm: ArrayLike) -> NDArray[np.bool_]:
    """Directions (SECTORS,) into which cement reaches much farther than in the mean of all of them."""
    front = np.asarray(front_mm, float)
    mean = float(front.mean())
    return np.zeros(SECTORS, bool) if not mean >= _SMALLEST_MM else front > RUNS_AWAY * mean


def front_dial(front_mm: ArrayLike | None, size: int) -> RGB:
    """The fronts of a view as sectors of a dial (size, size, 3), in the directions of the picture.

    Sectors that run away are of another color and have a thick rim. Without fronts only the rings are drawn.

    Args:
        front_mm: (SECTORS,) see `measures.ViewMeasures`; None or NaN when it is not known.
    """
    front = np.zeros(SECTORS) if front_mm is None else np.nan_to_num(np.asarray(front_mm, float))
    rings = RINGS_MM if front.max(initial=0.0) <= RINGS_MM[-1] else WIDE_RINGS_MM
    reach, sector, gap = _places(size)
    reach_mm = reach * rings[-1]
    fine = np.empty((*reach.shape, 3), np.uint8)
    fine[...] = _GROUND
    limit = np.minimum(front, rings[-1])[sector]
    inside = (reach_mm < limit) & ~gap
    away = runs_away(front)[sector]
    fine[inside] = _EVEN
    fine[inside & away] = _AWAY
    line_mm = rings[-1] / size * 2
    fine[inside & away & (reach_mm > limit - 2.5 * line_mm)] = _RIM
    for ring in rings:
        fine[np.abs(reach_mm - ring) < line_mm / 2] = _RING
    parts = [fine[row::_FINE, column::_FINE].astype(np.uint16) for row, column in np.ndindex(_FINE, _FINE)]
    dial: RGB = (sum(parts[1:], parts[0]) // np.uint16(_FINE**2)).astype(np.uint8)
    return dial


@cache
def _places(size: int) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.bool_]]:
    """Of each fine pixel: its distance from the middle (1 at the outermost ring), its sector, and whether it lies in a
    gap between two sectors."""
    at = (np.arange(size * _FINE) + 0.5) / (size * _FINE / 2) - 1
    across, down = np.meshgrid(at / 0.94, at / 0.94)
    reach = np.hypot(across, down)
    turn = np.arctan2(down, across) / (2 * np.pi) * SECTORS + 0.5
    sector = np.floor(turn % SECTORS).astype(np.intp) % SECTORS
    from_border = np.abs((turn % 1.0) - np.rint(turn % 1.0)) * reach * 2 * np.pi / SECTORS
    return reach, sector, from_border < 0.02
