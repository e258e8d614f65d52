"""Line integrals of a plate with beads on a square grid that lies on a detector: truth for the calibration of
distortion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sacroplasty.xray.geometry import XrayGeometry
from sacroplasty.xray.materials import STEEL_PER_MM

#: Attenuation of the plate itself.
_PLATE = 0.5


def bead_plate(
    geometry: XrayGeometry,
    pitch_mm: float = 10.0,
    bead_mm: float = 2.0,
    turned_deg: float = 7.0,
    shift_mm: tuple[float, float] = (1.3, -2.1),
) -> NDArray:
    """(rows, columns) of a plate that is turned and lies beside the detector's middle."""
    columns, rows = geometry.detector_pixels
    u, v = np.meshgrid(np.arange(columns) - (columns - 1) / 2, np.arange(rows) - (rows - 1) / 2)
    turn = np.radians(turned_deg)
    at = np.stack([u, v], axis=-1) * geometry.pixel_spacing_mm - shift_mm
    at = at @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    beside = at - pitch_mm * np.rint(at / pitch_mm)
    chord = 2 * np.sqrt(np.maximum(bead_mm**2 / 4 - (beside**2).sum(axis=-1), 0))
    return _PLATE + STEEL_PER_MM * chord
