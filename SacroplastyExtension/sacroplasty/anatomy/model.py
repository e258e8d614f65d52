"""What segmentation finds and planning needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..geometry import FloatArray
from ..image import Volume
from .fracture_model import FractureClassification, FractureSuggestion, MarkedFracture
from .labels import BONE_LABEL, NERVE_BORDER, REGION_LABEL
from .quality import QualityReport


@dataclass(frozen=True)
class Landmark:
    """A named point and how far off it is expected to be (root mean square distance)."""

    position_ras: FloatArray
    uncertainty_mm: float


@dataclass(frozen=True)
class Opening:
    """Where a foramen opens onto the front or the back of the sacrum.

    Attributes:
        center_ras: middle of the opening, on the surface that the bone would have without it.
        normal_ras: unit vector at a right angle to the rim, out of the bone.
        width_mm, height_mm: of the rim, from side to side and at a right angle to that.
    """

    center_ras: FloatArray
    normal_ras: FloatArray
    width_mm: float
    height_mm: float

    def record(self) -> dict[str, Any]:
        """The opening in a document."""
        return {
            "center_ras": self.center_ras,
            "normal_ras": self.normal_ras,
            "width_mm": self.width_mm,
            "height_mm": self.height_mm,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Opening:
        return cls(
            np.array(record["center_ras"], float),
            np.array(record["normal_ras"], float),
            float(record["width_mm"]),
            float(record["height_mm"]),
        )


@dataclass(frozen=True)
class Foramen:
    """One sacral foramen: a channel from its anterior to its posterior opening.

    `lateral_edge_ras` is the most lateral point of the posterior rim, from which the entry rule measures.
    """

    anterior: Opening
    posterior: Opening
    lateral_edge_ras: FloatArray

    def record(self) -> dict[str, Any]:
        """The foramen in a document."""
        return {
            "anterior": self.anterior.record(),
            "posterior": self.posterior.record(),
            "lateral_edge_ras": self.lateral_edge_ras,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Foramen:
        return cls(
            Opening.from_record(record["anterior"]),
            Opening.from_record(record["posterior"]),
            np.array(record["lateral_edge_ras"], float),
        )


@dataclass(frozen=True)
class Anatomy:
    """Segmented sacrum of one CT.

    Attributes:
        bones: labels of `labels.BONES` on the CT's grid (uint8).
        regions: labels of `labels.REGIONS` on the CT's grid (uint8).
        foramina: by name, `foramen_s1_left` ...; only those found.
        landmarks: by name, `promontory`, `s1_endplate_center`, `asis_left` ...; only those found.
        SacrumToRAS: rigid 4x4 with the axes left, posterior, superior of the sacrum and its origin at the centre
            of the S1 endplate.
        confidence: 0 to 1 for each structure. One that is missing here was not found and counts as forbidden.
        warnings: plain sentences of what a person must check.
        method: how the bones were found.
        image_hash: `Volume.content_hash` of the CT.
        quality: how far all this can be relied on; None when nobody looked.
        confirmed: structures that a person has looked at and found right.
        fractures: those that a person marked, in the order of their names `fracture_1` ...
        fracture_suggestions: places to look at, which nobody has judged.
        fracture_classification: proposals, which count only where a person confirmed them.
    """

    bones: Volume
    regions: Volume
    foramina: dict[str, Foramen]
    landmarks: dict[str, Landmark]
    SacrumToRAS: FloatArray
    confidence: dict[str, float]
    warnings: tuple[str, ...]
    method: str
    image_hash: str
    quality: QualityReport | None = None
    confirmed: frozenset[str] = frozenset()
    fractures: tuple[MarkedFracture, ...] = ()
    fracture_suggestions: tuple[FractureSuggestion, ...] = ()
    fracture_classification: FractureClassification = field(default_factory=FractureClassification)

    def bone(self, name: str) -> np.ndarray:
        """Boolean mask of one bone on the CT's grid."""
        return self.bones.voxels == BONE_LABEL[name]

    def region(self, name: str) -> np.ndarray:
        """Boolean mask of one region on the CT's grid."""
        return self.regions.voxels == REGION_LABEL[name]

    def canal_and_foramina(self) -> np.ndarray:
        """Boolean mask of all of them together, without the border that the image leaves unsure."""
        return (self.regions.voxels > 0) & (self.regions.voxels < REGION_LABEL[NERVE_BORDER])
