"""Looks at a CT and at what was found in it: field of view, noise, metal, contrast, and what a person must check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, invert_rigid, transform_points
from ..image import Volume
from .bone_quality import measure_bone
from .confirmation import LEAST_CONFIDENCE, relied_on
from .labels import BONE_LABEL, BONES, NERVE_BORDER, REGIONS, SIDES, VESSELS
from .quality import Check, Hint, QualityReport

#: Denser than any bone: metal, or cement with its radiopacifier [HU].
_DENSE_HU = 2000.0
#: Less may be a clip, a calcified vessel or a spike of noise [mL].
_SMALLEST_DENSE_ML = 0.05
#: Metal or cement so near to a structure blurs or shadows it [mm].
_DENSE_REACH_MM = 3.0
#: Confidence of a structure that metal or cement lies in: below what planning goes on with unasked.
_WITH_METAL = 0.4
#: Soft tissue [HU], and the edge of the cubes in which its noise is read [mm].
_SOFT_HU = (-20.0, 120.0)
_NOISE_CUBE_MM = 7.0
#: Contrast medium [HU]: brighter than blood and muscle, darker than cortex.
_BRIGHT_HU = (160.0, 700.0)
#: Pieces of contrast are at least so wide [mm] and so large together [mL]; smaller bright spots are calcified walls.
_BRIGHT_WIDTH_MM, _SMALLEST_BRIGHT_ML = 5.0, 1.0
#: How far in front of the sacrum contrast is looked for, and how far from bone it must lie [mm].
_FRONT_MM, _OFF_BONE_MM = 50.0, 6.0
#: Both bones of a sacroiliac joint must be whole within this of each other [mm].
_JOINT_MM = 10.0
#: Larger than this blurs what is measured in it [mm].
_THICK_MM = 3.0


@dataclass(frozen=True)
class Findings:
    """What `find_structures` knows when the report is made: volumes on the CT's grid, confidence by structure."""

    ct: Volume
    bones: Volume
    regions: Volume
    SacrumToRAS: FloatArray
    confidence: dict[str, float]
    reasons: dict[str, str]
    hints: tuple[Hint, ...]


def assess(findings: Findings, hu_offset: float = 0.0) -> tuple[QualityReport, dict[str, float]]:
    """The report, and the confidence of each structure with what the report found taken into account."""
    ct, bones, regions = findings.ct, findings.bones, findings.regions
    confidence, reasons = dict(findings.confidence), dict(findings.reasons)
    noise_hu = estimate_noise(ct)
    cut_off = find_cut_off(bones, regions)
    for name, borders in cut_off.items():
        if name in BONE_LABEL:
            reasons[name] = f"{reasons.get(name, 'found')}; goes on beyond the image ({' and '.join(borders)})"
        else:
            reasons[name] = f"cut off by the border of the image ({' and '.join(borders)})"
            confidence[name] = 0.0
    dense = _dense(ct)
    dense_ml = float(np.count_nonzero(dense)) * ct.voxel_volume_ml
    in_sacrum_ml = 0.0
    if dense.any():
        in_sacrum_ml = _near(dense, bones.voxels == BONE_LABEL["sacrum"], ct) * ct.voxel_volume_ml
        for label, name in REGIONS.items():
            if _near(dense, regions.voxels == label, ct) * ct.voxel_volume_ml >= _SMALLEST_DENSE_ML:
                confidence[name] = min(confidence.get(name, 0.0), _WITH_METAL)
                reasons[name] = "there is metal or cement in it or beside it"
    bright_ml = bright_fluid_ml(ct, bones, findings.SacrumToRAS)
    refused = _unfit_for_density(in_sacrum_ml, bright_ml)
    bone = measure_bone(ct, bones, regions, findings.SacrumToRAS, noise_hu, refused, hu_offset)
    wanted = (*BONES.values(), *(name for side in SIDES for name in relied_on(side)))
    missing = tuple(name for name in dict.fromkeys(wanted) if name not in confidence)
    report = QualityReport(
        voxel_mm=tuple(round(float(size), 4) for size in ct.spacing_mm),  # type: ignore[arg-type]
        noise_hu=noise_hu,
        cut_off=cut_off,
        missing=missing,
        dense_ml=round(dense_ml, 3),
        dense_in_sacrum_ml=round(in_sacrum_ml, 3),
        bright_fluid_ml=round(bright_ml, 2),
        sacral_slope_deg=round(sacral_slope_deg(findings.SacrumToRAS), 1),
        bone=bone,
        hints=findings.hints,
        reasons=reasons,
        must_check=tuple(_checks(ct, confidence, reasons, missing, cut_off, in_sacrum_ml, findings.hints)),
    )
    return report, confidence


def sacral_slope_deg(SacrumToRAS: FloatArray) -> float:
    """Angle between the S1 endplate and the scanner's transverse plane, positive when it looks forward [deg].

    Measured in the mirror plane of the sacrum. The patient lies, supine or prone; the slope of one who stands differs.
    """
    left, posterior, superior = SacrumToRAS[:3, :3].T
    head = np.array([0.0, 0.0, 1.0])
    head = head - (head @ left) * left
    return float(np.degrees(np.arctan2(head @ posterior, head @ superior)))


