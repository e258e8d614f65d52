"""The MRI of a synthetic patient: fat-suppressed, oblique to the sacrum, with oedema about the fractures.

It is made so that nothing but anatomy links it to the CT: tissues map to signal neither in order nor alike in every
patient, marrow has a texture of its own, soft tissue has moved between the scans, fat appears displaced along the
readout direction (chemical shift), the coil is brighter near the back, and the noise is that of a magnitude image.
Signal of fluid is 1; the relative signals of the tissues are typical of STIR images and were set by hand.
What it lacks: distortion by gradients and implants, motion, flow and other sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.labels import BONE_LABEL, REGION_LABEL
from ..errors import ImageError
from ..geometry import FloatArray, check_rigid, invert_rigid, rigid, rotation_about, transform_points
from ..image import Volume
from .make import Phantom

_PIXEL_MM, _SLICE_MM, _FIELD_OF_VIEW_MM, _SLICES = 0.9, 4.0, 240.0, 28
#: Fat resonates 3.5 ppm from water, 224 Hz at 1.5 T: about one pixel at the usual bandwidths per pixel.
_CHEMICAL_SHIFT_PIXELS = 1.0
#: How far fractures make the marrow bright, and how far along their planes [mm].
_OEDEMA_MM, _OEDEMA_REACH_MM = (6.0, 11.0), 32.0
_SOFT_TISSUE_MOTION_MM = 5.0


@dataclass(frozen=True)
class PhantomMRI:
    """An MRI of a phantom.

    Attributes:
        volume: magnitude signal (int16) with the scanner's own geometry in its header.
        MRIToCT: rigid 4x4 from the RAS of the MRI's header to the RAS of the CT, the truth of a registration.
        oedema: bool, on the phantom's grid; where the marrow has at least half of the oedema's signal.
    """

    volume: Volume
    MRIToCT: FloatArray
    oedema: NDArray[np.bool_]


def make_mri(phantom: Phantom, seed: int, MRIToCT: ArrayLike | None = None) -> PhantomMRI:
    """A fat-suppressed MRI of the phantom.

    Args:
        phantom: made with `noise_hu=0`, so that the noise of a CT does not come again in the MRI.
        seed: of everything that is random here.
        MRIToCT: where the patient lay in the MRI scanner; as in the CT by default.

    Raises:
        ImageError: for a phantom with noise.
        GeometryError: for a transform that is not rigid.
    """
    if phantom.noise_hu > 0:
        raise ImageError("an MRI is made from a phantom without noise; make one of the same seed with noise_hu=0")
    placed = np.eye(4) if MRIToCT is None else check_rigid(MRIToCT, "MRIToCT")
    rng = np.random.default_rng([seed, 11])
    oedema = _oedema_strength(phantom, rng)
    water, fat = _signals(phantom, oedema, rng)
    IJKToCT, shape = _slices(phantom, rng)
    image = _measure(phantom.ct, water, IJKToCT, shape, 0.0)
    image += _measure(phantom.ct, fat, IJKToCT, shape, _CHEMICAL_SHIFT_PIXELS * float(rng.choice([-1, 1])))
    image *= _coil(shape, rng)
    sd = float(rng.uniform(0.02, 0.045))
    noise = rng.normal(0, sd, (2, *shape)).astype(np.float32)
    magnitude = np.hypot(image + noise[0], noise[1]) * rng.uniform(300, 900)
    IJKToMRI = invert_rigid(placed) @ IJKToCT
    return PhantomMRI(Volume(np.round(magnitude).astype(np.int16), IJKToMRI), placed, oedema > 0.5)


def _oedema_strength(phantom: Phantom, rng: np.random.Generator) -> NDArray[np.float32]:
    """0 to 1 on the phantom's grid, fading away from each fracture within the sacrum."""
    strength = np.zeros(phantom.ct.voxels.shape, np.float32)
    sacrum = phantom.bones.voxels == BONE_LABEL["sacrum"]
    for fracture in phantom.fractures:
        if fracture.name == "transverse":
            bodies = [REGION_LABEL[f"body_s{level}"] for level in (1, 2, 3)]
            where = sacrum & np.isin(phantom.regions.voxels, bodies)
        else:
            where = sacrum & (phantom.regions.voxels == REGION_LABEL[f"ala_{fracture.name}"])
        indices = np.argwhere(where)
        offset = phantom.ct.ras_of(indices) - fracture.point_ras
        across = offset @ fracture.normal_ras
        along = np.linalg.norm(offset - across[:, None] * fracture.normal_ras, axis=1)
        width = rng.uniform(*_OEDEMA_MM)
        values = np.exp(-((across / width) ** 4) - (along / _OEDEMA_REACH_MM) ** 4)
        strength[tuple(indices.T)] = np.maximum(strength[tuple(indices.T)], values)
    return strength


