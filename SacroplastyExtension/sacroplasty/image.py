"""Volumes in memory, and the only place where image files turn from LPS into RAS."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ImageError
from .files import atomic_file
from .geometry import FloatArray, LPSToRAS, transform_points
from .image_files import measure

if TYPE_CHECKING:
    import SimpleITK as sitk

#: A CT must show at least this much of the body for a pelvis to be in it [mm].
_SMALLEST_EXTENT_MM = 60.0
_LARGEST_EXTENT_MM = 2500.0
_FEWEST_SLICES = 5
_DICOM_POSITION = "0020|0032"
_DICOM_ORIENTATION = "0020|0037"
#: Direction cosines of slices of one volume differ by their decimals only.
_SAME_DIRECTION = 1e-3
#: More than decimals give, and nothing against the planning margins.
_LARGEST_SHEAR_MM = 0.5


@dataclass(frozen=True)
class Volume:
    """A scalar image: `voxels[k, j, i]` (slices, rows, columns) and the 4x4 `IJKToRAS` in mm.

    Any orientation is allowed, oblique and left-handed ones too.
    """

    voxels: NDArray
    IJKToRAS: FloatArray

    @property
    def spacing_mm(self) -> FloatArray:
        """Voxel size along i, j, k."""
        return np.linalg.norm(self.IJKToRAS[:3, :3], axis=0)

    @property
    def voxel_volume_ml(self) -> float:
        return float(abs(np.linalg.det(self.IJKToRAS[:3, :3])) / 1000)

    @property
    def RASToIJK(self) -> FloatArray:
        return np.linalg.inv(self.IJKToRAS).astype(np.float64)

    def ras_of(self, indices_kji: ArrayLike) -> FloatArray:
        """RAS points (n, 3) of voxel indices (n, 3) in array order k, j, i."""
        return transform_points(self.IJKToRAS, np.asarray(indices_kji, float)[..., ::-1])

    def kji_of(self, points_ras: ArrayLike) -> FloatArray:
        """Continuous voxel indices (..., 3) in array order k, j, i of RAS points."""
        return transform_points(self.RASToIJK, points_ras)[..., ::-1]

    def like(self, voxels: NDArray) -> Volume:
        """Other voxels on the same grid."""
        if voxels.shape != self.voxels.shape:
            raise ValueError(f"shape {voxels.shape} does not fit the grid {self.voxels.shape}")
        return replace(self, voxels=voxels)

    def same_grid(self, other: Volume, tolerance_mm: float = 0.01) -> bool:
        if self.voxels.shape != other.voxels.shape:
            return False
        corner = np.array([[0, 0, 0], np.array(self.voxels.shape) - 1])
        return bool(np.abs(self.ras_of(corner) - other.ras_of(corner)).max() <= tolerance_mm)

    def content_hash(self) -> str:
        """SHA-256 over voxels and geometry: tells whether a plan belongs to this very image."""
        digest = hashlib.sha256(np.ascontiguousarray(self.voxels).tobytes())
        digest.update((np.round(self.IJKToRAS, 4) + 0.0).tobytes())  # -0.0 and 0.0 are one place
        return digest.hexdigest()


def crop(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """The part of a volume within slices (k, j, i), at its place."""
    IJKToRAS = volume.IJKToRAS.copy()
    IJKToRAS[:3, 3] = volume.ras_of([part.start or 0 for part in box])
    return Volume(volume.voxels[box], IJKToRAS)


def box_around(mask: NDArray, margin_voxels: ArrayLike = 0) -> tuple[slice, slice, slice] | None:
    """The smallest box of indices (k, j, i) around all voxels that are not zero, with room around; None without any.

    Args:
        margin_voxels: room along k, j, i, or the same along all; it ends at the border of the image.
    """
    # The long reduction once; the other two on what it leaves.
    columns = np.any(mask, axis=0)
    if not np.any(columns):
        return None
    rows, across = (_span(np.any(columns, axis=axis)) for axis in (1, 0))
    spans = _span(np.any(mask[:, rows, across], axis=(1, 2))), rows, across
    margins = np.broadcast_to(margin_voxels, 3).astype(int).tolist()
    slices, rows, across = (
        slice(max(span.start - margin, 0), min(span.stop + margin, length))
        for span, margin, length in zip(spans, margins, mask.shape, strict=True)
    )
    return slices, rows, across


def _span(used: NDArray) -> slice:
    """From the first to the last that is not zero."""
    index = np.flatnonzero(used)
    return slice(int(index[0]), int(index[-1]) + 1)


def read_volume(path: Path, series: str | None = None, modality: str = "CT") -> Volume:
    """Read NIfTI, NRRD, MHA or a DICOM folder.

    Args:
        series: which DICOM series instance UID of the folder, needed when it holds several.
        modality: that a DICOM folder must hold, `CT` or `MR`.

    Raises:
        ImageError: for anything that is no complete three-dimensional scalar image.
    """
    image = read_itk(path, series, modality)
    dimensions, values = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if (dimensions, values) != (3, 1):
        raise ImageError(f"{path} has {dimensions} dimensions and {values} values per voxel; a volume has 3 and 1")
    return volume_from_itk(image)


def read_ct(path: Path, series: str | None = None) -> Volume:
    """Read a volume and check that the procedure can be planned on it.

    Raises:
        ImageError: saying what is wrong with the file and what to do.
    """
    volume = read_volume(path, series)
    check_ct(volume, str(path))
    return volume


def check_ct(volume: Volume, where: str) -> None:
    """Raise ImageError unless the volume can be a pelvic CT in Hounsfield units."""
    check_whole(volume, where, _FEWEST_SLICES)
    voxels = volume.voxels
    extent = volume.spacing_mm * voxels.shape[::-1]
    if extent.max() < _SMALLEST_EXTENT_MM or extent.max() > _LARGEST_EXTENT_MM:
        raise ImageError(
            f"{where} measures {' x '.join(f'{length:.3g}' for length in extent)} mm; a pelvis does not fit: "
            "is its voxel size given in another unit than mm?"
        )
    low, middle, high = np.percentile(voxels, [1, 50, 99.9])
    if low > -200 or middle > 400 or high < 200:
        hint = "stored without the rescale offset" if low >= 0 and high > 1000 else "not a CT"
        raise ImageError(
            f"{where} does not hold Hounsfield units (1 % below {low:.0f}, median {middle:.0f}, 0.1 % above "
            f"{high:.0f}): {hint}? Air is -1000, soft tissue about 0, bone above 200"
        )


def check_whole(volume: Volume, where: str, fewest_slices: int) -> None:
    """Raise ImageError unless the volume has slices enough, a possible grid, and numbers only."""
    voxels = volume.voxels
    if min(voxels.shape) < fewest_slices:
        raise ImageError(f"{where} has only {min(voxels.shape)} slices; load the whole series, not a localizer")
    if not np.isfinite(volume.IJKToRAS).all() or abs(np.linalg.det(volume.IJKToRAS[:3, :3])) < 1e-9:
        raise ImageError(f"{where} has an impossible voxel size or orientation; export it again from the scanner")
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        count = int(np.count_nonzero(~np.isfinite(voxels)))
        first = np.argwhere(~np.isfinite(voxels))[0]
        raise ImageError(f"{where} holds {count} voxels that are no numbers (NaN), first at k, j, i = {first.tolist()}")


def read_itk(path: Path, series: str | None = None, modality: str = "CT") -> sitk.Image:
    """Read an image file or a DICOM folder of any number of dimensions (LPS), whole or not at all.

    Raises:
        ImageError: for a file of an unknown kind, cut off or damaged, and for a DICOM series that is no straight stack.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path} does not exist; check the path")
    if series is not None and not path.is_dir():
        raise ImageError(f"{path} is a file; a series ({series}) is chosen from the folder of a DICOM study")
    warns = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what matters of it is refused here, in words
    try:
        return _read_dicom(path, series, modality) if path.is_dir() else _read_file(path)
    except RuntimeError as error:
        raise ImageError(f"{path} cannot be read as an image: {_reason(error)}") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warns)


