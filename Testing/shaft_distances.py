"""Shaft clearance from plain functions of points, one for each structure, in place of distance fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from sacroplasty.navigation.clearance import ShaftClearance


def clearance_from(
    distance_of: Mapping[str, Callable[[np.ndarray], np.ndarray]], unknown: Iterable[str] = ()
) -> ShaftClearance:
    """`distance_of` gives, by structure, the distances (n,) in mm of points (n, 3)."""
    return ShaftClearance(
        tuple(distance_of), lambda points: np.stack([of(points) for of in distance_of.values()], axis=1), unknown
    )


def everywhere(**distance_mm: float) -> ShaftClearance:
    """The same distance from a structure wherever the shaft is."""
    return clearance_from(
        {name: lambda points, value=value: np.full(len(points), value) for name, value in distance_mm.items()}
    )