def estimate_noise(ct: Volume) -> float:
    """Standard deviation of the noise in soft tissue [HU], NaN when the CT shows too little of it.

    The most frequent standard deviation of small cubes of soft tissue (the idea of Christianson 2015, AJR 205:W93):
    edges and texture make some cubes look noisier, hardly any less noisy.
    """
    edge = np.maximum(np.round(_NOISE_CUBE_MM / ct.spacing_mm[::-1]).astype(int), 2)
    counts = np.array(ct.voxels.shape) // edge
    if (counts < 1).any():
        return float("nan")
    # A sample of the cubes of a large CT is enough.
    step = max(1, int(np.cbrt(counts.prod() / 60000)))
    spreads: list[NDArray] = []
    for k in range(0, counts[0], step):
        layer = ct.voxels[k * edge[0] : (k + 1) * edge[0], : counts[1] * edge[1], : counts[2] * edge[2]]
        cubes = layer.reshape(edge[0], counts[1], edge[1], counts[2], edge[2]).transpose(1, 3, 0, 2, 4)
        cubes = cubes[::step, ::step].reshape(-1, int(edge.prod())).astype(np.float32)
        mean = cubes.mean(axis=1)
        cubes = cubes[(mean > _SOFT_HU[0]) & (mean < _SOFT_HU[1])]
        spreads.append(cubes.std(axis=1, ddof=1))
    values = np.concatenate(spreads)
    values = values[values > 0]
    if len(values) < 50:
        return float("nan")
    # Mode as the middle of the narrowest interval that holds a fifth of the values (half-sample mode, one step).
    ordered = np.sort(values)
    width = max(10, len(ordered) // 5)
    gaps = ordered[width - 1 :] - ordered[: len(ordered) - width + 1]
    first = int(np.argmin(gaps))
    return round(float(np.median(ordered[first : first + width])), 1)


def find_cut_off(bones: Volume, regions: Volume) -> dict[str, tuple[str, ...]]:
    """Structures that reach the border of the image, with the names of those borders."""
    cut: dict[str, tuple[str, ...]] = {}
    names = _border_names(bones)
    # Regions are interpolated, so that they may stop a voxel short of the border.
    for volume, labels, rim in ((bones, BONES, 1), (regions, REGIONS, 2)):
        touched: dict[int, list[str]] = {}
        for (axis, end), border in names.items():
            planes = np.arange(rim) if end == 0 else -1 - np.arange(rim)
            for label in np.unique(np.take(volume.voxels, planes, axis=axis)).tolist():
                touched.setdefault(int(label), []).append(border)
        # Vessels run on beyond every image of a pelvis; the border of nerves is cut off where these are.
        names_of = {label: name for label, name in labels.items() if name not in (VESSELS, NERVE_BORDER)}
        cut |= {name: tuple(touched[label]) for label, name in names_of.items() if label in touched}
    for side in SIDES:
        borders = _joint_borders(bones, side, names)
        if borders:
            cut[f"si_joint_{side}"] = borders
    return cut


def _border_names(volume: Volume) -> dict[tuple[int, int], str]:
    """What lies beyond each face of the image, by array axis and end."""
    words = (("left", "right"), ("back", "front"), ("feet", "head"))
    names = {}
    for axis in range(3):
        direction = volume.IJKToRAS[:3, 2 - axis]
        nearest = int(np.argmax(np.abs(direction)))
        positive = direction[nearest] > 0
        for end in (0, -1):
            names[axis, end] = words[nearest][int(positive == (end == -1))]
    return names


def _joint_borders(bones: Volume, side: str, names: dict[tuple[int, int], str]) -> tuple[str, ...]:
    """Borders at which sacrum or hip end within reach of the other bone."""
    from scipy.spatial import cKDTree

    masks = [bones.voxels == BONE_LABEL[name] for name in ("sacrum", f"hip_{side}")]
    if not all(mask.any() for mask in masks):
        return ()
    # A point every few millimeters is enough to say how near two bones are.
    stride = np.maximum(np.round(3.0 / bones.spacing_mm[::-1]).astype(int), 1)
    points = [np.argwhere(mask[:: stride[0], :: stride[1], :: stride[2]]) * stride for mask in masks]
    if not all(len(group) for group in points):
        return ()
    trees = [cKDTree(bones.ras_of(group)) for group in points]
    borders = []
    for (axis, end), name in names.items():
        for mask, other in zip(masks, reversed(trees), strict=True):
            face = np.argwhere(np.take(mask, end, axis=axis))
            if not len(face):
                continue
            where = np.insert(face, axis, end % mask.shape[axis], axis=1)
            if other.query(bones.ras_of(where))[0].min() <= _JOINT_MM:
                borders.append(name)
    return tuple(dict.fromkeys(borders))


def _dense(ct: Volume) -> NDArray[np.bool_]:
    """Metal and cement, without single bright voxels."""
    from scipy import ndimage

    dense = ct.voxels > _DENSE_HU
    if not dense.any():
        return dense
    parts, count = ndimage.label(dense, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * ct.voxel_volume_ml
    sizes[0] = 0
    return (sizes >= _SMALLEST_DENSE_ML)[parts]


def _near(points: NDArray[np.bool_], mask: NDArray[np.bool_], grid: Volume) -> int:
    """Number of the True voxels of `points` in the mask or within reach of it."""
    from scipy import ndimage

    if not mask.any():
        return 0
    reach = np.ceil(_DENSE_REACH_MM / grid.spacing_mm[::-1]).astype(int)
    box = tuple(
        slice(max(int(index.min()) - margin, 0), int(index.max()) + margin + 1)
        for index, margin in zip(np.nonzero(mask), reach, strict=True)
    )
    if not points[box].any():
        return 0
    away = ndimage.distance_transform_edt(~mask[box], sampling=grid.spacing_mm[::-1])
    return int(np.count_nonzero(points[box] & (away <= _DENSE_REACH_MM)))


def bright_fluid_ml(ct: Volume, bones: Volume, SacrumToRAS: FloatArray) -> float:
    """Volume of contrast medium in front of sacrum and L5, away from all labelled bone [mL]."""
    from scipy import ndimage

    used = [(int(index.min()), int(index.max()) + 1) for index in np.nonzero(np.isin(bones.voxels, (1, 2)))]
    if not used:
        return 0.0
    margin = np.ceil(_FRONT_MM / ct.spacing_mm[::-1]).astype(int)
    box = tuple(slice(max(low - m, 0), high + m) for (low, high), m in zip(used, margin, strict=True))
    spacing = ct.spacing_mm[::-1]
    values = ct.voxels[box]
    bright = (values >= _BRIGHT_HU[0]) & (values <= _BRIGHT_HU[1])
    off_bone = np.ceil(_OFF_BONE_MM / spacing).astype(int)
    near_bone = ndimage.maximum_filter(bones.voxels[box] > 0, size=tuple(2 * off_bone + 1))
    bright &= ~near_bone
    if not bright.any():
        return 0.0
    start = np.array([part.start for part in box])
    indices = np.argwhere(bright)
    local = transform_points(invert_rigid(SacrumToRAS), ct.ras_of(indices + start))
    # In front of the promontory's plane and between the hips; above L5's middle other vertebrae are not labelled.
    wanted = (local[:, 1] < -5) & (np.abs(local[:, 0]) < 50) & (local[:, 2] < 20) & (local[:, 2] > -60)
    bright[tuple(indices[~wanted].T)] = False
    radius = _BRIGHT_WIDTH_MM / 2 / spacing
    reach = np.floor(radius).astype(int)
    offsets = np.moveaxis(np.mgrid[tuple(slice(-r, r + 1) for r in reach)], 0, -1)
    wide = ndimage.binary_opening(bright, ((offsets / np.maximum(radius, 1e-6)) ** 2).sum(axis=-1) <= 1)
    return float(np.count_nonzero(wide)) * ct.voxel_volume_ml


def _unfit_for_density(in_sacrum_ml: float, bright_ml: float) -> str:
    if in_sacrum_ml >= _SMALLEST_DENSE_ML:
        return f"there are {in_sacrum_ml:.1f} mL of metal or cement in the sacrum, which falsify the CT numbers nearby"
    if bright_ml >= _SMALLEST_BRIGHT_ML:
        return "the CT was taken with contrast medium, which raises the CT numbers of bone"
    return ""


def _checks(
    ct: Volume,
    confidence: dict[str, float],
    reasons: dict[str, str],
    missing: Iterable[str],
    cut_off: dict[str, tuple[str, ...]],
    in_sacrum_ml: float,
    hints: Iterable[Hint],
) -> list[Check]:
    checks = []
    for name, borders in cut_off.items():
        what = "is cut off by the border of the image" if name not in BONE_LABEL else "goes on beyond the image"
        if name not in BONE_LABEL or name in ("sacrum", "l5"):
            checks.append(Check(name, f"{name} {what} ({' and '.join(borders)})."))
    checks += [Check(name, f"{name} was not found; what depends on it cannot be planned.") for name in missing]
    needed = {name for side in SIDES for name in relied_on(side)}
    for name, value in confidence.items():
        if name in needed and not value >= LEAST_CONFIDENCE and name not in cut_off:
            why = reasons.get(name, "found with a low confidence")
            checks.append(Check(name, f"{name} must be looked at and confirmed: {why}."))
    if in_sacrum_ml >= _SMALLEST_DENSE_ML:
        checks.append(
            Check("sacrum", f"The sacrum holds {in_sacrum_ml:.1f} mL of metal or cement; is there still room?")
        )
    thickest = float(ct.spacing_mm.max())
    if thickest > _THICK_MM:
        checks.append(
            Check("foramen_s3_left", f"Voxels are up to {thickest:.1f} mm long; the lower foramina may be blurred.")
        )
    transitional = [hint for hint in hints if hint.name in ("l5_joins_ala", "residual_s1_s2_disc", "asymmetric_sacrum")]
    checks += [Check("l5" if hint.name == "l5_joins_ala" else "body_s1", hint.text) for hint in transitional]
    return checks
