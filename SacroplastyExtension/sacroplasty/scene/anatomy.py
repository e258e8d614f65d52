"""Segmented anatomy in the scene: one segmentation node that a person can correct, and one record beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slicer
from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

from ..anatomy.bones import LabelledBones
from ..anatomy.confirmation import Reliability, blocking_reasons, confirm, to_confirm
from ..anatomy.fracture_classification import classify_fractures
from ..anatomy.fracture_marking import fracture_from_mask
from ..anatomy.fracture_model import MarkedFracture
from ..anatomy.fracture_records import classification_from, fracture_from, fracture_records, suggestions_from
from ..anatomy.label_files import LabelMap
from ..anatomy.labels import BONE_LABEL, BONES, REGION_LABEL, REGIONS, SIDES
from ..anatomy.model import Anatomy, Foramen, Landmark
from ..anatomy.quality import QualityReport, quality_as_record, quality_of_record
from ..anatomy.structure_names import KNOWN, structure_of
from ..errors import AnatomyError
from ..geometry import FloatArray, check_rigid
from ..image import Volume, check_ct
from . import previous
from .nodes import (
    add_points,
    add_segmentation,
    first_node,
    mask_of,
    segment_names,
    shape_digest,
    terminology_of,
    volume_of,
    volumes_in,
    voxels_of,
)
from .records import read_record, write_record

SEGMENTATION_NAME = "Sacrum"
LANDMARKS_NAME = "Landmarks"
RECORD_NAME = "Sacroplasty anatomy"
#: What one result consists of, by class of node.
_NODES = {
    "vtkMRMLSegmentationNode": SEGMENTATION_NAME,
    "vtkMRMLMarkupsFiducialNode": LANDMARKS_NAME,
    "vtkMRMLTextNode": RECORD_NAME,
}
_NEEDED = "sacrum"
#: Cosine between the normals of a fracture before and after an edit from which it counts as the one that was marked.
_SAME_NORMAL = 0.97
_CT_ROLE = "referenceImageGeometryRef"


@dataclass(frozen=True)
class StructureRow:
    """What the list of structures shows of one segment.

    `confidence` is None when the method gave none: then a person must look. `center_ras` is the mean of the voxels.
    """

    name: str
    confidence: float | None
    volume_ml: float
    center_ras: FloatArray


def segment(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    labels_node: vtkMRMLNode,
    progress: Callable[[float], None] | None = None,
) -> vtkMRMLSegmentationNode:
    """Find the structures in labelled bones and show them, in place of an older result.

    Args:
        labels_node: a label map volume, or a segmentation whose segments tell by name or terminology what they are.
        progress: called with 0 to 1.
    """
    from ..anatomy.bones import bones_from_labels

    tell = progress or (lambda fraction: None)
    ct = volume_of(ct_node)
    check_ct(ct, ct_node.GetName())
    tell(0.1)
    labels = label_map_of(labels_node, ct)
    tell(0.2)
    labelled = bones_from_labels(ct, labels.volume, labels.names, labels.numbering)
    return show_structures(scene, ct_node, labelled, progress=lambda fraction: tell(0.2 + 0.8 * fraction))


def show_structures(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    labelled: LabelledBones,
    progress: Callable[[float], None] | None = None,
) -> vtkMRMLSegmentationNode:
    """Find all that depends on the bones, however they were found, and show it in place of an older result.

    Fractures that a person marked in the same CT stay, as far as they lie in the sacrum; suggestions do not.

    Args:
        labelled: bones on the CT's grid.
        progress: called with 0 to 1.
    """
    from ..anatomy.segment import find_structures

    tell = progress or (lambda fraction: None)
    anatomy = find_structures(volume_of(ct_node), labelled, progress=lambda fraction: tell(0.9 * fraction))
    node = show_anatomy(scene, _with_marked_fractures(scene, anatomy), ct_node)
    write_record(scene, RECORD_NAME, _record_in(scene) | {"bone_warnings": list(labelled.warnings)})
    tell(1.0)
    return node


def _with_marked_fractures(scene: vtkMRMLScene, anatomy: Anatomy) -> Anatomy:
    record, segmentation = (
        read_record(scene, RECORD_NAME),
        first_node(scene, "vtkMRMLSegmentationNode", SEGMENTATION_NAME),
    )
    if record is None or segmentation is None or record["image_hash"] != anatomy.image_hash:
        return anatomy
    marked = {one["name"]: one for one in record.get("fractures", ())}
    masks = {
        name: mask_of(segmentation, name, anatomy.bones) for name in fracture_segments(segment_names(segmentation))
    }
    fractures = tuple(
        _fracture(name, marked.get(name), mask, anatomy)
        for name, mask in masks.items()
        if (mask & anatomy.bone("sacrum")).any()
    )
    before = classification_from(record.get("fracture_classification"))
    return replace(anatomy, fractures=fractures, fracture_classification=classify_fractures(fractures, anatomy, before))


def show_anatomy(
    scene: vtkMRMLScene, anatomy: Anatomy, ct_node: vtkMRMLScalarVolumeNode | None = None
) -> vtkMRMLSegmentationNode:
    """Add the anatomy to the scene: segments, landmarks and the record; an older one becomes the previous one."""
    previous.set_aside(scene, _NODES)
    masks = {name: anatomy.bone(name) for name in BONES.values()}
    masks |= {name: anatomy.region(name) for name in REGIONS.values()}
    masks |= {
        f"fracture_{number}": one.mask(anatomy.bones.voxels.shape) for number, one in enumerate(anatomy.fractures, 1)
    }
    node = add_segmentation(scene, masks, anatomy.bones, SEGMENTATION_NAME)
    if ct_node is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(ct_node)
    add_points(scene, {name: mark.position_ras for name, mark in anatomy.landmarks.items()}, LANDMARKS_NAME)
    write_record(
        scene, RECORD_NAME, _record_of(anatomy) | {"drawn": {name: shape_digest(node, name) for name in masks}}
    )
    return node


def has_previous(scene: vtkMRMLScene) -> bool:
    """Whether the scene keeps the result before the last one."""
    return previous.has_previous(scene, _NODES)


def restore_previous(scene: vtkMRMLScene) -> vtkMRMLSegmentationNode:
    """Go back to the result before the last one, with its edits and confirmations; a second time goes forth again.

    Raises:
        AnatomyError: when there is none.
    """
    if not has_previous(scene):
        raise AnatomyError("there is no previous result to restore; the scene keeps one from the second result on")
    previous.exchange(scene, _NODES)
    return first_node(scene, "vtkMRMLSegmentationNode", SEGMENTATION_NAME)


def edited_structures(scene: vtkMRMLScene, segmentation: vtkMRMLSegmentationNode) -> tuple[str, ...]:
    """Segments that a person has changed or removed since they were found, fractures and oedema left out."""
    drawn = (read_record(scene, RECORD_NAME) or {}).get("drawn", {})
    found = (name for name in (*BONE_LABEL, *REGION_LABEL) if name in drawn)
    return tuple(name for name in found if shape_digest(segmentation, name) != drawn[name])


def anatomy_of(scene: vtkMRMLScene, segmentation: vtkMRMLSegmentationNode, ct_node: vtkMRMLScalarVolumeNode) -> Anatomy:
    """The anatomy that the scene shows now, with corrections that a person made to the segments.

    Raises:
        AnatomyError: when nothing was segmented yet or the CT is another one.
    """
    if segmentation is None:
        raise AnatomyError("there is no segmentation; make one in the Segmentation module first")
    record = read_record(scene, RECORD_NAME)
    if record is None:
        raise AnatomyError("the scene has no anatomy record; run the segmentation first")
    ct = volume_of(ct_node)
    if ct.content_hash() != record["image_hash"]:
        raise AnatomyError(f"the segmentation was made on another CT than {ct_node.GetName()}; segment this one")
    names = set(segment_names(segmentation))
    if _NEEDED not in names:
        raise AnatomyError(f"{segmentation.GetName()} has no segment {_NEEDED!r}; run the segmentation again")
    bones, regions = np.zeros(ct.voxels.shape, np.uint8), np.zeros(ct.voxels.shape, np.uint8)
    for voxels, label_of in ((bones, BONE_LABEL), (regions, REGION_LABEL)):
        # Where corrected segments overlap, the nerve's room wins: canal and foramina have the lower labels, so go last.
        for name, label in sorted(label_of.items(), key=lambda item: -item[1]):
            if name in names:
                voxels[mask_of(segmentation, name, ct)] = label
    anatomy = Anatomy(
        bones=ct.like(bones),
        regions=ct.like(regions),
        foramina={name: Foramen.from_record(foramen) for name, foramen in record["foramina"].items()},
        landmarks={
            name: Landmark(np.asarray(mark["position_ras"], float), float(mark["uncertainty_mm"]))
            for name, mark in record["landmarks"].items()
        },
        SacrumToRAS=check_rigid(record["SacrumToRAS"], "SacrumToRAS"),
        confidence=record["confidence"],
        warnings=tuple(record["warnings"]),
        method=record["method"],
        image_hash=record["image_hash"],
        quality=_quality_in(record),
        confirmed=_still_confirmed(record, segmentation),
        fracture_suggestions=suggestions_from(record.get("fracture_suggestions", ())),
        fracture_classification=classification_from(record.get("fracture_classification")),
    )
    marked = {one["name"]: one for one in record.get("fractures", ())}
    return replace(
        anatomy,
        fractures=tuple(
            _fracture(name, marked.get(name), mask_of(segmentation, name, ct), anatomy)
            for name in fracture_segments(names)
        ),
    )


def fracture_segments(names: Iterable[str]) -> list[str]:
    """Those of the segment names that are fractures, by their numbers."""
    found = [name for name in names if re.fullmatch(r"fracture_[1-9]\d*", name)]
    return sorted(found, key=lambda name: int(name.rsplit("_", 1)[1]))


def _fracture(name: str, record: dict[str, Any] | None, mask: NDArray[np.bool_], anatomy: Anatomy) -> MarkedFracture:
    """A segment as it is now; how it was marked is kept unless a person painted something else."""
    if not (mask & anatomy.bone("sacrum")).any():
        raise AnatomyError(f"segment {name} has no voxel in the sacrum; paint it or delete it")
    now = fracture_from_mask(mask, anatomy)
    if record is None:
        return now
    before = fracture_from(record, mask)
    same = abs(float(now.normal_ras @ before.normal_ras)) > _SAME_NORMAL
    return replace(before, voxels_kji=now.voxels_kji) if same else now


def segmented_ct(
    scene: vtkMRMLScene,
) -> tuple[vtkMRMLScalarVolumeNode | None, vtkMRMLSegmentationNode | None]:
    """What a case goes on with: the anatomy's segmentation with its CT, else the first CT of the scene alone."""
    segmentation = first_node(scene, "vtkMRMLSegmentationNode", SEGMENTATION_NAME)
    ct = segmentation.GetNodeReference(_CT_ROLE) if segmentation is not None else None
    return ct or next(iter(volumes_in(scene)), None), segmentation


