"""A sacrum of blocks and tubes, and X-rays of spheres in closed form: truth for the cement tests."""

from __future__ import annotations

import numpy as np

from sacroplasty.anatomy.labels import BONE_LABEL, REGION_LABEL
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.image import Volume
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.materials import STEEL_PER_MM
from sacroplasty.xray.project import CEMENT_PER_MM

ARM = CArm()
CENTER = np.array([-35.0, 0.0, 10.0])

#: Middle of a blob for each place, and the zone that it lies in; the tip is at CENTER in the left ala.
PLACES = {
    "foramen_s1_left": [-21.0, 0.0, 10.0],
    "sacral_canal": [0.0, -9.0, 10.0],
    "presacral": [-35.0, 26.0, 10.0],
    "posterior": [-35.0, -26.0, 10.0],
    "si_joint_left": [-53.0, 0.0, 10.0],
}


def block_anatomy(spacing_mm: float = 1.5) -> Anatomy:
    """Sacrum 100 x 40 x 80 mm, canal in the middle, S1 foramen as a tube from front to back, hips beside."""
    counts = np.ceil(np.array([150.0, 80.0, 110.0]) / spacing_mm).astype(int)
    IJKToRAS = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    IJKToRAS[:3, 3] = -(counts - 1) / 2 * spacing_mm
    grid = Volume(np.zeros(tuple(counts[::-1]), np.uint8), IJKToRAS)
    x, y, z = np.moveaxis(grid.ras_of(np.moveaxis(np.indices(grid.voxels.shape), 0, -1)), -1, 0)
    sacrum = (np.abs(x) < 50) & (np.abs(y) < 20) & (np.abs(z) < 40)
    canal = sacrum & (np.abs(x) < 8) & (np.abs(y + 9) < 5)
    bones, regions = np.zeros(grid.voxels.shape, np.uint8), np.zeros(grid.voxels.shape, np.uint8)
    bones[sacrum & ~canal] = BONE_LABEL["sacrum"]
    for side, sign in (("left", -1), ("right", 1)):
        bones[(sign * x > 54) & (np.abs(y) < 25)] = BONE_LABEL[f"hip_{side}"]
        regions[sacrum & (sign * x > 27)] = REGION_LABEL[f"ala_{side}"]
        for level, height in (("s1", 10.0), ("s2", -15.0)):
            tube = (np.hypot(x - sign * 21, z - height) < 5.0) & (np.abs(y) < 20)
            bones[tube] = 0
            regions[tube] = REGION_LABEL[f"foramen_{level}_{side}"]
    regions[canal] = REGION_LABEL["sacral_canal"]
    return Anatomy(
        bones=grid.like(bones),
        regions=grid.like(regions),
        foramina={},
        landmarks={},
        SacrumToRAS=np.diag([-1.0, -1.0, 1.0, 1.0]),
        confidence={},
        warnings=(),
        method="blocks",
        image_hash="0" * 64,
    )


def views(pixels: int) -> dict[str, XrayGeometry]:
    """AP and lateral around the tip, with pixels of 0.8 mm in the patient."""
    directions = {"ap": [0.0, -1.0, 0.0], "lateral": [1.0, 0.0, 0.0]}
    poses = {name: ARM.pose(CENTER, direction, [0.0, 0.0, 1.0]) for name, direction in directions.items()}
    full = ARM.detector_pixels[0] * ARM.pixel_spacing_mm[0]
    resampled = {name: pose.resampled(round(full / 1.3)) for name, pose in poses.items()}
    return {name: _cropped(pose, pixels) for name, pose in resampled.items()}


