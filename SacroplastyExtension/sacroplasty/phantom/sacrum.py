"""The sacrum as an implicit shape: fused bodies, alae, arch with crest, canal, foramina S1-S4.

Frame "sacrum": x left, y posterior, z superior, in mm, z along the normal of the S1 endplate, origin at its centre.

The bone is described in curved coordinates (s, d) of its mid-sagittal plane: s runs down the axis of the bodies from
the S1 endplate, d is the distance behind that axis. Anterior and posterior surface are heights d(s, x). Their
averages below were read, rounded to half a millimetre, off the mean of 30 CT-derived sacra (S1 to S3; Han 2019,
doi 10.1088/1361-6560/ab1456); S4, S5 and the relief of the crests are drawn by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from ..anatomy.labels import LEVELS, SIDES
from ..geometry import FloatArray, unit
from .implicit import Field, HeightMap, capsule, interpolate_table, smooth_max, smooth_min, superellipse
from .parameters import ForamenParameters, PatientParameters

_COLUMNS_MM = [0, 6, 12, 18, 24, 30, 36, 42, 48, 54, 60]
_ANTERIOR_MM: dict[float, list[float]] = {
    4: [-20, -19, -17, -14, -11, -7, -2, 4, 10, 14, 16],
    8: [-19.5, -19, -17, -15, -14, -11, -7, -1, 3, 8, 10],
    12: [-19, -18, -16.5, -16, -15, -15, -13, -13, -11, -8, -6],
    16: [-18, -17, -16, -16, -16, -17, -17, -19, -21, -21, -21],
    20: [-16.5, -15.5, -15, -15, -16, -17, -20, -22, -25, -25, -25],
    24: [-16, -15, -14, -14, -14.5, -17, -21, -24.5, -28, -28, -28],
    28: [-15, -14, -13.5, -13, -13.5, -15, -20, -25, -29, -30, -30],
    32: [-14.5, -13.5, -12.5, -12.5, -12.5, -14, -19, -25, -29, -31, -31],
    40: [-13, -13, -12.5, -12.5, -13, -15, -19.5, -25, -29, -32, -33],
    48: [-12, -12, -12, -13, -14.5, -17, -20, -23.5, -27, -30, -32],
    56: [-13, -12.5, -11.5, -11, -12, -14, -17, -21, -25, -28, -30],
    64: [-12.5, -12, -10.5, -9.5, -10, -12, -15, -18.5, -22, -25, -27],
    72: [-10, -10, -9, -8.5, -8.5, -10, -13, -16, -19, -22, -24],
    84: [-8, -8, -7.5, -7, -7, -8, -10, -12, -14, -16, -18],
    96: [-6.5, -6.5, -6, -5.5, -5.5, -6, -7, -9, -11, -13, -15],
    108: [-5, -5, -4.5, -4, -4, -4.5, -5, -6, -7, -8, -9],
    118: [-4, -4, -3.5, -3.5, -3, -3, -3, -3, -3, -3, -3],
}
_POSTERIOR_MM: dict[float, list[float]] = {
    -10: [10, 10, 8, 12, 18, 15, 16, 18, 18, 12, 8],
    4: [10, 10, 10, 12, 19, 15, 16, 20, 18, 12, 8],
    12: [11, 10, 9, 15, 22, 19, 21, 24, 19, 12, 6],
    16: [11, 8, 7, 18, 21, 20, 21, 23, 14, 9, 4],
    21: [12, 10, 10, 18, 18, 19, 20, 16, 8, 6, 2],
    25: [15, 18, 19, 18, 15.5, 16, 17, 7, 3, 2, 0],
    28: [26, 22, 20, 18, 15, 16, 14, 2, -1, -3, -6],
    34: [31, 23, 20, 17.5, 14, 14, 13, 2, -3, -6, -9],
    40: [27, 20, 18, 17, 12.5, 12, 11, 4, -3, -7, -10],
    46: [20, 18, 16, 15.5, 12, 10, 7, 2, -2, -6, -10],
    52: [21, 17, 14, 14.5, 11.5, 9, 5, 1, -3, -7, -10],
    58: [25, 16, 12, 12, 10, 11, 6, 3, -2, -6, -10],
    64: [22, 15, 11.5, 10, 8, 10, 7, 2, -3, -7, -11],
    70: [15.5, 13, 11, 9.5, 6.5, 7, 4, -1, -5, -9, -12],
    80: [17, 12.5, 9.5, 7.5, 6, 6, 2, -3, -7, -10, -14],
    88: [13, 10, 8, 6, 5, 3, -1, -6, -9, -12, -15],
    96: [8.5, 8, 7.5, 6, 4, 1, -4, -8, -11, -14, -17],
    105: [6, 6, 6, 4, 2, -1, -5, -8, -11, -14, -17],
    115: [4, 4, 3, 2, 0, -2, -5, -8, -11, -14, -17],
}
#: Half width of the bone at s: the auricular surface down to S3, then the taper to the apex.
_LATERAL_MM = {
    0: 53, 8: 55.5, 12: 57, 20: 56, 28: 53.5, 36: 50, 44: 47.5, 52: 46, 60: 44.5, 68: 43, 72: 41, 78: 37, 86: 31.5,
    94: 27, 100: 22, 106: 15, 112: 10, 118: 8,
}  # fmt: skip
#: Canal at s: (d of its centre at the midline, half width, half height).
_CANAL_MM = {
    -20: (21, 14, 10), 0: (20, 14.5, 9.5), 12: (18.5, 14.5, 8), 24: (14.5, 14.5, 6), 32: (12, 14, 5), 44: (9, 13, 4.5),
    60: (7, 10.5, 3.8), 72: (7, 8.5, 3.5), 84: (6, 7, 3.1), 96: (4.5, 5.5, 2.6), 110: (3, 4.5, 2.2),
}  # fmt: skip
#: Half width of the vertebral bodies at s.
_BODY_HALF_WIDTH_MM = {0: 26, 14: 22, 32: 16, 60: 13.5, 81: 12, 99: 11, 113: 9}
#: s of the lower end of each body S1..S5.
BODY_ENDS_MM = (32.5, 60.0, 81.0, 99.0, 113.0)
#: Channels: (s, |x|) of the anterior and of the posterior opening. The anterior one lies farther lateral and a little
#: higher (Spine 1996, pubmed 8658241); posterior S1 opening 23.5 mm off the midline (Korean J Pain 36(1):98).
_CHANNELS_MM = {
    "s1": ((31.5, 25.0), (33.5, 23.2)),
    "s2": ((59.0, 21.8), (61.0, 20.0)),
    "s3": ((80.0, 18.8), (81.5, 17.2)),
    "s4": ((97.5, 15.5), (98.5, 14.2)),
}
#: Radius of the way from the canal into each channel.
_CONNECTION_RADIUS_MM = {"s1": 4.8, "s2": 3.9, "s3": 3.0, "s4": 2.4}
_CHANNEL_REACH_MM = 18.0
#: Stands for "nowhere near" in a field.
FAR_MM = np.float32(30.0)
_HIATUS_MM = 97.0
#: Lean of the axis under the endplate of the average sacrum, on which the tables were read.
_AVERAGE_TILT_DEG = 21.0
_STEP_MM = 0.5
#: How far the line between central zone and ala lies from the midline above the S1 foramen.
_ALA_START_MM = 27.0
#: The alae count down to here (below S3 there is no joint with the hip).
_ALA_END_MM = 78.0


@dataclass(frozen=True)
class Rim:
    """The rim of an opening: unit normal of its plane out of the bone, extent to the sides and at a right angle to it.

    Bone is rounded there; these are the measures of the channel's sharp edge on the filled bone.
    """

    normal: FloatArray
    width_mm: float
    height_mm: float


@dataclass(frozen=True)
class Channel:
    """A foramen as an elliptic cone: centres of its openings and their half axes (along, across the sacrum)."""

    anterior: FloatArray
    posterior: FloatArray
    anterior_radii_mm: tuple[float, float]
    posterior_radii_mm: tuple[float, float]
    anterior_rim: Rim
    posterior_rim: Rim
    lateral_edge: FloatArray


class Sacrum:
    """Signed fields of one sacrum. All methods take points in the sacrum frame."""

    def __init__(self, patient: PatientParameters) -> None:
        self.patient = patient
        self.length_scale = patient.length_scale
        self._make_axis()
        self._make_surfaces()
        self.channels = {
            f"foramen_{level}_{side}": self._make_channel(level, side, patient.foramina[f"foramen_{level}_{side}"])
            for level in LEVELS
            for side in SIDES
        }
        self._make_zone_line()

    # Curved coordinates

    def _make_axis(self) -> None:
        patient, scale = self.patient, self.length_scale
        s = np.arange(-60.0, 135.0, 0.25)
        # The axis leans back under the endplate, then bends forward, most at S3 and below.
        turned = np.interp(s / scale, [-1, 20, 55, 72, 90, 112, 135], [0, 0, 0.15, 0.28, 0.6, 1, 1.1])
        angle = np.radians(patient.inlet_tilt_deg - patient.kyphosis_deg * turned)
        start = int(np.searchsorted(s, 0.0))
        y, z = np.cumsum(np.sin(angle)) * 0.25, -np.cumsum(np.cos(angle)) * 0.25
        self._axis_s, self._axis_angle = s, angle
        self._axis = np.stack([y - y[start], z - z[start]], axis=1)

    @cached_property
    def _curved_maps(self) -> tuple[HeightMap, HeightMap]:
        """s and d on a grid of (y, z)."""
        from scipy.spatial import cKDTree

        low, high = np.array([-90.0, -150.0]), np.array([100.0, 60.0])
        y, z = (np.arange(a, b, _STEP_MM) for a, b in zip(low, high, strict=True))
        points = np.stack(np.meshgrid(y, z, indexing="ij"), axis=-1)
        _, nearest = cKDTree(self._axis).query(points)
        angle = self._axis_angle[nearest]
        offset = points - self._axis[nearest]
        along = offset[..., 0] * np.sin(angle) - offset[..., 1] * np.cos(angle)
        behind = offset[..., 0] * np.cos(angle) + offset[..., 1] * np.sin(angle)
        origin = (float(low[0]), float(low[1]))
        return HeightMap(self._axis_s[nearest] + along, origin, _STEP_MM), HeightMap(behind, origin, _STEP_MM)

    def curved(self, y: Field, z: Field) -> tuple[Field, Field]:
        """(s, d) of points given by y and z."""
        s_map, d_map = self._curved_maps
        return s_map(y, z), d_map(y, z)

    def straight(self, x: float, s: float, d: float) -> FloatArray:
        """The point (x, y, z) of curved coordinates."""
        angle = float(np.interp(s, self._axis_s, self._axis_angle))
        y, z = (float(np.interp(s, self._axis_s, self._axis[:, n])) for n in (0, 1))
        return np.array([x, y + d * np.cos(angle), z + d * np.sin(angle)])

    # Surfaces

    def _profile(self, table: dict[int, float], s: Field, scale: float = 1.0) -> Field:
        knots = np.array(list(table), float) * self.length_scale
        return np.interp(s, knots, np.array(list(table.values()), float) * scale).astype(s.dtype)

    def _make_surfaces(self) -> None:
        patient = self.patient
        rng = np.random.default_rng([patient.seed, 2])
        s, x = np.arange(-30.0, 130.0, _STEP_MM), np.arange(-80.0, 80.0 + _STEP_MM, _STEP_MM)
        maps = []
        for table in (_ANTERIOR_MM, _POSTERIOR_MM):
            rows = np.array(list(table), float)
            heights = np.array(list(table.values()), float)
            if table is _ANTERIOR_MM:
                # A steeper or flatter wing: its front edge in S1 moves along the endplate normal.
                wing = np.clip((np.array(_COLUMNS_MM) - 22) / 20, 0, 1) * np.exp(-(((rows - 8) / 6) ** 2))[:, None]
                heights = heights + wing * (patient.ala_slope - 1) * 20
            else:
                crest = np.clip(1 - np.array(_COLUMNS_MM) / 9, 0, 1) * (rows[:, None] > 26)
                heights = heights + crest * (patient.crest_scale - 1) * 12
            halves = [
                interpolate_table(rows * patient.length_scale, np.array(_COLUMNS_MM) * scale, heights, s, np.abs(x))
                for scale in patient.width_scale
            ]
            surface = np.where(x > 0, halves[0], halves[1]) * patient.depth_scale
            if table is _ANTERIOR_MM:
                for end in BODY_ENDS_MM[:-1]:  # the ridges where the discs have fused
                    ridge = np.exp(-(((s - end * patient.length_scale) / 2.0) ** 2))[:, None]
                    surface = surface - 1.0 * ridge * np.exp(-((x / 12) ** 4))
            maps.append(HeightMap(_smooth(surface) + _relief(rng, surface.shape, patient.relief_mm), (-30, -80), 0.5))
        self._anterior, self._posterior = maps
        self.end_mm = BODY_ENDS_MM[-1] * patient.length_scale
        self.hiatus_mm = _HIATUS_MM * patient.length_scale

    def half_width(self, s: Field, left: bool) -> Field:
        return self._profile(_LATERAL_MM, s, self.patient.width_scale[0 if left else 1])

    def back(self, x: float, s: float) -> float:
        """d of the posterior surface."""
        return float(self._posterior(np.array([s], np.float32), np.array([x], np.float32))[0])

    def envelope(self, x: Field, y: Field, z: Field, curved: tuple[Field, Field] | None = None) -> Field:
        """The bone with canal and foramina filled."""
        patient = self.patient
        s, d = curved if curved is not None else self.curved(y, z)
        width = np.where(x > 0, *(np.float32(scale) for scale in patient.width_scale))
        front = -self._anterior.above(s, x, d)
        back = self._posterior.above(s, x, d)
        side = np.abs(x) - self._profile(_LATERAL_MM, s) * width + 3 * ((d + 3) / 22) ** 2
        top = self._wing_top(x) - s
        sheet = smooth_max(smooth_max(front, back, 2.0), smooth_max(side, top, 5.0), 4.0)
        sheet = smooth_max(sheet, s - self.end_mm, 3.0)
        bone = smooth_min(sheet, self._s1_body(x, y, z), 6.0)
        for sign, scale in ((1, patient.width_scale[0]), (-1, patient.width_scale[1])):
            low = self.straight(sign * 21.5 * scale, 15 * self.length_scale, 17 * patient.depth_scale)
            high = self.straight(sign * 24.5 * scale, 5 * self.length_scale, 22 * patient.depth_scale)
            bone = smooth_min(bone, capsule(x, y, z, low, high, (6.0, 4.6)), 5.0)
        return bone

    def _wing_top(self, x: Field) -> Field:
        return np.where(np.abs(x) < 20, 9, 7).astype(np.float32) * np.float32(self.length_scale)

    def _s1_body(self, x: Field, y: Field, z: Field) -> Field:
        """The top of S1: a kidney-shaped column whose endplate is slightly hollow, deepest (z = 0) at the origin."""
        patient = self.patient
        depth = np.clip(-z, 0, 30)
        half_x = (26.5 - 0.3 * depth) * np.where(x > 0, *(np.float32(scale) for scale in patient.width_scale))
        half_y = np.float32(16.0 * patient.depth_scale) - 0.2 * depth
        # The front of the body recedes with the axis of the bone.
        recession = 0.22 + float(np.tan(np.radians(patient.inlet_tilt_deg)) - np.tan(np.radians(_AVERAGE_TILT_DEG)))
        center = recession * depth - 3.5 * patient.depth_scale
        column = superellipse(x, y - center - 0.006 * x * x, half_x, half_y, 2.2)
        rim = np.minimum((x / half_x) ** 2 + ((y - center) / half_y) ** 2, 1.0)
        return smooth_max(smooth_max(column, z - 1.2 * rim, 2.0), -30 - z, 3.0)

    def canal(self, x: Field, y: Field, z: Field, curved: tuple[Field, Field] | None = None) -> Field:
        """The sacral canal: open above S1 and, below the hiatus, ending."""
        s, d = curved if curved is not None else self.curved(y, z)
        center, half_width, half_height = (self.canal_profile(s, n) for n in range(3))
        arch = 0.022 * x * x
        field = superellipse(x, d - center + arch, half_width, half_height, 2.6)
        return smooth_max(field, s - (self.hiatus_mm + 5), 2.0)

    def canal_profile(self, s: Field, column: int) -> Field:
        """Column 0: d of the canal's centre; 1: its half width; 2: its half height."""
        patient = self.patient
        scale = patient.depth_scale if column == 0 else patient.canal_scale
        return self._profile({knot: row[column] for knot, row in _CANAL_MM.items()}, s, scale)

    # Foramina

    def _make_channel(self, level: str, side: str, foramen: ForamenParameters) -> Channel:
        sign, scale = (1, self.patient.width_scale[0]) if side == "left" else (-1, self.patient.width_scale[1])
        starts, stops = [], []
        for (s, x), limits in zip(_CHANNELS_MM[level], ((-60.0, -2.0), (30.0, 0.0)), strict=True):
            x_mm = sign * (x * scale + foramen.lateral_offset_mm)
            s_mm = s * self.length_scale + foramen.caudal_offset_mm
            starts.append(self.straight(x_mm, s_mm, limits[0]))
            stops.append(self.straight(x_mm, s_mm, limits[1]))
        anterior, posterior = self._surface_between(starts, stops)
        anterior_radii = (foramen.anterior_size_mm[0] / 2, foramen.anterior_size_mm[1] / 2)
        posterior_radii = (foramen.posterior_size_mm[0] / 2, foramen.posterior_size_mm[1] / 2)
        axis = unit(posterior - anterior)
        front = self._rim_points(anterior, -axis, anterior_radii)
        back = self._rim_points(posterior, axis, posterior_radii)
        edge = back[int(np.argmax(sign * back[:, 0]))]
        return Channel(anterior, posterior, anterior_radii, posterior_radii, _rim(front, -axis), _rim(back, axis), edge)

    def _rim_points(self, center: FloatArray, outward: FloatArray, radii: tuple[float, float]) -> FloatArray:
        """Points (180, 3) where the channel's edge meets the filled bone."""
        across, along = _cross_axes(outward)
        angles = np.radians(np.arange(0, 360, 2))[:, None]
        ring = center + across * radii[1] * np.cos(angles) + along * radii[0] * np.sin(angles)
        return self._surface_between(ring + 12 * outward, ring - 8 * outward)

    def _surface_between(self, outside: ArrayLike, inside: ArrayLike) -> FloatArray:
        """Points (n, 3) where the ways from outside to inside first meet the filled bone, to 0.01 mm.

        Where a way misses the bone: its point nearest to the bone.
        """
        starts, stops = np.asarray(outside, float), np.asarray(inside, float)
        fractions = np.linspace(0, 1, 150)[:, None]
        points = starts[:, None] + fractions * (stops - starts)[:, None]
        values = self.envelope(*np.moveaxis(points, -1, 0).astype(np.float32))
        enters = (values[:, :-1] > 0) & (values[:, 1:] <= 0)
        found = []
        for way, value, enter in zip(points, values, enters, strict=True):
            if not enter.any():
                found.append(way[int(np.argmin(np.abs(value)))])
                continue
            first = int(np.argmax(enter))
            share = value[first] / (value[first] - value[first + 1])
            found.append(way[first] + share * (way[first + 1] - way[first]))
        return np.array(found)

    def channel_field(self, name: str, x: Field, y: Field, z: Field) -> Field:
        """The channel of a foramen, reaching 10 mm out of the bone at both ends, and its way into the canal.

        Right near the channel; FAR_MM elsewhere.
        """
        channel = self.channels[name]
        low, high = np.minimum(channel.anterior, channel.posterior), np.maximum(channel.anterior, channel.posterior)
        near = np.ones(x.shape, bool)
        for line, bottom, top in zip(
            (x, y, z), (low - _CHANNEL_REACH_MM).tolist(), (high + _CHANNEL_REACH_MM).tolist(), strict=True
        ):
            near &= (line > bottom) & (line < top)
        field = np.full(x.shape, FAR_MM, np.float32)
        field[near] = self._channel(name, x[near], y[near], z[near])
        return field

    def _channel(self, name: str, x: Field, y: Field, z: Field) -> Field:
        channel = self.channels[name]
        axis = channel.posterior - channel.anterior
        length = float(np.linalg.norm(axis))
        direction = axis / length
        across, along = _cross_axes(direction)
        dx, dy, dz = (c - o for c, o in zip((x, y, z), channel.anterior, strict=True))
        t = (dx * direction[0] + dy * direction[1] + dz * direction[2]) / length
        u = dx * across[0] + dy * across[1] + dz * across[2]
        v = dx * along[0] + dy * along[1] + dz * along[2]
        share = np.clip(t, 0, 1)
        half_v, half_u = (
            a + (b - a) * share for a, b in zip(channel.anterior_radii_mm, channel.posterior_radii_mm, strict=True)
        )
        cone = superellipse(u, v, half_u, half_v, 2.0)
        cone = smooth_max(cone, (np.abs(t - 0.5) - 0.5) * length - 10, 1.0)
        start, end = self._way_from_canal(name)
        radius = _CONNECTION_RADIUS_MM[name.split("_")[1]] * self.patient.canal_scale
        return smooth_min(cone, capsule(x, y, z, start, end, (radius, radius)), 2.0)

    def _way_from_canal(self, name: str) -> tuple[FloatArray, FloatArray]:
        """From the lateral recess of the canal, somewhat higher, to the middle of the channel."""
        channel = self.channels[name]
        middle = channel.anterior + 0.5 * (channel.posterior - channel.anterior)
        s, _ = (float(value[0]) for value in self.curved(*(np.array([c], np.float32) for c in middle[1:])))
        higher = np.array([s - 4.5], np.float32)
        center, half_width = (float(self.canal_profile(higher, n)[0]) for n in (0, 1))
        x = 0.75 * half_width
        return self.straight(float(np.sign(middle[0])) * x, s - 4.5, center - 0.022 * x * x), middle

    def nerve(self, name: str) -> list[FloatArray]:
        """Course of the nerve root: canal, channel, out of the anterior opening."""
        channel = self.channels[name]
        start, middle = self._way_from_canal(name)
        out = unit(channel.anterior - channel.posterior)
        return [start, middle, channel.anterior, channel.anterior + 14 * unit(out + np.array([0, 0, -0.7]))]

    def bone(self, x: Field, y: Field, z: Field, envelope: Field, canal: Field, foramina: dict[str, Field]) -> Field:
        """The bone itself, from the fields of its parts at the same points."""
        field = smooth_max(envelope, -canal, 1.0)
        for channel in foramina.values():
            field = smooth_max(field, -channel, 1.5)
        return field

    # Zones

    def _make_zone_line(self) -> None:
        """|x| of the lateral margin of the foramina along s on each side: beyond it is the ala (Denis zone I)."""
        self._zone_lines = {}
        for side in SIDES:
            knots = [(0.0, _ALA_START_MM * self.patient.width_scale[SIDES.index(side)])]
            for level in LEVELS:
                channel = self.channels[f"foramen_{level}_{side}"]
                (s, _) = self.curved(*(np.array([c], np.float32) for c in channel.anterior[1:]))
                reach = max(
                    abs(channel.anterior[0]) + channel.anterior_radii_mm[1], abs(float(channel.lateral_edge[0]))
                )
                knots.append((float(s[0]), reach))
            self._zone_lines[side] = np.array(knots)

    def zone_line(self, s: Field, left: bool) -> Field:
        """|x| of the border between the foraminal zone and the ala."""
        knots = self._zone_lines["left" if left else "right"]
        return np.interp(s, knots[:, 0], knots[:, 1]).astype(s.dtype)

    def ala_depth(self, x: Field, s: Field) -> Field:
        """How far points are lateral to the foramina, in mm; negative towards the midline."""
        return np.where(x > 0, np.abs(x) - self.zone_line(s, True), np.abs(x) - self.zone_line(s, False))

    @property
    def ala_end_mm(self) -> float:
        return _ALA_END_MM * self.length_scale

    def body_numbers(self, x: Field, s: Field, d: Field) -> np.ndarray:
        """1..5 where a point lies in the column of the bodies S1..S5, else 0 (uint8)."""
        column = (np.abs(x) < self.body_half_width(s)) & (d < self.canal_profile(s, 0)) & (s < self.end_mm)
        number = np.ones(x.shape, np.uint8)
        for end in BODY_ENDS_MM[:-1]:
            number += (s > end * self.length_scale).astype(np.uint8)
        return np.where(column, number, 0).astype(np.uint8)

    def body_half_width(self, s: Field) -> Field:
        return self._profile(_BODY_HALF_WIDTH_MM, s, float(np.mean(self.patient.width_scale)))

    def spinous_tubercles(self) -> list[FloatArray]:
        """The highest midline point of the crest at S1, S2 and S3."""
        points = []
        for low, high in pairwise((27.0, 46.0, 70.0, 90.0)):
            s = np.arange(low, high, 0.25, dtype=np.float32) * self.length_scale
            d = self._posterior(s, np.zeros_like(s))
            best = int(np.argmax(d))
            points.append(self.straight(0.0, float(s[best]), float(d[best])))
        return points


def _rim(points: FloatArray, outward: FloatArray) -> Rim:
    """Measures of a rim (n, 3) in the plane nearest to its points."""
    normal = np.linalg.svd(points - points.mean(axis=0))[2][2]
    normal = normal * np.sign(normal @ outward)
    across, along = _cross_axes(normal)
    return Rim(normal, float(np.ptp(points @ across)), float(np.ptp(points @ along)))


def _cross_axes(direction: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Unit vectors across (towards the left) and along the sacrum, at a right angle to a channel."""
    axis = np.asarray(direction, float)
    across = unit(np.array([1.0, 0.0, 0.0]) - axis[0] * axis)
    return across, np.cross(axis, across)


def _smooth(surface: FloatArray) -> FloatArray:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(surface, 1.2 / _STEP_MM))


def _relief(rng: np.random.Generator, shape: tuple[int, ...], deviation_mm: float) -> FloatArray:
    """Random bumps some 7 mm wide."""
    from scipy.ndimage import gaussian_filter

    bumps = gaussian_filter(rng.standard_normal(shape), 7.0 / _STEP_MM)
    return np.asarray(bumps * deviation_mm / bumps.std())
