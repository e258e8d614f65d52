"""The hip bone as an implicit shape: the iliac blade with crest and spines, acetabulum, ischium, upper pubic ramus.

Frame "patient": x left, y posterior, z towards the head, origin at the centre of the S1 endplate. A hip is a bent
plate: medial and lateral surface are heights over the plane through both iliac spines and the vertical; its outline in
that plane is a polygon. The averages were read off the mean of 30 CT-derived hips (Han 2019,
doi 10.1088/1361-6560/ab1456) and rounded; the medial side is set 4 mm inwards at the joint and then cut back to the
joint gap along the sacrum, so that the joint fits each sacrum.
"""

from __future__ import annotations

import numpy as np

from ..geometry import FloatArray, rotation_about
from .implicit import Field, HeightMap, capsule, ellipsoid, interpolate_table, polygon, smooth_max, smooth_min
from .parameters import PatientParameters

_U_MM = [10, 30, 50, 70, 90, 110, 130, 150]
_V_MM = [-135, -115, -95, -75, -55, -35, -15, 5, 25, 45]
_MEDIAL_MM = [
    [-8, -8, -14, -18, -18, -18, -18, -18],
    [-8, -8, -9, -16, -18, -20, -20, -20],
    [-6, -6, -9, -22, -27, -30, -30, -30],
    [-6, -6, -6, -18, -30, -33, -26, -20],
    [-5, -5, -7, -13, -19, -15, -8, -5],
    [-5, -6, -14, -17, -6, -3, -2, -2],
    [-8, -11, -17, -14, 7, 8, 5, -1],
    [-11, -17, -14, 3, 16, 18, 14, 12],
    [-6, -8, -8, 8, 20, 26, 30, 30],
    [-1, -1, 4, 13, 29, 34, 36, 36],
]
_LATERAL_MM = [
    [8, 10, 13, 12, 8, 5, 5, 5],
    [8, 10, 14, 10, 5, 0, 0, 0],
    [4, 4, 9, 17, 18, 5, 0, 0],
    [4, 4, 6, 19, 23, 15, 0, 0],
    [4, 5, 7, 11, 14, 10, 5, 2],
    [4, 4, 7, 9, 14, 14, 8, 6],
    [7, 9, 9, 9, 16, 20, 14, 12],
    [9, 9, 9, 13, 22, 31, 36, 33],
    [7, 9, 10, 17, 29, 38, 40, 38],
    [3, 6, 13, 24, 36, 40, 43, 43],
]
#: Outline (u, v) from the posterior superior spine over crest, anterior spines, acetabulum, ischium, sciatic notch.
_OUTLINE_MM = [
    (-1, -3), (4, 10), (16, 26), (27, 37), (40, 46), (60, 50), (80, 49), (97, 44), (115, 37), (135, 25), (150, 9),
    (155, -8), (150, -22), (140, -33), (135, -48), (129, -62), (118, -88), (104, -108), (88, -110), (82, -125),
    (72, -148), (45, -152), (35, -136), (39, -112), (42, -92), (51, -78), (60, -62), (58, -47), (45, -38), (30, -37),
    (15, -23), (3, -13),
]  # fmt: skip
_SPINE_IN_PATIENT_MM = (43.0, 66.5, -15.5)
_BLADE_ANGLE_DEG = 26.1
_HEAD_UVW_MM = (95.0, -84.0, 4.0)
_HEAD_RADIUS_MM = 23.5
_SOCKET_RADIUS_MM = 26.5
_STEP_MM = 1.0

Plate = tuple[Field, Field, Field]


