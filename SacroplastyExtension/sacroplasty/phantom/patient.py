"""One synthetic patient: all shapes in one frame, the fractures and the landmarks.

Frame "patient": x left, y posterior, z towards the head, origin at the centre of the S1 endplate. The sacrum leans
forward in it by the sacral slope.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import AnatomyError
from ..geometry import FloatArray, invert_rigid, rigid, rotation_about, transform_points, unit
from .hip import Hip
from .implicit import Field
from .lumbar import LowestLumbarVertebra
from .parameters import PatientParameters
from .sacrum import Sacrum

FRACTURES: dict[str, tuple[str, ...]] = {
    "none": (),
    "left": ("left",),
    "right": ("right",),
    "bilateral": ("left", "right"),
    "h": ("left", "right", "transverse"),
}


@dataclass(frozen=True)
class Fracture:
    """A fracture plane in RAS. Its surface waves about the plane by up to `waviness_mm`."""

    name: str
    point_ras: FloatArray
    normal_ras: FloatArray
    gap_mm: float
    waviness_mm: float


class Patient:
    """The shapes of one patient and the transforms between their frames."""

    def __init__(self, parameters: PatientParameters, fracture: str) -> None:
        if fracture not in FRACTURES:
            raise AnatomyError(f"there is no fracture pattern {fracture!r}; choose one of {', '.join(FRACTURES)}")
        self.parameters = parameters
        self.sacrum = Sacrum(parameters)
        self.l5 = LowestLumbarVertebra(parameters)
        self.hips = {"left": Hip(parameters, True), "right": Hip(parameters, False)}
        self.SacrumToPatient = rigid(rotation_about((1, 0, 0), parameters.sacral_slope_deg), (0, 0, 0))
        self.L5ToPatient = self.SacrumToPatient @ self.l5.L5ToSacrum
        roll, yaw = parameters.roll_yaw_deg
        lying = rotation_about((0, 0, 1), roll) @ rotation_about((0, 1, 0), yaw)
        self.PatientToRAS = rigid(lying @ np.diag([-1.0, -1.0, 1.0]), parameters.origin_ras_mm)
        self.SacrumToRAS = self.PatientToRAS @ self.SacrumToPatient
        self.fractures = [self._fracture(name) for name in FRACTURES[fracture]]

    # Fractures

    def _fracture(self, name: str) -> Fracture:
        """Vertical fractures run through the ala along the joint (Denis zone I), the transverse one through S2."""
        sacrum = self.sacrum
        rng = np.random.default_rng([self.parameters.seed, 5, {"left": 0, "right": 1, "transverse": 2}[name]])
        scale = sacrum.length_scale
        gap = float(rng.uniform(0.8, 1.6))
        down = sacrum.straight(0, 30 * scale, 0) - sacrum.straight(0, 20 * scale, 0)
        if name == "transverse":
            point, normal = sacrum.straight(0, 46 * scale, -4), unit(down)
        else:
            sign = 1.0 if name == "left" else -1.0
            s = np.array([25 * scale], np.float32)
            inner, outer = float(sacrum.zone_line(s, name == "left")[0]), float(sacrum.half_width(s, name == "left")[0])
            share = rng.uniform(0.35, 0.55)
            point = sacrum.straight(sign * (inner + share * (outer - inner)), 25 * scale, -5)
            tilt = np.radians(14 + rng.normal(0, 2))
            normal = unit(sign * np.cos(tilt) * np.array([1.0, 0, 0]) + np.sin(tilt) * unit(down))
        ToRAS = self.SacrumToRAS
        return Fracture(name, transform_points(ToRAS, point), ToRAS[:3, :3] @ normal, gap, 0.7)

    def fracture_fields(self, x: Field, y: Field, z: Field, s: Field) -> list[Field]:
        """Distance to each fracture surface minus half its gap; large where the fracture does not reach."""
        RASToSacrum = invert_rigid(self.SacrumToRAS)
        fields = []
        for fracture in self.fractures:
            px, py, pz = transform_points(RASToSacrum, fracture.point_ras).tolist()
            nx, ny, nz = (RASToSacrum[:3, :3] @ fracture.normal_ras).tolist()
            wave = np.sin(y / 4.1) * np.sin(z / 5.3) if fracture.name != "transverse" else np.sin(x / 5) * np.sin(y / 4)
            offset = (x - px) * nx + (y - py) * ny + (z - pz) * nz + fracture.waviness_mm * wave
            field = np.abs(offset) - fracture.gap_mm / 2
            depth = self.sacrum.ala_depth(x, s)
            if fracture.name == "transverse":
                reaches = depth < 6
            else:
                reaches = (depth > 0) & (s < self.sacrum.ala_end_mm) & ((x > 0) == (fracture.name == "left"))
            fields.append(np.where(reaches, field, np.float32(50)))
        return fields

    # Landmarks

    def landmarks(self) -> dict[str, FloatArray]:
        """Named points in RAS, each the extreme of an implicit surface found to 0.25 mm."""
        sacrum = self.sacrum
        inside_sacrum: dict[str, FloatArray] = {
            "s1_endplate_center": np.zeros(3),
            "promontory": _extreme(sacrum.envelope, (0, -20, 0), (0, 12, 8), (0, -1, 0.6)),
            "apex": sacrum.straight(0, sacrum.end_mm, 0),
            "sacral_hiatus": sacrum.straight(0, sacrum.hiatus_mm, sacrum.back(0.0, sacrum.hiatus_mm)),
        }
        for number, point in enumerate(sacrum.spinous_tubercles(), start=1):
            inside_sacrum[f"median_crest_s{number}"] = point
        result = {name: transform_points(self.SacrumToRAS, point) for name, point in inside_sacrum.items()}
        pitch = self.parameters.hip_pitch_deg
        for side, hip in self.hips.items():

            def bone(x: Field, y: Field, z: Field, hip: Hip = hip) -> Field:
                points = hip.to_plate(x, y, z)
                return hip.bone(points, hip.plate(*points), np.full_like(x, 100), 0.0)

            tilt = rotation_about((1, 0, 0), pitch)
            for name, (u, v, w), direction in (
                ("psis", (3, 0, 0), (0, 1, 0)),
                ("asis", (148, -12, 12), (0, -1, 0)),
                ("iliac_crest", (75, 46, 17), (0, 0, 1)),
            ):
                point = _extreme(bone, hip.from_plate(u, v, w), (22, 22, 22), tilt @ np.array(direction, float))
                result[f"{name}_{side}"] = transform_points(self.PatientToRAS, point)
        return result


def _extreme(
    shape: Callable[[Field, Field, Field], Field], center: object, half: tuple[float, float, float], direction: object
) -> FloatArray:
    """The point of a shape farthest in a direction, within a box: on a 1.5 mm grid, then around it on one of 0.25 mm.

    A box of no width in x stays in the plane x = center.
    """
    middle, step = np.asarray(center, float), 1.5
    reach = np.asarray(half, float)
    toward = np.asarray(direction, float)
    for _ in range(2):
        axes = [np.arange(-r, r + step / 2, step) if r > 0 else np.zeros(1) for r in reach]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) + middle
        inside = grid[shape(*grid.T.astype(np.float32)) <= 0]
        if not len(inside):
            raise AnatomyError("a landmark of the synthetic patient lies outside the bone; use another seed")
        middle = inside[int(np.argmax(inside @ toward))]
        reach, step = np.where(reach > 0, 2.0, 0.0), 0.25
    return middle