def volume_from_itk(image: sitk.Image) -> Volume:
    """A Volume of a SimpleITK image (LPS)."""
    import SimpleITK as sitk

    IJKToLPS = np.eye(4)
    IJKToLPS[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    IJKToLPS[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), LPSToRAS @ IJKToLPS)


def itk_from_volume(volume: Volume) -> sitk.Image:
    """A SimpleITK image (LPS) of a Volume."""
    import SimpleITK as sitk

    IJKToLPS = LPSToRAS @ volume.IJKToRAS
    image = sitk.GetImageFromArray(volume.voxels)
    image.SetSpacing(volume.spacing_mm.tolist())
    image.SetDirection((IJKToLPS[:3, :3] / volume.spacing_mm).ravel().tolist())
    image.SetOrigin(IJKToLPS[:3, 3].tolist())
    return image


def write_volume(volume: Volume, path: Path) -> None:
    """Write as the file ending says (.nrrd, .mha, .nii.gz), compressed, whole or not at all."""
    write_itk(itk_from_volume(volume), path)


def write_itk(image: sitk.Image, path: Path) -> None:
    """Write an image as the file ending says, compressed, whole or not at all.

    Raises:
        ImageError: when it cannot be written.
    """
    import SimpleITK as sitk

    path = Path(path)
    with atomic_file(path) as draft:
        try:
            sitk.WriteImage(image, str(draft), useCompression=True)
        except RuntimeError as error:
            raise ImageError(f"{path.name} cannot be written: {_reason(error)}; is the disk full?") from None