def label_map_of(node: vtkMRMLNode, ct: Volume) -> LabelMap:
    """Labels of a label map as they are, or of a segmentation by the names and terminology of its segments.

    Raises:
        AnatomyError: when no segment is a sacrum.
    """
    if node is None:
        raise AnatomyError("select a label map or a segmentation with the bones")
    if not node.IsA("vtkMRMLSegmentationNode"):
        return LabelMap(volume_of(node), None, "")
    found: dict[str, list[str]] = {}
    for name in segment_names(node):
        structure = structure_of(name, terminology_of(node, name))
        if structure is not None:
            found.setdefault(structure, []).append(name)
    if "sacrum" not in found:
        raise AnatomyError(
            f"{node.GetName()} has no segment named {', '.join(BONE_LABEL)}, nor with their terminology; rename its "
            "segments"
        )
    voxels = np.zeros(ct.voxels.shape, np.uint8)
    # Bones go last: they win over the canal and over segments of several bones.
    for structure in reversed(KNOWN):
        for name in found.get(structure, ()):
            voxels[mask_of(node, name, ct)] = KNOWN.index(structure) + 1
    names = {KNOWN.index(structure) + 1: structure for structure in found}
    return LabelMap(ct.like(voxels), names, "names of segments")


def structure_rows(scene: vtkMRMLScene, segmentation: vtkMRMLSegmentationNode) -> list[StructureRow]:
    """One row for each segment in the order of the segmentation, then the joints, which are no segments.

    A joint has no volume (NaN); its place is that of the hip which is nearest to the ala.
    """
    record = read_record(scene, RECORD_NAME) or {}
    confidence = record.get("confidence", {})
    rows = []
    for name in segment_names(segmentation):
        center, volume_ml = _measure(segmentation, name)
        rows.append(StructureRow(name, confidence.get(name), volume_ml, center))
    centers = {row.name: row.center_ras for row in rows}
    for side in SIDES:
        name, hip, ala = f"si_joint_{side}", f"hip_{side}", f"ala_{side}"
        if name in confidence and hip in centers and ala in centers:
            rows.append(StructureRow(name, confidence[name], np.nan, _nearest(segmentation, hip, centers[ala])))
    return rows


