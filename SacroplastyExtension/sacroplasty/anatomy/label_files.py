"""Label maps in files: plain ones, those with a table of names in a NIfTI header, and Slicer's .seg.nrrd."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import AnatomyError
from ..image import Volume, read_itk, volume_from_itk
from .structure_names import KNOWN, structure_of

if TYPE_CHECKING:
    import SimpleITK as sitk

_EXAMPLE = "--mapping 3=sacrum,4=l5,1=hip_left,2=hip_right"
_NIFTI_HEADER_BYTES = 348


@dataclass(frozen=True)
class LabelMap:
    """Labels and what is known of their meaning.

    Attributes:
        volume: whole numbers.
        names: structure by label value; None when the file holds only numbers.
        numbering: in words, where the names come from.
    """

    volume: Volume
    names: dict[int, str] | None
    numbering: str


def parse_mapping(entries: tuple[str, ...]) -> dict[str, str] | None:
    """`("3=sacrum,4=l5", "1=hips")` as label (a number, or a segment's name) to structure; None for no entries.

    Raises:
        AnatomyError: for an entry that is no pair, an unknown structure, or a label that is given twice.
    """
    mapping: dict[str, str] = {}
    for pair in (pair for entry in entries for pair in entry.split(",")):
        label, equals, structure = (part.strip() for part in pair.partition("="))
        if not (label and equals and structure):
            raise AnatomyError(f"--mapping {pair!r} is no LABEL=STRUCTURE; write for example {_EXAMPLE}")
        if structure not in KNOWN:
            raise AnatomyError(f"--mapping {pair}: {structure} is not known; known are {', '.join(KNOWN)}")
        if label in mapping:
            raise AnatomyError(f"--mapping gives label {label} twice: {mapping[label]} and {structure}; choose one")
        mapping[label] = structure
    return mapping or None


def read_label_map(path: Path, mapping: Mapping[str, str] | None = None) -> LabelMap:
    """Read a label map (NIfTI, NRRD, MHA) or a segmentation of 3D Slicer (.seg.nrrd, any number of layers).

    Args:
        mapping: label value, or name of a segment, to structure; see `parse_mapping`. Without it, names that the file
            holds are used where they name a sacrum.

    Raises:
        ImageError: for a file that cannot be read.
        AnatomyError: when the mapping does not fit the file, or no segment is a sacrum.
    """
    path = Path(path)
    image = read_itk(path)
    segments = list(_segments(image))
    if segments:
        return _from_segments(path, image, segments, mapping)
    dimensions, values = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if (dimensions, values) != (3, 1):
        raise AnatomyError(
            f"{path} has {dimensions} dimensions and {values} values per voxel and no segments; give a label map or a "
            ".seg.nrrd"
        )
    volume = volume_from_itk(image)
    if mapping is not None:
        return LabelMap(volume, _numbers(mapping, volume, path), "mapping given")
    names = names_in_nifti(path)
    known = {value: name for value, text in names.items() if (name := structure_of(text)) is not None}
    return LabelMap(volume, known, "names in the file") if "sacrum" in known.values() else LabelMap(volume, None, "")


def names_in_nifti(path: Path) -> dict[int, str]:
    """Label values and names in the header extension that TotalSegmentator and Connectome Workbench write, else {}."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed and path.suffix != ".nii":
        return {}
    with gzip.open(path, "rb") if packed else open(path, "rb") as file:
        header = file.read(_NIFTI_HEADER_BYTES + 4)
        if len(header) < _NIFTI_HEADER_BYTES + 4 or header[_NIFTI_HEADER_BYTES] == 0:
            return {}
        order = "<" if struct.unpack("<i", header[:4])[0] == _NIFTI_HEADER_BYTES else ">"
        voxels_at = int(struct.unpack(f"{order}f", header[108:112])[0])
        extension = file.read(max(voxels_at - len(header), 0))
    found = re.findall(rb'<Label\s[^>]*?Key="(\d+)"[^>]*>(?:<!\[CDATA\[)?([^<\]]*)', extension)
    return {int(key): text.decode("utf-8", "replace").strip() for key, text in found}


def _numbers(mapping: Mapping[str, str], volume: Volume, path: Path) -> dict[int, str]:
    """The mapping with its labels as numbers that the map holds."""
    strange = [label for label in mapping if not label.isdecimal()]
    present = {int(value) for value in np.unique(volume.voxels)} - {0}
    strange += [label for label in mapping if label.isdecimal() and int(label) not in present]
    if strange:
        shown = ", ".join(str(value) for value in sorted(present)[:12]) or "none"
        raise AnatomyError(f"--mapping names the labels {', '.join(strange)}, but {path} holds {shown}")
    return {int(label): structure for label, structure in mapping.items()}


@dataclass(frozen=True)
class _Segment:
    name: str
    value: int
    layer: int
    structure: str | None


def _segments(image: sitk.Image) -> Iterator[_Segment]:
    """Segments as Slicer's .seg.nrrd names them; before layers came, each had a layer of its own with the value 1."""
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.startswith("Segment")}
    numbers = sorted(int(found[1]) for key in fields if (found := re.fullmatch(r"Segment(\d+)_ID", key)))
    for number in numbers:
        start = f"Segment{number}_"
        name = fields.get(f"{start}Name", fields[f"{start}ID"])
        entry = re.search(r"(?:TerminologyEntry|Terminology):([^|]*)", fields.get(f"{start}Tags", ""))
        yield _Segment(
            name,
            int(fields.get(f"{start}LabelValue", 1)),
            int(fields.get(f"{start}Layer", number)),
            structure_of(name, entry[1] if entry else ""),
        )


def _from_segments(
    path: Path, image: sitk.Image, segments: list[_Segment], mapping: Mapping[str, str] | None
) -> LabelMap:
    import SimpleITK as sitk

    meant = {segment.name: segment.structure for segment in segments}
    if mapping is not None:
        strange = sorted(set(mapping) - set(meant))
        if strange:
            raise AnatomyError(
                f"--mapping names the segments {', '.join(strange)}, but {path} holds {', '.join(list(meant)[:12])}"
            )
        meant = {name: mapping.get(name) for name in meant}
    if "sacrum" not in meant.values():
        shown = ", ".join(list(meant)[:12])
        raise AnatomyError(
            f"no segment of {path} is a sacrum; it holds {shown}: give the mapping of its segments, for example "
            '--mapping "Segment 1=sacrum"'
        )
    if image.GetDimension() != 3:
        raise AnatomyError(f"{path} is a segmentation of {image.GetDimension()} dimensions; save it as one of 3")
    layers = sitk.GetArrayFromImage(image)
    layers = layers[..., None] if layers.ndim == 3 else layers
    plain = image if image.GetNumberOfComponentsPerPixel() == 1 else sitk.VectorIndexSelectionCast(image, 0)
    values = {structure: value for value, structure in enumerate(KNOWN, start=1)}
    voxels = np.zeros(layers.shape[:3], np.uint8)
    # Bones go last, from the last known to the first: they win over the canal and over labels of several bones.
    for structure in reversed(KNOWN):
        for segment in segments:
            if meant[segment.name] == structure:
                voxels[layers[..., segment.layer] == segment.value] = values[structure]
    volume = volume_from_itk(plain)
    present = {structure: value for structure, value in values.items() if structure in meant.values()}
    return LabelMap(
        volume.like(voxels),
        {value: structure for structure, value in present.items()},
        "mapping given" if mapping is not None else "names of segments",
    )
