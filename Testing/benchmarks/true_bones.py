"""The exact bone surface of a synthetic patient, and points that a stylus sweeps over it from behind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sacroplasty.geometry import FloatArray, invert_rigid, transform_points
from sacroplasty.phantom.make import Phantom
from sacroplasty.phantom.patient import Patient

#: How far bone behind a point keeps a stylus away, and the steps in which it is looked for [mm].
_REACH_MM, _STEP_MM = 60.0, 2.0


class TrueBones:
    """Sacrum and hips of a phantom as the implicit surfaces that its CT was painted from."""

    def __init__(self, phantom: Phantom) -> None:
        self._phantom = phantom
        self._patient = Patient(phantom.parameters, phantom.fracture)
        self._RASToPatient = invert_rigid(self._patient.PatientToRAS)
        self._RASToSacrum = invert_rigid(self._patient.SacrumToRAS)
        #: Unit vector out of the back, in RAS.
        self.posterior_ras: FloatArray = self._patient.PatientToRAS[:3, 1]
        self.left_ras: FloatArray = self._patient.PatientToRAS[:3, 0]

    def sacrum(self, points_ras: FloatArray) -> NDArray:
        """Signed field (n,) in mm, negative inside."""
        sacrum = self._patient.sacrum
        x, y, z = transform_points(self._RASToSacrum, points_ras).astype(np.float32).T
        curved = sacrum.curved(y, z)
        envelope = sacrum.envelope(x, y, z, curved)
        channels = {name: sacrum.channel_field(name, x, y, z) for name in sacrum.channels}
        return sacrum.bone(x, y, z, envelope, sacrum.canal(x, y, z, curved), channels)

    def hip(self, side: str, points_ras: FloatArray) -> NDArray:
        """Signed field (n,) in mm of one hip bone."""
        hip = self._patient.hips[side]
        x, y, z = transform_points(self._RASToPatient, points_ras).astype(np.float32).T
        plate_points = hip.to_plate(x, y, z)
        envelope = self._patient.sacrum.envelope(*transform_points(self._RASToSacrum, points_ras).astype(np.float32).T)
        joint_mm = self._phantom.si_joint_mm[0 if side == "left" else 1]
        return hip.bone(plate_points, hip.plate(*plate_points), envelope, joint_mm)

    def field(self, points_ras: FloatArray) -> NDArray:
        """Signed field (n,) in mm of all of them."""
        fields = [self.sacrum(points_ras), self.hip("left", points_ras), self.hip("right", points_ras)]
        return np.minimum.reduce(fields).astype(float)

    def normals(self, points_ras: FloatArray) -> FloatArray:
        """Outward unit normals (n, 3)."""
        steps = 0.2 * np.eye(3)
        slopes = np.stack([self.field(points_ras + step) - self.field(points_ras - step) for step in steps], axis=1)
        return slopes / np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-9)

    def onto_surface(self, points_ras: FloatArray) -> FloatArray:
        """Points near the surface moved onto it."""
        points = np.array(points_ras, float)
        for _ in range(8):
            slopes = self.normals(points)
            points -= np.clip(self.field(points), -1, 1)[:, None] * slopes
        return points[np.abs(self.field(points)) < 0.05]

    def reachable(self, points_ras: FloatArray) -> NDArray[np.bool_]:
        """Which points of the surface a stylus from behind can touch: they face back, and no bone lies behind them."""
        free = self.normals(points_ras) @ self.posterior_ras > 0.2
        for way_mm in np.arange(3.0, _REACH_MM, _STEP_MM):
            left = np.flatnonzero(free)
            free[left] = self.field(points_ras[left] + way_mm * self.posterior_ras) > 0
        return free
