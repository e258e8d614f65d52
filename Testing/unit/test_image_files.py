"""A cut or damaged image is refused, not filled up with whatever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from make_dicom import write_ct_series
from sacroplasty.errors import ImageError
from sacroplasty.image import Volume, itk_from_volume, read_ct, read_itk, read_volume


def written(ct: Volume, path: Path, compressed: bool) -> Path:
    sitk.WriteImage(itk_from_volume(ct), str(path), useCompression=compressed)
    return path


KINDS = [
    ("ct.nii", False),
    ("ct.nii.gz", True),
    ("ct.nrrd", False),
    ("ct.nrrd", True),
    ("ct.mha", False),
    ("ct.mha", True),
]


@pytest.mark.parametrize(("name", "compressed"), KINDS)
@pytest.mark.parametrize("lost_bytes", [1, 4, 100, 3000])
def test_a_file_that_lost_its_end_is_refused(
    a_small_ct: Volume, tmp_path: Path, name: str, compressed: bool, lost_bytes: int
) -> None:
    path = written(a_small_ct, tmp_path / name, compressed)
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    with pytest.raises(ImageError, match=r"ct\.\S+ is cut off"):
        read_volume(path)


@pytest.mark.parametrize(("name", "compressed"), [kind for kind in KINDS if kind[1]])
def test_one_wrong_bit_in_compressed_voxels_is_found(
    a_small_ct: Volume, tmp_path: Path, name: str, compressed: bool
) -> None:
    path = written(a_small_ct, tmp_path / name, compressed)
    whole = bytearray(path.read_bytes())
    for place in range(len(whole) // 4, len(whole) - 20, len(whole) // 7):
        damaged = whole.copy()
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"damaged|cut off"):
            read_volume(path)


@pytest.mark.parametrize(("name", "compressed"), KINDS)
def test_whole_files_are_read_as_they_are(a_small_ct: Volume, tmp_path: Path, name: str, compressed: bool) -> None:
    back = read_volume(written(a_small_ct, tmp_path / name, compressed))
    np.testing.assert_array_equal(back.voxels, a_small_ct.voxels)


def test_gzip_files_one_behind_the_other_are_one(a_small_ct: Volume, tmp_path: Path) -> None:
    """As parallel compressors write them."""
    import gzip

    content = written(a_small_ct, tmp_path / "ct.nii", False).read_bytes()
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(content[:9000]) + gzip.compress(content[9000:]))
    np.testing.assert_array_equal(read_volume(path).voxels, a_small_ct.voxels)
    path.write_bytes(gzip.compress(content[:9000]))
    with pytest.raises(ImageError, match="cut off"):
        read_volume(path)


def test_scaled_nifti_voxels_are_measured_as_stored(a_small_ct: Volume, tmp_path: Path) -> None:
    path = written(a_small_ct, tmp_path / "ct.nii", False)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2.0, 5.0], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    np.testing.assert_allclose(read_volume(path).voxels, a_small_ct.voxels * 2.0 + 5.0)


@pytest.mark.parametrize("name", ["ct.mhd", "ct.nhdr"])
def test_voxels_in_a_second_file_are_refused(a_small_ct: Volume, tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="another file"):
        read_volume(written(a_small_ct, tmp_path / name, False))


def test_a_moving_picture_is_read_but_is_no_volume(tmp_path: Path) -> None:
    path = tmp_path / "four.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8), isVector=False), str(path))
    assert read_itk(path).GetDimension() == 4
    with pytest.raises(ImageError, match="4 dimensions"):
        read_volume(path)


def _tilted(item: pydicom.Dataset, number: int) -> None:
    x, y, z = item.ImagePositionPatient
    item.ImagePositionPatient = [x, y + 0.3 * 3.0 * number, z]


def _turned(item: pydicom.Dataset, number: int) -> None:
    if number == 3:
        item.ImageOrientationPatient = [0, 1, 0, -1, 0, 0]


def _mr(item: pydicom.Dataset, number: int) -> None:
    item.Modality = "MR"


def _short(item: pydicom.Dataset, number: int) -> None:
    if number == 3:
        item.Rows = item.Rows // 2
        item.PixelData = item.PixelData[: item.Rows * item.Columns * 2]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_tilted, "gantry tilted by 17°"),
        (_turned, "different planes"),
        (_mr, "modality MR"),
        (_short, "cannot be read"),
    ],
)
def test_a_series_that_is_no_straight_stack_of_ct_is_refused(
    a_small_ct: Volume, tmp_path: Path, spoil: Callable[[pydicom.Dataset, int], None], reason: str
) -> None:
    write_ct_series(a_small_ct, tmp_path, "1.2.3.1")
    for number, file in enumerate(sorted(tmp_path.iterdir())):
        item = pydicom.dcmread(file)
        spoil(item, number)
        item.save_as(file)
    with pytest.raises(ImageError, match=reason) as refusal:
        read_ct(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_slice_cut_off_is_a_missing_slice(a_small_ct: Volume, tmp_path: Path) -> None:
    write_ct_series(a_small_ct, tmp_path, "1.2.3.1")
    file = sorted(tmp_path.iterdir())[10]
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ImageError, match="slices are missing"):
        read_ct(tmp_path)
