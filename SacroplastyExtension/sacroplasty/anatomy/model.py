"""What segmentation finds and planning needs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..geometry import FloatArray
from ..image import Volume
from .fracture_model import FractureClassification, FractureSuggestion, MarkedFracture
from .labels import BONE_LABEL, REGION_LABEL
from .quality import QualityReport


@dataclass(frozen=True)
class Landmark:
    """A named point and how far off it is expected to be (root mean square distance)."""

    position_ras: FloatArray
    uncertainty_mm: float


@dataclass(frozen=True)
class Foramen:
    """One sacral foramen: a channel from its anterior to its posterior opening.

    `lateral_edge_ras` is the most lateral point of the posterior rim, from which the entry rule measures.
    """

    anterior_center_ras: FloatArray
    posterior_center_ras: FloatArray
    lateral_edge_ras: FloatArray


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
