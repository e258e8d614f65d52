"""From a label map of the bones to everything that planning must keep clear of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import AnatomyError
from ..geometry import FloatArray, transform_points, unit
from ..image import Volume, box_around, check_ct, crop
from .bones import LabelledBones, bones_from_labels
from .canal import StraightCanal, find_canal
from .cortex import without_soft_surface
from .dysmorphism import find_hints
from .foramina import LOW_CONFIDENCE, StraightForamen, find_foramina
from .frame import SacralFrame, find_frame
from .labels import BONE_LABEL, LEVELS, NERVE_BORDER, REGION_LABEL, REGIONS, SIDES, VESSELS
from .landmarks import find_landmarks
from .model import Anatomy, Foramen, Opening
from .openings import StraightOpening
from .quality_report import Findings, assess
from .regions import fill_protected, onto_ct, paint_regions
from .straight_image import straight_image
from .straighten import Straightening, straighten

#: Room around the bones in which structures are looked for: presacral layer, vessels, fat behind the sacrum [mm].
_ROOM_MM = 40.0
#: Slices thicker than this hide S3 and S4 foramina [mm].
_THICK_SLICES_MM = 3.5
#: Mirror misfit of an intact sacrum stays below this; a displaced fracture or a half-lumbar S1 does not [mm].
_LARGEST_ASYMMETRY_MM = 2.5


def segment_from_labels(
    ct: Volume,
    labels: Volume,
    mapping: dict[int, str] | None = None,
    progress: Callable[[float], None] | None = None,
    hu_offset: float = 0.0,
) -> Anatomy:
    """Find canal, foramina, alae, bodies and landmarks in a CT whose bones are labelled.

    Args:
        ct: in Hounsfield units, of any orientation.
        labels: bones in TotalSegmentator numbering, our own (`labels.BONES`) or that of `mapping`, on any grid that
            overlaps the CT.
        mapping: label value to bone name.
        progress: called with the fraction done.
        hu_offset: what a calibration adds to the CT's numbers when bone density is read [HU].

    Raises:
        AnatomyError: when the labels do not show the sacrum and L5 of this CT the right way round.
        ImageError: when `ct` is no CT.
    """
    check_ct(ct, "the CT")
    return find_structures(ct, bones_from_labels(ct, labels, mapping), progress, hu_offset)


def find_structures(
    ct: Volume, labelled: LabelledBones, progress: Callable[[float], None] | None = None, hu_offset: float = 0.0
) -> Anatomy:
    """Find canal, foramina, alae, bodies and landmarks in a CT whose bones are known, however they were found.

    Args:
        ct: in Hounsfield units, of any orientation.
        labelled: the bones on the CT's grid.
        progress: called with the fraction done.
        hu_offset: what a calibration adds to the CT's numbers when bone density is read [HU].

    Raises:
        AnatomyError: when the bones are not those of a sacrum between its neighbours.
        ImageError: when `ct` is no CT.
    """
    check_ct(ct, "the CT")
    # Whole-body scans have a hundred million voxels; what matters lies around these bones.
    box = box_around(labelled.bones.voxels, np.ceil(_ROOM_MM / ct.spacing_mm[::-1]))
    missing = [name for name in ("sacrum", "l5") if not (labelled.bones.voxels == BONE_LABEL[name]).any()]
    if box is None or missing:
        raise AnatomyError(
            f"no {' and no '.join(missing)} in the CT or its labels; both sacrum and l5 are needed to find the S1 "
            "endplate and to count the foramina: take a scan that shows them"
        )
    part, bones = crop(ct, box), crop(labelled.bones, box)
    vessels = labelled.vessels[box] if labelled.vessels is not None else None
    near = replace(labelled, bones=bones, canal=labelled.canal[box], vessels=vessels)
    anatomy = _find_structures(part, near, progress or (lambda fraction: None), hu_offset, ct.content_hash())
    regions = np.zeros(ct.voxels.shape, np.uint8)
    regions[box] = anatomy.regions.voxels
    return replace(anatomy, bones=labelled.bones, regions=ct.like(regions))


def _find_structures(
    ct: Volume, labelled: LabelledBones, told: Callable[[float], None], hu_offset: float, image_hash: str
) -> Anatomy:
    sacrum = labelled.bones.like(labelled.bones.voxels == BONE_LABEL["sacrum"])
    frame = find_frame(labelled.bones)
    told(0.1)
    curve = straighten(sacrum, frame)
    l5 = labelled.bones.like(labelled.bones.voxels == BONE_LABEL["l5"])
    solid = without_soft_surface(sacrum, ct)
    image = straight_image(ct, solid, l5, ct.like(labelled.canal), curve)
    told(0.5)
    foramina, doubt = find_foramina(image)
    corner = transform_points(frame.SacrumToRAS, [0.0, *frame.posterior_corner_mm])
    canal = find_canal(image, foramina, curve.from_ras(corner))
    told(0.6)
    painted = onto_ct(paint_regions(image, foramina, canal), image, curve, ct)
    regions = ct.like(fill_protected(painted, solid.voxels, ct, frame.SacrumToRAS))
    if labelled.vessels is not None:
        outside = (regions.voxels == 0) & (labelled.bones.voxels == 0)
        regions.voxels[outside & labelled.vessels] = REGION_LABEL[VESSELS]
    told(0.85)
    landmarks = find_landmarks(labelled.bones, frame, image, curve, foramina)
    # What lies outside the image helps to count the levels, but nobody has seen it.
    shown = {name: item for name, item in foramina.items() if all(map(image.shows, _centers(item)))}
    confidence = _confidence(labelled, regions, frame, shown, canal)
    s1_level_mm = float(np.mean([foramina[f"foramen_s1_{side}"].anterior.center[2] for side in SIDES]))
    hints = find_hints(labelled.bones, frame.SacrumToRAS, frame.asymmetry_mm, image, s1_level_mm)
    reasons = _reasons(labelled, frame, shown, canal)
    if doubt is not None:
        seen = (name for name, foramen in shown.items() if foramen.confidence > LOW_CONFIDENCE)
        reasons |= dict.fromkeys(seen, f"its level may be miscounted: {doubt}")
    findings = Findings(ct, labelled.bones, regions, frame.SacrumToRAS, confidence, reasons, hints)
    quality, confidence = assess(findings, hu_offset)
    told(1.0)
    return Anatomy(
        bones=labelled.bones,
        regions=regions,
        foramina={name: _in_ras(foramen, curve) for name, foramen in shown.items()},
        landmarks=landmarks,
        SacrumToRAS=frame.SacrumToRAS,
        confidence=confidence,
        warnings=(*labelled.warnings, *_warnings(ct, frame, shown, canal, doubt)),
        method=labelled.method,
        image_hash=image_hash,
        quality=quality,
    )


def _centers(foramen: StraightForamen) -> tuple[FloatArray, FloatArray]:
    return foramen.anterior.center, foramen.posterior.center


def _in_ras(foramen: StraightForamen, curve: Straightening) -> Foramen:
    left = curve.SacrumToRAS[:3, 0]
    return Foramen(
        _opening_in_ras(foramen.anterior, foramen.posterior, curve, left),
        _opening_in_ras(foramen.posterior, foramen.anterior, curve, left),
        curve.to_ras(foramen.lateral_edge),
    )


def _opening_in_ras(
    opening: StraightOpening, opposite: StraightOpening, curve: Straightening, left: FloatArray
) -> Opening:
    center, rim = curve.to_ras(opening.center), curve.to_ras(opening.rim)
    normal = np.linalg.svd(rim - rim.mean(axis=0))[2][2]
    normal = normal * np.sign(normal @ (center - curve.to_ras(opposite.center)))
    across = unit(left - (left @ normal) * normal)
    width_mm, height_mm = (float(np.ptp(rim @ axis)) for axis in (across, np.cross(normal, across)))
    return Opening(center, normal, width_mm, height_mm)


def _confidence(
    labelled: LabelledBones,
    regions: Volume,
    frame: SacralFrame,
    foramina: dict[str, StraightForamen],
    canal: StraightCanal,
) -> dict[str, float]:
    """0 to 1 for each structure that has voxels; one that is absent here was not found."""
    confidence = dict(labelled.confidence)
    painted = {int(value) for value in np.unique(regions.voxels)}
    # Bodies and alae hang on the levels of the foramina and on the mirror plane.
    derived = min(
        float(np.mean([foramen.confidence for foramen in foramina.values()] or [0.0])),
        float(np.clip(1.3 - frame.asymmetry_mm / 4, 0.2, 1)),
    )
    for label, name in REGIONS.items():
        if label not in painted or (name.startswith("foramen") and name not in foramina):
            continue
        confidence[name] = foramina[name].confidence if name in foramina else derived
    # These hang on the bones alone.
    confidence |= {name: confidence["sacrum"] for name in (VESSELS, NERVE_BORDER) if REGION_LABEL[name] in painted}
    if REGION_LABEL["sacral_canal"] in painted:
        confidence["sacral_canal"] = canal.confidence
    for side in SIDES:
        if f"hip_{side}" in confidence:
            joint = f"si_joint_{side}"
            confidence[joint] = min(confidence.get(joint, 1.0), confidence[f"hip_{side}"], confidence["sacrum"])
    return confidence


def _reasons(
    labelled: LabelledBones, frame: SacralFrame, foramina: dict[str, StraightForamen], canal: StraightCanal
) -> dict[str, str]:
    """By structure, what its confidence rests on."""
    reasons = {name: f"found by {labelled.method}" for name in labelled.confidence}
    for name, foramen in foramina.items():
        if foramen.confidence <= LOW_CONFIDENCE:
            reasons[name] = "not seen; placed by its neighbors, with a larger region forbidden"
        else:
            reasons[name] = "its openings are seen in the bone; less than 100% where they are shallow or ragged"
    reasons["sacral_canal"] = f"its walls are seen on {canal.confidence:.0%} of its length"
    derived = f"from the levels of the foramina and the mirror plane (halves differ by {frame.asymmetry_mm:.1f} mm)"
    reasons |= dict.fromkeys((name for label, name in REGIONS.items() if label >= REGION_LABEL["ala_left"]), derived)
    reasons[NERVE_BORDER] = "bone beside canal and foramina that the image does not clearly show"
    for side in SIDES:
        reasons[f"si_joint_{side}"] = "the space between sacrum and hip, as sure as these are"
    return reasons


def _warnings(
    ct: Volume,
    frame: SacralFrame,
    foramina: dict[str, StraightForamen],
    canal: StraightCanal,
    doubt: str | None,
) -> list[str]:
    warnings = []
    if doubt is not None:
        warnings.append(
            f"The levels of the foramina may be miscounted: {doubt}. Transitional vertebra or wrong S1 endplate? Count "
            "them before planning."
        )
    thickest = float(ct.spacing_mm.max())
    if thickest > _THICK_SLICES_MM:
        warnings.append(f"The CT's voxels are up to {thickest:.1f} mm long; the lower foramina may not be visible.")
    if frame.asymmetry_mm > _LARGEST_ASYMMETRY_MM:
        warnings.append(
            f"The sacrum is asymmetric (median {frame.asymmetry_mm:.1f} mm between its halves): displaced fracture, "
            "transitional vertebra or cut-off label? Check the levels of the foramina."
        )
    for side in SIDES:
        beyond = [level.upper() for level in LEVELS if f"foramen_{level}_{side}" not in foramina]
        if beyond:
            warnings.append(
                f"The image does not reach the foramina {', '.join(beyond)} on the {side}: no plan is made there."
            )
    for level in LEVELS:
        both = {side: foramina.get(f"foramen_{level}_{side}") for side in SIDES}
        unseen = [side for side, item in both.items() if item is not None and item.confidence <= LOW_CONFIDENCE]
        if unseen:
            warnings.append(
                f"The {level.upper()} foramen is not fully visible on the {' and the '.join(unseen)}; its place is "
                "estimated and a larger region is forbidden. Check it."
            )
    if canal.confidence < 0.6:
        warnings.append("The walls of the sacral canal are visible only in part; check its outline.")
    return warnings
