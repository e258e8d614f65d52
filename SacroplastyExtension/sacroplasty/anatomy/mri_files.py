"""The files of an MRI laid on the CT: mri_to_ct.json and oedema.nrrd in the segmentation folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..documents import read_document, write_document
from ..errors import AnatomyError
from ..geometry import FloatArray, check_rigid
from ..image import Volume, write_volume
from .mri_registration import MRIRegistration
from .oedema import Oedema

#: Labels of oedema.nrrd.
OEDEMA_LABEL = {"oedema_left": 1, "oedema_right": 2}


def write_mri(folder: Path, ct: Volume, mri: Volume, registration: MRIRegistration, oedema: Oedema | None) -> None:
    """Write mri_to_ct.json and, when oedema was looked for, oedema.nrrd on the CT's grid.

    For all or none, call it on a staged folder.
    """
    folder = Path(folder)
    write_document(folder / "mri_to_ct.json", "mri_to_ct", mri_record(ct.content_hash(), mri, registration, oedema))
    if oedema is not None:
        labels = np.zeros(ct.voxels.shape, np.uint8)
        for name, mask in oedema.masks.items():
            labels[mask] = OEDEMA_LABEL[name]
        write_volume(ct.like(labels), folder / "oedema.nrrd")


def read_mri_to_ct(path: Path, ct: Volume, mri: Volume) -> FloatArray:
    """MRIToCT of a file, if it was made of these two images.

    Raises:
        DocumentError: for a file that is missing or damaged.
        AnatomyError: when it belongs to another CT or MRI.
        GeometryError: when its transform is not rigid.
    """
    record = read_document(path, "mri_to_ct")
    for name, key, volume in (("CT", "image_hash", ct), ("MRI", "mri_hash", mri)):
        if record[key] != volume.content_hash():
            raise AnatomyError(f"{path} was made with another {name}; register this one")
    return check_rigid(record["MRIToCT"], "MRIToCT")


def mri_record(image_hash: str, mri: Volume, registration: MRIRegistration, oedema: Oedema | None) -> dict[str, Any]:
    """What the document and the scene keep of a registration."""
    record: dict[str, Any] = {
        "coordinateSystem": "RAS",
        "image_hash": image_hash,
        "mri_hash": mri.content_hash(),
        "MRIToCT": registration.MRIToCT,
        "start": registration.start,
        "information_nats": registration.information,
        "information_elsewhere_nats": registration.information_elsewhere,
        "disagreement_mm": registration.disagreement_mm,
        "covered": registration.covered,
        "moved_mm": registration.moved_mm,
        "turned_deg": registration.turned_deg,
        "warnings": [*registration.warnings, *(oedema.warnings if oedema else ())],
    }
    if oedema is not None:
        record["oedema"] = {
            "volumes_ml": oedema.volumes_ml,
            "reference": oedema.reference,
            "reference_signal": oedema.reference_signal,
            "threshold": oedema.threshold,
        }
    return record


def mri_summary(registration: MRIRegistration | None, oedema: Oedema | None) -> tuple[list[str], dict[str, Any]]:
    """Lines for a person and JSON for a program; both empty without a registration."""
    if registration is None:
        return [], {}
    lines = [
        f"MRI moved by {registration.moved_mm:.1f} mm and {registration.turned_deg:.1f}° against its header; the parts "
        f"of the pelvis disagree by {registration.disagreement_mm:.1f} mm"
    ]
    content: dict[str, Any] = {
        "MRIToCT": registration.MRIToCT.tolist(),
        "disagreement_mm": registration.disagreement_mm,
    }
    warnings = registration.warnings
    if oedema is not None:
        lines.append(", ".join(f"{name.replace('_', ' ')} {ml:.1f} mL" for name, ml in oedema.volumes_ml.items()))
        content["oedema_ml"] = oedema.volumes_ml
        warnings += oedema.warnings
    content["warnings"] = list(warnings)
    return [*lines, *(f"Check: {warning}" for warning in warnings)], {"mri": content}
