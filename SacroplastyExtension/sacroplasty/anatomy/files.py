"""The segmentation folder: CT, bones, regions, a Slicer segmentation and the anatomy document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..documents import read_document, write_document
from ..errors import AnatomyError
from ..files import staged_directory
from ..geometry import check_rigid
from ..image import Volume, itk_from_volume, read_ct, read_volume, write_itk, write_volume
from .fracture_records import classification_from, fracture_from, fracture_records, suggestions_from
from .labels import BONE_LABEL, NERVE_BORDER, REGION_LABEL
from .model import Anatomy, Foramen, Landmark
from .quality import quality_as_record, quality_of_record

_BONE_COLOR = (0.945, 0.839, 0.569)
_COLORS = {"sacral_canal": (0.957, 0.839, 0.192), NERVE_BORDER: (0.99, 0.75, 0.45), "l5": (0.8, 0.75, 0.6)}
_FORAMEN_COLOR, _ALA_COLOR, _BODY_COLOR = (0.9, 0.2, 0.2), (0.4, 0.7, 0.9), (0.75, 0.65, 0.5)
_FRACTURE_COLOR = (0.85, 0.2, 0.2)
#: Voxels of marked fractures, n for `fracture_n`; where two cross, the first.
_FRACTURES_FILE = "fractures.nrrd"


def write_anatomy(anatomy: Anatomy, ct: Volume, folder: Path) -> None:
    """Write ct.nrrd, bones.nrrd, regions.nrrd, segmentation.seg.nrrd and anatomy.json, all or none.

    Where a person marked fractures, fractures.nrrd as well.

    Raises:
        AnatomyError: when the anatomy was found in another CT.
    """
    if ct.content_hash() != anatomy.image_hash:
        raise AnatomyError("this anatomy was found in another CT; segment this one")
    with staged_directory(folder) as stage:
        write_volume(ct, stage / "ct.nrrd")
        write_volume(anatomy.bones, stage / "bones.nrrd")
        write_volume(anatomy.regions, stage / "regions.nrrd")
        if anatomy.fractures:
            write_volume(anatomy.bones.like(_fracture_labels(anatomy)), stage / _FRACTURES_FILE)
        _write_segmentation(anatomy, stage / "segmentation.seg.nrrd")
        write_document(stage / "anatomy.json", "anatomy", _content(anatomy))


def read_anatomy(folder: Path) -> Anatomy:
    """Read what `write_anatomy` wrote.

    Raises:
        DocumentError, ImageError: for files that are missing or damaged.
        AnatomyError: when the label maps do not belong together.
    """
    folder = Path(folder)
    if not (folder / "anatomy.json").is_file():
        raise AnatomyError(f"{folder} holds no anatomy.json; make one with: sacroplasty segment CT --out {folder}")
    record = read_document(folder / "anatomy.json", "anatomy")
    bones, regions = read_volume(folder / "bones.nrrd"), read_volume(folder / "regions.nrrd")
    if not bones.same_grid(regions):
        raise AnatomyError(f"bones.nrrd and regions.nrrd in {folder} have different grids; segment the CT again")
    for name, volume, known in (("bones", bones, BONE_LABEL), ("regions", regions, REGION_LABEL)):
        strange = sorted(set(np.unique(volume.voxels).tolist()) - {0, *known.values()})
        if strange:
            raise AnatomyError(f"{folder / name}.nrrd holds labels that are not known: {strange[:8]}")
    marked = record.get("fractures", [])
    labels = _read_fracture_labels(folder, bones, len(marked)) if marked else np.zeros(0)
    return Anatomy(
        bones=bones.like(bones.voxels.astype(np.uint8)),
        regions=regions.like(regions.voxels.astype(np.uint8)),
        foramina={name: Foramen.from_record(entry) for name, entry in record["foramina"].items()},
        landmarks={
            name: Landmark(np.array(entry["position_ras"], float), float(entry["uncertainty_mm"]))
            for name, entry in record["landmarks"].items()
        },
        SacrumToRAS=check_rigid(record["SacrumToRAS"], "SacrumToRAS"),
        confidence={name: float(value) for name, value in record["confidence"].items()},
        warnings=tuple(record["warnings"]),
        method=record["method"],
        image_hash=record["image_hash"],
        quality=quality_of_record(record["quality"]) if record.get("quality") else None,
        confirmed=frozenset(record.get("confirmed", ())),
        fractures=tuple(fracture_from(one, labels == number) for number, one in enumerate(marked, start=1)),
        fracture_suggestions=suggestions_from(record.get("fracture_suggestions", ())),
        fracture_classification=classification_from(record.get("fracture_classification")),
    )


def read_segmented_ct(folder: Path, anatomy: Anatomy) -> Volume:
    """The CT in a segmentation folder, if the anatomy was found in it.

    Raises:
        AnatomyError: when ct.nrrd is another image.
    """
    ct = read_ct(Path(folder) / "ct.nrrd")
    if ct.content_hash() != anatomy.image_hash:
        raise AnatomyError(
            f"{Path(folder) / 'ct.nrrd'} is not the CT that anatomy.json was made from; segment it again"
        )
    return ct


def _content(anatomy: Anatomy) -> dict:
    return {
        "coordinateSystem": "RAS",
        "image_hash": anatomy.image_hash,
        "method": anatomy.method,
        "SacrumToRAS": anatomy.SacrumToRAS,
        "foramina": {name: foramen.record() for name, foramen in anatomy.foramina.items()},
        "landmarks": {
            name: {"position_ras": landmark.position_ras, "uncertainty_mm": landmark.uncertainty_mm}
            for name, landmark in anatomy.landmarks.items()
        },
        "confidence": anatomy.confidence,
        "warnings": list(anatomy.warnings),
        "quality": None if anatomy.quality is None else quality_as_record(anatomy.quality),
        "confirmed": sorted(anatomy.confirmed),
        **fracture_records(anatomy),
    }


def _fracture_labels(anatomy: Anatomy) -> NDArray[np.uint8]:
    labels = np.zeros(anatomy.bones.voxels.shape, np.uint8)
    for number, fracture in reversed(list(enumerate(anatomy.fractures, start=1))):
        labels[tuple(fracture.voxels_kji.T)] = number
    return labels


def _read_fracture_labels(folder: Path, bones: Volume, count: int) -> NDArray:
    labels = read_volume(folder / _FRACTURES_FILE)
    if not labels.same_grid(bones):
        raise AnatomyError(f"{folder / _FRACTURES_FILE} has another grid than bones.nrrd; segment the CT again")
    missing = sorted(set(range(1, count + 1)) - set(np.unique(labels.voxels).tolist()))
    if missing:
        raise AnatomyError(f"{folder / _FRACTURES_FILE} lacks fracture_{missing[0]}, which anatomy.json names")
    return labels.voxels


def _write_segmentation(anatomy: Anatomy, path: Path) -> None:
    """Label layers in Slicer's .seg.nrrd format, so that a region may lie inside a bone and a fracture inside both.

    Layer 0 holds bones, layer 1 regions, layer 2 marked fractures if there are any. Fields as documented in Slicer's
    user guide on segmentation files.
    """
    import SimpleITK as sitk

    layers = np.stack([anatomy.bones.voxels, anatomy.regions.voxels])
    if anatomy.fractures:
        layers = np.concatenate([layers, _fracture_labels(anatomy)[None]])
    image = itk_from_volume(anatomy.bones)
    # Slicer wants the layers as the fastest axis of kind "list": components of each voxel.
    vector = sitk.GetImageFromArray(np.moveaxis(layers, 0, -1), isVector=True)
    vector.CopyInformation(image)
    segments = [(name, label, 0) for name, label in BONE_LABEL.items()]
    segments += [(name, label, 1) for name, label in REGION_LABEL.items()]
    segments += [(f"fracture_{number}", number, 2) for number in range(1, len(anatomy.fractures) + 1)]
    present = [(name, label, layer) for name, label, layer in segments if (layers[layer] == label).any()]
    size = vector.GetSize()
    vector.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    vector.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    vector.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    for number, (name, label, layer) in enumerate(present):
        fields = {
            "ID": name,
            "Name": name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{part:.3f}" for part in _color(name)),
            "ColorAutoGenerated": "0",
            "Extent": f"0 {size[0] - 1} 0 {size[1] - 1} 0 {size[2] - 1}",
            "LabelValue": str(label),
            "Layer": str(layer),
            "Tags": "|",
        }
        for field, value in fields.items():
            vector.SetMetaData(f"Segment{number}_{field}", value)
    write_itk(vector, path)


def _color(name: str) -> tuple[float, float, float]:
    if name in _COLORS:
        return _COLORS[name]
    kinds = {"foramen": _FORAMEN_COLOR, "ala": _ALA_COLOR, "body": _BODY_COLOR, "fracture": _FRACTURE_COLOR}
    return kinds.get(name.split("_")[0], _BONE_COLOR)
