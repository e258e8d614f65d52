"""What a surgeon wants to know of the cement that is seen: how large, how even, how fast, how near to what."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry import FloatArray
from ..xray.geometry import XrayGeometry
from .cement_map import CementMap
from .zones import Zones

#: Directions around the tip in which the front is measured.
SECTORS = 8
#: The shadow ends where the beam's path in cement is shorter than this [mm].
_SHADOW_MM = 1.5
#: The front in a direction is where this share of the cement's pixels lies behind it, so that a speck does not count.
_FRONT_SHARE = 95.0
#: The sphere's radius over the root mean square radius of its shadow, sqrt(5 / 2).
_SPHERE_OVER_RMS = math.sqrt(2.5)
#: Pieces nearer to the tip than this have no direction yet [mm].
_NO_DIRECTION_MM = 1.0


@dataclass(frozen=True)
class ViewMeasures:
    """One view.

    Attributes:
        area_mm2: of the cement's shadow, in the patient's plane.
        front_mm: (SECTORS,) how far the cement reaches from the tip in each direction of the picture, from its right
            clockwise; 0 where there is none.
        concentricity: see `concentricity`.
    """

    area_mm2: float
    front_mm: FloatArray
    concentricity: float


@dataclass(frozen=True)
class SpreadMeasures:
    """All views together. NaN and empty is what is not known.

    Attributes:
        center_ras: middle of what all views show as cement; None when nothing is.
        distance_mm: by route, how far the cement in bone is from it: by all views, as near as they allow.
        anterior_third_filled: share of the anterior third of the planned ala that all views show as cement.
        front_mm_s: by how much the mean front has grown in a second.
        missing_ml, missing_ml_sd: given by the pump and not seen: out of the picture, in a vein, or in the line.
    """

    views: dict[str, ViewMeasures] = field(default_factory=dict)
    center_ras: FloatArray | None = None
    distance_mm: dict[str, float] = field(default_factory=dict)
    anterior_third_filled: float = math.nan
    front_mm_s: float = math.nan
    missing_ml: float = math.nan
    missing_ml_sd: float = math.nan

    @property
    def mean_front_mm(self) -> float:
        """Mean reach over directions and views; NaN without cement."""
        fronts = [view.front_mm[view.front_mm > 0] for view in self.views.values()]
        seen = np.concatenate(fronts) if fronts else np.empty(0)
        return float(seen.mean()) if seen.size else math.nan


def measure_view(
    seen: CementMap, geometry: XrayGeometry, pixel_mm: float, tip_ras: ArrayLike, cement_per_mm: float
) -> ViewMeasures:
    """Measures of one view.

    Args:
        pixel_mm: size of a pixel in the patient.
        cement_per_mm: linear attenuation of cement.
    """
    # The faint rim is mostly what smoothing has spread.
    rows, columns = np.nonzero(seen.detected & (seen.attenuation > _SHADOW_MM * cement_per_mm))
    tip = geometry.project(tip_ras)
    across, down = (columns - tip[0]) * pixel_mm, (rows - tip[1]) * pixel_mm
    reach = np.hypot(across, down)
    sector = np.floor((np.arctan2(down, across) / (2 * np.pi) * SECTORS + 0.5) % SECTORS).astype(int)
    front = np.zeros(SECTORS)
    for number in range(SECTORS):
        here = reach[(sector == number) & (reach > _NO_DIRECTION_MM)]
        if here.size:
            front[number] = np.percentile(here, _FRONT_SHARE)
    return ViewMeasures(len(rows) * pixel_mm**2, front, concentricity(seen, geometry, tip_ras))


class Nearness:
    """Distances from the routes of leakage, computed once for a patient."""

    def __init__(self, zones: Zones) -> None:
        from scipy.ndimage import distance_transform_edt

        spacing = zones.labels.spacing_mm
        self._fields = {
            route: distance_transform_edt(~zones.mask(route), sampling=spacing).astype(np.float32).ravel()
            for route in zones.routes
            if zones.mask(route).any()
        }

    def of(self, cement: NDArray[np.bool_]) -> dict[str, float]:
        """Smallest distance [mm] of cement voxels (flat mask) from each route, nearest first; empty without cement."""
        if not cement.any():
            return {}
        found = {route: float(values[cement].min()) for route, values in self._fields.items()}
        return dict(sorted(found.items(), key=lambda item: item[1]))


def concentricity(seen: CementMap | None, geometry: XrayGeometry, tip_ras: ArrayLike) -> float:
    """How evenly the cement of a view lies round the tip, 0 to 1; NaN when none is seen.

    (1 - d / r) * sqrt(s / l): d is the distance of the cement's centre from the tip in the image, r the radius of the
    sphere with the shadow's root mean square radius, s and l the smaller and larger variance along its main axes. A
    sphere around the tip gives 1, one that only touches the tip 0.
    """
    if seen is None or not seen.detected.any():
        return math.nan
    rows, columns = np.nonzero(seen.detected)
    weight = np.maximum(seen.attenuation[rows, columns], 0.0)
    if not weight.sum() > 0:
        return math.nan
    at = np.stack([columns, rows], axis=1) * np.asarray(geometry.pixel_spacing_mm)
    center = np.average(at, axis=0, weights=weight)
    spread = np.linalg.eigvalsh(np.cov(at.T, aweights=weight, ddof=0))
    tip = geometry.project(tip_ras) * geometry.pixel_spacing_mm
    radius = _SPHERE_OVER_RMS * math.sqrt(float(spread.sum()))
    if not radius > 0:
        return math.nan
    return max(0.0, 1 - float(np.linalg.norm(center - tip)) / radius) * math.sqrt(max(spread[0], 0.0) / spread[1])
