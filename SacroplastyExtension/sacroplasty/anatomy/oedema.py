"""Bone marrow oedema of the sacrum on a fat-suppressed MRI that was laid on the CT.

Rule (the project's own). Marrow is bright where its signal exceeds that of the patient's own normal marrow by three
robust standard deviations, and by half of that signal at least. Normal is the darkest of S1 body, left ala and right
ala; L5 only when all of these are twice as bright as it. A patch of bright marrow ends where half of its excess is left
(full width at half maximum). Thresholds over normal marrow are used on STIR images of the sacroiliac joints too
(doi 10.1186/s12891-017-1861-1: sensitivity 51 % and specificity 88 % there, against readers).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import AnatomyError, ImageError
from ..geometry import FloatArray, invert_rigid, transform_points
from ..image import Volume, box_around, crop
from .labels import SIDES
from .model import Anatomy
from .mri_registration import MRIRegistration

_ROBUST_SD, _LEAST_EXCESS = 3.0, 0.5
#: 1.4826 median absolute deviations of a normal distribution are its standard deviation.
_SD_PER_MAD = 1.4826
#: Closer to the surface a voxel of the MRI holds cortex or what lies outside the bone, as bright veins and nerves [mm].
_FROM_SURFACE_MM = 1.5
#: Denser than this is cortex or sclerosis, which has no signal [HU].
_DENSEST_MARROW_HU = 350.0
#: Smaller patches are noise or vessels, and smaller regions are no reference [mL].
_SMALLEST_PATCH_ML, _SMALLEST_REFERENCE_ML = 0.4, 1.0
_MUSCLE_HU, _FAT_HU, _CORTEX_HU = (40.0, 75.0), (-125.0, -85.0), 450.0
_MOST_SAMPLES = 40_000
#: Muscle and fat to compare with lie within this [mm].
_AROUND_MM = 45.0
#: A sacrum that is this much brighter than L5 all over has no normal marrow to compare with.
_BRIGHTER_THAN_L5 = 2.0


@dataclass(frozen=True)
class Oedema:
    """Bright marrow of the sacrum.

    Attributes:
        masks: `oedema_left`, `oedema_right`: bool on the CT's grid. The midline is that of the sacrum.
        volumes_ml: of both.
        reference: the region whose marrow is taken as normal.
        reference_signal, threshold: evened signal; that of muscle is 1.
        warnings: plain sentences for the person.
    """

    masks: dict[str, NDArray[np.bool_]]
    volumes_ml: dict[str, float]
    reference: str
    reference_signal: float
    threshold: float
    warnings: tuple[str, ...]


def mri_on_ct(ct: Volume, mri: Volume, MRIToCT: FloatArray) -> NDArray[np.float32]:
    """The MRI's signal at the voxels of the CT (linear); NaN where the MRI does not reach."""
    from scipy.ndimage import affine_transform

    CTGridToMRIGrid = mri.RASToIJK @ invert_rigid(MRIToCT) @ ct.IJKToRAS
    reverse = np.eye(4)[[2, 1, 0, 3]]
    matrix = reverse @ CTGridToMRIGrid @ reverse
    return np.asarray(
        affine_transform(
            mri.voxels.astype(np.float32),
            matrix[:3, :3],
            matrix[:3, 3],
            ct.voxels.shape,
            output=np.float32,
            order=1,
            cval=np.nan,
        )
    )


