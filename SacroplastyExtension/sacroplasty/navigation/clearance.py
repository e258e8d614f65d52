"""Clearance of the whole shaft of a trocar to everything it must not touch, quick enough for every pose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..anatomy.distance import DistanceField
from ..anatomy.labels import LEVELS, SIDES
from ..anatomy.model import Anatomy

#: What must be known before a shaft is called safe.
PROTECTED_REGIONS = ("sacral_canal", *(f"foramen_{level}_{side}" for level in LEVELS for side in SIDES))


@dataclass(frozen=True)
class Clearance:
    """The structure nearest to a shaft's surface, and how near; negative inside, minus infinity when unknown."""

    structure: str
    distance_mm: float


class ShaftClearance:
    """Distance fields of the protected structures of one patient."""

    def __init__(self, fields: Mapping[str, DistanceField], unknown: tuple[str, ...] = ()) -> None:
        """
        Args:
            fields: by structure name.
            unknown: structures that must be kept clear of but were not found; with any of them no shaft is safe.
        """
        self._fields = dict(fields)
        self._unknown = unknown

    @staticmethod
    def of_anatomy(anatomy: Anatomy, progress: Callable[[float], None] | None = None) -> ShaftClearance:
        """Canal and all foramina of an anatomy; one that is empty there is unknown, hence forbidden everywhere."""
        fields, unknown = {}, []
        for number, name in enumerate(PROTECTED_REGIONS):
            mask = anatomy.region(name)
            if mask.any():
                fields[name] = DistanceField(anatomy.regions.like(mask))
            else:
                unknown.append(name)
            if progress:
                progress((number + 1) / len(PROTECTED_REGIONS))
        return ShaftClearance(fields, tuple(unknown))

    def distances_mm(self, tip_ras: ArrayLike, back_ras: ArrayLike, outer_diameter_mm: float) -> dict[str, float]:
        """Smallest distance of the shaft's surface, from its tip to its far end, to each structure."""
        unknown = dict.fromkeys(self._unknown, float("-inf"))
        radius = outer_diameter_mm / 2
        return unknown | {name: field.along(tip_ras, back_ras, radius) for name, field in self._fields.items()}

    def nearest(self, tip_ras: ArrayLike, back_ras: ArrayLike, outer_diameter_mm: float) -> Clearance:
        """The nearest structure. Without any structure nothing is known and the distance is minus infinity."""
        distances = self.distances_mm(tip_ras, back_ras, outer_diameter_mm)
        if not distances or not np.isfinite(outer_diameter_mm):
            return Clearance("unknown", float("-inf"))
        name = min(distances, key=lambda structure: distances[structure])
        return Clearance(name, distances[name])
