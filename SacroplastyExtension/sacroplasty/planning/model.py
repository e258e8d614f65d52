"""What a plan is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from ..geometry import FloatArray
from .needles import Needle

Side = Literal["left", "right"]
Technique = Literal["short-axis", "long-axis", "double-needle", "transiliac", "body-s1", "body-s2", "body-s3"]
TECHNIQUES: tuple[Technique, ...] = get_args(Technique)
#: Why a trajectory is shown: none of the others is better in this without being worse in another.
Merit = Literal["safest", "best-filling", "shortest"]
Source = Literal["search", "manual", "imported"]


def target_region(technique: Technique, side: str) -> str:
    """The region of the anatomy that a technique fills on one side."""
    return f"body_{technique[-2:]}" if technique.startswith("body") else f"ala_{side}"


@dataclass(frozen=True)
class Depot:
    """Cement that is to be placed from one position of the tip.

    Attributes:
        position_ras: of the tip, mm.
        volume_ml: proposed there.
        note: why so little, or what to do before: withdraw, ...
    """

    position_ras: FloatArray
    volume_ml: float
    note: str = ""


@dataclass(frozen=True)
class Balloon:
    """A cavity along the axis of the trocar, inside the bone: a cylinder with round ends.

    Attributes:
        start_ras, end_ras: ends of the cavity, the end at the tip.
        diameter_mm: the widest that keeps inside the bone and off the nerves, at most that of the balloon.
    """

    start_ras: FloatArray
    end_ras: FloatArray
    diameter_mm: float


@dataclass(frozen=True)
class Biopsy:
    """A sample along the axis before cement: the needle is thrown from `start_ras` to `end_ras`, both in bone."""

    start_ras: FloatArray
    end_ras: FloatArray


@dataclass(frozen=True)
class Accuracy:
    """How far off navigation may put the trocar: standard deviations of each coordinate and about each axis.

    Attributes:
        registration_sd_mm, registration_sd_deg: of the patient, at the target.
        tool_sd_mm, tool_sd_deg: of the trocar's tip and axis in its own frame.
    """

    registration_sd_mm: float = 0.5
    registration_sd_deg: float = 0.5
    tool_sd_mm: float = 0.3
    tool_sd_deg: float = 0.5


@dataclass(frozen=True)
class VolumeOverride:
    """A limit of volume that a person changed.

    Attributes:
        what: "ala" for each side, or "total".
        limit_ml: in place of the usual one.
        reason: in that person's words; goes into the record.
    """

    what: Literal["ala", "total"]
    limit_ml: float
    reason: str


@dataclass(frozen=True)
class Trajectory:
    """A straight trocar from the skin to its target.

    Attributes:
        entry_skin, entry_bone, target: RAS points in mm; the tip ends at the target.
        length_mm: from skin to target.
        clearance_mm: what the shaft's surface keeps at least from each structure, negative inside it.
        accepted: whether every hard limit is kept.
        reasons: why it was refused; empty when accepted.
        depots: where cement goes, in the order of injection, the tip first.
        breach_probability: by structure, that the real shaft enters it, for the plan's accuracy.
        incidence_deg: between the axis and the normal of the cortex at the entry.
        low_density_mm: length of the shaft in bone below 0 HU, where there is nothing to hold cement back.
        view_feasible: whether a C-arm can look down the axis; None when nobody said what it can do.
        lateral_to_s2_mm: of the entry into the bone from the lateral edge of the S2 foramen, the published rule.
        cautions: limits that are preferred and not kept.
        merits: for which it is proposed.
        source: who drew it.
    """

    side: Side
    technique: Technique
    entry_skin: FloatArray
    entry_bone: FloatArray
    target: FloatArray
    needle: Needle
    length_mm: float
    clearance_mm: dict[str, float]
    accepted: bool
    reasons: tuple[str, ...] = ()
    depots: tuple[Depot, ...] = ()
    breach_probability: dict[str, float] = field(default_factory=dict)
    incidence_deg: float | None = None
    low_density_mm: float | None = None
    view_feasible: bool | None = None
    lateral_to_s2_mm: float | None = None
    cautions: tuple[str, ...] = ()
    merits: tuple[Merit, ...] = ()
    biopsy: Biopsy | None = None
    balloon: Balloon | None = None
    source: Source = "search"

    @property
    def outer_diameter_mm(self) -> float:
        return self.needle.outer_diameter_mm

    @property
    def planned_volume_ml(self) -> float:
        """Cement proposed for this trocar, all depots together."""
        return round(sum(depot.volume_ml for depot in self.depots), 2)

    def with_volume(self, volume_ml: float) -> Trajectory:
        """The same with another volume, shared by the depots as before; at the target when there was none."""
        planned = self.planned_volume_ml
        if not planned > 0:
            return replace(self, depots=(Depot(self.target, volume_ml),))
        share = volume_ml / planned
        return replace(self, depots=tuple(replace(item, volume_ml=item.volume_ml * share) for item in self.depots))


@dataclass(frozen=True)
class Plan:
    """Ranked trajectories, best first on each side.

    Attributes:
        image_hash: of the CT that was planned on.
        blocked: by side, why it was refused as a whole, whatever the path; its trajectories are refused for that too.
        confirmed: structures that planning relied on because a person had confirmed them.
        notes: what to know before injecting, such as a fracture line that leads to a foramen.
        technique, needle: as asked for.
        margin_mm, preferred_margin_mm: least clearance, and from where more is not worth more.
        accuracy: stated system error that is kept clear in addition; None when none was stated.
        overrides: limits of volume that a person changed.
        frame_of_reference: DICOM frame of reference UID of the CT; None where the image had none.
    """

    trajectories: tuple[Trajectory, ...]
    image_hash: str
    blocked: dict[Side, tuple[str, ...]] = field(default_factory=dict)
    confirmed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    technique: Technique = "short-axis"
    needle: Needle | None = None
    margin_mm: float = 3.0
    preferred_margin_mm: float = 5.0
    accuracy: Accuracy | None = None
    overrides: tuple[VolumeOverride, ...] = ()
    frame_of_reference: str | None = None
