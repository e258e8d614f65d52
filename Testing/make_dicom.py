"""Writes volumes as DICOM series, and X-rays as XA and RF, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from sacroplasty.geometry import flip_lps_ras
from sacroplasty.image import Volume


def write_ct_series(volume: Volume, folder: Path, series_uid: str) -> None:
    """One file for each slice, named by series and slice."""
    spacing_i, spacing_j, _ = volume.spacing_mm
    axes = volume.IJKToRAS[:3, :3] / volume.spacing_mm
    for number, pixels in enumerate(volume.voxels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{series_uid}.{number + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        item.Modality, item.PatientID = "CT", "PHANTOM"
        item.StudyInstanceUID, item.SeriesInstanceUID, item.InstanceNumber = "1.2.3", series_uid, number + 1
        item.ImagePositionPatient = flip_lps_ras(volume.ras_of([number, 0, 0])).round(6).tolist()
        item.ImageOrientationPatient = [*flip_lps_ras(axes[:, 0]).tolist(), *flip_lps_ras(axes[:, 1]).tolist()]
        item.PixelSpacing, item.SliceThickness = [float(spacing_j), float(spacing_i)], float(volume.spacing_mm[2])
        item.Rows, item.Columns = pixels.shape
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = 1, -1024, "HU"
        item.PixelData = (pixels.astype(np.int16) + 1024).tobytes()
        item.save_as(folder / f"{series_uid}-{number:03}.dcm", enforce_file_format=True)


def write_xray(path: Path, pixels: np.ndarray, modality: str = "XA", **attributes: Any) -> None:
    """An XA or RF image of one frame (rows, columns) or several, uint16; attributes by keyword go before the usual."""
    kinds = {
        "XA": XRayAngiographicImageStorage,
        "RF": XRayRadiofluoroscopicImageStorage,
        "SC": SecondaryCaptureImageStorage,
    }
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kinds[modality]
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    item.SOPClassUID, item.SOPInstanceUID, item.Modality = kinds[modality], "1.2.3.4", modality
    item.Rows, item.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        item.NumberOfFrames = len(pixels)
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
    item.PixelData = pixels.astype(np.uint16).tobytes()
    for keyword, value in attributes.items():
        if isinstance(value, DataElement):
            item.add(value)
        else:
            setattr(item, keyword, value)
    item.save_as(path, enforce_file_format=True)
