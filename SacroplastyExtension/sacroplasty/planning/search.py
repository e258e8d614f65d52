"""Exhaustive search of straight trocar paths from the skin into the ala of the sacrum.

Every pair of an entry point on the posterior cortex and a target in the ala is tried. Those whose whole shaft keeps its
distance from every forbidden structure are ranked; when there is none, the least bad ones come back with the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..anatomy.confirmation import blocking_reasons
from ..anatomy.fracture_reach import leak_risk_notes
from ..anatomy.frame import sample_mask
from ..anatomy.labels import REGION_LABEL
from ..anatomy.model import Anatomy
from ..errors import PlanError
from ..geometry import FloatArray, invert_rigid, segment_to_segment_distance, transform_points
from ..image import Volume
from .model import NEEDLES, Needle, Plan, Side, Technique, Trajectory
from .structures import NEEDED, SacrumView, Structures, forbidden_structures, view_along_foramina

#: Trajectories returned for each side, and how far apart their ends are at least [mm].
_BEST, _DISTINCT_MM = 5, 4.0
#: Entry rule of the published technique: 15 to 20 mm lateral to the lateral edge of the S2 foramen, between S2 and S3.
#: The search goes a little beyond and pays for it [mm].
_ENTRY_LATERAL_MM, _ENTRY_SEARCH_MM = (15.0, 20.0), (8.0, 26.0)
#: Aims: the anterior third of the ala, at the height of the middle of the S1 body [mm below its endplate].
_ANTERIOR_PART, _SEARCHED_PART = 1 / 3, 0.6
_AIM_BELOW_ENDPLATE_MM, _AIM_REACH_MM = 12.0, 24.0
#: Air outside the body [HU], and how much of it in a row is no bowel gas or fold [mm].
_AIR_HU, _AIR_RUN_MM = -300.0, 8.0
#: Cement fills the pores of cancellous bone: share of the volume that is pore.
_POROSITY = 0.85
#: Volumes of the published technique: 3 to 8 mL in each ala, at most 12 mL in both.
SMALLEST_USUAL_ML, _LARGEST_PER_ALA_ML, _LARGEST_TOTAL_ML = 3.0, 8.0, 12.0
#: Cement keeps this distance from the surface of the bone and from the foramina [mm], and is placed while the trocar
#: is withdrawn this far [mm].
_CEMENT_MARGIN_MM, _WITHDRAWAL_MM = 1.0, 10.0
#: The best pairs of the coarse search whose neighbours are tried, and how far those lie off [mm].
_REFINED, _NEIGHBOR_MM = 40, 1.5
#: Two trocars at a time: shafts and hubs (handles) of this size must not touch [mm]; dimensions chosen, not measured.
_SHAFT_GAP_MM, _HUB_GAP_MM = 10.0, 40.0


@dataclass(frozen=True)
class _Approach:
    """Where a technique enters and how it points.

    Attributes:
        above_s2_mm, below_s3_mm: entry zone between these levels relative to the posterior foramina.
        tilt_deg: smallest and largest angle between shaft and the direction of the foramina.
    """

    above_s2_mm: float
    below_s3_mm: float
    tilt_deg: tuple[float, float]


_APPROACHES: dict[str, _Approach] = {
    # Posterolateral, through the ala from behind.
    "short-axis": _Approach(above_s2_mm=6.0, below_s3_mm=3.0, tilt_deg=(0.0, 60.0)),
    # From the caudal end upwards, within the plane of the ala.
    "long-axis": _Approach(above_s2_mm=-8.0, below_s3_mm=14.0, tilt_deg=(45.0, 85.0)),
}
_APPROACHES["double-needle"] = _APPROACHES["short-axis"]


@dataclass(frozen=True)
class _Candidates:
    """Entry-target pairs in view coordinates, arrays of length n; `penalty` is their distance from the rules."""

    entry: FloatArray
    target: FloatArray
    penalty: FloatArray


@dataclass(frozen=True)
class _Rules:
    """Where entries and targets of one side may lie and how far they are from what is published.

    Attributes:
        s2_edge, s3_edge: most lateral points of the posterior foraminal rims, in view coordinates.
        sign: 1 for the left, -1 for the right.
    """

    anatomy: Anatomy
    view: SacrumView
    side: Side
    approach: _Approach
    s2_edge: FloatArray
    s3_edge: FloatArray
    sign: float

    def entries(self, left: FloatArray, up: FloatArray) -> FloatArray:
        """Points (n, 3) of the posterior cortex at view coordinates (n,), NaN in depth where there is none."""
        view = self.view
        column = np.round(left - view.left_mm[0]).astype(int)
        row = np.round(up - view.up_mm[0]).astype(int)
        within = (column >= 0) & (column < len(view.left_mm)) & (row >= 0) & (row < len(view.up_mm))
        back = np.full(len(left), np.nan)
        back[within] = view.back_surface_mm[column[within], row[within]]
        return np.column_stack([left, back, up])

    def grid_of_entries(self) -> FloatArray:
        lateral = np.arange(_ENTRY_SEARCH_MM[0], _ENTRY_SEARCH_MM[1] + 0.1, 2.0)
        up = np.arange(self.s3_edge[2] - self.approach.below_s3_mm, self.s2_edge[2] + self.approach.above_s2_mm, 2.5)
        beside, height = (grid.ravel() for grid in np.meshgrid(lateral, up, indexing="ij"))
        return self.entries(self.s2_edge[0] + self.sign * beside, height)

    def grid_of_targets(self) -> FloatArray:
        view = self.view
        grid = np.stack(np.meshgrid(view.left_mm[::3], view.back_mm[::3], view.up_mm[::3], indexing="ij"), axis=-1)
        return grid.reshape(-1, 3)[self.in_ala(grid).ravel()]

    def in_ala(self, points: FloatArray) -> NDArray[np.bool_]:
        """Whether view points (..., 3) lie in the searched part of the ala."""
        label = REGION_LABEL[f"ala_{self.side}"]
        ras = transform_points(self.view.ViewToRAS, points)
        ala = sample_mask(self.anatomy.regions.like(self.anatomy.regions.voxels == label), ras) > 0.5
        part, off_height = self._place(points)
        return ala & (part <= _SEARCHED_PART) & (off_height <= _AIM_REACH_MM)

    def pairs(self, entry: FloatArray, target: FloatArray) -> _Candidates:
        """Those of the pairs (n, 3), (n, 3) that the approach allows."""
        direction = target - entry
        length = np.linalg.norm(direction, axis=1)
        with np.errstate(invalid="ignore"):
            tilt = np.degrees(np.arccos(np.clip(-direction[:, 1] / length, -1, 1)))
            kept = (length >= 12) & (tilt >= self.approach.tilt_deg[0]) & (tilt <= self.approach.tilt_deg[1])
        entry, target, tilt = entry[kept], target[kept], tilt[kept]
        beside = self.sign * (entry[:, 0] - self.s2_edge[0])
        off_rule = np.maximum(_ENTRY_LATERAL_MM[0] - beside, beside - _ENTRY_LATERAL_MM[1]).clip(0)
        # Slightly caudal of S2 is preferred: a third of the way to S3.
        preferred = self.s2_edge[2] + (self.s3_edge[2] - self.s2_edge[2]) / 3
        part, off_height = self._place(target)
        penalty = 0.10 * off_rule + 0.02 * np.abs(entry[:, 2] - preferred)
        penalty += 2.0 * np.clip(part - _ANTERIOR_PART, 0, 1) + 0.03 * off_height
        # A shaft that meets the cortex aslant slips.
        penalty += 0.3 * np.clip((tilt - 30) / 30, 0, 1)
        return _Candidates(entry, target, penalty)

    def _place(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """How far back in the bone (0 front to 1 back) and how far off the aimed height points (..., 3) lie."""
        view = self.view
        column = np.clip(np.round(points[..., 0] - view.left_mm[0]).astype(int), 0, len(view.left_mm) - 1)
        row = np.clip(np.round(points[..., 2] - view.up_mm[0]).astype(int), 0, len(view.up_mm) - 1)
        front, rear = view.front_surface_mm[column, row], view.back_surface_mm[column, row]
        with np.errstate(invalid="ignore", divide="ignore"):
            part = (points[..., 1] - front) / (rear - front)
        ViewToSacrum = invert_rigid(self.anatomy.SacrumToRAS) @ view.ViewToRAS
        below = -transform_points(ViewToSacrum, points)[..., 2]
        return part, np.abs(below - _AIM_BELOW_ENDPLATE_MM)


def plan_trajectories(
    ct: Volume,
    anatomy: Anatomy,
    sides: Sequence[Side] = ("left", "right"),
    technique: Technique = "short-axis",
    needle: Needle = NEEDLES[11],
    margin_mm: float = 3.0,
    progress: Callable[[float], None] | None = None,
) -> Plan:
    """Rank trocar trajectories into the ala of each side.

    Args:
        ct: the CT that `anatomy` was found in; gives the skin.
        margin_mm: smallest distance of the shaft's surface from every forbidden structure.
        progress: called with the fraction done.

    Returns:
        Up to five accepted trajectories for each side, best first; for a side without any, the three that come nearest
        with the reasons for refusal. A side that relies on a structure that is missing, cut off, or found with a low
        confidence and not confirmed is refused as a whole; the other side is not.

    Raises:
        PlanError: for a technique that cannot be planned, another patient's CT, or an anatomy without sacrum, ala or
            foramina.
    """
    if technique not in _APPROACHES:
        raise PlanError(f"technique {technique} cannot be planned here; choose {', '.join(_APPROACHES)}")
    if not (np.isfinite(margin_mm) and margin_mm > 0):
        raise PlanError(f"the margin must be a positive distance in mm, not {margin_mm}")
    if technique == "double-needle":
        sides = ("left", "right")
    if not sides or set(sides) - {"left", "right"}:
        raise PlanError(f"sides must be left, right or both, not {', '.join(sides) or 'none'}")
    if ct.content_hash() != anatomy.image_hash:
        raise PlanError("the anatomy belongs to another CT; segment this CT and plan again")
    told = progress or (lambda fraction: None)
    view = view_along_foramina(anatomy)
    told(0.15)
    structures = forbidden_structures(anatomy, view, lambda fraction: told(0.15 + 0.5 * fraction))
    largest_ml = min(_LARGEST_PER_ALA_ML, _LARGEST_TOTAL_ML / len(set(sides)))
    found: dict[Side, list[Trajectory]] = {}
    blocked: dict[Side, tuple[str, ...]] = {}
    for number, side in enumerate(dict.fromkeys(sides)):
        reasons = blocking_reasons(anatomy, side)
        try:
            found[side] = _plan_side(ct, anatomy, view, structures, side, technique, needle, margin_mm, largest_ml)
        except PlanError as error:
            # Half a sacrum is planned on the half that is there.
            if not reasons:
                raise
            found[side] = []
            reasons = (*reasons, str(error))
        if reasons:
            blocked[side] = reasons
            found[side] = [_refused(item, reasons) for item in found[side]]
        told(0.65 + 0.35 * (number + 1) / len(sides))
    if technique == "double-needle":
        found = _pair(found, needle)
    trajectories = tuple(trajectory for side in found for trajectory in found[side])
    confirmed = tuple(sorted(anatomy.confirmed))
    return Plan(trajectories, anatomy.image_hash, blocked, confirmed, leak_risk_notes(anatomy))


def _refused(item: Trajectory, reasons: Sequence[str]) -> Trajectory:
    """The trajectory refused for these reasons too, each said once."""
    return replace(item, accepted=False, reasons=tuple(dict.fromkeys((*reasons, *item.reasons))))


def _plan_side(
    ct: Volume,
    anatomy: Anatomy,
    view: SacrumView,
    structures: Structures,
    side: Side,
    technique: Technique,
    needle: Needle,
    margin_mm: float,
    largest_ml: float,
) -> list[Trajectory]:
    rules = _rules(anatomy, view, side, _APPROACHES[technique])
    entries, targets = rules.grid_of_entries(), rules.grid_of_targets()
    entries = entries[np.isfinite(entries[:, 1])]
    if not len(entries) or not len(targets):
        what = "posterior cortex beside the S2 foramen" if not len(entries) else "ala at the height of S1"
        raise PlanError(f"there is no {what} on the {side} in this anatomy; check the sacrum label and its regions")
    candidates = rules.pairs(np.repeat(entries, len(targets), axis=0), np.tile(targets, (len(entries), 1)))
    if not len(candidates.entry):
        raise PlanError(f"no path on the {side} has the direction that {technique} asks for; choose another technique")
    ranking = _rank(structures, candidates, needle, margin_mm, largest_ml)
    best = _distinct(candidates, np.argsort(-ranking, kind="stable"), _REFINED)
    candidates = _neighbors(rules, candidates, best)
    ranking = _rank(structures, candidates, needle, margin_mm, largest_ml)
    accepted: list[Trajectory] = []
    refused: list[Trajectory] = []
    for index in _distinct(candidates, np.argsort(-ranking, kind="stable"), most=8 * _BEST):
        ends = candidates.entry[index], candidates.target[index]
        trajectory = _measure(ct, view, structures, side, technique, needle, margin_mm, *ends)
        trajectory = replace(trajectory, planned_volume_ml=_cement_ml(structures, *ends, largest_ml))
        (accepted if trajectory.accepted else refused).append(trajectory)
        if len(accepted) == _BEST:
            break
    return accepted or refused[:3]


def _rules(anatomy: Anatomy, view: SacrumView, side: Side, approach: _Approach) -> _Rules:
    edges = []
    for level in ("s2", "s3"):
        foramen = anatomy.foramina.get(f"foramen_{level}_{side}")
        if foramen is None:
            raise PlanError(f"foramen_{level}_{side} is not known, and the entry is measured from it; segment again")
        edges.append(transform_points(invert_rigid(view.ViewToRAS), foramen.lateral_edge_ras))
    return _Rules(anatomy, view, side, approach, edges[0], edges[1], 1.0 if side == "left" else -1.0)


def _rank(
    structures: Structures, candidates: _Candidates, needle: Needle, margin_mm: float, largest_ml: float
) -> FloatArray:
    """A score (n,) that is below -50 for every candidate that does not keep the margin."""
    slack = _screen(structures, candidates, needle.outer_diameter_mm / 2) - margin_mm
    room = _room_for_cement(structures, candidates)
    volume_ml = np.minimum(4 / 3 * np.pi * room**3 * _POROSITY / 1000, largest_ml)
    # Past the margin more room is worth having up to 3 mm, where the usual errors of navigation no longer matter.
    score = np.minimum(slack, 3.0) / 3.0 + 1.5 * np.minimum(volume_ml, 4.0) / 4.0 - candidates.penalty
    return np.where(slack >= 0, score, -100 + slack)


def _neighbors(rules: _Rules, candidates: _Candidates, best: list[int]) -> _Candidates:
    """The best candidates with everything around their ends."""
    offsets = np.stack(np.meshgrid(*[[-_NEIGHBOR_MM, 0.0, _NEIGHBOR_MM]] * 5, indexing="ij"), axis=-1).reshape(-1, 5)
    entry = np.repeat(candidates.entry[best], len(offsets), axis=0)
    target = np.repeat(candidates.target[best], len(offsets), axis=0)
    offsets = np.tile(offsets, (len(best), 1))
    entry = rules.entries(entry[:, 0] + offsets[:, 0], entry[:, 2] + offsets[:, 1])
    target = target + offsets[:, 2:]
    kept = np.isfinite(entry[:, 1]) & rules.in_ala(target)
    return rules.pairs(entry[kept], target[kept])


def _screen(structures: Structures, candidates: _Candidates, radius: float) -> FloatArray:
    """Smallest clearance of each shaft from all structures together, sampled every 2 mm to 60 mm behind the entry."""
    smallest = np.empty(len(candidates.entry))
    for start in range(0, len(smallest), 4000):
        part = slice(start, start + 4000)
        entry, target = candidates.entry[part], candidates.target[part]
        direction = entry - target
        length = np.linalg.norm(direction, axis=1)
        direction /= length[:, None]
        steps = np.arange(0, float(length.max()) + 60, 2.0)
        along = np.minimum(steps, length[:, None] + 60)
        points = target[:, None, :] + along[..., None] * direction[:, None, :]
        smallest[part] = structures.everything.at_view(points).min(axis=1)
    return smallest - radius


def _room_for_cement(structures: Structures, candidates: _Candidates) -> FloatArray:
    """Radius (n,) of the largest sphere inside the bone and off the foramina at the last part of each path [mm]."""
    outwards = candidates.entry - candidates.target
    outwards = outwards / np.linalg.norm(outwards, axis=1)[:, None]
    steps = np.arange(0, _WITHDRAWAL_MM + 0.1, 2.5)
    points = candidates.target[:, None, :] + steps[:, None] * outwards[:, None, :]
    return _depth(structures, points).max(axis=1)


def _depth(structures: Structures, points: FloatArray) -> FloatArray:
    """How far cement may spread from view points (..., 3) in every direction [mm], 0 or more."""
    room = np.minimum(-structures.sacrum.at_view(points), structures.nerves.at_view(points))
    return np.maximum(room - _CEMENT_MARGIN_MM, 0.0)


def _cement_ml(structures: Structures, entry: FloatArray, target: FloatArray, largest_ml: float) -> float:
    """Pore volume of the spheres that fit around the tip while it is withdrawn, at most `largest_ml`."""
    outwards = (entry - target) / np.linalg.norm(entry - target)
    centers = target + np.arange(0, _WITHDRAWAL_MM + 0.1, 2.5)[:, None] * outwards
    radii = _depth(structures, centers)
    reach = float(radii.max()) + _WITHDRAWAL_MM
    axis = np.arange(-reach, reach + 0.5, 1.0)
    grid = target + np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    filled = np.zeros(len(grid), bool)
    for center, radius in zip(centers, radii, strict=True):
        filled |= np.linalg.norm(grid - center, axis=1) <= radius
    return round(min(float(filled.sum()) * _POROSITY / 1000, largest_ml), 2)


def _distinct(candidates: _Candidates, order: NDArray[np.int_], most: int) -> list[int]:
    """The first of the ranking that differ from each other at the entry or at the target."""
    chosen: list[int] = []
    remaining = order
    while len(remaining) and len(chosen) < most:
        best = int(remaining[0])
        chosen.append(best)
        entries_apart = np.linalg.norm(candidates.entry[remaining] - candidates.entry[best], axis=1)
        targets_apart = np.linalg.norm(candidates.target[remaining] - candidates.target[best], axis=1)
        remaining = remaining[np.maximum(entries_apart, targets_apart) >= _DISTINCT_MM]
    return chosen


def _measure(
    ct: Volume,
    view: SacrumView,
    structures: Structures,
    side: Side,
    technique: Technique,
    needle: Needle,
    margin_mm: float,
    entry: FloatArray,
    target: FloatArray,
) -> Trajectory:
    """The trajectory with its clearance over the whole shaft, and every reason against it."""
    outwards = (entry - target) / np.linalg.norm(entry - target)
    entry_ras, target_ras = transform_points(view.ViewToRAS, np.stack([entry, target]))
    skin_ras = _skin(ct, entry_ras, view.ViewToRAS[:3, :3] @ outwards)
    reasons = []
    if skin_ras is None:
        reasons.append("the skin is outside the image: the path leaves the CT before it leaves the body")
        skin_ras = entry_ras
    length = float(np.linalg.norm(skin_ras - target_ras))
    points = target + np.arange(0, length + 0.25, 0.5)[:, None] * outwards
    clearance = {
        name: round(float(field.at_view(points).min()) - needle.outer_diameter_mm / 2, 2)
        for name, field in structures.fields.items()
    }
    reasons += [
        f"{name}: clearance {distance:.1f} mm, {margin_mm:.1f} mm needed"
        for name, distance in sorted(clearance.items(), key=lambda item: item[1])
        if not distance >= margin_mm
    ]
    unknown = [name.format(side=side) for name in NEEDED if name.format(side=side) in structures.unknown]
    reasons += [f"{name}: not found in this CT, so it counts as in the way" for name in unknown]
    if length > needle.length_mm:
        reasons.append(f"needs {length:.0f} mm from skin to target; the trocar has {needle.length_mm:.0f} mm")
    return Trajectory(
        side=side,
        technique=technique,
        entry_skin=skin_ras,
        entry_bone=entry_ras,
        target=target_ras,
        outer_diameter_mm=needle.outer_diameter_mm,
        length_mm=round(length, 2),
        clearance_mm=clearance,
        accepted=not reasons,
        reasons=tuple(reasons),
        planned_volume_ml=0.0,
    )


def _skin(ct: Volume, start_ras: FloatArray, outwards: FloatArray) -> FloatArray | None:
    """Where a ray from the bone comes out of the body; None when the image ends first."""
    from scipy import ndimage

    along = np.arange(0, 400, 1.0)
    kji = ct.kji_of(start_ras + along[:, None] * outwards)
    inside = ((kji >= 0) & (kji <= np.array(ct.voxels.shape) - 1)).all(axis=1)
    last = len(along) if inside.all() else int(np.argmin(inside))
    air = ndimage.map_coordinates(ct.voxels, kji[:last].T, order=1, output=np.float32, mode="nearest") < _AIR_HU
    run = int(_AIR_RUN_MM)
    for index in range(last):
        ahead = air[index : index + run]
        # At the edge of the image a shorter run of air is enough, if there is any.
        if ahead.all() and len(ahead) >= 2:
            return start_ras + along[index] * outwards
    return None


def _pair(found: dict[Side, list[Trajectory]], needle: Needle) -> dict[Side, list[Trajectory]]:
    """Put the best pair of trocars that leave each other room first; refuse all when no pair does."""
    left, right = found["left"], found["right"]
    pairs = [
        (row + column, row, column)
        for row, a in enumerate(left)
        for column, b in enumerate(right)
        if a.accepted and b.accepted and _leave_room(a, b, needle)
    ]
    if pairs:
        _, row, column = min(pairs)
        return {
            "left": [left[row], *left[:row], *left[row + 1 :]],
            "right": [right[column], *right[:column], *right[column + 1 :]],
        }
    reason = "double-needle: no pair of paths keeps shafts and hubs of both trocars apart"
    return {
        side: [replace(item, accepted=False, reasons=(*item.reasons, reason)) for item in items]
        for side, items in found.items()
    }


def _leave_room(a: Trajectory, b: Trajectory, needle: Needle) -> bool:
    hubs = []
    for item in (a, b):
        outwards = (item.entry_skin - item.target) / item.length_mm
        hubs.append(item.target + outwards * needle.length_mm)
    shafts = segment_to_segment_distance(a.target, hubs[0], b.target, hubs[1])
    return shafts >= _SHAFT_GAP_MM and float(np.linalg.norm(hubs[0] - hubs[1])) >= _HUB_GAP_MM
