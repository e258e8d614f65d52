"""Whether the patient still lies where it was registered: points touched again, and jumps of the reference marker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import CalibrationError
from ..geometry import FloatArray, invert_rigid, transform_points

#: A point farther off than chance gives so rarely has moved.
_MOVED = 0.999
#: And no chance explains more than this [mm].
_LARGEST_OFF_MM = 2.0
#: A reference that stands still moves less than this between two looks, at the patient [mm]: breathing is slower.
_JUMP_MM = 1.0
#: The patient's sacrum lies about this far from the reference [mm] (own estimate); turns are judged there.
_LEVER_MM = 150.0

Movement = Literal["still", "camera moved", "reference moved", "check", "unknown"]


@dataclass(frozen=True)
class RecheckPoint:
    """A check point that was touched again.

    Attributes:
        moved: whether the patient, or the reference, has moved since.
        off_mm: distance from where it was.
        limit_mm: what chance explains in that direction.
        text: the finding in a sentence.
    """

    moved: bool
    off_mm: float
    limit_mm: float
    text: str


def recheck_point(name: str, first_mm: ArrayLike, again_mm: ArrayLike, touch_error_mm: float = 0.5) -> RecheckPoint:
    """Compare a check point with its place after registration, both in the reference's frame.

    The two touches differ by chance with twice the variance of one; a distance that this explains less than once in a
    thousand times (chi-square with three degrees of freedom) is a movement.

    Args:
        first_mm, again_mm: (3,).
        touch_error_mm: of one touch, root mean square over three axes.

    Raises:
        CalibrationError: when a place is not known.
    """
    from scipy.stats import chi2

    first, again = np.asarray(first_mm, float), np.asarray(again_mm, float)
    if not (np.isfinite(first).all() and np.isfinite(again).all()):
        raise CalibrationError(f"the place of check point {name!r} is no number (NaN); touch it again")
    off = float(np.linalg.norm(again - first))
    limit = min(float(np.sqrt(chi2.ppf(_MOVED, 3) * 2 / 3)) * touch_error_mm, _LARGEST_OFF_MM)
    moved = not off <= limit
    advice = "the patient or the reference has moved: register again" if moved else "in place"
    return RecheckPoint(moved, off, limit, f"{name}: {off:.1f} mm off (limit {limit:.1f}); {advice}")


@dataclass(frozen=True)
class ReferenceMovement:
    """What the reference did between two looks.

    Attributes:
        movement: `still`; `camera moved` (harmless: everything moved alike); `reference moved` (against what rests:
            register again); `check` (it jumped, and nothing at rest tells whether the camera did: touch a check
            point); `unknown` (not seen).
        jump_mm: by how much it moved at the patient's place.
        text: in a sentence.
    """

    movement: Movement
    jump_mm: float
    text: str


class ReferenceWatch:
    """Follows the reference marker, and whatever else rests in the room (the table, a cannula that was left)."""

    def __init__(self, jump_mm: float = _JUMP_MM) -> None:
        self._jump_mm = jump_mm
        self._last: dict[str, FloatArray] = {}

    def look(self, ReferenceToTracker: ArrayLike | None, at_rest: Mapping[str, ArrayLike | None]) -> ReferenceMovement:
        """Compare with the look before.

        The noise of a single pose, turned at the patient's distance, comes near a jump: give means over about a second.

        Args:
            ReferenceToTracker: 4x4, or None (or NaN) when it is not seen.
            at_rest: by name, poses in the tracker's frame of what does not move; None when not seen.
        """
        seen = {name: np.asarray(pose, float) for name, pose in at_rest.items() if pose is not None}
        seen = {name: pose for name, pose in seen.items() if np.isfinite(pose).all()}
        reference = None if ReferenceToTracker is None else np.asarray(ReferenceToTracker, float)
        if reference is None or not np.isfinite(reference).all():
            return ReferenceMovement("unknown", float("nan"), "the reference is out of the camera's sight")
        before, last = self._last.get(""), dict(self._last)
        self._last |= {"": reference, **seen}
        if before is None:
            return ReferenceMovement("unknown", float("nan"), "first look at the reference")
        jump = _motion_mm(before, reference)
        if jump <= self._jump_mm:
            return ReferenceMovement("still", jump, "the reference stands still")
        against = [
            _motion_mm(invert_rigid(last[name]) @ before, invert_rigid(pose) @ reference)
            for name, pose in seen.items()
            if name in last
        ]
        if not against:
            return ReferenceMovement(
                "check", jump, f"the reference, or the camera, moved by {jump:.1f} mm: touch a check point"
            )
        if min(against) <= self._jump_mm:
            return ReferenceMovement("camera moved", jump, "the camera moved; the registration stands")
        return ReferenceMovement(
            "reference moved", min(against), f"the reference moved by {min(against):.1f} mm: register again"
        )


def _motion_mm(before: FloatArray, now: FloatArray) -> float:
    """How far a point moves that lies at the patient's distance from the reference, at most."""
    shift = float(np.linalg.norm(transform_points(now, [0, 0, 0]) - transform_points(before, [0, 0, 0])))
    cosine = (np.trace(before[:3, :3].T @ now[:3, :3]) - 1) / 2
    turn = float(np.arccos(np.clip(cosine, -1, 1)))
    return max(shift, 2 * _LEVER_MM * float(np.sin(turn / 2)))