def sphere_line_integrals(geometry: XrayGeometry, center: np.ndarray, volume_ml: float) -> np.ndarray:
    """Attenuation by a sphere of dense cement: chord length times mu, averaged over 3 x 3 rays in each pixel."""
    radius = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    columns, rows = geometry.detector_pixels
    source = geometry.source_ras
    total = np.zeros((rows, columns))
    # Only around the shadow: magnification is below two.
    reach = int(2 * radius / min(geometry.pixel_spacing_mm)) + 3
    at_u, at_v = np.rint(geometry.project(center)).astype(int)
    window = (slice(max(at_v - reach, 0), max(at_v + reach, 0)), slice(max(at_u - reach, 0), max(at_u + reach, 0)))
    v, u = np.mgrid[0:rows, 0:columns].astype(float)[(slice(None), *window)]
    for du in (-1 / 3, 0, 1 / 3):
        for dv in (-1 / 3, 0, 1 / 3):
            ray = geometry.pixel_ras(np.stack([u + du, v + dv], axis=-1)) - source
            ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
            to_center = np.asarray(center, float) - source
            along = ray @ to_center
            squared = radius**2 - (to_center @ to_center - along**2)
            total[window] += 2 * np.sqrt(np.maximum(squared, 0))
    return total / 9 * CEMENT_PER_MM


def cannula_line_integrals(geometry: XrayGeometry, tip: np.ndarray, towards_hub: np.ndarray) -> np.ndarray:
    """Attenuation by a steel tube of 3.05 mm, bore 2.39 mm, from its tip on, averaged over 3 x 3 rays in each pixel."""
    columns, rows = geometry.detector_pixels
    v, u = np.indices((3 * rows, 3 * columns)) / 3 - 1 / 3
    rays = geometry.pixel_ras(np.stack([u, v], axis=-1)) - geometry.source_ras
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    to_tip = tip - geometry.source_ras
    across = np.cross(rays, towards_hub)
    sine = np.linalg.norm(across, axis=-1)
    apart = np.abs(across @ to_tip) / sine
    along = ((rays @ towards_hub) * (rays @ to_tip) - towards_hub @ to_tip) / sine**2
    outer, inner = (2 * np.sqrt(np.maximum(size**2 / 4 - apart**2, 0)) / sine for size in (3.05, 2.39))
    path_mm = np.where(along > 0, outer - inner, 0.0)
    return STEEL_PER_MM * path_mm.reshape(rows, 3, columns, 3).mean(axis=(1, 3))


def body_line_integrals(geometry: XrayGeometry, shift_pixels: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A smooth body with the edges of bones; shifted as if the patient had moved."""
    columns, rows = geometry.detector_pixels
    u, v = np.meshgrid(np.arange(columns) - shift_pixels[1], np.arange(rows) - shift_pixels[0])
    waves = 0.5 * np.sin(u / 17) * np.cos(v / 23) + 0.3 * np.tanh((u - columns * 0.6) / 2)
    return 4.5 + waves + 0.3 * np.tanh((v - rows * 0.3) / 2)


def expose(line_integrals: np.ndarray, rng: np.random.Generator, photons: float = 2000.0) -> np.ndarray:
    """Poisson counts with `photons` behind the body's mean, four detector steps each."""
    return np.clip(4 * rng.poisson(photons * np.exp(4.5 - line_integrals)), 0, 65535).astype(np.uint16)


def _cropped(geometry: XrayGeometry, pixels: int) -> XrayGeometry:
    """The middle of the detector."""
    first = (np.array(geometry.detector_pixels) - pixels) // 2
    shift = np.array([*(first * geometry.pixel_spacing_mm), 0.0])
    OldToNew = np.eye(4)
    OldToNew[:3, 3] = -shift
    source = np.asarray(geometry.source_in_detector_mm) - shift
    return XrayGeometry(
        source_to_detector_mm=geometry.source_to_detector_mm,
        detector_pixels=(pixels, pixels),
        pixel_spacing_mm=geometry.pixel_spacing_mm,
        RASToDetector=OldToNew @ geometry.RASToDetector,
        source_in_detector_mm=(float(source[0]), float(source[1]), float(source[2])),
    ).check()
