"""Where the trocar is against its plan, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..devices.freshness import OLDEST_POSE_S
from ..errors import GeometryError
from ..geometry import FloatArray, angle_between_deg, check_rigid, unit
from ..planning.model import Trajectory
from ..planning.pose_uncertainty import PoseUncertainty
from .clearance import Ahead, ShaftAssessment, ShaftClearance, StructureClearance

Phase = Literal["skin", "cortex", "in-bone", "at-target", "past-target"]

#: How far past the cortex the technique puts the tip (Tabilo, Norambuena and Joaquim) [mm].
PAST_CORTEX_MM = (10.0, 20.0)
#: Within this of the planned cortex the tip is at it, within this of the target it has arrived [mm].
_CORTEX_MM = 2.0
_ARRIVED_MM = 2.0
_NOTHING_KNOWN = ShaftAssessment((), None)


@dataclass(frozen=True)
class GuidanceReading:
    """What the screen shows; every figure is None unless `valid`.

    Attributes:
        valid: whether there is a pose that can be trusted.
        reason: why not; empty when valid.
        tip_ras, ahead_ras: the tip (3,), mm, and the direction (3,) in which the trocar points.
        offset_from_line_mm: distance of the tip from the planned line.
        offset_vector_ras_mm: (3,) from the line to the tip, at a right angle to the line.
        angle_deg: between the trocar and the planned line.
        depth_to_target_mm: left along the planned line; negative beyond the target.
        depth_to_bone_mm: left to the planned entry into the bone; negative beyond it.
        phase: which part of the way the tip is on. At the target counts in space, not in depth alone.
        structures: of the whole shaft to each protected structure, the worst first, with the error of the shaft's
            place; empty when no distances are known.
        ahead: what the shaft runs into if it is pushed on as it points; None when nothing is near ahead.
        predicted_error_mm: of the tip's position (root mean square).
    """

    valid: bool
    reason: str
    tip_ras: FloatArray | None = None
    ahead_ras: FloatArray | None = None
    offset_from_line_mm: float | None = None
    offset_vector_ras_mm: FloatArray | None = None
    angle_deg: float | None = None
    depth_to_target_mm: float | None = None
    depth_to_bone_mm: float | None = None
    phase: Phase | None = None
    structures: tuple[StructureClearance, ...] | None = None
    ahead: Ahead | None = None
    predicted_error_mm: float | None = None

    @property
    def nearest(self) -> StructureClearance | None:
        """The structure that is threatened most; minus infinity where no distances are known."""
        return None if self.structures is None else ShaftAssessment(self.structures, None).nearest

    @property
    def may_touch(self) -> bool:
        """Whether the shaft may be touching something, as far as is known: so too when nothing is known."""
        return self.nearest is None or not self.nearest.assured_mm >= 0


def guide(
    TrocarTipToRAS: ArrayLike | None,
    age_s: float,
    trajectory: Trajectory,
    clearance: ShaftClearance | None,
    uncertainty: PoseUncertainty | None,
    lost: str = "",
) -> GuidanceReading:
    """Compare a trocar's pose with its plan.

    Args:
        TrocarTipToRAS: rigid 4x4, mm; the z axis of the tip's frame points ahead, out of the tip, so the shaft lies on
            negative z. None when the tracker has no pose.
        age_s: of the pose.
        clearance: of this patient; None leaves the clearance unknown, which reads as minus infinity.
        uncertainty: of the trocar's place (registration, tool, tracker); None when it is not known.
        lost: why there is no pose, in words, as far as the source of poses knows.

    Returns:
        A reading that is not valid, with the reason, for a missing, stale or impossible pose, and for an error that
        is not known. Never raises for what a tracker can send.
    """
    if TrocarTipToRAS is None:
        return blank(lost or "no pose: the trocar or the reference is out of the tracker's sight")
    if not np.isfinite(age_s):
        return blank("the age of the pose is unknown")
    # A little below zero is jitter between clocks, more is a wrong clock.
    if not -OLDEST_POSE_S <= age_s <= OLDEST_POSE_S:
        return blank(f"the pose is {age_s:.2f} s old (limit {OLDEST_POSE_S:g} s)")
    if uncertainty is None:
        return blank("the predicted error is unknown: register the patient first")
    try:
        pose = check_rigid(TrocarTipToRAS, "the trocar's pose", tolerance=1e-2)
        planned = unit(np.asarray(trajectory.target, float) - trajectory.entry_skin)
    except GeometryError as error:
        return blank(str(error))
    tip, ahead = pose[:3, 3], unit(pose[:3, 2])
    to_target = trajectory.target - tip
    depth_to_target = float(to_target @ planned)
    depth_to_bone = float((trajectory.entry_bone - tip) @ planned)
    offset = depth_to_target * planned - to_target
    assessment = _NOTHING_KNOWN
    if clearance is not None:
        back = tip - trajectory.length_mm * ahead
        assessment = clearance.assess(tip, back, trajectory.outer_diameter_mm, trajectory.side, uncertainty)
    return GuidanceReading(
        valid=True,
        reason="",
        tip_ras=tip.copy(),
        ahead_ras=ahead,
        offset_from_line_mm=float(np.linalg.norm(offset)),
        offset_vector_ras_mm=offset,
        angle_deg=angle_between_deg(ahead, planned),
        depth_to_target_mm=depth_to_target,
        depth_to_bone_mm=depth_to_bone,
        phase=_phase(depth_to_bone, depth_to_target, float(np.linalg.norm(to_target))),
        structures=assessment.structures,
        ahead=assessment.ahead,
        predicted_error_mm=float(uncertainty.rms_mm(tip)),
    )


def blank(reason: str) -> GuidanceReading:
    """No guidance, and why."""
    return GuidanceReading(valid=False, reason=reason)


def _phase(depth_to_bone_mm: float, depth_to_target_mm: float, distance_mm: float) -> Phase:
    if depth_to_target_mm < -_ARRIVED_MM:
        return "past-target"
    if distance_mm <= _ARRIVED_MM:
        return "at-target"
    if depth_to_bone_mm > _CORTEX_MM:
        return "skin"
    return "cortex" if depth_to_bone_mm >= -_CORTEX_MM else "in-bone"
