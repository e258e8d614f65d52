"""The full measurement of one line, whoever drew it, and the way from a bad line to a good one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from ..anatomy.confirmation import blocking_reasons
from ..anatomy.frame import sample_mask
from ..errors import PlanError
from ..geometry import FloatArray, angle_between_deg, invert_rigid, transform_points, transform_vectors, unit
from ..image import Volume
from .close_look import REACH_MM, SHAFT_STEP_MM
from .context import PlanningContext, unknown_on
from .depots import CEMENT_MARGIN_MM, POROSITY, plan_depots, volume_cautions
from .model import Balloon, Biopsy, Depot, Side, Source, Technique, Trajectory
from .options import SMALLEST_USUAL_ML, PlanOptions
from .sacrum_view import SacrumView
from .uncertainty import breach_probability, pose_uncertainty

SKIN_OUTSIDE = "the skin is outside the image: the path leaves the CT before it leaves the body"
#: Air outside the body [HU], and how much of it in a row is no bowel gas or fold [mm].
_AIR_HU, _AIR_RUN_MM = -300.0, 8
#: Density is looked at every so much along the shaft [mm].
_STEP_MM = 0.5
#: A structure so far away is not reached by any error that is allowed to be stated [mm].
_FAR_MM = 15.0
#: One-sided 95 % of a normal distribution: what a stated system error adds to the margin, in standard deviations.
_SD_95 = 1.645
#: A shaft that may enter a structure more often than this is refused.
LARGEST_BREACH_PROBABILITY = 0.05
#: Aslant by more than this the tip slips on the cortex [degrees].
_STEEP_DEG = 30.0
#: Entry rule of the published technique: lateral to the lateral edge of the S2 foramen [mm].
ENTRY_LATERAL_MM = (15.0, 20.0)
#: Bone below this holds fat in place of trabeculae [HU].
LOW_DENSITY_HU = 0.0
#: A balloon narrower than this makes no cavity [mm].
_LEAST_BALLOON_MM = 6.0


def check_trajectory(
    context: PlanningContext,
    entry_skin: ArrayLike,
    target: ArrayLike,
    side: Side,
    options: PlanOptions | None = None,
    sides: int = 1,
    source: Source = "manual",
) -> Trajectory:
    """Measure a line and say whether it may be used.

    Args:
        entry_skin: any RAS point of the axis behind the bone; the trajectory starts where that axis leaves the body.
        target: RAS point where the tip ends.
        sides: how many sides share the volume.

    Raises:
        PlanError: when the line has no length, or nothing can be measured in this anatomy.
    """
    options = options or PlanOptions()
    start, tip = np.asarray(entry_skin, float), np.asarray(target, float)
    if start.shape != (3,) or tip.shape != (3,) or not (np.isfinite(start).all() and np.isfinite(tip).all()):
        raise PlanError("entry and target must be points with three finite coordinates")
    if np.linalg.norm(start - tip) <= 1.0:
        raise PlanError("entry and target must be two points at least 1 mm apart")
    outwards = unit(start - tip)
    reasons = list(blocking_reasons(context.anatomy, side))
    entry_bone = entry_into_bone(context, tip, outwards, side, options.technique)
    if entry_bone is None:
        reasons.append("the target does not lie in the sacrum")
        entry_bone = tip
    skin = skin_point(context.ct, entry_bone, outwards)
    if skin is None:
        reasons.append(SKIN_OUTSIDE)
        skin = start
    measured = _Measured(context, skin, tip, side, options)
    reasons += measured.reasons
    depots: tuple[Depot, ...] = ()
    if np.linalg.norm(entry_bone - tip) > 1.0:
        structures = context.structures(options.technique, side)
        depots = plan_depots(structures, entry_bone, tip, wanted_ml(context, side, options), options.limit_ml(sides))
    incidence = incidence_deg(context, entry_bone, outwards, side, options.technique)
    lateral = lateral_to_s2_mm(context, entry_bone, side)
    biopsy, balloon = _biopsy(entry_bone, tip, options), _balloon(context, entry_bone, tip, side, options)
    cautions = _cautions(measured.clearance_mm, incidence, lateral, options)
    if _view_is_feasible(outwards, options) is False:
        cautions += ("no C-arm position looks down the axis",)
    if options.biopsy_throw_mm is not None and biopsy is None:
        cautions += (f"a biopsy of {options.biopsy_throw_mm:g} mm does not end inside the bone here",)
    if options.balloon is not None and balloon is None:
        cautions += (f"a balloon of {options.balloon.length_mm:g} mm does not fit in the bone here",)
    return Trajectory(
        side=side,
        technique=options.technique,
        entry_skin=skin,
        entry_bone=entry_bone,
        target=tip,
        needle=options.needle,
        length_mm=round(float(np.linalg.norm(skin - tip)), 2),
        clearance_mm={name: round(value, 2) for name, value in measured.clearance_mm.items()},
        accepted=not reasons,
        reasons=tuple(dict.fromkeys(reasons)),
        depots=depots,
        breach_probability=measured.breach_probability,
        incidence_deg=None if incidence is None else round(incidence, 1),
        low_density_mm=round(low_density_mm(context.ct, entry_bone, tip), 1),
        view_feasible=_view_is_feasible(outwards, options),
        lateral_to_s2_mm=None if lateral is None else round(lateral, 1),
        cautions=(*cautions, *volume_cautions(depots, SMALLEST_USUAL_ML)),
        biopsy=biopsy,
        balloon=balloon,
        source=source,
    )


class _Measured:
    """Clearance and probability of a breach of a whole shaft, and the reasons against it that follow from them."""

    def __init__(
        self, context: PlanningContext, skin: FloatArray, tip: FloatArray, side: Side, options: PlanOptions
    ) -> None:
        structures = context.structures(options.technique, side)
        length = float(np.linalg.norm(skin - tip))
        along = np.linspace(0, length, int(np.ceil(length / SHAFT_STEP_MM)) + 1)
        shaft = tip + along[:, None] * ((skin - tip) / length)
        uncertainty = pose_uncertainty(options.error_model, tip)
        extra = np.zeros(len(along))
        if options.accuracy is not None:
            extra = _SD_95 * uncertainty.rms_mm(shaft) / np.sqrt(3)
        self.clearance_mm: dict[str, float] = {}
        self.breach_probability: dict[str, float] = {}
        refused: list[tuple[float, str]] = []
        reach = max(REACH_MM, options.margin_mm + options.needle.radius_mm + float(extra.max()))
        for name, axis_mm in context.shaft_distances_mm(shaft, side, options.technique, reach).items():
            distance = axis_mm - options.needle.radius_mm
            least = float(distance.min())
            self.clearance_mm[name] = least
            worst = int(np.argmin(distance - extra))
            if not distance[worst] - extra[worst] >= options.margin_mm:
                also = f" and {extra[worst]:.1f} mm for the system error" if extra[worst] > 0 else ""
                text = f"{name}: clearance {distance[worst]:.1f} mm, {options.margin_mm:.1f} mm{also} needed"
                refused.append((least, text))
            probability = 0.0
            if least < _FAR_MM:
                probability = breach_probability(
                    context.distance_of(name, options.technique, side), shaft, options.needle.radius_mm, uncertainty
                )
            self.breach_probability[name] = round(probability, 6)
            if probability > LARGEST_BREACH_PROBABILITY:
                text = (
                    f"{name}: entered with a probability of {probability:.0%} for the system error; "
                    f"at most {LARGEST_BREACH_PROBABILITY:.0%} is accepted"
                )
                refused.append((least, text))
        self.reasons = [text for _, text in sorted(refused, key=lambda item: item[0])]
        self.reasons += [
            f"{name}: not found in this CT, so it counts as in the way" for name in unknown_on(structures, side)
        ]
        if length > options.needle.length_mm:
            self.reasons.append(
                f"needs {length:.0f} mm from skin to target; the trocar has {options.needle.length_mm:.0f} mm"
            )


def entry_into_bone(
    context: PlanningContext, tip_ras: FloatArray, outwards: FloatArray, side: Side, technique: Technique
) -> FloatArray | None:
    """The last bone of the way out from the tip: where the trocar meets the cortex. None when the tip is in no bone."""
    structures = context.structures(technique, side)
    along = np.arange(0, 120.0, 0.25)
    points = tip_ras + along[:, None] * outwards
    in_view = transform_points(structures.view.RASToView, points)
    inside = structures.outside.at_view(in_view) >= 0
    if not inside[0]:
        return None
    if technique == "transiliac":
        anatomy = context.anatomy
        inside |= sample_mask(anatomy.bones.like(anatomy.bone(f"hip_{side}")), points) > 0.5
        return points[int(np.flatnonzero(inside)[-1])]
    return points[int(np.argmin(inside)) - 1] if not inside.all() else None


def skin_point(ct: Volume, start_ras: FloatArray, outwards: FloatArray) -> FloatArray | None:
    """Where a ray from the bone comes out of the body; None when the image ends first."""
    from scipy import ndimage

    along = np.arange(0, 400, 1.0)
    kji = ct.kji_of(start_ras + along[:, None] * outwards)
    inside = ((kji >= 0) & (kji <= np.array(ct.voxels.shape) - 1)).all(axis=1)
    last = len(along) if inside.all() else int(np.argmin(inside))
    air = ndimage.map_coordinates(ct.voxels, kji[:last].T, order=1, output=np.float32, mode="nearest") < _AIR_HU
    for index in np.flatnonzero(air):
        ahead = air[index : index + _AIR_RUN_MM]
        # At the edge of the image a shorter run of air is enough, if there is any.
        if ahead.all() and len(ahead) >= 2:
            return start_ras + along[index] * outwards
    return None


def incidence_deg(
    context: PlanningContext, entry_ras: FloatArray, outwards: FloatArray, side: Side, technique: Technique
) -> float | None:
    """Angle between the axis and the normal of the cortex; None for the ilium, whose surface is not followed here."""
    if technique == "transiliac":
        return None
    structures = context.structures(technique, side)
    entry = transform_points(structures.view.RASToView, entry_ras)
    # The cortex over some millimetres, as the tip meets it.
    around = entry + 2.0 * np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    slope = -structures.outside.gradient_at_view(around).mean(axis=0)
    if not np.linalg.norm(slope) > 1e-3:
        return None
    return angle_between_deg(slope, transform_vectors(structures.view.RASToView, outwards))


def lateral_to_s2_mm(context: PlanningContext, entry_ras: FloatArray, side: Side) -> float | None:
    """How far an entry lies lateral to the lateral edge of the S2 foramen; None when that is not known."""
    foramen = context.anatomy.foramina.get(f"foramen_s2_{side}")
    if foramen is None:
        return None
    left = context.anatomy.SacrumToRAS[:3, 0]
    return float((entry_ras - foramen.lateral_edge_ras) @ left) * (1.0 if side == "left" else -1.0)


def keeps_rule(lateral_mm: float | None) -> bool:
    """Whether an entry lies as far lateral to the S2 foramen as the rule of the short axis says."""
    low, high = ENTRY_LATERAL_MM
    return lateral_mm is not None and low <= lateral_mm <= high


def low_density_mm(ct: Volume, entry_ras: FloatArray, target_ras: FloatArray) -> float:
    """Length of the way between two points in bone below 0 HU."""
    from scipy import ndimage

    length = float(np.linalg.norm(entry_ras - target_ras))
    count = max(int(length / _STEP_MM), 1)
    along = (np.arange(count) + 0.5) / count
    points = target_ras + along[:, None] * (entry_ras - target_ras)
    hu = ndimage.map_coordinates(ct.voxels, ct.kji_of(points).T, order=1, output=np.float32, mode="nearest")
    # Noise of single voxels is no void.
    hu = ndimage.uniform_filter1d(hu, 5, mode="nearest")
    return float((hu < LOW_DENSITY_HU).mean() * length)


def wanted_ml(context: PlanningContext, side: Side, options: PlanOptions) -> float:
    """Cement that void and fracture of an ala call for, at least the usual 3 mL."""
    quality = context.anatomy.quality
    void = quality.bone.void_ml.get(f"ala_{side}", 0.0) if quality is not None else 0.0
    gap = sum(len(points) for points in fractures_on(context, side))
    return max(POROSITY * void + gap * context.ct.voxel_volume_ml, SMALLEST_USUAL_ML)


def mirrored(
    context: PlanningContext, trajectory: Trajectory, options: PlanOptions | None = None, sides: int = 1
) -> Trajectory:
    """The trajectory copied to the other side through the mirror plane of the sacrum, and measured there."""
    SacrumToRAS = context.anatomy.SacrumToRAS
    mirror = SacrumToRAS @ np.diag([-1.0, 1.0, 1.0, 1.0]) @ invert_rigid(SacrumToRAS)
    other: Side = "right" if trajectory.side == "left" else "left"
    entry, target = transform_points(mirror, np.stack([trajectory.entry_skin, trajectory.target]))
    options = options or PlanOptions(technique=trajectory.technique, needle=trajectory.needle)
    return check_trajectory(context, entry, target, other, options, sides)


def _view_is_feasible(outwards: FloatArray, options: PlanOptions) -> bool | None:
    """Down the axis, from either end."""
    look = options.view_is_feasible
    return None if look is None else bool(look(outwards) or look(-outwards))


def refused(item: Trajectory, reasons: Sequence[str]) -> Trajectory:
    """The trajectory refused for these reasons too, each said once."""
    return replace(item, accepted=False, reasons=tuple(dict.fromkeys((*reasons, *item.reasons))))


def fractures_on(context: PlanningContext, side: Side) -> list[FloatArray]:
    """RAS points (n, 3) of the voxels of each marked fracture that is on a side or in the middle."""
    from ..anatomy.fracture_reach import side_of

    anatomy = context.anatomy
    points = [anatomy.bones.ras_of(fracture.voxels_kji) for fracture in anatomy.fractures]
    return [fracture for fracture in points if side_of(fracture, anatomy) in (side, "central")]


def _cautions(
    clearance_mm: dict[str, float], incidence: float | None, lateral: float | None, options: PlanOptions
) -> tuple[str, ...]:
    found = []
    near = [name for name, value in clearance_mm.items() if options.margin_mm <= value < options.preferred_margin_mm]
    if near:
        found.append(f"less than the preferred {options.preferred_margin_mm:g} mm from {', '.join(sorted(near))}")
    if incidence is not None and incidence > _STEEP_DEG:
        found.append(f"meets the cortex at {incidence:.0f}°; above {_STEEP_DEG:g}° the tip slips")
    if options.technique in ("short-axis", "double-needle") and lateral is not None:
        low, high = ENTRY_LATERAL_MM
        if not keeps_rule(lateral):
            found.append(f"enters {lateral:.0f} mm lateral to the S2 foramen; {low:g} to {high:g} mm is the rule")
    return tuple(found)


def _biopsy(entry: FloatArray, tip: FloatArray, options: PlanOptions) -> Biopsy | None:
    """The last part of the way to the tip, if it lies within the bone."""
    throw = options.biopsy_throw_mm
    length = float(np.linalg.norm(entry - tip))
    if throw is None or length < throw:
        return None
    return Biopsy(tip + throw * (entry - tip) / length, tip)


def _balloon(
    context: PlanningContext, entry: FloatArray, tip: FloatArray, side: Side, options: PlanOptions
) -> Balloon | None:
    """The widest cavity of the balloon's length at the tip that keeps within the bone; None when there is none."""
    size = options.balloon
    length = float(np.linalg.norm(entry - tip))
    if size is None or length < size.length_mm:
        return None
    structures = context.structures(options.technique, side)
    back = unit(entry - tip)
    along = np.arange(0, size.length_mm + 0.01, 0.5)
    axis = tip + along[:, None] * back
    in_view = transform_points(structures.view.RASToView, axis)
    room = np.minimum(structures.outside.at_view(in_view), structures.nerves.at_view(in_view)) - CEMENT_MARGIN_MM
    # Round ends: at the tip and at the far end the balloon has no width yet.
    diameter = min(size.diameter_mm, size.length_mm)
    while diameter >= _LEAST_BALLOON_MM:
        radius = diameter / 2
        from_end = np.minimum(along, size.length_mm - along)
        width = np.sqrt(np.maximum(radius**2 - np.maximum(radius - from_end, 0) ** 2, 0))
        if (room >= width).all():
            return Balloon(axis[-1], tip, round(diameter, 1))
        diameter -= 0.5
    return None


def surface_point(view: SacrumView, left_mm: FloatArray, up_mm: FloatArray) -> FloatArray:
    """Points (n, 3) of the posterior cortex at view coordinates (n,), NaN in depth where there is none."""
    column = np.round(left_mm - view.left_mm[0]).astype(int)
    row = np.round(up_mm - view.up_mm[0]).astype(int)
    within = (column >= 0) & (column < len(view.left_mm)) & (row >= 0) & (row < len(view.up_mm))
    back = np.full(len(left_mm), np.nan)
    back[within] = view.back_surface_mm[column[within], row[within]]
    return np.column_stack([left_mm, back, up_mm])