def _read_file(path: Path) -> sitk.Image:
    import SimpleITK as sitk

    stored = measure(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    values = int(np.prod(reader.GetSize(), dtype=np.int64)) * reader.GetNumberOfComponents()
    if stored.is_nifti:
        # Scaled values come as floating point, whatever is stored.
        header, value_bytes = int(float(reader.GetMetaData("vox_offset"))), int(reader.GetMetaData("bitpix")) / 8
    else:
        header, value_bytes = 0, sitk.Image([1] * 3, reader.GetPixelID()).GetSizeOfPixelComponent()
    if stored.stored_bytes is not None and stored.stored_bytes < header + values * value_bytes:
        raise ImageError(
            f"{path} is cut off: {stored.stored_bytes - header} of {values * value_bytes:.0f} bytes; copy "
            "or export it again"
        )
    return reader.Execute()


def _read_dicom(folder: Path, series: str | None, wanted: str) -> sitk.Image:
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    found = reader.GetGDCMSeriesIDs(str(folder))
    if not found:
        raise ImageError(f"{folder} holds no DICOM images")
    if series is None and len(found) > 1:
        raise ImageError(f"{folder} holds {len(found)} series; choose one with --series: {', '.join(found)}")
    if series is not None and series not in found:
        raise ImageError(f"{folder} has no series {series}; it holds {', '.join(found)}")
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series or found[0]))
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    modality = reader.GetMetaData(0, "0008|0060").strip() if reader.HasMetaDataKey(0, "0008|0060") else "unknown"
    if modality != wanted:
        raise ImageError(f"{folder} holds modality {modality}, not {wanted}")
    axes, positions = _slice_numbers(reader, _DICOM_ORIENTATION), _slice_numbers(reader, _DICOM_POSITION)
    if axes is not None and np.abs(axes - axes[0]).max() > _SAME_DIRECTION:
        raise ImageError(f"{folder}: the slices lie in different planes; take out the localizer")
    if positions is not None:
        _check_straight(positions, np.reshape(image.GetDirection(), (3, 3))[:, 2], folder)
        _check_even(np.linalg.norm(np.diff(positions, axis=0), axis=1), folder)
    return image


def _slice_numbers(reader: sitk.ImageSeriesReader, tag: str) -> FloatArray | None:
    """A tag of several numbers for each slice, or None when a slice has none."""
    slices = range(len(reader.GetFileNames()))
    if not all(reader.HasMetaDataKey(number, tag) for number in slices):
        return None
    return np.array([reader.GetMetaData(number, tag).split("\\") for number in slices], np.float64)


def _check_straight(positions: NDArray, normal: NDArray, folder: Path) -> None:
    """A tilted gantry shifts each slice against the one before, which a grid of right angles cannot hold."""
    way = positions[-1] - positions[0]
    sideways_mm = float(np.linalg.norm(way - (way @ normal) * normal))
    if sideways_mm > _LARGEST_SHEAR_MM:
        tilt_deg = float(np.degrees(np.arctan2(sideways_mm, abs(way @ normal))))
        raise ImageError(
            f"{folder}: the slices are shifted sideways by {sideways_mm:.0f} mm from first to last, as by a gantry "
            f"tilted by {tilt_deg:.0f}°; resample the series to right angles first"
        )


def _check_even(gaps_mm: NDArray, folder: Path) -> None:
    """A gap hides anatomy and shifts all that lies beyond it."""
    usual = float(np.median(gaps_mm)) if len(gaps_mm) else 0.0
    uneven = np.flatnonzero(np.abs(gaps_mm - usual) > max(0.1 * usual, 0.05))
    if len(uneven):
        number = int(uneven[0])
        raise ImageError(
            f"{folder}: slices are missing or doubled: {gaps_mm[number]:.2f} mm between slices {number + 1} and "
            f"{number + 2}, {usual:.2f} mm elsewhere; export the whole series again"
        )


def _reason(error: RuntimeError) -> str:
    """The part of an ITK exception that a person can read."""
    text = " ".join(str(error).split())
    # Behind source lines, "ITK ERROR:", and the name of a class with its address.
    return re.split(r"ERROR:|\.(?:h|hxx|cxx):\d+:|\w+ ?\(0x[0-9a-f]+\):", text)[-1].strip() or "no reason given"
