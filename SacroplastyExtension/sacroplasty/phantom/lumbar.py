"""L5 with its disc, as implicit shapes.

Frame "l5": x left, y posterior, z superior, origin at the centre of L5's lower endplate. It stands above the sacrum
frame by the height of the disc and leans back by the disc's wedge. Sizes are typical adult ones, drawn by hand.
"""

from __future__ import annotations

import numpy as np

from ..geometry import FloatArray, rigid, rotation_about
from .implicit import Field, capsule, ellipsoid, smooth_max, smooth_min, superellipse
from .parameters import PatientParameters

BODY_HEIGHT_MM = 27.0
_HALF_WIDTH_MM = 26.0
_HALF_DEPTH_MM = 17.0


class LowestLumbarVertebra:
    """Signed fields of L5; points in the l5 frame."""

    def __init__(self, patient: PatientParameters) -> None:
        self.width_scale = float(np.mean(patient.width_scale))
        self.depth_scale = patient.depth_scale
        self.canal_scale = patient.canal_scale
        self.disc_mm = patient.disc_mm
        self.L5ToSacrum: FloatArray = rigid(
            rotation_about((1, 0, 0), -patient.disc_wedge_deg), (0, -3.5 * self.depth_scale, patient.disc_mm + 1.2)
        )

    def bone(self, x: Field, y: Field, z: Field) -> Field:
        """Body, pedicles, laminae, spinous, transverse and articular processes."""
        w, d = self.width_scale, self.depth_scale
        waist = 1 - 0.10 * np.clip(1 - ((z - BODY_HEIGHT_MM / 2) / 12) ** 2, 0, 1)
        column = superellipse(x, y - 0.004 * x * x, _HALF_WIDTH_MM * w * waist, _HALF_DEPTH_MM * d * waist, 2.3)
        r2 = np.minimum((x / (_HALF_WIDTH_MM * w)) ** 2 + (y / (_HALF_DEPTH_MM * d)) ** 2, 1)
        # Posteriorly the body of L5 is lower than in front.
        low, high = 1.5 * (1 - r2), BODY_HEIGHT_MM - 0.08 * (y + 17) - 1.5 * (1 - r2)
        body = smooth_max(smooth_max(column, low - z, 2.0), z - high, 2.0)
        field = body
        side = np.abs(x)
        for start, end, radii in (
            ((17 * w, 12 * d, 17), (20 * w, 27 * d, 15), (6.5, 5.5)),  # pedicle
            ((20 * w, 27 * d, 15), (7, 44 * d, 4), (5.0, 3.5)),  # lamina
            ((21 * w, 24 * d, 16), (41 * w, 27 * d, 19), (6.0, 4.0)),  # transverse process
            ((21 * w, 29 * d, 14), (23 * w, 31 * d, 26), (5.0, 4.5)),  # superior articular process
            ((17 * w, 35 * d, 8), (17.5 * w, 34 * d, -7), (4.8, 4.2)),  # inferior articular process
        ):
            field = smooth_min(field, capsule(side, y, z, start, end, radii), 3.0)
        spine = ellipsoid(x, y, z, (0, 52 * d, 2), (3.6, 15.0, 8.0))
        field = smooth_min(field, spine, 3.0)
        return smooth_max(field, -self.canal(x, y, z), 1.0)

    def highest_points(self) -> FloatArray:
        """Points (n, 3) of the upper edge: rim of the body and superior articular processes."""
        w, d = self.width_scale, self.depth_scale
        rim = [(0, -_HALF_DEPTH_MM * d, BODY_HEIGHT_MM), (0, _HALF_DEPTH_MM * d, BODY_HEIGHT_MM - 2)]
        return np.array([*rim, (23 * w, 31 * d, 31), (-23 * w, 31 * d, 31)])

    def canal(self, x: Field, y: Field, z: Field) -> Field:
        """The vertebral canal at the level of L5 and of the disc below it."""
        k, d = self.canal_scale, self.depth_scale
        tunnel = superellipse(x, y - 26.5 * d, 13.0 * k, 8.5 * k, 2.3)
        return smooth_max(tunnel, -9 - z, 2.0)

    def disc(self, x: Field, y: Field, z: Field) -> Field:
        """The disc above (L4/L5) and below (L5/S1) the body; the bones take what is theirs."""
        w, d = self.width_scale, self.depth_scale
        column = superellipse(x, y, _HALF_WIDTH_MM * w, _HALF_DEPTH_MM * d, 2.3)
        height = self.disc_mm + 4
        slab = np.maximum(-height - z, z - (BODY_HEIGHT_MM + self.disc_mm))
        return smooth_max(column, slab, 2.0)
