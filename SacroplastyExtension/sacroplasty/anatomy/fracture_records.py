"""What is said of fractures as plain records, for anatomy.json and for scenes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fracture_model import Evidence, FractureClassification, FractureSuggestion, Judged, MarkedFracture
from .model import Anatomy

#: Keys of the records in a document or a scene.
KEYS = ("fractures", "fracture_suggestions", "fracture_classification")


def fracture_records(anatomy: Anatomy) -> dict[str, Any]:
    """Everything but the fractures' voxels, by the names of `KEYS`."""
    return {
        "fractures": [
            {
                "name": f"fracture_{number}",
                "source": one.source,
                "points_ras": one.points_ras,
                "normal_ras": one.normal_ras,
                "thickness_mm": one.thickness_mm,
            }
            for number, one in enumerate(anatomy.fractures, start=1)
        ],
        "fracture_suggestions": suggestion_records(anatomy.fracture_suggestions),
        "fracture_classification": asdict(anatomy.fracture_classification),
    }


def suggestion_records(suggestions: Sequence[FractureSuggestion]) -> list[dict[str, Any]]:
    """Plain lists and numbers throughout."""
    return [
        {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in asdict(one).items()}
        for one in suggestions
    ]


def suggestions_from(records: Sequence[dict[str, Any]]) -> tuple[FractureSuggestion, ...]:
    """What `suggestion_records` made, after JSON."""
    return tuple(
        FractureSuggestion(
            **{
                **record,
                **{key: np.asarray(record[key], float) for key in ("center_ras", "normal_ras", "along_ras")},
                "extent_mm": (float(record["extent_mm"][0]), float(record["extent_mm"][1])),
                "evidence": tuple(Evidence(**sign) for sign in record["evidence"]),
                "notes": tuple(record["notes"]),
            }
        )
        for record in records
    )


def fracture_from(record: dict[str, Any], mask: NDArray[np.bool_]) -> MarkedFracture:
    """A marked fracture from its record and its voxels on the CT's grid."""
    return MarkedFracture(
        voxels_kji=np.argwhere(mask).astype(np.int32),
        points_ras=np.asarray(record["points_ras"], float).reshape(-1, 3),
        normal_ras=np.asarray(record["normal_ras"], float),
        thickness_mm=float(record["thickness_mm"]),
        source=record["source"],
    )


def classification_from(record: dict[str, Any] | None) -> FractureClassification:
    """A classification from its record; an empty one where a record of an older program has none."""
    if record is None:
        return FractureClassification()
    judged = {
        field.name: Judged(**record[field.name])
        for field in fields(FractureClassification)
        if field.name != "anterior_ring"
    }
    return FractureClassification(**judged, anterior_ring=record["anterior_ring"])
