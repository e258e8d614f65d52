"""Two tools under one name: their poses come in turns, so that the tool seems to jump to and fro."""

from __future__ import annotations

import math
from collections import deque

from ..geometry import FloatArray

#: No hand moves a tool so far between two poses and exactly back again [mm].
_JUMP_MM = 20.0
_BACK_MM = 5.0
#: So many times in a row is no accident, and so long without it is over [s].
_TIMES = 3
_OVER_S = 1.0


class Twins:
    """Watches the poses of one name, every one that comes, also those with the same time stamp."""

    def __init__(self) -> None:
        self._places: deque[tuple[float, ...]] = deque(maxlen=2)
        self._times = 0
        self._last_s = float("-inf")

    def observe(self, matrix: FloatArray, received_s: float) -> None:
        """Take a pose (4, 4) that counts as seen."""
        place = tuple(matrix[:3, 3].tolist())
        # Poses that repeat the last place, as of a sender that sends twice, say nothing either way.
        if self._places and place == self._places[-1]:
            return
        if len(self._places) == 2 and math.dist(place, self._places[1]) > _JUMP_MM:
            self._times = self._times + 1 if math.dist(place, self._places[0]) < _BACK_MM else 0
            if self._times >= _TIMES:
                self._last_s = received_s
        self._places.append(place)

    def seen(self, now_s: float) -> bool:
        """Whether two tools send under this name just now."""
        return now_s - self._last_s <= _OVER_S