def warnings_of(scene: vtkMRMLScene) -> tuple[str, ...]:
    """What a person must check, in plain sentences."""
    return tuple((read_record(scene, RECORD_NAME) or {}).get("warnings", ()))


def method_of(scene: vtkMRMLScene) -> str:
    """How the bones were found and, when the program chose, why; empty when nothing was segmented yet."""
    return str((read_record(scene, RECORD_NAME) or {}).get("method", ""))


def bone_warnings_of(scene: vtkMRMLScene) -> tuple[str, ...]:
    """Those of the warnings that came with the bones, which stay when only what depends on them is found anew."""
    return tuple((read_record(scene, RECORD_NAME) or {}).get("bone_warnings", ()))


def quality_of(scene: vtkMRMLScene) -> QualityReport | None:
    """The quality report of what was segmented last; None without one."""
    return _quality_in(read_record(scene, RECORD_NAME) or {})


def quality_texts(scene: vtkMRMLScene) -> list[str]:
    """What a person must check, then what may be worth knowing of this CT, a line each."""
    quality = quality_of(scene)
    lines = [f"⚠ {warning}" for warning in warnings_of(scene)]
    if quality is None:
        return lines
    lines += [f"⚠ {check.text.replace(check.structure, readable(check.structure))}" for check in quality.must_check]
    lines += [f"Hint: {hint.text}" for hint in quality.hints]
    bone = quality.bone
    if bone.refused:
        lines.append(f"Density of bone: {bone.refused}")
    else:
        lines += [
            f"{readable(name)}: {one.mean_hu:.0f} HU (standard deviation {one.sd_hu:.0f})"
            for name, one in bone.density.items()
        ]
        lines += [f"{readable(name)}: {volume:.1f} mL below 0 HU" for name, volume in bone.void_ml.items()]
        lines += [bone.osteoporosis.text] if bone.osteoporosis is not None else []
    lines.append(f"S1 endplate: {quality.sacral_slope_deg:.0f}° to the transverse plane of the scan")
    lines.append(f"Voxels: {' x '.join(f'{size:.2f}' for size in quality.voxel_mm)} mm")
    # Not known where there is too little soft tissue.
    lines += [f"Noise: {quality.noise_hu:.0f} HU"] if quality.noise_hu == quality.noise_hu else []
    return lines


