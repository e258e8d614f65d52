"""A CT painted from a label map of a real pelvis, so that the truth is somebody's labels and not a model of ours.

Every surface is painted with partial volume from its distance on a 1 mm grid, blurred by the scanner and averaged over
the voxel that is asked for; the noise is correlated in the slice. All of it follows from one seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pelvis_labels import (
    DISC,
    FEMUR,
    HIP_LEFT,
    HIP_RIGHT,
    L5,
    MUSCLE,
    SACRUM,
    SACRUM_BELOW_S3,
    SPINE,
    PelvisLabels,
    signed_distance,
)
from scipy import ndimage

from sacroplasty.image import Volume

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]

#: Soft tissue is painted on a grid of this step [mm]; bones on 1 mm.
_COARSE = 2
_AIR, _FAT, _MUSCLE, _SKIN, _VESSEL, _WATER = -1000.0, -100.0, 52.0, 20.0, 42.0, 8.0


@dataclass(frozen=True)
class Look:
    """How a patient and a scan look.

    Attributes:
        ala_hu, body_hu, hip_hu, l5_hu: mean marrow of the alae, sacral bodies, hips and L5.
        cortex_mm: mean thickness of the cortical shell; it varies from half to double over a bone.
        cortex_hu: of solid cortex, before blur.
        texture_hu: deviation of the trabecular pattern.
        joint_mm: width of the sacroiliac gap where the bones of the label map touch or come nearer.
        bridged: share of the joint where bone bridges it.
        fat_mm: thickness of the subcutaneous fat at the side; behind it is less, in front more.
        blur_mm: standard deviation of the scanner's point spread.
        noise_hu: standard deviation of the noise.
        streaks: share of the noise that runs from side to side, as through a wide pelvis.
        vessel_hu, bladder_hu, bowel_hu: content, for contrast media.
        gas: share of the bowel that holds gas.
    """

    ala_hu: float = 0.0
    body_hu: float = 110.0
    hip_hu: float = 60.0
    l5_hu: float = 110.0
    cortex_mm: float = 1.1
    cortex_hu: float = 900.0
    texture_hu: float = 38.0
    joint_mm: float = 1.5
    bridged: float = 0.08
    fat_mm: float = 22.0
    blur_mm: float = 0.6
    noise_hu: float = 18.0
    streaks: float = 0.35
    vessel_hu: float = _VESSEL
    bladder_hu: float = _WATER
    bowel_hu: float = 30.0
    gas: float = 0.25


@dataclass(frozen=True)
class PseudoCT:
    """A painted CT with its truth on the same grid.

    Attributes:
        bones: 1 sacrum, 2 L5 (with the rest of the spine where the source does not part it), 3 hip_left, 4 hip_right.
        scored: where the truth is known.
        scored_bones: labels that have a truth.
    """

    name: str
    ct: Volume
    bones: Volume
    scored: Mask
    scored_bones: tuple[int, ...]


def draw_look(seed: int, **fixed: float) -> Look:
    """A random look; what is given by name stays as given."""
    rng = np.random.default_rng([seed, 11])
    ala = float(rng.uniform(-50, 70))
    drawn = Look(
        ala_hu=ala,
        body_hu=ala + float(rng.uniform(50, 110)),
        hip_hu=float(rng.uniform(-20, 110)),
        l5_hu=ala + float(rng.uniform(50, 110)),
        cortex_mm=float(rng.uniform(0.8, 1.5)),
        cortex_hu=float(rng.uniform(600, 1050)),
        texture_hu=float(rng.uniform(28, 50)),
        joint_mm=float(rng.uniform(1.0, 2.2)),
        bridged=float(rng.uniform(0.0, 0.2)),
        fat_mm=float(rng.uniform(12, 40)),
        blur_mm=float(rng.uniform(0.5, 0.85)),
        noise_hu=float(rng.uniform(10, 32)),
        streaks=float(rng.uniform(0.1, 0.6)),
        gas=float(rng.uniform(0.05, 0.5)),
    )
    return replace(drawn, **fixed)


def paint(
    pelvis: PelvisLabels, look: Look, seed: int, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 3.0)
) -> PseudoCT:
    """Paint a pelvis.

    Args:
        spacing_mm: voxel size along i, j, k of the CT; slices at least 1 mm are averaged over their thickness.
    """
    rng = np.random.default_rng([seed, 12])
    shape = pelvis.labels.voxels.shape
    hu = enlarge(_soft_tissue(pelvis.labels.voxels[::_COARSE, ::_COARSE, ::_COARSE], look, rng), shape, _COARSE)
    hu += 6 * smooth_noise(shape, 1.5, rng)
    hu[hu < -600] -= 60
    np.maximum(hu, _AIR, out=hu)
    _paint_bones(hu, pelvis, look, rng)
    return _scan(hu, pelvis, look, spacing_mm, seed)


def _soft_tissue(codes: NDArray[np.uint8], look: Look, rng: np.random.Generator) -> Field:
    """HU of everything but bone on a grid of 2 mm."""

    def away(*wanted: int) -> Field:
        return _COARSE * signed_distance(np.isin(codes, wanted))

    sacrum, spine = away(SACRUM, SACRUM_BELOW_S3), away(L5, SPINE)
    hip, femur = away(HIP_LEFT, HIP_RIGHT), away(FEMUR)
    nearest = np.minimum.reduce([sacrum, spine, hip, femur])
    body = _body(codes, look, rng)
    hu = np.full(codes.shape, _AIR, np.float32)
    _lay(hu, body, _SKIN)
    _lay(hu, body + 1.8, _FAT)
    inside = body < -2
    hu[inside] += 9 * _noise(codes.shape, 5.0, rng)[inside]
    labelled = codes == MUSCLE
    muscle = away(MUSCLE) if labelled.any() else _muscle_layers(codes, sacrum, spine, hip, body, look, rng)
    streaky = _MUSCLE + 8 * _noise(codes.shape, 4.0, rng) - 70 * np.clip(_noise(codes.shape, 4.0, rng) - 1.6, 0, 1)
    _lay(hu, muscle, streaky)
    _paint_cavity(hu, codes, nearest, body, muscle, look, rng)
    _paint_table(hu, body)
    return hu


def _lay(hu: Field, field: Field, value: float | Field, width_mm: float = 1.4) -> None:
    """Paint `value` where `field` is negative, with partial volume at its surface."""
    cover = np.clip(0.5 - field / width_mm, 0, 1)
    hu += cover * (value - hu)


def smooth_noise(shape: tuple[int, ...], length: float, rng: np.random.Generator) -> Field:
    """Smooth noise of zero mean and unit deviation; `length` is about its grain, in voxels."""
    step = max(int(length / 1.5), 1)
    coarse = tuple(n // step + 3 for n in shape)
    rough = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), length / step / 1.5, truncate=3)
    fine = enlarge(rough, shape, step) if step > 1 else rough[tuple(slice(0, n) for n in shape)]
    return (fine - fine.mean()) / fine.std()


def _noise(shape: tuple[int, ...], length_mm: float, rng: np.random.Generator) -> Field:
    """Smooth noise on the coarse grid."""
    return smooth_noise(shape, length_mm / _COARSE, rng)


def _body(codes: NDArray[np.uint8], look: Look, rng: np.random.Generator) -> Field:
    """Distance to the skin: each slice of bones and muscles held by half planes all around, and fat upon it."""
    thin = 2
    inner = codes[::thin, ::thin, ::thin] > 0
    step = thin * _COARSE
    depth, rows, columns = inner.shape
    y, x = np.meshgrid(np.arange(rows) * step, np.arange(columns) * step, indexing="ij")
    cx, cy = x.mean(), y.mean()
    field = np.full(inner.shape, -1000.0, np.float32)
    has_muscle = bool((codes == MUSCLE).any())
    for angle in np.arange(0, 360, 10):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        along = (x - cx) * c + (y - cy) * s
        reach = np.array([along[section].max() if section.any() else np.nan for section in inner])
        known = np.isfinite(reach)
        reach = np.interp(np.arange(depth), np.flatnonzero(known), reach[known])
        reach = ndimage.maximum_filter1d(reach, 60 // step)
        reach = ndimage.gaussian_filter1d(reach, 20 / step, mode="nearest")
        # In front (s = -1) the belly, behind the buttocks.
        extra = look.fat_mm * (1 + 0.5 * max(-s, 0) - 0.3 * max(s, 0))
        if not has_muscle:
            extra += 22 + 45 * max(-s, 0) + 8 * abs(c)
        extra += rng.normal(0, 2)
        field = np.maximum(field, along[None] - (reach + extra)[:, None, None])
    return enlarge(ndimage.gaussian_filter(field, (3, 2, 2)), codes.shape, thin)


def enlarge(coarse: Field, shape: tuple[int, ...], step: int) -> Field:
    """From a grid with every `step`-th point to all points."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(coarse)
    image.SetSpacing([float(step)] * 3)
    pad = sitk.ResampleImageFilter()
    pad.SetSize([int(n) for n in shape[::-1]])
    pad.SetOutputSpacing([1.0] * 3)
    pad.SetInterpolator(sitk.sitkLinear)
    pad.SetUseNearestNeighborExtrapolator(True)
    return sitk.GetArrayFromImage(pad.Execute(image))


