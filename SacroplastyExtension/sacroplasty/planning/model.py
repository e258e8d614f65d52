"""What a plan is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..geometry import FloatArray

Side = Literal["left", "right"]
Technique = Literal["short-axis", "long-axis", "double-needle", "body"]


@dataclass(frozen=True)
class Needle:
    """A trocar by its numbers; diameters in mm (hypodermic gauge chart, regular wall; brands differ)."""

    gauge: int
    outer_diameter_mm: float
    inner_diameter_mm: float
    length_mm: float


NEEDLES: dict[int, Needle] = {
    11: Needle(gauge=11, outer_diameter_mm=3.048, inner_diameter_mm=2.388, length_mm=150.0),
    13: Needle(gauge=13, outer_diameter_mm=2.413, inner_diameter_mm=1.803, length_mm=150.0),
}


@dataclass(frozen=True)
class Trajectory:
    """A straight trocar from the skin to its target.

    Attributes:
        entry_skin, entry_bone, target: RAS points in mm.
        length_mm: from skin to target.
        clearance_mm: smallest distance from the shaft's surface to each structure, negative inside it.
        accepted: whether every hard limit is kept.
        reasons: why it was refused; empty when accepted.
        planned_volume_ml: cement proposed for this tip.
    """

    side: Side
    technique: Technique
    entry_skin: FloatArray
    entry_bone: FloatArray
    target: FloatArray
    outer_diameter_mm: float
    length_mm: float
    clearance_mm: dict[str, float]
    accepted: bool
    reasons: tuple[str, ...]
    planned_volume_ml: float


@dataclass(frozen=True)
class Plan:
    """Ranked trajectories, best first on each side.

    Attributes:
        image_hash: of the CT that was planned on.
        blocked: by side, why it was refused as a whole, whatever the path; its trajectories are refused for that too.
        confirmed: structures that planning relied on because a person had confirmed them.
        notes: what to know before injecting, such as a fracture line that leads to a foramen.
    """

    trajectories: tuple[Trajectory, ...]
    image_hash: str
    blocked: dict[Side, tuple[str, ...]] = field(default_factory=dict)
    confirmed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
