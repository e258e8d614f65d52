"""The cannula in a live view: its shadow, whose rims move when it trembles and would look like cement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, transform_points, unit
from ..planning.model import Trajectory
from ..xray.geometry import XrayGeometry

#: How far beside its told place a cannula may stand: tip, pose of the C-arm and bending together [mm].
_BESIDE_MM = 3.0


@dataclass(frozen=True)
class Cannula:
    """A straight cannula as planned or navigated.

    Attributes:
        tip_ras: its end in the bone.
        towards_hub: unit vector (RAS) along its axis.
        outer_diameter_mm: a hub or holder is not part of it.
        length_mm: of what may be seen from the tip on.
    """

    tip_ras: FloatArray
    towards_hub: FloatArray
    outer_diameter_mm: float
    length_mm: float = 150.0

    def distance_mm(self, points_ras: FloatArray) -> FloatArray:
        """How far points (n, 3) are from its axis, from the tip on."""
        way = points_ras - self.tip_ras
        along = np.clip(way @ self.towards_hub, 0.0, self.length_mm)
        distance: FloatArray = np.linalg.norm(way - along[:, None] * self.towards_hub, axis=1)
        return distance

    def shadow(self, geometry: XrayGeometry) -> NDArray[np.bool_]:
        """Pixels (rows, columns) in which it may stand, tip and margin included."""
        return self.along_mm(geometry) >= 0

    def along_mm(self, geometry: XrayGeometry) -> FloatArray:
        """How far up the cannula each pixel (rows, columns) of its shadow lies, and -1 outside."""
        columns, rows = geometry.detector_pixels
        ends = np.stack([self.tip_ras, self.tip_ras + self.length_mm * self.towards_hub])
        pixels = geometry.project(ends)
        if not np.isfinite(pixels).all():
            return np.full((rows, columns), -1.0)
        tip, hub = pixels * geometry.pixel_spacing_mm
        depths = transform_points(geometry.RASToDetector, ends)[:, 2] / geometry.source_in_detector_mm[2]
        # Nearer to the source its shadow is wider.
        at_tip, at_hub = (self.outer_diameter_mm / 2 + _BESIDE_MM) / (1 - depths)
        u, v = np.meshgrid(
            np.arange(columns) * geometry.pixel_spacing_mm[0], np.arange(rows) * geometry.pixel_spacing_mm[1]
        )
        way = hub - tip
        along = ((u - tip[0]) * way[0] + (v - tip[1]) * way[1]) / max(float(way @ way), 1e-9)
        along = np.clip(along, 0, 1)
        apart = np.hypot(u - tip[0] - along * way[0], v - tip[1] - along * way[1])
        return np.where(apart <= at_tip + along * (at_hub - at_tip), along * self.length_mm, -1.0)


def planned_cannula(trajectory: Trajectory) -> Cannula:
    """The cannula where the plan puts it."""
    towards_hub = unit(trajectory.entry_skin - trajectory.target)
    return Cannula(trajectory.target, towards_hub, trajectory.outer_diameter_mm)
