"""Suggestions of fracture lines: places in the sacrum that a person should look at. Never findings.

A sheet that stands out (`fracture_sheets`, `fracture_following`) is weighed by four signs: sclerosis (brighter than the
bone on both sides), a cleft (darker), a step of the cortex in front or behind where the sheet meets it, and asymmetry
(nothing alike at the mirrored place). All strengths are relative to what is usual in the same bone. Weights and limits
are this project's own; what they give on synthetic patients is measured by Testing/benchmarks/fracture_suggestions.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import AnatomyError
from ..geometry import FloatArray, invert_rigid, transform_points
from ..image import Volume
from .fracture_following import Sheet, follow
from .fracture_model import Direction, Evidence, EvidenceKind, FractureSuggestion
from .fracture_reach import direction_of, side_of
from .fracture_sheets import STEP_MM, SacralBlock, at, find_sheets, sacral_block
from .fracture_step import CorticalStep, cortical_step
from .labels import LEVELS, SIDES
from .model import Anatomy
from .zones import UNKNOWN, denis_zone

#: Suggestions below this score are not shown.
LEAST_SCORE = 0.3
#: Most suggestions of one patient: more would not be read.
_MOST = 8
#: Where the sheet itself and the bone beside it are compared: up to, and from-to, this far from its middle [mm].
_MIDDLE_MM, _BESIDE_MM = 1.5, (5.0, 10.0)
#: Share of the sheet beside which there must be cancellous bone to compare with.
_COMPARABLE = 0.3
#: Contrast, in times what is usual in this bone, at which a sign has full strength.
_FULL: dict[EvidenceKind, float] = {"sclerosis": 4.0, "cleft": 6.0}
#: Step of the cortex of full strength [mm].
_FULL_STEP_MM = 3.0
#: How much each sign alone may contribute to the score.
_WEIGHT: dict[EvidenceKind, float] = {"sclerosis": 0.6, "cleft": 0.7, "cortical_step": 0.4, "asymmetry": 0.4}
#: Sheets smaller than the first are vessels, nutrient canals or texture; beyond the second, size says no more [mm²].
_AREA_MM2 = (150.0, 800.0)
#: Search around the mirrored place, since halves are never quite alike [mm].
_MIRROR_SEARCH_MM = (-4.0, -2.0, 0.0, 2.0, 4.0)
#: Cosine between the sheet and the surface of the bone from which it follows that surface.
_PARALLEL = 0.6
#: Fused discs lie at the level of the foramina, within this distance [mm].
_DISC_MM = 8.0
#: What is left of the score when a natural explanation is at hand.
_DISCOUNT = 0.5
#: Share of a sheet in a zone from which it reaches that zone.
_REACHES = 0.03


@dataclass(frozen=True)
class _Weighed:
    sheet: Sheet
    score: float
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...]
    direction: Direction


def suggest_fractures(
    ct: Volume, anatomy: Anatomy, progress: Callable[[float], None] | None = None
) -> tuple[FractureSuggestion, ...]:
    """Places that look like a fracture line, the highest score first; often none.

    Args:
        ct: the CT that `anatomy` was found in.
        progress: called with the fraction done.

    Raises:
        AnatomyError: for another CT, or an anatomy without sacrum.
    """
    told = progress or (lambda fraction: None)
    if ct.content_hash() != anatomy.image_hash:
        raise AnatomyError("the anatomy belongs to another CT; segment this CT before looking for fractures in it")
    block = sacral_block(ct, anatomy)
    told(0.1)
    candidates, usual = find_sheets(block, lambda done: told(0.1 + 0.6 * done))
    gradient: NDArray[np.float32] = np.moveaxis(np.array(np.gradient(block.depth_mm, STEP_MM)), 0, -1)
    weighed: list[_Weighed] = []
    for number, candidate in enumerate(candidates):
        sheet = follow(block, candidate, usual)
        if sheet is not None:
            weighed.append(_weigh(block, anatomy, sheet, usual, gradient))
        told(0.7 + 0.3 * (number + 1) / len(candidates))
    told(1.0)
    weighed.sort(key=lambda one: -one.score)
    kept: list[_Weighed] = []
    for one in weighed:
        if one.score < LEAST_SCORE or len(kept) == _MOST:
            break
        if not any(_same(one.sheet, other.sheet) for other in kept):
            kept.append(one)
    return tuple(_suggestion(one, anatomy) for one in kept)


def _weigh(
    block: SacralBlock,
    anatomy: Anatomy,
    sheet: Sheet,
    usual: dict[EvidenceKind, float],
    gradient: NDArray[np.float32],
) -> _Weighed:
    evidence = _density_evidence(block, sheet, usual)
    # Without one of these there is nothing that could be asymmetric or displaced.
    step = cortical_step(anatomy, sheet.points_mm, sheet.normal) if evidence else CorticalStep(0.0, 0.0)
    if step.is_clear:
        strength = min(abs(step.step_mm) / _FULL_STEP_MM, 1.0)
        evidence.append(Evidence("cortical_step", round(strength, 2), round(step.step_mm, 1)))
    low, high = _AREA_MM2
    doubt = float(np.prod([1 - _WEIGHT[sign.kind] * sign.strength for sign in evidence]))
    score = (1 - doubt) * float(np.clip((sheet.area_mm2 - low) / (high - low), 0, 1))
    notes = []
    direction = direction_of(anatomy.SacrumToRAS[:3, :3] @ sheet.normal, anatomy)
    along_surface = np.abs(np.einsum("nc,c->n", _at_each(block, gradient, sheet.points_mm), sheet.normal))
    if float(along_surface.mean()) > _PARALLEL:
        notes.append("runs along the surface of the bone: thick cortex or sclerosis beside the joint?")
        score *= _DISCOUNT
    if direction == "transverse" and _is_at_disc(anatomy, sheet):
        notes.append("lies between two sacral bodies: remnant of a disc?")
        score *= _DISCOUNT
    return _Weighed(sheet, score, tuple(evidence), tuple(notes), direction)


def _density_evidence(block: SacralBlock, sheet: Sheet, usual: dict[EvidenceKind, float]) -> list[Evidence]:
    """Sclerosis and cleft as far as they stand out on both sides, and whether the mirrored place lacks them."""
    evidence: list[Evidence] = []
    lacking, shown = 0.0, 0.0
    mirror = np.array([-1.0, 1.0, 1.0])
    for kind in block.signs:
        mean_hu, least_hu = _contrast(block, kind, sheet.points_mm, sheet.normal)
        strength = float(np.clip(least_hu / (_FULL[kind] * usual[kind]), 0, 1))
        if not strength > 0:
            continue
        evidence.append(Evidence(kind, round(strength, 2), round(mean_hu)))
        opposite = [
            _contrast(block, kind, (sheet.points_mm + shift * sheet.normal) * mirror, sheet.normal * mirror)[0]
            for shift in _MIRROR_SEARCH_MM
        ]
        known = [value for value in opposite if np.isfinite(value)]
        # Nothing to compare with is no asymmetry.
        if known and strength >= shown:
            shown, lacking = strength, mean_hu - max(0.0, *known, 0.0)
            asymmetry = float(np.clip(lacking / mean_hu, 0, 1)) * strength
    crosses = (sheet.points_mm[:, 0] > 0).mean()
    if shown > 0 and lacking > 0 and not 0.1 < crosses < 0.9:
        evidence.append(Evidence("asymmetry", round(asymmetry, 2), round(lacking)))
    return evidence


def _contrast(block: SacralBlock, kind: EvidenceKind, points: FloatArray, normal: FloatArray) -> tuple[float, float]:
    """Mean of the sheet above the mean of both sides, and above the higher side [HU]; NaN where a side has no bone."""
    offsets = np.arange(-_BESIDE_MM[1], _BESIDE_MM[1] + 0.1, 1.0)
    places = points[:, None] + offsets[:, None] * normal
    weight = at(block, block.interior, places)
    total = weight.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        course = (at(block, block.signs[kind], places) * weight).sum(axis=0) / total
    enough = total > _COMPARABLE * len(points)
    middle = (np.abs(offsets) <= _MIDDLE_MM) & enough
    sides = [(sign * offsets >= _BESIDE_MM[0]) & enough for sign in (-1, 1)]
    if not middle.any() or not all(side.any() for side in sides):
        return float("nan"), float("nan")
    beside = [float(course[side].mean()) for side in sides]
    height = float(course[middle].mean())
    return height - sum(beside) / 2, height - max(beside)


def _at_each(block: SacralBlock, vectors: NDArray[np.float32], points: FloatArray) -> FloatArray:
    return np.column_stack([at(block, vectors[..., axis], points).astype(float) for axis in range(3)])


def _is_at_disc(anatomy: Anatomy, sheet: Sheet) -> bool:
    """Whether a transverse sheet stays between the foramina, at the height of one pair."""
    points = transform_points(anatomy.SacrumToRAS, sheet.points_mm)
    if float((denis_zone(points, anatomy) < 3).mean()) > 0.25:
        return False
    center, normal = sheet.points_mm.mean(axis=0), sheet.normal
    RASToSacrum = invert_rigid(anatomy.SacrumToRAS)
    for level in LEVELS:
        pair = [anatomy.foramina.get(f"foramen_{level}_{side}") for side in SIDES]
        centers = [transform_points(RASToSacrum, foramen.anterior.center_ras) for foramen in pair if foramen]
        if centers and abs(float((np.mean(centers, axis=0) - center) @ normal)) <= _DISC_MM:
            return True
    return False


def _same(sheet: Sheet, other: Sheet) -> bool:
    """Whether at least half of the smaller sheet lies in the other."""
    from scipy.spatial import cKDTree

    small, large = sorted((sheet, other), key=lambda one: len(one.points_mm))
    distances = cKDTree(large.points_mm).query(small.points_mm)[0]
    return float((distances < 5).mean()) >= 0.5


def _suggestion(one: _Weighed, anatomy: Anatomy) -> FractureSuggestion:
    sheet = one.sheet
    points = transform_points(anatomy.SacrumToRAS, sheet.points_mm)
    rotation = anatomy.SacrumToRAS[:3, :3]
    zones = denis_zone(points, anatomy)
    reached = [zone for zone in (3, 2, 1) if float((zones == zone).mean()) >= _REACHES]
    return FractureSuggestion(
        center_ras=points.mean(axis=0),
        normal_ras=rotation @ sheet.normal,
        along_ras=rotation @ sheet.along,
        extent_mm=sheet.extent_mm,
        area_mm2=sheet.area_mm2,
        side=side_of(points, anatomy),
        denis_zone=max(reached, default=UNKNOWN),
        direction=one.direction,
        score=round(one.score, 2),
        evidence=one.evidence,
        notes=one.notes,
    )
