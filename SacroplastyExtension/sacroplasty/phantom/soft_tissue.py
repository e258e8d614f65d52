"""What surrounds the bones: skin, fat, muscles, vessels, bowel with gas, bladder. Background for images, not truth.

Everything is in the patient frame; sizes are typical adult ones, drawn by hand. Hounsfield units: fat about -105,
muscle about 55, blood about 45, gas about -950 (usual values of unenhanced CT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from ..geometry import FloatArray, transform_points
from .grid import Block
from .hip import Plate
from .implicit import Field, capsule, coverage, ellipsoid, smooth_max
from .patient import Patient

FAT_HU, MUSCLE_HU, BLOOD_HU, GAS_HU, SKIN_HU = -105.0, 55.0, 45.0, -950.0, 20.0
_SKIN_MM = 1.8
#: Bowel gas keeps this far from the inner side of the subcutaneous fat: behind the abdominal wall.
_GAS_DEPTH_MM = 16.0
#: The window of a block with a hip, with the results of `Hip.to_plate` and `Hip.plate` there.
HipPart = tuple[tuple[slice, ...], Plate, Plate]


class Body:
    """The outline of the body and its contents."""

    def __init__(self, patient: Patient) -> None:
        from scipy.ndimage import gaussian_filter1d

        self.patient = patient
        self.fat_mm = patient.parameters.fat_mm
        sacrum, fat = patient.sacrum, self.fat_mm
        tubercles = transform_points(patient.SacrumToPatient, sacrum.spinous_tubercles())
        apex = transform_points(patient.SacrumToPatient, sacrum.straight(0, sacrum.end_mm, 0))
        spine = transform_points(patient.L5ToPatient, (0, 66, 2))
        back = [
            (apex[2] - 40, tubercles[2][1] + fat + 8),
            (apex[2], max(apex[1] + 42, tubercles[2][1] + 4) + 0.6 * fat),
            (tubercles[2][2], tubercles[2][1] + 4 + 0.7 * fat),
            (tubercles[0][2], tubercles[0][1] + 8 + 0.9 * fat),
            (spine[2] + 10, spine[1] + 14 + 0.8 * fat),
            (spine[2] + 60, spine[1] + 12 + 0.7 * fat),
        ]
        self._back = np.array(sorted(back))
        heights = np.linspace(self._back[0, 0], self._back[-1, 0], 200)
        self._back_line = heights, gaussian_filter1d(np.interp(heights, *self._back.T), 10, mode="nearest")
        self.depth_mm = 190 + 1.1 * fat
        self.half_width_mm = 150 * patient.parameters.hip_scale + 0.9 * fat
        self._rng = np.random.default_rng([patient.parameters.seed, 6])
        self._organs = list(self._make_organs())

    def back_y(self, z: Field) -> Field:
        return np.interp(z, *self._back_line).astype(np.float32)

    def extent(self, z_low: float, z_high: float) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest corner of the body between two heights."""
        back = self.back_y(np.linspace(z_low, z_high, 50))
        return (
            np.array([-self.half_width_mm, float(back.min()) - self.depth_mm, z_low]),
            np.array([self.half_width_mm, float(back.max()) + 6, z_high]),
        )

    def skin(self, x: Field, y: Field, z: Field) -> Field:
        """The outer surface of the body."""
        back = self.back_y(z)
        half = np.float32(self.depth_mm / 2)
        # Flatter at the back than at the front.
        center = back - half
        power = np.where(y > center, 2.9, 2.3).astype(np.float32)
        pa, pb = np.abs(x) / np.float32(self.half_width_mm), np.abs(y - center) / half
        level = (pa**power + pb**power) ** (1 / power)
        trunk = (level - 1) * half
        cleft_depth = np.clip((self._back[1, 0] + 30 - z) / 40, 0, 1) * 24
        cleft = np.hypot(x / 0.5, np.minimum(y - (back + 4), 0) / 2.2) - cleft_depth
        return smooth_max(trunk, -cleft, 10.0)

    def _make_organs(self) -> Iterator[Organ]:
        """Shapes with the box around them and their HU, in the order of painting."""
        patient, rng = self.patient, self._rng
        sacrum, SacrumToPatient = patient.sacrum, patient.SacrumToPatient

        def sacral(x: float, s: float, d: float) -> FloatArray:
            return transform_points(SacrumToPatient, sacrum.straight(x, s * sacrum.length_scale, d))

        def lumbar(x: float, y: float, z: float) -> FloatArray:
            return transform_points(patient.L5ToPatient, (x, y, z))

        for side in (1, -1):
            hip = patient.hips["left" if side > 0 else "right"]
            psoas = [lumbar(side * 46, -2, 60), lumbar(side * 48, -8, 10), hip.from_plate(95, -5, -12)]
            psoas += [hip.from_plate(132, -55, -12), hip.from_plate(128, -120, 10)]
            yield from _rod(psoas, [24, 24, 19, 16, 14], MUSCLE_HU)
            multifidus = [lumbar(side * 27, 52, 60), lumbar(side * 26, 50, 10)]
            multifidus += [sacral(side * 21, 30, 36), sacral(side * 13, 68, 24)]
            yield from _rod(multifidus, [25, 24, 19, 7], MUSCLE_HU)
            piriformis = [sacral(side * 30, 68, -22), hip.from_plate(40, -72, 14), hip.from_plate(72, -95, 48)]
            yield from _rod(piriformis, [10, 12, 7], MUSCLE_HU)
            gluteus = [hip.from_plate(12, -20, 22), hip.from_plate(30, -60, 42), hip.from_plate(62, -125, 60)]
            yield from _rod(gluteus, [20, 32, 30], MUSCLE_HU)
            arteries = [lumbar(side * 9, -28, 50), sacral(side * 26, 0, -34), hip.from_plate(62, -16, -32)]
            arteries += [hip.from_plate(110, -62, -38), hip.from_plate(126, -120, -8)]
            yield from _rod(arteries, [7, 6, 5.5, 5, 5], BLOOD_HU)
            veins = [point + np.array([0, 8, -8]) for point in arteries]
            yield from _rod(veins, [8, 7, 7, 6, 6], BLOOD_HU - 5)
            internal = [arteries[2], sacral(side * 36, 48, -42), sacral(side * 30, 75, -32)]
            yield from _rod(internal, [5, 5, 3], BLOOD_HU)
        low, high = self.extent(-120.0, 60.0)
        for number in range(22):
            share = rng.uniform([0.22, 0.20, 0.30], [0.78, 0.46, 1.0])
            center = low + share * (high - low)
            radii = np.sort(rng.uniform([12, 12, 14], [20, 24, 34]))[rng.permutation(3)]
            yield _ball(center, radii, float(rng.uniform(5, 42)))
            if number % 4 == 0:
                yield _ball(center - (0, 0.3 * radii[1], 0), 0.62 * radii, GAS_HU)
        yield _ball(sacral(0, 60, -88) - (0, 18, 25), (42, 30, 32), 8.0)  # bladder
        rectum = [sacral(14, 48, -52), sacral(4, 68, -38), sacral(-2, 88, -30), sacral(0, 108, -26)]
        yield from _rod(rectum, [15, 16, 17, 15], 38.0)
        yield from _rod([point - (0, 3, 0) for point in rectum[1:3]], [7, 8], GAS_HU)

    def paint(self, hu: Field, block: Block, hips: dict[str, HipPart], width_mm: float) -> None:
        """Fill `hu` (air before) with the soft tissue."""
        x, y, z = block.x, block.y, block.z
        skin = self.skin(x, y, z)
        blend(hu, skin, SKIN_HU, width_mm)
        blend(hu, skin + _SKIN_MM, FAT_HU, width_mm)
        wall = smooth_max(np.abs(skin + self.fat_mm + 7) - 6, y - 25, 8.0)
        blend(hu, wall, MUSCLE_HU, width_mm)
        for window, _, (medial, lateral, outline) in hips.values():
            # Gluteal muscles on the outer side of the blade, iliacus on the inner side.
            gluteal = smooth_max(smooth_max(-lateral - 4, lateral - 34, 6.0), outline + 0.35 * lateral - 14, 10.0)
            blend(hu[window], np.maximum(gluteal, skin[window] + 10), MUSCLE_HU, width_mm)
            iliacus = smooth_max(smooth_max(-medial - 4, medial - 15, 6.0), outline + 0.4 * medial + 2, 8.0)
            blend(hu[window], iliacus, MUSCLE_HU, width_mm)
        deep = skin + self.fat_mm + 2
        for shape, low, high, value in self._organs:
            place = block.window(low, high)
            if place is not None:
                field = shape(*block.points(place))
                margin = 0.0 if value > GAS_HU else _GAS_DEPTH_MM
                blend(hu[place], np.maximum(field, deep[place] + margin), value, width_mm)


def blend(hu: Field, field: Field, value: float | Field, width_mm: float) -> None:
    """Paint a shape into `hu`, mixing by volume at its surface."""
    share = coverage(field, width_mm)
    hu += share * (value - hu)


Organ = tuple[Callable[[Field, Field, Field], Field], FloatArray, FloatArray, float]


def _rod(points: list[FloatArray], radii: list[float], value: float) -> Iterator[Organ]:
    """The capsules of a tube, each with its own box."""
    for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        margin = max(ra, rb) + 2

        def shape(x: Field, y: Field, z: Field, a: FloatArray = a, b: FloatArray = b, r: object = (ra, rb)) -> Field:
            return capsule(x, y, z, a, b, r)  # type: ignore[arg-type]

        yield shape, np.minimum(a, b) - margin, np.maximum(a, b) + margin, value


def _ball(center: FloatArray, radii: ArrayLike, value: float) -> Organ:
    reach = np.asarray(radii, float) + 2

    def shape(x: Field, y: Field, z: Field) -> Field:
        return ellipsoid(x, y, z, center, radii)

    return shape, center - reach, center + reach, value