def _muscle_layers(
    codes: NDArray[np.uint8],
    away_sacrum: Field,
    spine: Field,
    hip: Field,
    body: Field,
    look: Look,
    rng: np.random.Generator,
) -> Field:
    """Distance to invented muscle, in layers upon the bones and tubes beside the spine."""
    shape = codes.shape
    z, y, x = (_COARSE * n for n in np.ogrid[: shape[0], : shape[1], : shape[2]])
    sacrum = _COARSE * np.argwhere(codes == SACRUM)
    mid_y, mid_x = sacrum[:, 1].mean(), sacrum[:, 2].mean()
    wobble = _noise(shape, 18.0, rng)
    lateral = np.abs(x - mid_x)
    # The hip is a slanted plate: muscle is thick on its outer and hind side, thin on the inner one.
    outer = np.clip((lateral - 55) / 30 + (y - mid_y) / 40, 0, 1)
    layers = hip - (9 + 24 * outer + 3 * wobble)
    behind = np.minimum(away_sacrum, spine) - (26 + 3 * wobble)
    erector = np.maximum(behind, np.maximum(12 - (y - mid_y) + 0 * z, lateral - 42 + 0 * z))
    psoas_x = 44 + 0.10 * (sacrum[:, 0].max() - z)
    psoas = (
        np.sqrt((lateral - psoas_x) ** 2 + (y - (mid_y - 38) - 0.25 * (z - sacrum[:, 0].max())) ** 2) - 17 + 2 * wobble
    )
    wall = np.maximum(np.abs(body + look.fat_mm + 12) - 6, y - mid_y + 0 * z + 0 * x)
    muscle = np.minimum.reduce([layers, erector, psoas, wall])
    return np.maximum(muscle, body + 0.5 * look.fat_mm).astype(np.float32)