def confirmed_structures(scene: vtkMRMLScene) -> frozenset[str]:
    """Structures that a person has looked at and found right, and that were not changed since."""
    return _facts(scene).confirmed


def structures_to_confirm(scene: vtkMRMLScene, sides: Iterable[str]) -> tuple[str, ...]:
    """Structures that block planning of these sides until a person confirms them."""
    return to_confirm(_facts(scene), sides) if read_record(scene, RECORD_NAME) is not None else ()


def blocking_reasons_of(scene: vtkMRMLScene, side: str) -> tuple[str, ...]:
    """Why nothing may be planned on a side; empty when nothing blocks it, or when nothing was segmented yet."""
    return blocking_reasons(_facts(scene), side) if read_record(scene, RECORD_NAME) is not None else ()


def confirm_structure(scene: vtkMRMLScene, name: str) -> None:
    """Record that a person has looked at a structure and found it right; the scene's undo takes it back.

    Raises:
        AnatomyError: for a structure that the CT does not show, or when nothing was segmented yet.
    """
    record = _record_in(scene)
    confirmed = confirm(_facts(scene), [name]).confirmed
    segmentation = _segmentation_in(scene)
    seen = {one: shape_digest(segmentation, one) for one in sorted(confirmed)} if segmentation is not None else {}
    scene.SaveStateForUndo()
    write_record(scene, RECORD_NAME, record | {"confirmed": sorted(confirmed), "confirmed_as": seen})


