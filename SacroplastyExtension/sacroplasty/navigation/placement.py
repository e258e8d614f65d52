"""A trocar as it was placed, against its plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..geometry import angle_between_deg, unit
from ..planning.model import Trajectory


@dataclass(frozen=True)
class Deviation:
    """How a placed trocar differs from its plan, by the tracker's account.

    Attributes:
        entry_mm: distance of its axis from the planned entry into the bone.
        target_mm: distance of its tip from the target.
        aside_mm, depth_mm: the same across the planned line, and along it; positive is too deep.
        angle_deg: between axis and planned line.
    """

    entry_mm: float
    target_mm: float
    aside_mm: float
    depth_mm: float
    angle_deg: float


def deviation(tip_ras: ArrayLike, hub_ras: ArrayLike, trajectory: Trajectory) -> Deviation:
    """Compare a trocar from its hub to its tip with its plan.

    Raises:
        GeometryError: when hub and tip are one point.
    """
    tip = np.asarray(tip_ras, float)
    axis = unit(tip - np.asarray(hub_ras, float))
    planned = unit(np.asarray(trajectory.target, float) - trajectory.entry_skin)
    off = tip - trajectory.target
    depth = float(off @ planned)
    to_entry = np.asarray(trajectory.entry_bone, float) - tip
    return Deviation(
        entry_mm=float(np.linalg.norm(to_entry - (to_entry @ axis) * axis)),
        target_mm=float(np.linalg.norm(off)),
        aside_mm=float(np.linalg.norm(off - depth * planned)),
        depth_mm=depth,
        angle_deg=angle_between_deg(axis, planned),
    )
