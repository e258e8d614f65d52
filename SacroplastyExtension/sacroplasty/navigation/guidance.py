"""Where the trocar is against its plan, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import GeometryError
from ..geometry import FloatArray, angle_between_deg, check_rigid, unit
from ..planning.model import Trajectory
from .clearance import ShaftClearance

Phase = Literal["skin", "cortex", "in-bone", "at-target", "past-target"]

#: A pose older than this is no pose [s].
OLDEST_POSE_S = 0.1
#: Within this of the planned cortex the tip is at it, within this of the target it has arrived [mm].
_CORTEX_MM = 2.0
_ARRIVED_MM = 2.0


@dataclass(frozen=True)
class GuidanceReading:
    """What the screen shows; every figure is None unless `valid`.

    Attributes:
        valid: whether there is a pose that can be trusted.
        reason: why not; empty when valid.
        tip_ras: the tip (3,), mm.
        offset_from_line_mm: distance of the tip from the planned line.
        offset_vector_ras_mm: (3,) from the line to the tip, at a right angle to the line.
        angle_deg: between the trocar and the planned line.
        depth_to_target_mm: left along the planned line; negative beyond the target.
        depth_to_bone_mm: left to the planned entry into the bone; negative beyond it.
        phase: which part of the way the tip is on. At the target counts in space, not in depth alone.
        nearest_structure, clearance_mm: of the whole shaft to what is protected; minus infinity where unknown.
        assured_clearance_mm: the clearance less the predicted error: below zero the shaft may be touching.
        predicted_error_mm: of the tip's position.
    """

    valid: bool
    reason: str
    tip_ras: FloatArray | None = None
    offset_from_line_mm: float | None = None
    offset_vector_ras_mm: FloatArray | None = None
    angle_deg: float | None = None
    depth_to_target_mm: float | None = None
    depth_to_bone_mm: float | None = None
    phase: Phase | None = None
    nearest_structure: str | None = None
    clearance_mm: float | None = None
    assured_clearance_mm: float | None = None
    predicted_error_mm: float | None = None


def guide(
    TrocarTipToRAS: ArrayLike | None,
    age_s: float,
    trajectory: Trajectory,
    clearance: ShaftClearance | None,
    predicted_error_mm: float,
) -> GuidanceReading:
    """Compare a trocar's pose with its plan.

    Args:
        TrocarTipToRAS: rigid 4x4, mm; the z axis of the tip's frame points ahead, out of the tip, so the shaft lies on
            negative z. None when the tracker has no pose.
        age_s: of the pose.
        clearance: of this patient; None leaves the clearance unknown, which reads as minus infinity.
        predicted_error_mm: of the tip at the target (registration and tool).

    Returns:
        A reading that is not valid, with the reason, for a missing, stale or impossible pose, and for an error that
        is not known. Never raises for what a tracker can send.
    """
    if TrocarTipToRAS is None:
        return _blank("no pose: the trocar or the reference is out of the tracker's sight")
    if not np.isfinite(age_s):
        return _blank("the age of the pose is unknown")
    # A little below zero is jitter between clocks, more is a wrong clock.
    if not -OLDEST_POSE_S <= age_s <= OLDEST_POSE_S:
        return _blank(f"the pose is {age_s:.2f} s old (limit {OLDEST_POSE_S:g} s)")
    if not (np.isfinite(predicted_error_mm) and predicted_error_mm >= 0):
        return _blank("the predicted error is unknown: register the patient first")
    try:
        pose = check_rigid(TrocarTipToRAS, "the trocar's pose", tolerance=1e-2)
        planned = unit(np.asarray(trajectory.target, float) - trajectory.entry_skin)
    except GeometryError as error:
        return _blank(str(error))
    tip, ahead = pose[:3, 3], pose[:3, 2]
    to_target = trajectory.target - tip
    depth_to_target = float(to_target @ planned)
    depth_to_bone = float((trajectory.entry_bone - tip) @ planned)
    offset = depth_to_target * planned - to_target
    nearest, distance = "unknown", float("-inf")
    if clearance is not None:
        found = clearance.nearest(
            tip, tip - trajectory.length_mm * ahead, trajectory.outer_diameter_mm, trajectory.side
        )
        nearest, distance = found.structure, found.distance_mm
    return GuidanceReading(
        valid=True,
        reason="",
        tip_ras=tip.copy(),
        offset_from_line_mm=float(np.linalg.norm(offset)),
        offset_vector_ras_mm=offset,
        angle_deg=angle_between_deg(ahead, planned),
        depth_to_target_mm=depth_to_target,
        depth_to_bone_mm=depth_to_bone,
        phase=_phase(depth_to_bone, depth_to_target, float(np.linalg.norm(to_target))),
        nearest_structure=nearest,
        clearance_mm=distance,
        assured_clearance_mm=distance - predicted_error_mm,
        predicted_error_mm=float(predicted_error_mm),
    )


def _phase(depth_to_bone_mm: float, depth_to_target_mm: float, distance_mm: float) -> Phase:
    if depth_to_target_mm < -_ARRIVED_MM:
        return "past-target"
    if distance_mm <= _ARRIVED_MM:
        return "at-target"
    if depth_to_bone_mm > _CORTEX_MM:
        return "skin"
    return "cortex" if depth_to_bone_mm >= -_CORTEX_MM else "in-bone"


def _blank(reason: str) -> GuidanceReading:
    return GuidanceReading(valid=False, reason=reason)
