"""What is said of fractures: suggestions of the program, lines that a person marked, fields to be confirmed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray

EvidenceKind = Literal["cleft", "sclerosis", "cortical_step", "asymmetry"]
Direction = Literal["vertical", "transverse"]
Place = Literal["left", "right", "central"]
Source = Literal["curve", "plane", "suggestion", "segment"]
AnteriorRing = Literal["no", "yes"]

#: Stands wherever suggestions are shown.
SUGGESTION_NOTICE = "Places to look at, not findings: a fracture may be missed, and what is shown may be none."


@dataclass(frozen=True)
class Evidence:
    """One kind of sign in favor of a fracture.

    Attributes:
        strength: 0 to 1.
        value: what was measured: HU for cleft, sclerosis and asymmetry, mm for a cortical step.
    """

    kind: EvidenceKind
    strength: float
    value: float


def evidence_text(sign: Evidence) -> str:
    """A sign in words."""
    return {
        "cleft": f"dark cleft, {sign.value:.0f} HU deep",
        "sclerosis": f"bright band, {sign.value:.0f} HU above the bone beside it",
        "cortical_step": f"step of the cortex, {abs(sign.value):.1f} mm",
        "asymmetry": f"{sign.value:.0f} HU more than at the mirrored place",
    }[sign.kind]


@dataclass(frozen=True)
class FractureSuggestion:
    """A sheet through the sacrum that looks like a fracture to the program. Never a finding.

    Attributes:
        center_ras, normal_ras: of the plane that fits the sheet best.
        along_ras: unit vector in the plane, along which `extent_mm[0]` is measured; `extent_mm[1]` is across it.
        area_mm2: of the sheet, within the bone.
        side: left, right, or central when it crosses the midline.
        denis_zone: 1 to 3, the most medial one that the sheet reaches.
        direction: vertical (along the ala) or transverse (across the bodies).
        score: 0 to 1; a rank, not a probability.
        notes: what speaks against it.
    """

    center_ras: FloatArray
    normal_ras: FloatArray
    along_ras: FloatArray
    extent_mm: tuple[float, float]
    area_mm2: float
    side: Place
    denis_zone: int
    direction: Direction
    score: float
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MarkedFracture:
    """A fracture that a person marked.

    Attributes:
        voxels_kji: (n, 3) indices of its voxels on the CT's grid, inside the sacrum.
        points_ras: (m, 3) what it was marked with: points of the curve, or one point of the plane.
        normal_ras: normal of the plane that fits it best.
        thickness_mm: of the sheet that the voxels stand for.
    """

    voxels_kji: NDArray[np.int32]
    points_ras: FloatArray
    normal_ras: FloatArray
    thickness_mm: float
    source: Source

    def mask(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Its voxels on the CT's grid."""
        mask = np.zeros(shape, bool)
        mask[tuple(self.voxels_kji.T)] = True
        return mask


@dataclass(frozen=True)
class Judged:
    """A value that the program proposes and that counts only once a person has confirmed it, changed or not.

    Attributes:
        proposed: None when nothing can be proposed.
        confirmed: what a person said; None until then.
        reason: why it is proposed, or why nothing is.
    """

    proposed: str | float | None = None
    confirmed: str | float | None = None
    reason: str = ""

    @property
    def value(self) -> str | float | None:
        """What may be relied on: the confirmed value alone."""
        return self.confirmed


@dataclass(frozen=True)
class FractureClassification:
    """How the fractures of one sacrum are named.

    Attributes:
        denis_zone: "I", "II" or "III".
        pattern: "unilateral", "bilateral", "transverse", "T or L", "H or U".
        roy_camille: "1", "2" or "3", of a transverse fracture.
        ffp: type of Rommens and Hofmann, "IIa" ... "IVb".
        displacement_mm: largest offset of the cortex.
        anterior_ring: whether the anterior pelvic ring is broken, which the sacrum does not show; None until asked.
    """

    denis_zone: Judged = field(default_factory=Judged)
    pattern: Judged = field(default_factory=Judged)
    roy_camille: Judged = field(default_factory=Judged)
    ffp: Judged = field(default_factory=Judged)
    displacement_mm: Judged = field(default_factory=Judged)
    anterior_ring: AnteriorRing | None = None
