"""Write and read a synthetic patient: ct.nrrd, bones.nrrd, regions.nrrd and truth.json in one folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.model import Foramen
from ..documents import read_document, write_document
from ..errors import DocumentError
from ..files import staged_directory
from ..geometry import check_rigid
from ..image import read_volume, write_volume
from .make import Phantom
from .parameters import ForamenParameters, PatientParameters
from .patient import Fracture


def write_phantom(phantom: Phantom, folder: Path) -> None:
    """Write the four files, all or none."""
    with staged_directory(Path(folder)) as stage:
        for name in ("ct", "bones", "regions"):
            write_volume(getattr(phantom, name), stage / f"{name}.nrrd")
        write_document(stage / "truth.json", "phantom", _content(phantom))


def read_phantom(folder: Path) -> Phantom:
    """Read what `write_phantom` wrote.

    Raises:
        ImageError, DocumentError, GeometryError: for a file that is missing, damaged or belongs to another patient.
    """
    folder = Path(folder)
    truth = read_document(folder / "truth.json", "phantom")
    ct, bones, regions = (read_volume(folder / f"{name}.nrrd") for name in ("ct", "bones", "regions"))
    if ct.content_hash() != truth["imageHash"]:
        raise DocumentError(f"{folder / 'truth.json'} does not belong to the CT beside it; make the phantom again")
    for name, labels in (("bones", bones), ("regions", regions)):
        if not labels.same_grid(ct):
            raise DocumentError(f"{folder / name}.nrrd is not on the grid of the CT; make the phantom again")
    return Phantom(
        ct=ct,
        bones=bones,
        regions=regions,
        foramina={name: Foramen.from_record(record) for name, record in truth["foramina"].items()},
        landmarks={name: np.array(point, float) for name, point in truth["landmarks"].items()},
        SacrumToRAS=check_rigid(truth["SacrumToRAS"], "SacrumToRAS"),
        fractures=tuple(
            Fracture(
                record["name"],
                np.array(record["point"], float),
                np.array(record["normal"], float),
                record["gapMm"],
                record["wavinessMm"],
            )
            for record in truth["fractures"]
        ),
        si_joint_mm=(truth["siJointMm"]["left"], truth["siJointMm"]["right"]),
        ala_hu=truth["alaHu"],
        noise_hu=truth["noiseHu"],
        fracture=truth["fracturePattern"],
        parameters=_parameters(truth["parameters"]),
    )


def _content(phantom: Phantom) -> dict[str, Any]:
    return {
        "coordinateSystem": "RAS",
        "imageHash": phantom.ct.content_hash(),
        "spacingMm": phantom.ct.spacing_mm,
        "alaHu": phantom.ala_hu,
        "noiseHu": phantom.noise_hu,
        "SacrumToRAS": phantom.SacrumToRAS,
        "siJointMm": dict(zip(("left", "right"), phantom.si_joint_mm, strict=True)),
        "foramina": {name: foramen.record() for name, foramen in phantom.foramina.items()},
        "landmarks": phantom.landmarks,
        "fracturePattern": phantom.fracture,
        "fractures": [
            {
                "name": fracture.name,
                "point": fracture.point_ras,
                "normal": fracture.normal_ras,
                "gapMm": fracture.gap_mm,
                "wavinessMm": fracture.waviness_mm,
            }
            for fracture in phantom.fractures
        ],
        "parameters": asdict(phantom.parameters),
    }


def _parameters(record: dict[str, Any]) -> PatientParameters:
    try:
        foramina = {
            name: ForamenParameters(**{key: _tuple(value) for key, value in entry.items()})
            for name, entry in record["foramina"].items()
        }
        return PatientParameters(**{**{key: _tuple(value) for key, value in record.items()}, "foramina": foramina})
    except TypeError as error:
        raise DocumentError(f"the parameters in truth.json do not fit this program ({error}); make it again") from None


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