def find_oedema(ct: Volume, mri: Volume, anatomy: Anatomy, registration: MRIRegistration) -> Oedema:
    """Bright marrow of the sacrum, left and right. A suggestion that a person looks at, no finding.

    Raises:
        ImageError: when the MRI is not fat-suppressed, or no MRI: oedema cannot be told on it.
        AnatomyError: when no marrow that could be normal lies in the MRI.
    """
    from scipy.ndimage import distance_transform_edt

    window = _around_sacrum(ct, anatomy)
    whole, ct, anatomy = ct, *_cropped(ct, anatomy, window)
    signal = mri_on_ct(ct, mri, registration.MRIToCT)
    known = np.isfinite(signal)
    signal /= _coil(ct, signal, anatomy)
    _check_contrast(ct, signal, known, anatomy)

    inner = distance_transform_edt(anatomy.bones.voxels > 0, sampling=ct.spacing_mm[::-1]) > _FROM_SURFACE_MM
    marrow = inner & known & (ct.voxels < _DENSEST_MARROW_HU)
    reference, normal, threshold = _normal_marrow(ct, signal, marrow, anatomy)
    sacrum = anatomy.bone("sacrum")
    bright = _patches(marrow & sacrum & (signal > threshold), signal, normal, ct.voxel_volume_ml)
    indices = np.argwhere(bright)
    leftward = transform_points(invert_rigid(anatomy.SacrumToRAS), ct.ras_of(indices))[:, 0] > 0
    masks = {}
    for name, side in (("oedema_left", leftward), ("oedema_right", ~leftward)):
        masks[name] = np.zeros(whole.voxels.shape, bool)
        masks[name][window][tuple(indices[side].T)] = True
    return Oedema(
        masks=masks,
        volumes_ml={name: float(np.count_nonzero(mask) * ct.voxel_volume_ml) for name, mask in masks.items()},
        reference=reference,
        reference_signal=normal,
        threshold=threshold,
        warnings=_warnings(float(known[sacrum].mean()), reference),
    )


def _around_sacrum(ct: Volume, anatomy: Anatomy) -> tuple[slice, ...]:
    box = box_around(anatomy.bone("sacrum"), np.ceil(_AROUND_MM / ct.spacing_mm[::-1]))
    if box is None:
        raise AnatomyError("the anatomy has no sacrum; segment the CT first")
    return box


def _cropped(ct: Volume, anatomy: Anatomy, window: tuple[slice, ...]) -> tuple[Volume, Anatomy]:
    parts = [crop(volume, window) for volume in (ct, anatomy.bones, anatomy.regions)]
    return parts[0], replace(anatomy, bones=parts[1], regions=parts[2])


def _patches(
    bright: NDArray[np.bool_], signal: NDArray[np.float32], normal: float, voxel_ml: float
) -> NDArray[np.bool_]:
    """Connected patches of some size, each up to where half of its excess over normal marrow is left."""
    from scipy.ndimage import find_objects, label

    patches, count = label(bright)
    kept = np.zeros_like(bright)
    sizes = np.bincount(patches.ravel(), minlength=count + 1) * voxel_ml
    for number, place in enumerate(find_objects(patches), start=1):
        if sizes[number] < _SMALLEST_PATCH_ML:
            continue
        patch = patches[place] == number
        top = float(np.percentile(signal[place][patch], 90))
        patch &= signal[place] > (normal + top) / 2
        pieces, _ = label(patch)
        volumes = np.bincount(pieces.ravel()) * voxel_ml
        volumes[0] = 0.0
        kept[place] |= (volumes >= _SMALLEST_PATCH_ML)[pieces]
    return kept


