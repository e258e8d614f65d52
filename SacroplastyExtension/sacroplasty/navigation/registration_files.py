"""The registration document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..documents import read_document, write_document
from ..errors import CalibrationError
from ..geometry import check_rigid
from ..planning.pose_uncertainty import PoseUncertainty
from .error_model import ellipsoid
from .registration import PatientRegistration, Registration
from .surface_registration import SurfaceRegistration


def registration_record(
    used: PatientRegistration,
    landmarks: Registration | None,
    targets_ras: Mapping[str, ArrayLike],
    image_hash: str,
) -> dict[str, Any]:
    """What a registration document holds.

    Args:
        used: the registration to navigate by.
        landmarks: of the landmarks alone, for their residuals; the same object when nothing else was used.
        targets_ras: by name, where the error matters.
        image_hash: of the CT.
    """
    surface = used if isinstance(used, SurfaceRegistration) else None
    return {
        "coordinateSystem": "RAS",
        "image_hash": image_hash,
        "ReferenceToRAS": used.MovingToFixed,
        "uncertainty": {"center_ras": used.uncertainty.center_ras, "covariance": used.uncertainty.covariance},
        "landmarks": [] if landmarks is None else _landmark_rows(landmarks),
        "landmark_to_redo": None if landmarks is None else landmarks.redo,
        "surface": surface
        and {
            "points": len(surface.used),
            "used": int(surface.used.sum()),
            "rms_mm": surface.rms_mm,
            "starts_agreeing": surface.starts_agreeing,
        },
        "targets": [
            {
                "name": name,
                "target_ras": np.asarray(target, float),
                "predicted_error_mm": used.predicted_tre_mm(target),
                "radii_95_mm": ellipsoid(used.uncertainty.covariance_at(target)).radii_mm,
            }
            for name, target in targets_ras.items()
        ],
        "warnings": used.warnings,
    }


def _landmark_rows(landmarks: Registration) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "residual_mm": residual,
            "left_out_mm": left_out if np.isfinite(left_out) else None,
            "error_mm": error,
        }
        for name, residual, left_out, error in zip(
            landmarks.names,
            landmarks.residuals_mm.tolist(),
            landmarks.leave_one_out_mm.tolist(),
            landmarks.fle_mm.tolist(),
            strict=True,
        )
    ]


def write_registration(record: Mapping[str, Any], path: Path) -> None:
    """Write a registration, whole or not at all."""
    write_document(Path(path), "registration", dict(record))


def read_registration(path: Path, image_hash: str | None = None) -> PatientRegistration:
    """Read a registration to navigate by.

    Args:
        image_hash: `Volume.content_hash` of the CT that is loaded, to refuse another patient's registration.

    Raises:
        DocumentError, GeometryError: for a file that is no registration.
        CalibrationError: for a registration to another CT.
    """
    record = read_document(Path(path), "registration")
    if image_hash is not None and record["image_hash"] != image_hash:
        raise CalibrationError(f"{path} registers the patient to another CT; register to this one")
    uncertainty = record["uncertainty"]
    return PatientRegistration(
        MovingToFixed=check_rigid(record["ReferenceToRAS"], f"ReferenceToRAS of {path}"),
        uncertainty=PoseUncertainty(np.array(uncertainty["center_ras"], float), np.array(uncertainty["covariance"])),
        warnings=tuple(record["warnings"]),
    )
