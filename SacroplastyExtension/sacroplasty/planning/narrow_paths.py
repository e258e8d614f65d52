"""Paths that the labels themselves allow, beside those that the fields of 1 mm allow by little or nearly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..geometry import FloatArray
from .approaches import Rules
from .close_look import SHAFT_STEP_MM, CloseLook, distances_mm
from .structures import Structures

#: So many looks from each start; between two, both ends move by this at most [mm], each time by so much less.
_LOOKS, _REACH_MM, _SHRINKS = 6, 1.5, 0.8
#: Of what a move promises to first order as much may be missing for it to be tried [mm]: distances bend.
_BENDS_MM = 0.05
#: Surfaces farther from the axis by this than they must be do not come to be the nearest [mm].
_SURROUNDINGS_MM = 1.0
#: A distance changes by no more than this with a millimetre at each end.
_MOST_CHANGE = 2.0
#: Shares of a move that are tried: what follows from it for the depth of the entry is known only then.
_SHARES = np.array([1.0, 0.75, 0.5, 0.25])


class NarrowPaths:
    """Moves the ends of a shaft to where what the labels show around it leaves the most room.

    Surfaces are measured on rays from the shaft, its ends move to where it keeps the most from all that was seen so
    far (a linear program: the change of each distance with five coordinates), and there it is measured again.
    """

    def __init__(
        self,
        structures: Structures,
        rules: Rules,
        side: str,
        needed_mm: Callable[[FloatArray], FloatArray],
        behind_mm: float,
        without: str | None = None,
    ) -> None:
        """
        Args:
            needed_mm: least distance of the axis from every structure at distances from the tip.
            behind_mm: how far behind its entry a shaft is looked at.
            without: a structure that does not count.
        """
        self._structures, self._rules = structures, rules
        self._names = [name for name in structures.names_on(side) if name != without]
        self._needed_mm, self._behind_mm = needed_mm, behind_mm

    def beside(self, entry: FloatArray, target: FloatArray, ruled: bool) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Ends of shafts beside one that keep their distances, as they are found.

        Args:
            entry, target: view points.
            ruled: whether the entry must keep the rule of the technique.
        """
        points, doubt_mm = np.zeros((0, 3)), np.zeros(0)
        for look in range(_LOOKS):
            if look:
                moved = self._widened(entry, target, points, doubt_mm, _REACH_MM * _SHRINKS**look, ruled)
                if moved is None:
                    return
                entry, target = moved
            kept_mm, seen, seen_doubt_mm = self._looked_at(entry, target)
            if kept_mm >= 0:
                yield entry, target
            points, doubt_mm = np.concatenate([points, seen]), np.concatenate([doubt_mm, seen_doubt_mm])

    def _looked_at(self, entry: FloatArray, target: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """What a shaft keeps beyond what it must, and the points (n, 3) around it that tell, with doubts."""
        length = float(np.linalg.norm(entry - target))
        along = np.arange(0, length + self._behind_mm, SHAFT_STEP_MM)
        shaft = target + along[:, None] * ((entry - target) / length)
        needed = self._needed_mm(along)
        by_fields = {name: self._structures.distance_mm(name, shaft) for name in self._names}
        reach = float(needed.max()) + _SURROUNDINGS_MM
        surfaces = CloseLook(self._structures).surfaces(shaft, by_fields, reach)
        nearest = np.minimum.reduce(list(distances_mm(by_fields, surfaces).values()))
        points = np.concatenate([np.zeros((0, 3)), *(met.points[met.away_mm < reach] for met in surfaces.values())])
        doubt = np.concatenate([np.zeros(0), *(met.doubt_mm[met.away_mm < reach] for met in surfaces.values())])
        return float((nearest - needed).min()), points, doubt

    def _kept_mm(
        self, entry: FloatArray, target: FloatArray, points: FloatArray, doubt_mm: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """What a shaft keeps from each of points (n, 3) beyond what it must, and the change of that, (n, 5).

        Per mm that the entry is moved along its two axes and the target along all three.
        """
        length = float(np.linalg.norm(entry - target))
        direction = (entry - target) / length
        along = np.maximum((points - target) @ direction, 0)
        way = target + along[:, None] * direction - points
        away = np.linalg.norm(way, axis=1)
        off = way / np.maximum(away, 1e-6)[:, None]
        share = (along / length)[:, None]
        change = np.column_stack([(off * share)[:, self._rules.entry_axes], off * (1 - share)])
        return away - doubt_mm - self._needed_mm(along), change

    def _widened(
        self,
        entry: FloatArray,
        target: FloatArray,
        points: FloatArray,
        doubt_mm: FloatArray,
        reach_mm: float,
        ruled: bool,
    ) -> tuple[FloatArray, FloatArray] | None:
        """The ends moved by a reach to where it keeps the most from points (n, 3); None where that is too little."""
        from scipy.optimize import linprog

        if not len(points):
            return None
        kept_mm, change = self._kept_mm(entry, target, points, doubt_mm)
        near = kept_mm <= kept_mm.min() + 2 * _MOST_CHANGE * reach_mm
        found = linprog(
            np.array([0.0] * 5 + [-1.0]),
            A_ub=np.column_stack([-change[near], np.ones(np.count_nonzero(near))]),
            b_ub=kept_mm[near],
            bounds=[*self._rules.entry_bounds_mm(entry, reach_mm, ruled), *[(-reach_mm, reach_mm)] * 3, (None, None)],
            method="highs",
        )
        if not found.success or found.x[5] < -_BENDS_MM:
            return None
        moved = self._rules.neighbors(entry[None], target[None], _SHARES[:, None] * found.x[:5])
        if ruled:
            moved = moved.part(np.flatnonzero(moved.ruled))
        ends = list(zip(moved.entry, moved.target, strict=True))
        return max(ends, key=lambda pair: self._kept_mm(pair[0], pair[1], points, doubt_mm)[0].min(), default=None)