def _paint_cavity(
    hu: Field,
    codes: NDArray[np.uint8],
    nearest: Field,
    body: Field,
    muscle: Field,
    look: Look,
    rng: np.random.Generator,
) -> None:
    """Bowel, bladder, rectum and vessels in front of sacrum and spine."""
    shape = hu.shape
    z, y, x = np.meshgrid(*(_COARSE * np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    sacrum = _COARSE * np.argwhere(np.isin(codes, (SACRUM, SACRUM_BELOW_S3)))
    top, bottom, mid_x = sacrum[:, 0].max(), sacrum[:, 0].min(), sacrum[:, 2].mean()
    levels = (sacrum[sacrum[:, 0] == _COARSE * k] for k in range(shape[0]))
    front = np.array([level[:, 1].min() if len(level) else np.nan for level in levels])
    known = np.flatnonzero(np.isfinite(front))
    front = ndimage.gaussian_filter1d(np.interp(np.arange(shape[0]), known, front[known]), 3).astype(np.float32)
    ahead = front[:, None, None] - y  # mm in front of the sacrum, or of its level above it
    inside = np.maximum(body + look.fat_mm + 24, np.maximum(3 - muscle, 6 - nearest))
    room = np.maximum(inside, 14 - ahead)
    loops = _noise(shape, 13.0, rng) + 0.5 * _noise(shape, 30.0, rng)
    wall = np.maximum((0.35 - loops) * 9, room)
    _lay(hu, wall, 48.0)
    stool = look.bowel_hu + 25 * _noise(shape, 3.0, rng)
    lumen = wall + 2.5
    _lay(hu, lumen, stool)
    # Gas gathers where the bowel reaches forward, and in bubbles.
    gas = np.maximum(lumen + 1, (1 - 2.2 * look.gas - 0.9 * _noise(shape, 9.0, rng) - (ahead - 60) / 60) * 6)
    _lay(hu, gas, -930.0)
    del loops, stool, gas, lumen
    bladder = np.sqrt((x - mid_x) ** 2 + (ahead - 75) ** 2 + ((z - bottom - 5) * 1.2) ** 2) - rng.uniform(24, 36)
    bladder = np.maximum(bladder, 4 - nearest)
    _lay(hu, bladder - 3, 40.0)
    _lay(hu, bladder, look.bladder_hu)
    rectum = np.sqrt((x - mid_x - 4 * np.sin(z / 18)) ** 2 + (ahead - 20) ** 2) - 14
    rectum = np.maximum(rectum, np.maximum(z - (bottom + 70), 4 - nearest))
    _lay(hu, rectum, 45.0)
    _lay(hu, rectum + 5, -600.0 if rng.random() < look.gas else 10.0)
    del bladder, rectum
    for sign in (-1, 1):
        wiggle = rng.normal(0, 2, 10)
        main = [
            (top + 60, 6 + sign * 6, 36),
            (top + 22, sign * 16, 34),
            (top - 5, sign * (36 + wiggle[0]), 26 + wiggle[1]),
            (top - 40, sign * (56 + wiggle[2]), 38 + wiggle[3]),
            (top - 85, sign * (66 + wiggle[4]), 66 + wiggle[5]),
        ]
        inner = [main[2], (top - 30, sign * 42, 10 + wiggle[6]), (top - 65, sign * 40, 14 + wiggle[7])]
        vein = [(a - 3, b - sign * 3, c - 11) for a, b, c in main[1:]]
        for path, radius in ((main, 5.5), (inner, 3.5), (vein, 6.5)):
            tube = _tube(z, x - mid_x, ahead, path) - radius
            _lay(hu, np.maximum(tube, np.maximum(1.5 - nearest, body + 5)), look.vessel_hu)


def _tube(z: Field, u: Field, v: Field, path: list[tuple[float, float, float]]) -> Field:
    """Distance to a polyline whose points are (z, u, v)."""
    best = np.full(z.shape, 1e6, np.float32)
    for a, b in pairwise(path):
        start, step = np.array(a, np.float32), np.array(b, np.float32) - np.array(a, np.float32)
        t = np.clip(
            ((z - start[0]) * step[0] + (u - start[1]) * step[1] + (v - start[2]) * step[2]) / (step @ step), 0, 1
        )
        gap = (z - start[0] - t * step[0]) ** 2 + (u - start[1] - t * step[1]) ** 2 + (v - start[2] - t * step[2]) ** 2
        np.minimum(best, gap, out=best)
    return np.sqrt(best)


def _paint_bones(hu: Field, pelvis: PelvisLabels, look: Look, rng: np.random.Generator) -> None:
    """Cortex, marrow, joints, discs, and what the labels leave free in canal and foramina; `hu` changes in place."""
    codes = pelvis.labels.voxels
    near_bone = (codes > 0) & (codes < MUSCLE)
    found = ndimage.find_objects(near_bone.astype(np.uint8))[0]
    box = tuple(slice(max(s.start - 14, 0), s.stop + 14) for s in found)
    part, codes = hu[box], codes[box]
    shape = part.shape

    def away(*wanted: int) -> Field:
        field = signed_distance(np.isin(codes, wanted))
        return ndimage.gaussian_filter(field, 0.6, truncate=3)  # takes the steps off, not the corners

    sacrum, spine = away(SACRUM, SACRUM_BELOW_S3), away(L5, SPINE)
    hips = {"hip_left": away(HIP_LEFT), "hip_right": away(HIP_RIGHT)}
    femur = away(FEMUR) if (codes == FEMUR).any() else None
    k, j, i = np.nonzero(sacrum < 0)
    mid_x, top, mid_y = float(i.mean()), float(k.max()), float(j.mean())
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]

    # Canal and foramina, as far as the labels leave them free: what a closing of sacrum and spine fills.
    column = np.minimum(sacrum, spine)
    closed = signed_distance(signed_distance(column < 0) < 9) + 9
    hollow = np.maximum(closed, -column)
    _lay(part, hollow, -70.0)
    nerves = np.maximum(hollow + 2.2, 2.6 - column)
    _lay(part, nerves, 30.0)
    disc = codes == DISC
    if disc.any():
        _lay(part, signed_distance(disc), 82.0)
    # Where the spine of the manual labels meets the sacrum, its last millimetres are disc (in front) or facet joint.
    touch = np.maximum(spine, sacrum - 4.5)
    _lay(part, touch, 80.0)
    spine = np.maximum(spine, (4.5 if not disc.any() else 1.0) - sacrum)

    # Joints between sacrum and hips: both bones draw back by half of the gap, but for the bridges.
    blobs = smooth_noise(shape, 7.0, rng)
    bridge = blobs > np.quantile(blobs[::4, ::4, ::4], 1 - look.bridged) if look.bridged > 0 else np.zeros(shape, bool)
    half = np.where(bridge, -2.0, 0.5 * look.joint_mm * (1 + 0.3 * smooth_noise(shape, 9.0, rng))).astype(np.float32)
    hip = np.minimum(hips["hip_left"], hips["hip_right"])
    _lay(part, np.maximum(sacrum, hip) - np.maximum(half, 0.6) - 0.4, 62.0)
    apart = {name: np.maximum(field, half - sacrum) for name, field in hips.items()}
    if femur is not None:
        apart = {name: np.maximum(field, 1.3 - femur) for name, field in apart.items()}
        _lay(part, np.maximum(femur, hip) - 1.5, 75.0)
    whole_sacrum = np.maximum(sacrum, half - hip)

    thick = look.cortex_mm * np.clip(1 + 0.3 * smooth_noise(shape, 12.0, rng), 0.55, 1.7)
    grain = 0.8 * smooth_noise(shape, 1.1, rng) + 0.6 * smooth_noise(shape, 3.0, rng)
    dense = look.cortex_hu * np.clip(1 + 0.12 * smooth_noise(shape, 8.0, rng), 0.6, 1.3)
    patches = smooth_noise(shape, 12.0, rng)

    lateral = np.abs(x - mid_x)
    wing = np.clip((lateral - 24) / 10, 0, 1) * np.clip((z - top + 75) / 25, 0, 1)
    marrow = look.body_hu * (1 - wing) + look.ala_hu * wing + 14 * patches
    level = top - z - 0.45 * (y - mid_y)
    for disc_mm in (34.0, 62.0):  # remains of the discs between the sacral bodies
        marrow = marrow + (1 - wing) * np.clip(20 - lateral, 0, 1) * 170 * np.exp(-(((level - disc_mm) / 1.6) ** 2))
    behind = np.clip(np.gradient(sacrum, axis=1), -1, 1)
    shell = thick * (1 - 0.4 * wing) * (1 + 0.35 * np.clip(behind, 0, 1)) + 0.5 * np.exp(-np.maximum(spine, 0) / 4)
    shell = shell + 0.4 * np.exp(-np.maximum(hip, 0) / 2)
    _paint_bone(part, whole_sacrum, shell, dense, marrow, look, grain)
    _paint_bone(part, spine, thick, dense, look.l5_hu + 14 * patches, look, grain)
    for field in apart.values():
        _paint_bone(part, field, 1.25 * thick, dense, look.hip_hu + 22 * patches, look, grain)
    if femur is not None:
        _paint_bone(part, femur, 1.5 * thick, dense, 170 + 40 * patches, look, grain)


def _paint_bone(
    hu: Field, field: Field, shell_mm: Field, cortex_hu: Field, marrow: Field | float, look: Look, grain: Field
) -> None:
    """A shell of cortex around marrow that is denser near the shell."""
    near = field < 1.5
    depth, inner = field[near], np.broadcast_to(marrow, field.shape)[near]
    inner = inner + look.texture_hu * grain[near] + 70 * np.exp(np.minimum(depth + shell_mm[near], 0) / 1.8)
    part = hu[near]
    _lay(part, depth, cortex_hu[near])
    _lay(part, depth + shell_mm[near], inner)
    hu[near] = part


def _paint_table(hu: Field, body: Field) -> None:
    """The couch behind the patient: two thin shells."""
    rows = np.flatnonzero((body < 0).any(axis=(0, 2)))
    x = _COARSE * (np.arange(hu.shape[2], dtype=np.float32) - hu.shape[2] / 2)
    y = _COARSE * np.arange(hu.shape[1], dtype=np.float32)[:, None]
    below = _COARSE * rows.max() + 4 - 0.0009 * x**2
    couch = (np.abs(y - below) < 1.2) | (np.abs(y - below - 18) < 1.2)
    hu[:, couch] = np.where(body[:, couch] > 2, -150, hu[:, couch])


def _scan(hu: Field, pelvis: PelvisLabels, look: Look, spacing_mm: tuple[float, float, float], seed: int) -> PseudoCT:
    """Blur, average over voxels, sample, add noise."""
    size = np.array(spacing_mm[::-1])
    inplane = np.array([0.4, 1.0, 1.0]) * look.blur_mm
    sigma = np.sqrt(inplane**2 + np.maximum(size**2 - 1, 0) / 12)
    ndimage.gaussian_filter(hu, sigma, output=hu, truncate=3)
    shape = hu.shape
    count = np.floor((np.array(shape) - 1) / size).astype(int) + 1
    points = [np.arange(n) * s for n, s in zip(count, size, strict=True)]
    if all(np.allclose(p, np.round(p)) for p in points):
        image = hu[np.ix_(*(np.round(p).astype(int) for p in points))]
    else:
        image = ndimage.affine_transform(hu, size, output_shape=tuple(count), order=1, mode="nearest")
    image = image + look.noise_hu * scanner_noise(image.shape, spacing_mm, look.streaks, seed)
    nearest = np.ix_(*(np.minimum(np.round(p).astype(int), n - 1) for p, n in zip(points, shape, strict=True)))
    codes = pelvis.labels.voxels[nearest]
    bones = np.zeros(codes.shape, np.uint8)
    for code in (SACRUM, L5, HIP_LEFT, HIP_RIGHT):
        bones[codes == code] = code
    bones[codes == SPINE] = L5
    IJKToRAS = pelvis.labels.IJKToRAS.copy()
    IJKToRAS[:3, :3] = IJKToRAS[:3, :3] * np.array(spacing_mm)
    return PseudoCT(
        pelvis.name,
        Volume(np.clip(np.round(image), -1024, 3071).astype(np.int16), IJKToRAS),
        Volume(bones, IJKToRAS),
        pelvis.scored[nearest],
        pelvis.scored_bones,
    )


def scanner_noise(shape: tuple[int, ...], spacing_mm: tuple[float, float, float], streaks: float, seed: int) -> Field:
    """Noise of unit deviation, grainy in the slice, partly running from side to side; slices are independent."""
    rng = np.random.default_rng([seed, 13])
    across, down = spacing_mm[0], spacing_mm[1]
    parts = []
    for sigma in ((0, 0.7 / down, 0.7 / across), (0, 0.7 / down, 7.0 / across)):
        part = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
        parts.append(part / part.std())
    return np.sqrt(1 - streaks) * parts[0] + np.sqrt(streaks) * parts[1]
