"""Real X-ray images: DICOM XA and RF, one frame or many, and plain image files with a geometry beside them.

A DICOM header tells how the C-arm is turned against the patient and how far source and detector are apart, never where
its isocenter lies in the CT: that must be given, or come from a registration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import GeometryError, ImageError
from .geometry import CArm, XrayGeometry

#: X-Ray Angiographic and X-Ray Radiofluoroscopic Image Storage.
_CLASSES = {"1.2.840.10008.5.1.4.1.1.12.1": "XA", "1.2.840.10008.5.1.4.1.1.12.2": "RF"}
_PREAMBLE = 128
_PLAIN = (".png", ".tif", ".tiff", ".mha", ".nrrd")

#: What a geometry needs, in the header of an XA or RF image.
_NEEDED = (
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "ImagerPixelSpacing",
    "PositionerPrimaryAngle",
    "PositionerSecondaryAngle",
)


@dataclass(frozen=True)
class XrayImage:
    """Frames of an X-ray, seen from behind the detector, as the geometry record has them.

    Attributes:
        frames: (frames, rows, columns) as stored, larger values brighter; without overlay planes.
        geometry: where the C-arm stood, the same for all frames; None when it is not known.
        geometry_missing: why it is not known; empty when it is.
        frame_times_s: of each frame since the first; empty when unknown.
        signal: `linear` to the dose, `logarithmic`, `displayed` (processed for the eye: no line integrals follow from
            it), or `unknown`.
        notes: what the reader did or what to beware of, one line each.
    """

    frames: NDArray
    geometry: XrayGeometry | None
    geometry_missing: str
    frame_times_s: tuple[float, ...]
    signal: str
    notes: tuple[str, ...]


def read_xray(
    path: Path,
    geometry: XrayGeometry | None = None,
    isocenter_ras: ArrayLike | None = None,
    seen_from_source: bool = False,
) -> XrayImage:
    """Read a DICOM XA or RF image, or a plain one (PNG, TIFF, MHA, NRRD).

    Args:
        geometry: where the C-arm stood; goes before what a header says.
        isocenter_ras: the RAS point in the middle of the beam, without which a header gives no geometry.
        seen_from_source: whether the file shows the patient as seen from the source, so that its columns are mirrored
            here to fit the record. A C-arm with the tube under a prone patient shows the patient's right on the right
            in an image seen from the detector, above; many are set to show it the other way round.

    Raises:
        ImageError: for a file that is no such image, is of several colors, or cannot be decoded.
        GeometryError: for a geometry that does not fit the image, or a header no C-arm can have.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(_PREAMBLE + 4)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from None
    is_dicom = start[_PREAMBLE:] == b"DICM"
    image = _read_dicom(path, isocenter_ras) if is_dicom else _read_plain(path)
    frames = image.frames
    if seen_from_source:
        frames = mirror_columns(frames)
    rows, columns = frames.shape[1:]
    missing = image.geometry_missing
    if geometry is not None:
        geometry, missing = _fitted(geometry.check(), columns, rows, path), ""
    return XrayImage(
        frames,
        geometry or image.geometry,
        missing,
        image.frame_times_s,
        image.signal,
        image.notes + (("columns mirrored: given as seen from the source",) if seen_from_source else ()),
    )


def mirror_columns(pixels: NDArray) -> NDArray:
    """Images (..., rows, columns) seen from the source as seen from behind the detector, and back."""
    return np.ascontiguousarray(pixels[..., ::-1])


def geometry_from_tags(tags: Mapping[str, Any], isocenter_ras: ArrayLike) -> XrayGeometry:
    """The geometry of DICOM attributes by keyword, head up in the image, beam through its middle.

    Args:
        tags: DistanceSourceToDetector, DistanceSourceToPatient (to the isocenter), ImagerPixelSpacing (rows, columns),
            PositionerPrimaryAngle, PositionerSecondaryAngle, Rows, Columns.

    Raises:
        GeometryError: naming what is missing or impossible.
    """
    missing = [name for name in (*_NEEDED, "Rows", "Columns") if tags.get(name) in (None, "")]
    if missing:
        raise GeometryError(f"the DICOM header lacks {', '.join(missing)}; give a geometry file")
    try:
        v, u = (float(value) for value in tags["ImagerPixelSpacing"])
        detector, isocenter, primary, secondary = (
            float(tags[name]) for name in _NEEDED if name != "ImagerPixelSpacing"
        )
        columns, rows = int(tags["Columns"]), int(tags["Rows"])
    except (TypeError, ValueError) as error:
        raise GeometryError(f"the geometry in the DICOM header cannot be read: {error}") from None
    if not 0 < isocenter < detector:
        raise GeometryError(
            f"the DICOM header puts the patient {isocenter:g} mm and the detector {detector:g} mm from the source"
        )
    c_arm = CArm(detector, isocenter, (columns, rows), (u, v))
    return c_arm.at_positioner_angles(isocenter_ras, primary, secondary)


def tags_of_geometry(geometry: XrayGeometry, source_to_isocenter_mm: float) -> dict[str, Any]:
    """The DICOM attributes, by keyword, that `geometry_from_tags` reads.

    They hold neither the isocenter, nor how the image is turned about the beam, nor a beam beside the middle.

    Raises:
        GeometryError: for a geometry of the last two kinds, which would come back as another.
    """
    primary, secondary = geometry.positioner_angles_deg
    u, v = geometry.pixel_spacing_mm
    columns, rows = geometry.detector_pixels
    tags = {
        "DistanceSourceToDetector": geometry.source_in_detector_mm[2],
        "DistanceSourceToPatient": source_to_isocenter_mm,
        "ImagerPixelSpacing": [v, u],
        "PositionerPrimaryAngle": primary,
        "PositionerSecondaryAngle": secondary,
        "Rows": rows,
        "Columns": columns,
    }
    isocenter = geometry.source_ras + source_to_isocenter_mm * geometry.view_direction_ras
    back = geometry_from_tags(tags, isocenter)
    if np.abs(back.pixel_ras([[0, 0], [columns, rows]]) - geometry.pixel_ras([[0, 0], [columns, rows]])).max() > 0.1:
        raise GeometryError("DICOM tags cannot hold this geometry: its beam is off the middle, or the head is not up")
    return tags