class Hip:
    """Signed fields of one hip and its femoral head; points in the patient frame."""

    def __init__(self, patient: PatientParameters, left: bool) -> None:
        self.left = left
        self.scale = patient.hip_scale
        width_scale = patient.width_scale[0 if left else 1]
        x, y, z = _SPINE_IN_PATIENT_MM
        self._spine = np.array([x + 54 * (width_scale - 1), y * patient.depth_scale, z])
        self._pitch = rotation_about((1, 0, 0), -patient.hip_pitch_deg)
        u, v = np.arange(-30.0, 190.0, _STEP_MM), np.arange(-170.0, 80.0, _STEP_MM)
        grid_u, grid_v = np.meshgrid(u, v)
        self._outline = HeightMap(polygon(grid_u, grid_v, _OUTLINE_MM), (-170, -30), _STEP_MM)
        rng = np.random.default_rng([patient.seed, 3 if left else 4])
        surfaces = [interpolate_table(_V_MM, _U_MM, table, v, u) for table in (_MEDIAL_MM, _LATERAL_MM)]
        self._medial, self._lateral = (
            HeightMap(_smooth(surface) + _relief(rng, surface.shape, 0.7), (-170, -30), _STEP_MM)
            for surface in surfaces
        )

    def to_plate(self, x: Field, y: Field, z: Field) -> Plate:
        """(u forward along the blade, v up, w lateral) in average millimetres."""
        side = x if self.left else -x
        p = self._pitch
        py, pz = float(p[1, 1]) * y + float(p[1, 2]) * z, float(p[2, 1]) * y + float(p[2, 2]) * z
        cosine, sine = (float(f(np.radians(_BLADE_ANGLE_DEG))) for f in (np.cos, np.sin))
        dx, dy, dz = (c - o for c, o in zip((side, py, pz), self._spine.tolist(), strict=True))
        k = 1 / self.scale
        return (sine * dx - cosine * dy) * k, dz * k, (cosine * dx + sine * dy) * k

    def box(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest patient coordinates of the hip and the muscles upon it."""
        corners = np.array([self.from_plate(u, v, w) for u in (-25, 175) for v in (-170, 62) for w in (-78, 85)])
        return corners.min(axis=0), corners.max(axis=0)

    def from_plate(self, u: float, v: float, w: float) -> FloatArray:
        """The point in the patient frame; inverse of `to_plate`."""
        cosine, sine = np.cos(np.radians(_BLADE_ANGLE_DEG)), np.sin(np.radians(_BLADE_ANGLE_DEG))
        offset = np.array([sine * u + cosine * w, -cosine * u + sine * w, v]) * self.scale
        point = self._pitch.T @ (self._spine + offset)
        return point * (1 if self.left else -1, 1, 1)

    def plate(self, u: Field, v: Field, w: Field) -> Plate:
        """Distances in front of the medial surface, beyond the lateral surface, and outside the outline."""
        medial = -self._medial.above(v, u, w)
        lateral = self._lateral.above(v, u, w)
        return medial * self.scale, lateral * self.scale, self._outline(v, u) * self.scale

    def bone(self, plate_points: Plate, sides: Plate, sacrum_distance: Field, joint_mm: float) -> Field:
        """The hip bone, from the results of `to_plate` and `plate`.

        `sacrum_distance` is the field of the sacrum's filled envelope at the same points.
        """
        (u, v, w), (medial, lateral, outline) = plate_points, sides
        field = smooth_max(smooth_max(medial, lateral, 4.0), outline, 7.0)
        ramus = capsule(u, v, w, (103, -88, -24), (96, -106, -62), (12.0, 8.0))
        field = smooth_min(field, ramus * self.scale, 8.0)
        socket = ellipsoid(u, v, w, _HEAD_UVW_MM, [_SOCKET_RADIUS_MM] * 3) * self.scale
        # The socket is open to the side only: it never eats through the medial wall.
        field = smooth_max(field, -smooth_max(socket, (-22 - w) * self.scale, 3.0), 2.0)
        return smooth_max(field, joint_mm - sacrum_distance, 1.0)

    def femur(self, plate_points: Plate) -> Field:
        """Head and neck of the femur (no structure of its own in the truth, but seen on every pelvic image)."""
        u, v, w = plate_points
        head = ellipsoid(u, v, w, _HEAD_UVW_MM, [_HEAD_RADIUS_MM] * 3)
        hu, hv, hw = _HEAD_UVW_MM
        neck = capsule(u, v, w, (hu, hv, hw + 8), (hu - 14, hv - 26, hw + 48), (15.0, 17.0))
        trochanter = capsule(u, v, w, (hu - 22, hv - 14, hw + 55), (hu - 18, hv - 70, hw + 55), (13.0, 15.0))
        return smooth_min(smooth_min(head, neck, 6.0), trochanter, 8.0) * self.scale


def _smooth(surface: FloatArray) -> FloatArray:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(surface, 3.0 / _STEP_MM))


def _relief(rng: np.random.Generator, shape: tuple[int, ...], deviation_mm: float) -> FloatArray:
    from scipy.ndimage import gaussian_filter

    bumps = gaussian_filter(rng.standard_normal(shape), 9.0 / _STEP_MM)
    return np.asarray(bumps * deviation_mm / bumps.std())
