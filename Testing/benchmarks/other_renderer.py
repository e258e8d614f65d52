"""A second fluoroscope for the spread monitor, made to differ from the project's own: nothing of `xray.project`,
`xray.imaging_chain`, `xray.materials` or `simulation` is used.

Rays march through the CT by `scipy.ndimage.map_coordinates`; the beam has a spectrum that hardens; quanta are counted
before the scintillator spreads them, so that noise is correlated in space; and the C-arm does with the picture what
C-arms do before their video output: recursive filter, edge enhancement, a curve or a window of grey values, few bits,
text burned in. Patient and C-arm move by more than a shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sacroplasty.geometry import FloatArray
from sacroplasty.image import Volume
from sacroplasty.xray.geometry import XrayGeometry

Image = NDArray[np.floating]

#: Mass attenuation with coherent scattering [cm2/g] at these energies [keV]: NIST XAAMDI (Hubbell and Seltzer, SRD
#: 126); barium sulfate is the sum of its elements by mass. Barium's K edge lies at 37.44 keV.
_TABLE_KEV = {
    "usual": (20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0),
    "barium_sulfate": (20.0, 30.0, 37.44, 37.45, 40.0, 50.0, 60.0, 80.0, 100.0),
}
_CM2_PER_G = {
    "water": (0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707),
    "cortical_bone": (4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855),
    "pmma": (0.5714, 0.3032, 0.2350, 0.2074, 0.1924, 0.1751, 0.1641),
    "iron": (25.68, 8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717),
    "aluminium": (3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704),
    "copper": (33.79, 10.92, 4.862, 2.613, 1.593, 0.7630, 0.4584),
    "barium_sulfate": (18.45, 6.221, 3.48, 17.42, 14.66, 8.252, 5.116, 2.413, 1.362),
}
#: Steps of the spectrum [keV], and what the beam has passed before the patient [mm].
_ENERGIES = np.arange(22.5, 110.0, 5.0)
_ALUMINIUM_MM, _COPPER_MM = 3.0, 0.1
#: A cement of 2:1 by mass, 30 % barium sulfate in the powder: shares by mass and density [g/cm3], with 5 % of pores.
_BARIUM_SHARE, _CEMENT_G_CM3 = 0.2, 1.31
_BONE_G_CM3, _STEEL_G_CM3 = 1.92, 7.9
#: Hounsfield units of solid cortical bone.
_SOLID_BONE_HU = 1560.0
#: What a gain calibration leaves of the pixels' differences, standard deviation.
_FIXED_PATTERN = 0.003
#: Of the collimator's blades.
_LEAKAGE = 5e-4
#: Seconds between two numbers of the clock that is burned in.
_CLOCK_S = 1.0


@dataclass(frozen=True)
class Unit:
    """A make of C-arm.

    Attributes:
        kv: tube voltage before the injection; the automatic exposure raises it once, by `kv_step`.
        photons: mean number of quanta per pixel in the measuring field.
        scatter_to_primary: in the middle of the picture.
        blur_pixels: of the scintillator's light.
        recursive: share of the output before in each output.
        sharpening: gain of the edge enhancement.
        curve: `linear`, `gamma` or `log window`.
        bits: of the output.
        circle: whether an intensifier's circle limits the picture; else soft blades do.
        text: whether a name and a running clock are burned in.
        glare: share of the whole picture's light that lies over all of it.
    """

    name: str
    kv: float = 85.0
    kv_step: float = 3.0
    photons: float = 500.0
    scatter_to_primary: float = 0.8
    blur_pixels: float = 0.6
    recursive: float = 0.0
    sharpening: float = 0.0
    curve: str = "linear"
    bits: int = 14
    circle: bool = False
    text: bool = False
    glare: float = 0.0


UNITS = (
    Unit("panel, raw"),
    Unit("intensifier, gamma", curve="gamma", bits=10, recursive=0.3, circle=True, glare=0.08, kv=75.0),
    Unit("video, processed", curve="log window", bits=8, recursive=0.5, sharpening=0.6, text=True),
)


@dataclass(frozen=True)
class Shaft:
    """A steel cannula from its tip backwards; `towards_hub` is a unit vector."""

    tip_ras: FloatArray
    towards_hub: FloatArray
    outer_mm: float = 3.05
    inner_mm: float = 2.39


@dataclass(frozen=True)
class Body:
    """What the rays of a view cross: spline coefficients (rows, columns) of soft tissue and bone in g/cm2."""

    water: Image
    bone: Image
    geometry: XrayGeometry


def see_body(ct: Volume, geometry: XrayGeometry, step_mm: float = 1.5) -> Body:
    """March through a CT (Hounsfield units) along every ray."""
    source, ways = _rays(geometry)
    corners = ct.ras_of(np.array([*np.ndindex(2, 2, 2)]) * (np.array(ct.voxels.shape) - 1))
    middle = corners.mean(axis=0)
    radius = float(np.linalg.norm(corners - middle, axis=1).max())
    first = float(np.linalg.norm(middle - source)) - radius
    steps = first + step_mm * np.arange(int(2 * radius / step_mm))
    water, bone = np.zeros(ways.shape[:2]), np.zeros(ways.shape[:2])
    voxels = ct.voxels.astype(np.float32)
    for row, of_row in enumerate(ways):
        at = source + steps[:, None, None] * of_row
        kji = ct.kji_of(at)
        # The patient goes on above and below the scan.
        kji[..., 0] = np.clip(kji[..., 0], 0, len(voxels) - 1)
        hu = ndimage.map_coordinates(voxels, np.moveaxis(kji, -1, 0), order=1, cval=-1000.0)
        share = np.clip(hu / _SOLID_BONE_HU, 0, None)
        density = np.where(hu < -950, 0.0, np.minimum(1 + hu / 1000, 1.0) - np.minimum(share, 1.0))
        water[row] = density.sum(axis=0) * step_mm / 10
        bone[row] = share.sum(axis=0) * step_mm / 10 * _BONE_G_CM3
    return Body(ndimage.spline_filter(water), ndimage.spline_filter(bone), geometry)


def see_cement(points_ras: FloatArray, share: FloatArray, voxel_mm: float, geometry: XrayGeometry) -> Image:
    """Paths in cement [mm] of all rays: each cubic voxel, full to its share, spread evenly over a few rays.

    Args:
        points_ras: (n, 3) centres of voxels.
    """
    columns, rows = geometry.detector_pixels
    path = np.zeros((rows, columns))
    depth = geometry.source_in_detector_mm[2] - (
        geometry.RASToDetector[2, :3] @ points_ras.T + geometry.RASToDetector[2, 3]
    )
    area = np.prod(geometry.pixel_spacing_mm) * (depth / geometry.source_in_detector_mm[2]) ** 2
    offsets = (np.array([*np.ndindex(3, 3, 3)]) - 1) * voxel_mm / 3
    for offset in offsets:
        u, v = geometry.project(points_ras + offset).T
        left, top = np.floor(u).astype(int), np.floor(v).astype(int)
        for du, dv in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (
                np.abs(1 - du - (u - left)) * np.abs(1 - dv - (v - top)) * share / area * voxel_mm**3 / len(offsets)
            )
            inside = (left + du >= 0) & (left + du < columns) & (top + dv >= 0) & (top + dv < rows)
            np.add.at(path, (top[inside] + dv, left[inside] + du), weight[inside])
    return path


def see_shaft(shaft: Shaft, geometry: XrayGeometry) -> Image:
    """Paths in steel [mm] of all rays."""
    source, ways = _rays(geometry)
    across = np.cross(ways, shaft.towards_hub)
    sine = np.linalg.norm(across, axis=-1)
    to_tip = shaft.tip_ras - source
    apart = np.abs((to_tip * across).sum(axis=-1)) / sine
    # Where along the axis the ray passes nearest.
    cosine = ways @ shaft.towards_hub
    along = (cosine * (ways @ to_tip) - shaft.towards_hub @ to_tip) / sine**2
    chords = [
        2 * np.sqrt(np.maximum(diameter**2 / 4 - apart**2, 0)) / sine for diameter in (shaft.outer_mm, shaft.inner_mm)
    ]
    return np.where(along > 0, chords[0] - chords[1], 0.0)


class Video:
    """The live picture of one view: exposure, motion and filters go on from frame to frame."""

    def __init__(self, unit: Unit, body: Body, rng: np.random.Generator) -> None:
        self._unit, self._body, self._rng = unit, body, rng
        columns, rows = body.geometry.detector_pixels
        v, u = np.mgrid[0:rows, 0:columns]
        self._out = np.hypot(u - columns / 2, v - rows / 2) / (columns / 2)
        self._border = _border(unit.circle, self._out, u / columns, v / rows)
        self._broken = rng.random((rows, columns)) < 2e-4
        self._gain = 1 - 0.15 * self._out**2 + rng.normal(0, _FIXED_PATTERN, (rows, columns))
        self._dose = 1.0
        self._kv_rises_s = rng.uniform(5, 60)
        self._phase, self._breath = rng.uniform(0, 2 * np.pi), rng.normal(0, 1, 4)
        self._drift = rng.normal(0, 1, 2)
        self._shown: Image | None = None

    def frame(self, cement_mm: Image | None, steel_mm: Image, now_s: float) -> NDArray[np.unsignedinteger]:
        """The next output."""
        unit = self._unit
        kv = unit.kv + (unit.kv_step if now_s > self._kv_rises_s else 0.0)
        beam = _behind(kv, self._moved(cement_mm, steel_mm, now_s))
        beam = self._border * (beam + self._scatter(beam))
        measured = float(np.median(beam[self._out < 0.4]))
        # The phosphor saturates where the open beam strikes it.
        beam = np.minimum(beam, 8 * measured)
        beam = beam + unit.glare * beam.mean()
        # The exposure follows the picture with a delay, as far as the last frame told.
        target = 1 / measured
        self._dose = target if self._shown is None else 0.7 * self._dose + 0.3 * target
        quanta = self._rng.poisson(unit.photons * self._dose * beam) / unit.photons
        light = ndimage.gaussian_filter(quanta, unit.blur_pixels)
        light = 0.95 * light + 0.05 * ndimage.gaussian_filter(light, 4 * unit.blur_pixels)
        light = light * self._gain + self._rng.normal(0, 0.004, light.shape)
        if unit.circle:
            # Beyond its circle an intensifier's picture is blanked.
            light[self._border < 0.02] = 0.0
        light[self._broken] = 0.0
        self._shown = light if self._shown is None else unit.recursive * self._shown + (1 - unit.recursive) * light
        return self._output(self._shown, now_s)

    def _moved(self, cement_mm: Image | None, steel_mm: Image, now_s: float) -> tuple[Image, ...]:
        """Soft tissue, bone, cement and steel [g/cm2] where breath and a sagging C-arm put them."""
        breath = np.sin(2 * np.pi * now_s / 4.3 + self._phase)
        pixels_per_mm = 1.6 / self._body.geometry.pixel_spacing_mm[0]
        shift = breath * self._breath[:2] * np.array([0.9, 0.3]) * pixels_per_mm + self._drift * 0.006 * now_s
        turn, scale = np.radians(0.05 * breath * self._breath[2]), 1 + 0.001 * breath * self._breath[3]
        matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        middle = np.array(self._out.shape) / 2
        offset = middle - matrix @ middle + shift
        cement = np.zeros(self._out.shape) if cement_mm is None else cement_mm / 10 * _CEMENT_G_CM3
        crossed = (
            self._body.water,
            self._body.bone,
            *map(ndimage.spline_filter, (cement, steel_mm / 10 * _STEEL_G_CM3)),
        )
        return tuple(
            np.maximum(ndimage.affine_transform(one, matrix, offset, prefilter=False, mode="nearest"), 0)
            for one in crossed
        )

    def _scatter(self, beam: Image) -> Image:
        small = ndimage.zoom(beam**0.8, 0.25, order=1)
        wide = 0.6 * ndimage.gaussian_filter(small, 6, mode="constant") + 0.4 * ndimage.gaussian_filter(small, 20)
        spread = ndimage.zoom(wide, np.array(beam.shape) / np.array(wide.shape), order=1)
        near = self._out < 0.4
        return spread * self._unit.scatter_to_primary * np.median(beam[near]) / np.median(spread[near])

    def _output(self, light: Image, now_s: float) -> NDArray[np.unsignedinteger]:
        unit = self._unit
        white = 2**unit.bits - 1
        if unit.curve == "linear":
            shown = light / 6
        elif unit.curve == "gamma":
            shown = (np.maximum(light, 0) / 6) ** 0.55
        else:
            shown = (np.log(np.maximum(light, 1e-3)) + 2.2) / 4.2
        if unit.sharpening:
            shown = shown + unit.sharpening * (shown - ndimage.gaussian_filter(shown, 1.5))
        pixels = np.clip(np.rint(shown * white), 0, white)
        if unit.text:
            _burn_in(pixels, "ROOM 2", 8, white)
            _burn_in(pixels, f"{int(now_s / _CLOCK_S) % 10000:04d}", pixels.shape[0] - 16, white)
        return pixels.astype(np.uint8 if unit.bits <= 8 else np.uint16)


def _rays(geometry: XrayGeometry) -> tuple[FloatArray, FloatArray]:
    """The source, and a unit vector (rows, columns, 3) towards each pixel."""
    DetectorToRAS = np.linalg.inv(geometry.RASToDetector)
    columns, rows = geometry.detector_pixels
    u, v = np.meshgrid(
        np.arange(columns) * geometry.pixel_spacing_mm[0], np.arange(rows) * geometry.pixel_spacing_mm[1]
    )
    plane = np.stack([u, v, np.zeros_like(u)], axis=-1) @ DetectorToRAS[:3, :3].T + DetectorToRAS[:3, 3]
    source = DetectorToRAS[:3, :3] @ geometry.source_in_detector_mm + DetectorToRAS[:3, 3]
    ways = plane - source
    return source, ways / np.linalg.norm(ways, axis=-1, keepdims=True)


def _cm2_per_g(material: str) -> FloatArray:
    known = _TABLE_KEV.get(material, _TABLE_KEV["usual"])
    return np.exp(np.interp(np.log(_ENERGIES), np.log(known), np.log(_CM2_PER_G[material])))


def _behind(kv: float, crossed: tuple[Image, ...]) -> Image:
    """Energy that arrives, of that of the open beam. Kramers' spectrum, filtered; all that arrives is absorbed."""
    quanta = np.maximum(kv / _ENERGIES - 1, 0.0)
    quanta *= np.exp(
        -2.7 * _ALUMINIUM_MM / 10 * _cm2_per_g("aluminium") - 8.96 * _COPPER_MM / 10 * _cm2_per_g("copper")
    )
    weight = quanta * _ENERGIES / (quanta * _ENERGIES).sum()
    in_cement = _BARIUM_SHARE * _cm2_per_g("barium_sulfate") + (1 - _BARIUM_SHARE) * _cm2_per_g("pmma")
    of_energy = zip(
        weight, _cm2_per_g("water"), _cm2_per_g("cortical_bone"), in_cement, _cm2_per_g("iron"), strict=True
    )
    total = np.zeros(crossed[0].shape)
    for share, *in_materials in of_energy:
        if share > 0:
            total += share * np.exp(-sum(one * mass for one, mass in zip(in_materials, crossed, strict=True)))
    return total


def _border(circle: bool, out: Image, across: Image, down: Image) -> Image:
    """Transmission of the intensifier's border, or of four soft blades."""
    if circle:
        return 1 / (1 + np.exp((out - 0.93) / 0.006))
    sides = [across - 0.05, 0.97 - across, down - 0.06, 0.96 - down]
    return np.prod([_LEAKAGE + (1 - _LEAKAGE) / (1 + np.exp(-side / 0.006)) for side in sides], axis=0)


def _burn_in(pixels: Image, text: str, row: int, white: int) -> None:
    """White bars, another pattern for each letter."""
    for number, letter in enumerate(text):
        for bit in range(7):
            if ord(letter) >> bit & 1:
                pixels[row + bit, 10 + 8 * number : 15 + 8 * number] = white
