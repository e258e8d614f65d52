"""The cannula in a live view: its shadow, whose rims move when it trembles and would look like cement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
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

    def shadow(self, geometry: XrayGeometry) -> NDArray[np.bool_]:
        """Pixels (rows, columns) in which it may stand, tip and margin included."""
        columns, rows = geometry.detector_pixels
        ends = np.stack([self.tip_ras, self.tip_ras + self.length_mm * self.towards_hub])
        pixels = geometry.project(ends)
        if not np.isfinite(pixels).all():
            return np.zeros((rows, columns), bool)
        points = pixels * geometry.pixel_spacing_mm
        depths = (
            geometry.RASToDetector[2, :3] @ ends.T + geometry.RASToDetector[2, 3]
        ) / geometry.source_to_detector_mm
        # Nearer to the source its shadow is wider.
        radii = (self.outer_diameter_mm / 2 + _BESIDE_MM) / (1 - depths)
        u, v = np.meshgrid(
            *(np.arange(n) * size for n, size in zip((columns, rows), geometry.pixel_spacing_mm, strict=True))
        )
        way = points[1] - points[0]
        along = ((u - points[0, 0]) * way[0] + (v - points[0, 1]) * way[1]) / max(float(way @ way), 1e-9)
        along = np.clip(along, 0, 1)
        apart = np.hypot(u - points[0, 0] - along * way[0], v - points[0, 1] - along * way[1])
        return np.asarray(apart <= radii[0] + along * (radii[1] - radii[0]))