def _signals(
    phantom: Phantom, oedema: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Signal of water and of what is left of fat, at each voxel of the phantom."""
    from scipy.ndimage import binary_opening, gaussian_filter

    bones = phantom.bones.voxels
    bone = bones > 0
    hu = _moved_soft_tissue(phantom, rng)
    # Thin rims where fat meets muscle have the numbers of water, but are none.
    fluid = gaussian_filter(binary_opening((hu > 0) & (hu < 32), iterations=2).astype(np.float32), 0.6)
    body = np.clip((hu + 1000) / 880, 0, 1)
    fatty = np.clip((15 - hu) / 120, 0, 1) * (1 - fluid)
    cortical = np.clip((hu - rng.uniform(120, 170)) / 380, 0, 1)
    muscle, disc = rng.uniform(0.26, 0.42), rng.uniform(0.12, 0.3)
    # Nerves and blood are brighter than muscle; a mixture of fat and muscle is not.
    watery = np.interp(hu, [34, 40, 47, 55, 68, 80], muscle + np.array([0, 0.2, 0.06, 0, 0, disc - muscle]))
    watery += fluid * (rng.uniform(0.85, 1.05) - watery)
    water = body * (1 - fatty) * watery
    fat = body * fatty * rng.uniform(0.06, 0.16)
    # Marrow is mostly fat in the old, with a texture that the CT does not know.
    usual = rng.uniform(0.14, 0.24)
    marrow = {label: usual * rng.uniform(0.85, 1.15) for label in BONE_LABEL.values()}
    grain = gaussian_filter(rng.standard_normal(bones.shape, dtype=np.float32), 1.5)
    grain *= 0.18 / grain.std()
    level = np.zeros(bones.shape, np.float32)
    for label, value in marrow.items():
        level[bones == label] = value
    level *= 1 + grain
    water = np.where(bone, 0.6 * level + oedema * rng.uniform(0.4, 0.75) * (1 + grain), water)
    fat = np.where(bone, 0.4 * level, fat)
    return (water * (1 - cortical)).astype(np.float32), (fat * (1 - cortical)).astype(np.float32)


def _moved_soft_tissue(phantom: Phantom, rng: np.random.Generator) -> NDArray[np.float32]:
    """HU with everything but the bones shifted smoothly, more the farther from bone."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, zoom

    hu, bone = phantom.ct.voxels.astype(np.float32), phantom.bones.voxels > 0
    spacing = phantom.ct.spacing_mm[::-1]
    coarse_mm = 12.0
    small = [max(2, round(float(n * step / coarse_mm))) for n, step in zip(hu.shape, spacing, strict=True)]
    share = 1 - np.exp(-distance_transform_edt(~bone, sampling=spacing).astype(np.float32) / 12)
    where = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in hu.shape), indexing="ij"))
    for axis in range(3):
        field = gaussian_filter(rng.standard_normal(small), 2.5)
        field *= _SOFT_TISSUE_MOTION_MM / field.std()
        full = zoom(field, np.array(hu.shape) / small, order=1).astype(np.float32)
        where[axis] += full * share / spacing[axis]
    moved = map_coordinates(hu, where, order=1, mode="nearest")
    # Bone must not leave a second picture of itself behind.
    return np.where(bone, hu, np.where(moved > 90, np.minimum(hu, 60), moved)).astype(np.float32)


def _slices(phantom: Phantom, rng: np.random.Generator) -> tuple[FloatArray, tuple[int, int, int]]:
    """Coronal slices along the sacrum, as protocols of the sacroiliac joints ask for, a little askew and off center."""
    pixels = round(_FIELD_OF_VIEW_MM / _PIXEL_MM)
    left, posterior, superior = phantom.SacrumToRAS[:3, :3].T
    axes = np.stack([left, -superior, posterior], axis=1)
    axes = rotation_about(rng.normal(size=3), float(rng.uniform(0, 8))) @ axes
    center = transform_points(phantom.SacrumToRAS, [0, 12, -45]) + rng.uniform(-8, 8, 3)
    steps = axes * (_PIXEL_MM, _PIXEL_MM, _SLICE_MM)
    middle = np.array([(pixels - 1) / 2, (pixels - 1) / 2, (_SLICES - 1) / 2])
    return rigid(steps, center - steps @ middle), (_SLICES, pixels, pixels)


def _measure(
    grid: Volume, signal: NDArray[np.float32], IJKToCT: FloatArray, shape: tuple[int, int, int], shift_pixels: float
) -> NDArray[np.float32]:
    """Mean over the thickness of each slice; the readout direction is i."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    indices = np.indices(shape, dtype=np.float32)[::-1]
    total = np.zeros(shape, np.float32)
    offsets = (-1 / 3, 0.0, 1 / 3)
    for offset in offsets:
        IJKToGrid = grid.RASToIJK @ IJKToCT
        shifted = [indices[0] - shift_pixels, indices[1], indices[2] + offset]
        where = [sum(IJKToGrid[row, n] * shifted[n] for n in range(3)) + IJKToGrid[row, 3] for row in (2, 1, 0)]
        total += map_coordinates(signal, where, order=1, output=np.float32)
    return np.asarray(gaussian_filter(total / len(offsets), (0, 0.5, 0.5)))


def _coil(shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Sensitivity: brighter to the back (last slices), and a smooth unevenness of some ten percent."""
    k, j, i = (np.linspace(-1, 1, n, dtype=np.float32).reshape(s) for n, s in zip(
        shape, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True))  # fmt: skip
    a = rng.uniform(-0.2, 0.2, 6)
    field = rng.uniform(0.1, 0.35) * k + a[0] * i + a[1] * j + a[2] * i * i + a[3] * j * j + a[4] * i * j + a[5] * k * i
    return np.exp(field).astype(np.float32)
