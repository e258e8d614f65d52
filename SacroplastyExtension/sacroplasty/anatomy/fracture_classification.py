"""Names of a fracture that are proposed here and count only once a person has confirmed them.

Denis 1988 (Clin Orthop Relat Res 227:67): the most medial zone that the fracture reaches.

Roy-Camille 1985 (Spine 10:838) for transverse fractures, as told by the tables of the University of Washington's
radiology and of Radiopaedia. Those speak of the lower fragment, here the upper one is meant: 1 bent forwards without
offset, 2 bent forwards and the upper fragment behind, 3 the upper fragment in front.

Rommens and Hofmann 2013 (Injury 44:1733) for fragility fractures of the pelvis (FFP), as told in J Clin Med 14:5122:
I anterior ring alone; II posterior, not displaced (a sacrum without the anterior ring, b crush of the front of the
sacrum with it, c through and through with it); III displaced on one side (c sacrum); IV displaced on both sides
(b spinopelvic: U or H).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import AnatomyError
from ..geometry import invert_rigid, transform_points
from .fracture_model import AnteriorRing, FractureClassification, Judged, MarkedFracture
from .fracture_reach import denis_zone_of, direction_of, side_of, structures_reached
from .fracture_step import cortical_step, front_offset
from .model import Anatomy

_ROMAN = {1: "I", 2: "II", 3: "III"}
ZONES = ("I", "II", "III")
PATTERNS = ("unilateral", "bilateral", "transverse", "T or L", "H or U")
ROY_CAMILLE = ("1", "2", "3")
FFP = ("Ia", "Ib", "II", "IIa", "IIb", "IIc", "III", "IIIa", "IIIb", "IIIc", "IV", "IVa", "IVb", "IVc")
#: Own limit: less than this cannot be told from the shape of the bone and counts as not displaced [mm].
DISPLACED_MM = 2.0
#: Own limit: the front of intact sacra has ridges between the bodies, so smaller offsets mean nothing [mm].
_OFFSET_MM = 3.0

CHOICES: dict[str, tuple[str, ...]] = {
    "denis_zone": ZONES,
    "pattern": PATTERNS,
    "roy_camille": ROY_CAMILLE,
    "ffp": FFP,
}


@dataclass(frozen=True)
class TransverseMeasure:
    """What a person measured at a transverse fracture.

    Attributes:
        kyphosis_deg: bend of the front of the sacrum at the fracture beyond its own curve, positive forwards.
        offset_mm: of the upper fragment, positive backwards.
    """

    kyphosis_deg: float
    offset_mm: float


def classify_fractures(
    fractures: Sequence[MarkedFracture],
    anatomy: Anatomy,
    previous: FractureClassification | None = None,
    transverse: TransverseMeasure | None = None,
) -> FractureClassification:
    """Propose a name for what was marked.

    Args:
        previous: whose answers are kept: the anterior ring, and each confirmed value whose proposal has not changed.
            One whose proposal changed must be confirmed again.
        transverse: measures of a transverse fracture by a person; measured at the front of the label without them.

    Raises:
        AnatomyError: for measures that are not finite.
    """
    if transverse is not None and not np.isfinite([transverse.kyphosis_deg, transverse.offset_mm]).all():
        raise AnatomyError("angle and offset of the transverse fracture must be numbers; measure them again")
    before = previous or FractureClassification()
    if not fractures:
        nothing = Judged(reason="no fracture is marked")
        return FractureClassification(nothing, nothing, nothing, nothing, nothing, before.anterior_ring)
    pattern = _pattern(fractures, anatomy)
    displacement = _kept(_displacement(fractures, anatomy), before.displacement_mm)
    return FractureClassification(
        denis_zone=_kept(_zone(fractures, anatomy), before.denis_zone),
        pattern=_kept(pattern, before.pattern),
        roy_camille=_kept(_roy_camille(fractures, anatomy, transverse), before.roy_camille),
        ffp=_kept(_ffp(pattern, displacement, before.anterior_ring), before.ffp),
        displacement_mm=displacement,
        anterior_ring=before.anterior_ring,
    )


def confirm(classification: FractureClassification, field: str, value: str | float | None) -> FractureClassification:
    """A person's word on one field, the proposed value or another; None takes it back.

    Raises:
        AnatomyError: for a field that there is not, or a value that it cannot have.
    """
    if field == "displacement_mm":
        if value is not None and (isinstance(value, str) or not (np.isfinite(value) and 0 <= value <= 100)):
            raise AnatomyError(f"a displacement of {value!r} is impossible; give millimetres from 0 to 100")
    elif field not in CHOICES:
        raise AnatomyError(f"there is no field {field!r} to confirm; there are {', '.join(CHOICES)}, displacement_mm")
    elif value is not None and value not in CHOICES[field]:
        raise AnatomyError(f"{field} cannot be {value!r}; choose {', '.join(CHOICES[field])}")
    judged: Judged = getattr(classification, field)
    changes: dict[str, Any] = {field: replace(judged, confirmed=value)}
    result = replace(classification, **changes)
    if field in ("pattern", "displacement_mm"):
        # The type follows from these two.
        pattern, displacement = result.pattern, result.displacement_mm
        result = replace(result, ffp=_kept(_ffp(pattern, displacement, result.anterior_ring), result.ffp))
    return result


def answer_anterior_ring(classification: FractureClassification, broken: AnteriorRing | None) -> FractureClassification:
    """What a person saw of the anterior pelvic ring; None takes it back.

    Raises:
        AnatomyError: for any other answer.
    """
    if broken not in ("no", "yes", None):
        raise AnatomyError(f"the anterior ring is broken: yes, no or not asked, but not {broken!r}")
    ffp = _ffp(classification.pattern, classification.displacement_mm, broken)
    if classification.pattern.proposed is None:
        ffp = classification.ffp
    return replace(classification, anterior_ring=broken, ffp=_kept(ffp, classification.ffp))


def _kept(proposal: Judged, before: Judged) -> Judged:
    if before.confirmed is None:
        return proposal
    if proposal.proposed == before.proposed:
        return replace(proposal, confirmed=before.confirmed)
    return replace(proposal, reason=f"{proposal.reason}; was confirmed as {before.confirmed}, confirm again")


def _zone(fractures: Sequence[MarkedFracture], anatomy: Anatomy) -> Judged:
    zones = [denis_zone_of(fracture, anatomy) for fracture in fractures]
    if min(zones) == 0:
        return Judged(reason="part of a fracture lies where no foramen is known, so its zone is unknown")
    highest = max(zones)
    where = f"fracture_{zones.index(highest) + 1}"
    reached: dict[str, float] = {}
    for fracture in fractures:
        reached |= structures_reached(anatomy.bones.ras_of(fracture.voxels_kji), anatomy)
    reason = f"{where} goes furthest towards the middle; reaches {', '.join(reached) or 'neither canal nor foramen'}"
    return Judged(_ROMAN[highest], reason=reason)


def _pattern(fractures: Sequence[MarkedFracture], anatomy: Anatomy) -> Judged:
    vertical: list[str] = []
    across = 0
    for fracture in fractures:
        if direction_of(fracture.normal_ras, anatomy) == "transverse":
            across += 1
        else:
            vertical.append(side_of(anatomy.bones.ras_of(fracture.voxels_kji), anatomy))
    sides = set(vertical)
    reason = f"vertical: {', '.join(sorted(sides)) or 'none'}; transverse: {across}"
    both = {"left", "right"} <= sides
    if across:
        return Judged("H or U" if both else "T or L" if sides else "transverse", reason=reason)
    return Judged("bilateral" if both else "unilateral", reason=reason)


def _displacement(fractures: Sequence[MarkedFracture], anatomy: Anatomy) -> Judged:
    RASToSacrum = invert_rigid(anatomy.SacrumToRAS)
    largest = 0.0
    for fracture in fractures:
        points = transform_points(RASToSacrum, anatomy.bones.ras_of(fracture.voxels_kji))
        normal = RASToSacrum[:3, :3] @ fracture.normal_ras
        largest = max(largest, abs(cortical_step(anatomy, points, normal).step_mm))
    if largest == 0:
        return Judged(0.0, reason="no clear step of the cortex in the sacrum label; a smooth label hides one")
    return Judged(round(largest, 1), reason="largest step of the cortex along a marked line")


def _roy_camille(fractures: Sequence[MarkedFracture], anatomy: Anatomy, measured: TransverseMeasure | None) -> Judged:
    across = [one for one in fractures if direction_of(one.normal_ras, anatomy) == "transverse"]
    if not across:
        return Judged(reason="no transverse fracture is marked")
    if measured is not None:
        offset, source = measured.offset_mm, f"given: {measured.kyphosis_deg:.0f} deg"
    else:
        found = [front_offset(anatomy, one.voxels_kji, one.normal_ras) for one in across]
        known = [value for value in found if value is not None]
        if not known:
            return Judged(reason="the front of the sacrum cannot be followed across the line: measure angle and offset")
        offset, source = max(known, key=abs), "measured at the front of the label; the angle was not"
    if offset >= _OFFSET_MM:
        kind = "2"
    elif offset <= -_OFFSET_MM:
        kind = "3"
    elif measured is not None and measured.kyphosis_deg <= 0:
        return Judged(reason="neither bent forwards nor offset: no type fits")
    else:
        kind = "1"
    where = "behind" if offset >= 0 else "in front"
    return Judged(kind, reason=f"{source}; upper fragment {abs(offset):.1f} mm {where}")


def _ffp(pattern: Judged, displacement: Judged, anterior_ring: AnteriorRing | None) -> Judged:
    shape = pattern.confirmed or pattern.proposed
    offset = displacement.confirmed if displacement.confirmed is not None else displacement.proposed
    if shape is None or offset is None:
        return Judged(reason="pattern or displacement is not known")
    displaced = float(offset) >= DISPLACED_MM
    if shape == "H or U":
        return Judged("IVb", reason="fractures on both sides and across: spinopelvic dissociation")
    if shape == "transverse":
        return Judged(reason="a transverse fracture alone leaves the pelvic ring closed; no type fits")
    if displaced and shape == "bilateral":
        return Judged("IV", reason=f"displaced ({offset} mm) on both sides; the subtype depends on the iliac bones")
    if displaced:
        return Judged("IIIc", reason=f"displaced ({offset} mm) on one side of the sacrum")
    if anterior_ring is None:
        return Judged(reason="not displaced; the type depends on the anterior ring, which must be looked at")
    if anterior_ring == "no" and shape == "bilateral":
        return Judged("II", reason="not displaced, anterior ring whole; IIa is told of one side only")
    if anterior_ring == "no":
        return Judged("IIa", reason="not displaced, anterior ring whole")
    return Judged("II", reason="not displaced, anterior ring broken: b if only the front is crushed, c if all through")
