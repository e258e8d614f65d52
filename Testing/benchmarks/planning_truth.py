"""The true clearance of a trocar, from shapes that planning never sees: implicit surfaces of a synthetic patient.

Nothing here uses the fields of the planner. Points are laid around the axis 0.5 mm apart; where a point lies within
half a millimetre of a structure's surface, the distance of that surface from the axis is the point's own distance from
the axis plus the structure's signed field there, which is exact to first order.

A trocar may pass the sacrum's surface only where it faces the back: where its outward normal is within 78 degrees of
the direction of the true foramina and no sacrum lies behind it. All other surface, also beside the entry, is
`anterior_cortex`.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from anatomy_on_phantoms import case_of
from numpy.typing import NDArray

from sacroplasty.geometry import (
    FloatArray,
    distance_to_segment,
    invert_rigid,
    perpendicular,
    transform_points,
    transform_vectors,
    unit,
)
from sacroplasty.phantom.parameters import draw_parameters
from sacroplasty.phantom.patient import Patient

#: Points around the axis [mm], and how near to a surface they must lie to tell its distance.
_STEP_MM, _SHELL_MM = 0.5, 0.5
#: Least part along the foramina of the normal of a surface that may be passed: the cosine of 78 degrees.
_FACES_BACK = 0.2
#: Behind a surface sacrum is looked for so far, in these steps, and as deep as this [mm].
_BEHIND_MM, _BEHIND_STEP_MM, _BEHIND_DEPTH_MM = 60.0, 0.75, 0.25


def points_around(start: FloatArray, end: FloatArray, reach_mm: float, step_mm: float = _STEP_MM) -> FloatArray:
    """Points (n, 3) within a distance of the segment, about so far apart."""
    axis = unit(end - start)
    u = perpendicular(axis)
    v = np.cross(axis, u)
    across = np.arange(-reach_mm, reach_mm + 0.01, step_mm)
    along = np.arange(-reach_mm, np.linalg.norm(end - start) + reach_mm + 0.01, step_mm)
    a, b = (grid.ravel() for grid in np.meshgrid(across, across, indexing="ij"))
    near = np.hypot(a, b) <= reach_mm
    disc = a[near, None] * u + b[near, None] * v
    points = (start + along[:, None, None] * axis + disc[None]).reshape(-1, 3)
    return points[distance_to_segment(points, start, end) <= reach_mm]


class PhantomTruth:
    """The shapes of the synthetic patient of a seed."""

    def __init__(self, seed: int) -> None:
        self.patient = Patient(draw_parameters(seed, 1.0), case_of(seed)["fracture"])
        self.RASToSacrum = invert_rigid(self.patient.SacrumToRAS)
        self._RASToPatient = invert_rigid(self.patient.PatientToRAS)

    def envelope(self, points_ras: FloatArray) -> NDArray:
        return self.patient.sacrum.envelope(*self._local(points_ras))

    def fields(self, points_ras: FloatArray) -> dict[str, NDArray]:
        """Signed fields (n,) in mm of RAS points (n, 3), exact near the surface: negative inside each structure."""
        sacrum = self.patient.sacrum
        x, y, z = self._local(points_ras)
        curved = sacrum.curved(y, z)
        envelope = sacrum.envelope(x, y, z, curved)
        found = {"sacral_canal": sacrum.canal(x, y, z, curved)}
        for name in sacrum.channels:
            found[name] = np.maximum(sacrum.channel_field(name, x, y, z), envelope)
        for number, side in enumerate(self.patient.hips):
            found[f"hip_{side}"] = self._hip(points_ras, side, envelope)
            found[f"si_joint_{side}"] = self._joint(points_ras, side, envelope, found[f"hip_{side}"], number)
        beside = np.isfinite(found["si_joint_left"]) & (found["si_joint_left"] < 50)
        beside |= found["si_joint_right"] < 50
        wall = (np.abs(envelope) <= _SHELL_MM) & ~beside
        wall[wall] = ~self._faces_back(points_ras[wall])
        found["anterior_cortex"] = np.where(wall, -envelope, np.float32(99.0))
        return found

    def _hip(self, points_ras: FloatArray, side: str, envelope: NDArray) -> NDArray:
        hip = self.patient.hips[side]
        gap = self.patient.parameters.si_joint_mm[0 if side == "left" else 1]
        plate_points = hip.to_plate(*transform_points(self._RASToPatient, points_ras).astype(np.float32).T)
        return hip.bone(plate_points, hip.plate(*plate_points), envelope, gap)

    def _joint(self, points_ras: FloatArray, side: str, envelope: NDArray, hip: NDArray, number: int) -> NDArray:
        """The field of the joint: the sacrum's surface from which the hip is no farther than the joint is wide."""
        from scipy.spatial import cKDTree

        gap = self.patient.parameters.si_joint_mm[number]
        joint = np.full(len(points_ras), np.float32(99.0))
        surface = np.flatnonzero((np.abs(envelope) <= _SHELL_MM) & (hip < gap + _SHELL_MM + 2))
        if not len(surface):
            return joint
        # Beyond its surface the hip's field is no distance: points of the hip itself, around this surface.
        low, high = points_ras[surface].min(axis=0) - gap - 1, points_ras[surface].max(axis=0) + gap + 1
        axes = [np.arange(a, b, _STEP_MM) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        inside = grid[self._hip(grid, side, self.envelope(grid)) <= 0]
        if not len(inside):
            return joint
        away = cKDTree(inside).query(points_ras[surface], distance_upper_bound=gap + 2)[0]
        # From the surface, not from the point beside it, and to the hip's own, not to the grid point inside of it.
        near = away + envelope[surface] <= gap + _STEP_MM / 2
        joint[surface[near]] = -envelope[surface[near]]
        return joint

    def _faces_back(self, points_ras: FloatArray) -> NDArray:
        """Whether the bone's surface at each of points (n, 3) may be passed."""
        back = transform_vectors(self.patient.SacrumToRAS, self._back)
        slope = self.envelope(points_ras + 0.5 * back) - self.envelope(points_ras - 0.5 * back)
        faces = slope >= _FACES_BACK
        depth = np.minimum(self.envelope(points_ras), 0) - _BEHIND_DEPTH_MM
        for step in np.arange(_BEHIND_STEP_MM, _BEHIND_MM, _BEHIND_STEP_MM):
            open_yet = np.flatnonzero(faces)
            faces[open_yet] = self.envelope(points_ras[open_yet] + step * back) > depth[open_yet]
        return faces

    def clearance_mm(
        self, skin: FloatArray, target: FloatArray, radius_mm: float, reach_mm: float = 8.0
    ) -> dict[str, float]:
        """Distance of the shaft's surface from every structure; what is farther than the reach is left out."""
        outwards = unit(skin - target)
        # Further out than 90 mm from the tip there is skin only.
        start = target + min(float(np.linalg.norm(skin - target)), 90.0) * outwards
        points = points_around(target, start, radius_mm + reach_mm)
        away = distance_to_segment(points, target, start)
        result = {}
        for name, field in self.fields(points).items():
            near = np.abs(field) <= _SHELL_MM
            if near.any():
                result[name] = float((away[near] + field[near]).min()) - radius_mm
        return result

    def foramen_edge_mm(self, entry: FloatArray, side: str) -> float:
        """How far an entry lies lateral to the true lateral edge of the S2 foramen."""
        edge = self.patient.sacrum.channels[f"foramen_s2_{side}"].lateral_edge
        return float(transform_points(self.RASToSacrum, entry)[0] - edge[0]) * (1 if side == "left" else -1)

    def _local(self, points_ras: FloatArray) -> tuple[NDArray, NDArray, NDArray]:
        x, y, z = transform_points(self.RASToSacrum, points_ras).astype(np.float32).T
        return x, y, z

    @cached_property
    def _back(self) -> FloatArray:
        """Unit vector backwards along the true foramina, in the sacrum's frame."""
        channels = self.patient.sacrum.channels
        ways = [unit(channel.posterior - channel.anterior) for name, channel in channels.items() if "s4" not in name]
        back = np.mean(ways, axis=0)
        return unit(back - back[0] * np.array([1.0, 0, 0]))