def _read_dicom(path: Path, isocenter_ras: ArrayLike | None) -> XrayImage:
    try:
        import pydicom
    except ImportError:
        raise ImageError(f"{path} is DICOM, which needs the package pydicom; 3D Slicer brings it") from None
    try:
        dataset = pydicom.dcmread(path)
        kind = dataset.get("SOPClassUID")
        if kind not in _CLASSES:
            name = getattr(kind, "name", kind) or "of no named kind"
            raise ImageError(f"{path} is {name}; X-rays are read from X-Ray Angiographic and Radiofluoroscopic images")
        frames = np.asarray(dataset.pixel_array)
    except ImageError:
        raise
    except Exception as error:  # pydicom and its decoders raise whatever they meet in a damaged file.
        raise ImageError(f"{path} cannot be decoded: {' '.join(str(error).split())}") from None
    if dataset.get("SamplesPerPixel", 1) != 1:
        raise ImageError(f"{path} is in color; an X-ray has one value per pixel")
    frames = frames.reshape(-1, *frames.shape[-2:])
    notes = []
    bits = int(dataset.BitsStored)  # pydicom has cleared those above, where old scanners keep overlays
    planes = sorted({element.tag.group for element in dataset if 0x6000 <= element.tag.group <= 0x60FF})
    if planes:
        notes.append(f"{len(planes)} overlay plane{'s' * (len(planes) > 1)} dropped, which may name the patient")
    if dataset.get("BurnedInAnnotation") == "YES":
        notes.append("beware: text is burned into the pixels and may name the patient")
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        top = (1 << bits) - 1 if int(dataset.PixelRepresentation) == 0 else -1
        frames = frames.dtype.type(top) - frames
        notes.append("inverted: stored with bright as low")
    signal = {"LIN": "linear", "LOG": "logarithmic", "DISP": "displayed"}.get(
        str(dataset.get("PixelIntensityRelationship", "")), "unknown"
    )
    geometry, missing = None, ""
    try:
        geometry = _geometry_of_header(dataset, isocenter_ras)
    except GeometryError as error:
        missing = str(error)
    return XrayImage(frames, geometry, missing, _times_s(dataset, len(frames)), signal, tuple(notes))


def _geometry_of_header(dataset: Any, isocenter_ras: ArrayLike | None) -> XrayGeometry:
    if dataset.get("PositionerMotion") == "DYNAMIC":
        raise GeometryError("the C-arm moved during the run; give a geometry file for each frame")
    if dataset.get("FieldOfViewHorizontalFlip") == "YES" or float(dataset.get("FieldOfViewRotation") or 0) != 0:
        raise GeometryError("the header says that the image was flipped or turned; give a geometry file")
    tags = {name: dataset.get(name) for name in (*_NEEDED, "Rows", "Columns")}
    # What the header lacks is told first: no isocenter would help then.
    geometry = geometry_from_tags(tags, (0, 0, 0) if isocenter_ras is None else isocenter_ras)
    if isocenter_ras is None:
        raise GeometryError("a DICOM header does not say where the isocenter lies in the CT; give it, or register")
    return geometry


def _times_s(dataset: Any, count: int) -> tuple[float, ...]:
    steps_ms = dataset.get("FrameTimeVector")
    if steps_ms is not None and count > 1 and len(steps_ms) == count:
        return tuple(float(time) / 1000 for time in np.cumsum([0.0, *(float(step) for step in steps_ms[1:])]))
    step_ms = dataset.get("FrameTime")
    if step_ms not in (None, "") and float(step_ms) > 0:
        return tuple(number * float(step_ms) / 1000 for number in range(count))
    return ()


def _read_plain(path: Path) -> XrayImage:
    import SimpleITK as sitk

    if path.suffix.lower() not in _PLAIN:
        raise ImageError(f"{path} is neither DICOM nor {', '.join(_PLAIN)}; export the X-ray as one of these")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        raise ImageError(f"{path} cannot be decoded; copy or export it again") from None
    pixels = sitk.GetArrayFromImage(image)
    notes: tuple[str, ...] = ()
    if image.GetNumberOfComponentsPerPixel() > 1:
        if (pixels[..., :3] != pixels[..., :1]).any():
            raise ImageError(f"{path} is in color; an X-ray has one value per pixel")
        pixels, notes = pixels[..., 0], ("stored as color, all channels alike",)
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    return XrayImage(pixels, None, f"{path.name} says nothing of the C-arm; give a geometry file", (), "unknown", notes)


def _fitted(geometry: XrayGeometry, columns: int, rows: int, path: Path) -> XrayGeometry:
    """The geometry in the image's pixels, if both have one shape."""
    fitted = geometry if geometry.detector_pixels[0] == columns else geometry.resampled(columns)
    if fitted.detector_pixels != (columns, rows):
        raise GeometryError(
            f"{path} has {columns} x {rows} pixels, the geometry a detector of {geometry.detector_pixels[0]} x "
            f"{geometry.detector_pixels[1]}: they do not belong together"
        )
    return fitted
