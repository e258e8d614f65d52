"""Bones from a label map: which numbering it is, whether it belongs to this CT, and whether left is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import AnatomyError
from ..image import Volume
from .composite_labels import lowest_vertebra, split_hips
from .labels import (
    BONE_LABEL,
    BONES,
    TOTALSEGMENTATOR,
    TOTALSEGMENTATOR_CANAL,
    TOTALSEGMENTATOR_V1,
    TOTALSEGMENTATOR_VESSELS,
)
from .structure_names import CANAL, HIPS, KNOWN, SPINE, VESSELS

_OTHERS = (CANAL, VESSELS, HIPS, SPINE)
#: Less than this is no sacrum: adults have 150 to 300 mL (own phantoms and the label maps seen) [mL].
_SMALLEST_ML = {"sacrum": 30.0, "l5": 8.0}
#: Labels come from a network or a person, both of whom err (a network's sacrum: Dice 0.94 to 0.96, REFERENCES [R2]).
_LABEL_CONFIDENCE = 0.9
#: A vertebra that was cut out of a spine at the height where one usually ends.
_CUT_CONFIDENCE = 0.5


@dataclass(frozen=True)
class LabelledBones:
    """Bones on the CT's grid.

    Attributes:
        bones: uint8 labels of `labels.BONES`.
        canal: voxels that the label map calls spinal canal or cord; all False when it has no such label.
        method: how the bones were found, in words; it becomes `Anatomy.method`.
        confidence: 0 to 1 for each bone that is there.
        warnings: what a person must check.
        vessels: voxels of common iliac arteries and veins; None when the source tells nothing of vessels.
    """

    bones: Volume
    canal: NDArray[np.bool_]
    method: str
    confidence: dict[str, float]
    warnings: tuple[str, ...]
    vessels: NDArray[np.bool_] | None = None


def bones_from_labels(
    ct: Volume, labels: Volume, mapping: dict[int, str] | None = None, numbering: str = "mapping given"
) -> LabelledBones:
    """Read the bones out of a label map and bring them onto the CT's grid.

    Args:
        ct: the CT that the labels were drawn on; only its grid is used.
        labels: whole numbers, on the CT's grid or on any other that covers the sacrum.
        mapping: label value to structure (`structure_names.KNOWN`: a bone, `sacral_canal`, or `hips` and `spine`, which
            are parted here); found by content if None.
        numbering: where the mapping comes from, in words.

    Raises:
        AnatomyError: for no sacrum, no fifth lumbar vertebra, swapped sides, or labels of another place.
    """
    values = _whole_numbers(labels)
    numbering, names = (numbering, mapping) if mapping is not None else _detect(values)
    unknown = sorted(set(names.values()) - set(KNOWN))
    if unknown:
        raise AnatomyError(f"the label mapping names {', '.join(unknown)}; known are {', '.join(KNOWN)}")
    warnings: list[str] = []
    if not labels.same_grid(ct):
        values = _onto(ct, labels.like(values))
        warnings.append("The label map is on another grid than the CT and was resampled; check that they fit.")
    bones = np.zeros(values.shape, np.uint8)
    for value, name in names.items():
        if name in BONE_LABEL:
            bones[values == value] = BONE_LABEL[name]
    masks = {kind: np.isin(values, [value for value, name in names.items() if name == kind]) for kind in _OTHERS}
    volume = ct.like(bones)
    _check_content(volume, values, numbering, "sacrum")
    sure = _part(volume, masks[HIPS], masks[SPINE])
    _check_content(volume, values, numbering, "l5")
    warnings += _check_sides(volume)
    confidence = {name: _LABEL_CONFIDENCE for name, label in BONE_LABEL.items() if (bones == label).any()}
    if not sure:
        confidence["l5"] = _CUT_CONFIDENCE
        warnings.append("The spine label has no gaps at the discs: L5 ends where it usually does. Check its upper end.")
    vessels = masks[VESSELS] if masks[VESSELS].any() else None
    return LabelledBones(volume, masks[CANAL], f"labels ({numbering})", confidence, tuple(warnings), vessels)


def _part(bones: Volume, hips: NDArray[np.bool_], spine: NDArray[np.bool_]) -> bool:
    """Paint hips and L5 of shared labels where no bone is yet; False when the end of L5 had to be assumed."""
    sacrum = bones.like(bones.voxels == BONE_LABEL["sacrum"])
    sure = True
    if hips.any():
        for name, mask in zip(("hip_left", "hip_right"), split_hips(hips, sacrum), strict=True):
            bones.voxels[mask & (bones.voxels == 0)] = BONE_LABEL[name]
    if spine.any() and not (bones.voxels == BONE_LABEL["l5"]).any():
        vertebra, sure = lowest_vertebra(spine, sacrum)
        bones.voxels[vertebra & (bones.voxels == 0)] = BONE_LABEL["l5"]
    return sure


def _whole_numbers(labels: Volume) -> NDArray[np.int64]:
    voxels = labels.voxels
    if voxels.dtype.kind == "f" and not (np.isfinite(voxels).all() and (voxels == np.round(voxels)).all()):
        raise AnatomyError("the label map holds numbers that are not whole; give a label map, not a probability or CT")
    return voxels.astype(np.int64)


def _detect(values: NDArray[np.int64]) -> tuple[str, dict[int, str]]:
    present = {int(value) for value in np.unique(values)} - {0}
    if 25 in present:
        vessels = dict.fromkeys(TOTALSEGMENTATOR_VESSELS, VESSELS)
        return "TotalSegmentator", {**TOTALSEGMENTATOR, TOTALSEGMENTATOR_CANAL: CANAL, **vessels}
    if {92, 18} <= present:
        return "TotalSegmentator version 1", dict(TOTALSEGMENTATOR_V1)
    if 1 in present and present <= set(BONES):
        return "bones", dict(BONES)
    shown = ", ".join(str(value) for value in sorted(present)[:12]) or "none"
    raise AnatomyError(
        f"no sacrum in the label map: it holds the labels {shown}, but neither 25 (sacrum, TotalSegmentator) nor "
        "1 to 4 (sacrum, l5, hip_left, hip_right) alone; give the mapping of its labels, for example "
        "--mapping 3=sacrum,4=l5"
    )


def _onto(ct: Volume, labels: Volume) -> NDArray[np.int64]:
    """Nearest label at each voxel of the CT; 0 outside the label map."""
    from scipy import ndimage

    CTToLabels = labels.RASToIJK @ ct.IJKToRAS
    matrix = CTToLabels[:3, :3][::-1, ::-1]
    offset = CTToLabels[:3, 3][::-1]
    resampled = ndimage.affine_transform(
        labels.voxels, matrix, offset, output_shape=ct.voxels.shape, order=0, mode="constant", cval=0
    )
    if not resampled.any():
        raise AnatomyError("the label map does not overlap the CT; was it drawn on another image?")
    return resampled


def _check_content(bones: Volume, values: NDArray[np.int64], numbering: str, name: str) -> None:
    volume_ml = np.count_nonzero(bones.voxels == BONE_LABEL[name]) * bones.voxel_volume_ml
    if volume_ml >= _SMALLEST_ML[name]:
        return
    if volume_ml > 0:
        raise AnatomyError(
            f"the {name} in the label map has {volume_ml:.1f} mL, too little for a {name}; is it cut off or "
            "mislabelled?"
        )
    need = "" if name == "sacrum" else "; it is needed to find the S1 endplate and to count the foramina"
    shown = ", ".join(str(value) for value in np.unique(values)[1:13]) or "none"
    raise AnatomyError(
        f"no {name} in the label map ({numbering}, labels {shown}){need}; if it has another number, say "
        f"--mapping N={name}"
    )


def _check_sides(bones: Volume) -> list[str]:
    """Refuse hips on the wrong side; warn of missing ones."""
    sacrum = bones.ras_of(np.argwhere(bones.voxels == BONE_LABEL["sacrum"])).mean(axis=0)
    warnings = []
    for name, sign in (("hip_left", -1), ("hip_right", 1)):
        hip = np.argwhere(bones.voxels == BONE_LABEL[name])
        if not len(hip):
            warnings.append(
                f"There is no {name} in the label map: its sacroiliac joint is unknown and counts as forbidden."
            )
        elif sign * (bones.ras_of(hip).mean(axis=0)[0] - sacrum[0]) < 0:
            raise AnatomyError(
                f"{name} of the label map lies on the other side of the sacrum: left and right are swapped, "
                "in the labels or in the orientation of the image"
            )
    return warnings