def withdraw_confirmation(scene: vtkMRMLScene, name: str) -> None:
    """Take a confirmation back, after a mistake or because the structure was changed since."""
    record = _record_in(scene)
    scene.SaveStateForUndo()
    write_record(scene, RECORD_NAME, record | {"confirmed": sorted(set(record.get("confirmed", ())) - {name})})


def jump_to(scene: vtkMRMLScene, position_ras: FloatArray) -> None:
    """Centre all slice views on a point."""
    mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *(float(value) for value in position_ras), mode)


def readable(name: str) -> str:
    """`foramen_s1_left` as a person reads it: Foramen S1 left."""
    words = [word.upper() if word[:1] in "ls" and word[1:].isdigit() else word for word in name.split("_")]
    words = [word.upper() if word in ("si", "psis", "asis") else word for word in words]
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])


def _record_in(scene: vtkMRMLScene) -> dict[str, Any]:
    record = read_record(scene, RECORD_NAME)
    if record is None:
        raise AnatomyError("the scene has no anatomy record; run the segmentation first")
    return record


def _quality_in(record: dict[str, Any]) -> QualityReport | None:
    return quality_of_record(record["quality"]) if record.get("quality") else None


def _facts(scene: vtkMRMLScene) -> Reliability:
    record = read_record(scene, RECORD_NAME) or {}
    return Reliability(
        record.get("confidence", {}), _quality_in(record), _still_confirmed(record, _segmentation_in(scene))
    )


def _segmentation_in(scene: vtkMRMLScene) -> vtkMRMLSegmentationNode | None:
    return first_node(scene, "vtkMRMLSegmentationNode", SEGMENTATION_NAME)


def _still_confirmed(record: dict[str, Any], segmentation: vtkMRMLSegmentationNode | None) -> frozenset[str]:
    """Confirmed structures as they were when a person looked at them: who paints on must look again."""
    confirmed = frozenset(record.get("confirmed", ()))
    seen = record.get("drawn", {}) | record.get("confirmed_as", {})
    if segmentation is None:
        return confirmed
    return frozenset(name for name in confirmed if shape_digest(segmentation, name) == seen.get(name, ""))


def _record_of(anatomy: Anatomy) -> dict[str, object]:
    return {
        "coordinateSystem": "RAS",
        "foramina": {name: foramen.record() for name, foramen in anatomy.foramina.items()},
        "landmarks": {
            name: {"position_ras": mark.position_ras, "uncertainty_mm": mark.uncertainty_mm}
            for name, mark in anatomy.landmarks.items()
        },
        "SacrumToRAS": anatomy.SacrumToRAS,
        "confidence": anatomy.confidence,
        "warnings": list(anatomy.warnings),
        "method": anatomy.method,
        "image_hash": anatomy.image_hash,
        "quality": None if anatomy.quality is None else quality_as_record(anatomy.quality),
        "confirmed": sorted(anatomy.confirmed),
        **fracture_records(anatomy),
    }


def _measure(segmentation: vtkMRMLSegmentationNode, name: str) -> tuple[FloatArray, float]:
    """Mean position in RAS and volume in mL of a segment."""
    voxels, ijk, ImageToRAS = voxels_of(segmentation, name)
    count = int(np.count_nonzero(voxels))
    if not count:
        return np.full(3, np.nan), 0.0
    # By sums along the axes: a list of all voxels of a pelvis takes a second.
    profiles = [voxels.sum(axis=axes) for axes in ((0, 1), (0, 2), (1, 2))]
    mean = ijk + np.array([profile @ np.arange(len(profile)) / count for profile in profiles])
    return ImageToRAS[:3, :3] @ mean + ImageToRAS[:3, 3], count * abs(float(np.linalg.det(ImageToRAS[:3, :3]))) / 1000


def _nearest(segmentation: vtkMRMLSegmentationNode, name: str, point_ras: FloatArray) -> FloatArray:
    """The place of a segment that is nearest to a point, to within two voxels; the point itself when it is empty."""
    voxels, ijk, ImageToRAS = voxels_of(segmentation, name)
    points = (2 * np.argwhere(voxels[::2, ::2, ::2])[:, ::-1] + ijk) @ ImageToRAS[:3, :3].T + ImageToRAS[:3, 3]
    return points[np.argmin(np.linalg.norm(points - point_ras, axis=1))] if len(points) else point_ras
