"""Clearance of the whole shaft of a trocar to everything it must not touch, quick enough for every pose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.labels import SIDES
from ..anatomy.model import Anatomy
from ..geometry import FloatArray, transform_points
from ..image import Volume
from ..planning.model import Side

#: Signed distances (n,) in mm of RAS points (n, 3) from a structure, negative inside.
DistanceOf = Callable[[FloatArray], NDArray]

#: Steps along the shaft; the true minimum is at most half a step smaller [mm].
_STEP_MM = 0.5


@dataclass(frozen=True)
class Clearance:
    """The structure nearest to a shaft's surface, and how near; negative inside, minus infinity when unknown."""

    structure: str
    distance_mm: float


class ShaftClearance:
    """Distances from the protected structures of one patient: those of the plan, so that both give the same figures."""

    def __init__(self, distance_of: Mapping[str, DistanceOf], unknown: Iterable[str] = ()) -> None:
        """
        Args:
            distance_of: by structure name.
            unknown: structures that must be kept clear of but were not found; near them no shaft is safe.
        """
        self._distance_of = dict(distance_of)
        self._unknown = tuple(sorted(unknown))

    @staticmethod
    def of_anatomy(
        anatomy: Anatomy,
        progress: Callable[[float], None] = lambda fraction: None,
        ct: Volume | None = None,
        exact_labels: bool = False,
    ) -> ShaftClearance:
        """Canal, foramina, anterior cortex, sacroiliac joints and hips; takes a second or two.

        Args:
            ct: that the anatomy was found in; with it, bone that no label claims is kept clear of, as in planning.
            exact_labels: whether the labels are the patient, as in a simulation.

        Raises:
            PlanError: when the anatomy lacks what even a plan cannot do without.
        """
        from ..planning.structures import Structures, ViewField, view_along_foramina

        view = view_along_foramina(anatomy)
        progress(0.2)
        structures = Structures(anatomy, view, ct=ct, exact_labels=exact_labels)

        def distance_of(field: ViewField) -> DistanceOf:
            return lambda points_ras: field.at_view(transform_points(view.RASToView, points_ras))

        fields = structures.fields
        progress(1.0)
        return ShaftClearance({name: distance_of(field) for name, field in fields.items()}, structures.unknown)

    def distances_mm(
        self, tip_ras: ArrayLike, back_ras: ArrayLike, outer_diameter_mm: float, side: Side | None = None
    ) -> dict[str, float]:
        """Smallest distance of the shaft's surface, from its tip to its far end, to each structure.

        Args:
            side: where the trocar works; what is unknown on the other side does not count then.
        """
        tip, back = np.asarray(tip_ras, float), np.asarray(back_ras, float)
        elsewhere = tuple(f"_{other}" for other in SIDES if side is not None and other != side)
        distances = {name: float("-inf") for name in self._unknown if not name.endswith(elsewhere)}
        if not (np.isfinite(tip).all() and np.isfinite(back).all() and np.isfinite(outer_diameter_mm)):
            return distances | dict.fromkeys(self._distance_of, float("-inf"))
        samples = max(2, int(np.ceil(np.linalg.norm(back - tip) / _STEP_MM)) + 1)
        points = tip + np.linspace(0, 1, samples)[:, None] * (back - tip)
        radius = outer_diameter_mm / 2
        return distances | {name: float(of(points).min()) - radius for name, of in self._distance_of.items()}

    def nearest(
        self, tip_ras: ArrayLike, back_ras: ArrayLike, outer_diameter_mm: float, side: Side | None = None
    ) -> Clearance:
        """The nearest structure. Without any structure nothing is known and the distance is minus infinity."""
        distances = self.distances_mm(tip_ras, back_ras, outer_diameter_mm, side)
        if not distances:
            return Clearance("unknown", float("-inf"))
        name = min(distances, key=lambda structure: distances[structure])
        return Clearance(name, distances[name])