def _coil(ct: Volume, signal: NDArray[np.float32], anatomy: Anatomy) -> NDArray[np.float32]:
    """Sensitivity of the coil: a smooth field through the signal of what the CT shows to be muscle.

    The logarithm of the signal is a polynomial of second degree in space, fitted with the outliers taken out.
    """
    low, high = _MUSCLE_HU
    # Noise scatters voxels of fat and fluid into this range: only those count whose surroundings are in it too.
    from scipy.ndimage import uniform_filter

    calm = uniform_filter(ct.voxels.astype(np.float32), 3)
    muscle = np.argwhere((calm > low) & (calm < high) & (signal > 0) & (anatomy.bones.voxels == 0))
    if len(muscle) < 1000:
        raise ImageError(
            "the MRI shows too little muscle around the sacrum to even out its signal; load the whole series"
        )
    muscle = muscle[:: max(1, len(muscle) // _MOST_SAMPLES)]
    values = np.log(signal[tuple(muscle.T)])
    middle = muscle.mean(axis=0)
    scale = float(np.abs(muscle - middle).max())
    terms = _terms((muscle - middle).T / scale)
    kept = np.ones(len(values), bool)
    for _ in range(6):
        factors = np.linalg.lstsq(terms[kept], values[kept], rcond=None)[0]
        rest = values - terms @ factors
        kept = np.abs(rest - np.median(rest[kept])) < 2.0 * max(_SD_PER_MAD * _mad(rest[kept]), 1e-6)
    k, j, i = (
        ((np.arange(n) - c) / scale).reshape(shape)
        for n, c, shape in zip(signal.shape, middle, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
    )
    field = sum(f * t for f, t in zip(factors, _products(k, j, i), strict=True))
    return np.exp(np.broadcast_to(np.asarray(field), signal.shape)).astype(np.float32)


def _products(k: NDArray, j: NDArray, i: NDArray) -> list[NDArray]:
    return [np.ones(1), k, j, i, k * k, j * j, i * i, k * j, k * i, j * i]


def _terms(kji: NDArray) -> NDArray:
    return np.stack([np.broadcast_to(term, kji.shape[1:]) for term in _products(*kji)], axis=1)


def _mad(values: NDArray) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def _check_contrast(ct: Volume, signal: NDArray[np.float32], known: NDArray[np.bool_], anatomy: Anatomy) -> None:
    """Cortex is dark in every MRI, fat in a fat-suppressed one; muscle is 1 here."""
    cortex = signal[known & (ct.voxels > _CORTEX_HU) & (anatomy.bones.voxels > 0)]
    if len(cortex) and np.median(cortex) > 1.0:
        raise ImageError(
            f"dense bone is {np.median(cortex):.1f} times as bright as muscle in this image; in an MRI it is dark: is "
            "it a CT?"
        )
    low, high = _FAT_HU
    fat = signal[known & (ct.voxels > low) & (ct.voxels < high) & (anatomy.bones.voxels == 0)]
    if len(fat) and np.median(fat) > 1.0:
        raise ImageError(
            f"fat is {np.median(fat):.1f} times as bright as muscle in this MRI, so fat is not suppressed; oedema is "
            "seen on STIR or fat-suppressed T2 images: load one of these"
        )


def _normal_marrow(
    ct: Volume, signal: NDArray[np.float32], marrow: NDArray[np.bool_], anatomy: Anatomy
) -> tuple[str, float, float]:
    """Name of the reference, its median signal and the threshold."""
    regions = {"body_s1": anatomy.region("body_s1"), "l5": anatomy.bone("l5")}
    regions |= {f"ala_{side}": anatomy.region(f"ala_{side}") for side in SIDES}
    found = {}
    for name, region in regions.items():
        values = signal[region & marrow]
        if len(values) * ct.voxel_volume_ml >= _SMALLEST_REFERENCE_ML:
            found[name] = float(np.median(values)), _SD_PER_MAD * _mad(values)
    if not found:
        raise AnatomyError(
            "the MRI shows neither S1, L5 nor an ala well enough to know this patient's normal marrow; load one that "
            "shows the whole sacrum"
        )
    sacral = [region for region in found if region != "l5"]
    name = min(sacral or found, key=lambda region: found[region][0])
    if "l5" in found and found[name][0] > _BRIGHTER_THAN_L5 * found["l5"][0]:
        name = "l5"
    normal, deviation = found[name]
    return name, normal, max(normal + _ROBUST_SD * deviation, normal * (1 + _LEAST_EXCESS))


def _warnings(seen: float, reference: str) -> tuple[str, ...]:
    found = []
    if seen < 0.9:
        found.append(f"only {seen:.0%} of the sacrum lies in the MRI; oedema outside of it is not seen")
    if reference == "l5":
        found.append(
            "all of the sacrum is bright against L5; oedema of the whole sacrum, or another marrow: look at it"
        )
    return tuple(found)
