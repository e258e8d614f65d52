"""Reading and checking CT files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from make_dicom import write_ct_series
from sacroplasty.errors import ImageError
from sacroplasty.image import Volume, box_around, check_ct, read_ct, read_volume, write_volume


def test_a_written_volume_has_the_same_points_in_itk(a_small_ct: Volume, tmp_path: Path) -> None:
    write_volume(a_small_ct, tmp_path / "ct.nrrd")
    image = sitk.ReadImage(str(tmp_path / "ct.nrrd"))
    left, posterior, superior = image.TransformIndexToPhysicalPoint((5, 6, 7))
    np.testing.assert_allclose(a_small_ct.ras_of([7, 6, 5]), [-left, -posterior, superior])
    assert image.GetPixel(5, 6, 7) == a_small_ct.voxels[7, 6, 5]


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.nii.gz"])
@pytest.mark.parametrize("handed", [1, -1])
def test_oblique_and_left_handed_scans_are_read_where_they_are(
    a_small_ct: Volume, tmp_path: Path, name: str, handed: int
) -> None:
    angle = np.radians(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    flip = np.diag([handed, 1, 1, 1])
    scan = Volume(a_small_ct.voxels, turn @ a_small_ct.IJKToRAS @ flip)
    write_volume(scan, tmp_path / name)
    back = read_ct(tmp_path / name)
    assert back.same_grid(scan)
    np.testing.assert_array_equal(back.voxels, scan.voxels)


def test_indices_and_points_are_each_others_inverse(a_small_ct: Volume) -> None:
    indices = np.array([[0, 0, 0], [3, 2, 1], [23, 27, 31]])
    np.testing.assert_allclose(a_small_ct.kji_of(a_small_ct.ras_of(indices)), indices, atol=1e-9)


def test_the_hash_knows_voxels_and_place(a_small_ct: Volume) -> None:
    moved = a_small_ct.IJKToRAS.copy()
    moved[0, 3] += 1
    other = a_small_ct.voxels.copy()
    other[0, 0, 0] += 1
    hashes = {a_small_ct.content_hash(), Volume(a_small_ct.voxels, moved).content_hash()}
    assert len(hashes | {a_small_ct.like(other).content_hash()}) == 3


def with_nan(ct: Volume) -> Volume:
    voxels = ct.voxels.astype(np.float32)
    voxels[4, 5, 6] = np.nan
    return ct.like(voxels)


def scaled(ct: Volume, factor: float) -> Volume:
    return replace(ct, IJKToRAS=np.diag([factor, factor, factor, 1]) @ ct.IJKToRAS)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda ct: Volume(ct.voxels[:2], ct.IJKToRAS), "only 2 slices"),
        (with_nan, r"1 voxels.*\[4, 5, 6\]"),
        (lambda ct: scaled(ct, 0.001), "another unit"),
        (lambda ct: scaled(ct, 100), "another unit"),
        (lambda ct: ct.like(ct.voxels + 1024), "rescale offset"),
        (lambda ct: ct.like((ct.voxels > 0).astype(np.uint8) * 255), "not a CT"),
        (lambda ct: ct.like(ct.voxels * 0), "not a CT"),
    ],
)
def test_what_is_no_ct_is_refused_in_words(a_small_ct: Volume, spoil: Callable[[Volume], Volume], reason: str) -> None:
    with pytest.raises(ImageError, match=f"scan.nrrd.*{reason}") as refusal:
        check_ct(spoil(a_small_ct), "scan.nrrd")
    assert "\n" not in str(refusal.value)


def test_the_small_ct_itself_passes(a_small_ct: Volume) -> None:
    check_ct(a_small_ct, "scan.nrrd")


@pytest.mark.parametrize(
    ("name", "content"), [("ct.nii.gz", b"\x1f\x8b truncated"), ("ct.nrrd", b"NRRD0004\n"), ("notes.txt", b"hello")]
)
def test_unreadable_files_give_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=re.escape(name)) as refusal:
        read_volume(tmp_path / name)
    assert "\n" not in str(refusal.value)


def test_a_truncated_file_is_refused(a_small_ct: Volume, tmp_path: Path) -> None:
    path = tmp_path / "ct.nrrd"
    write_volume(a_small_ct, path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ImageError, match=r"ct\.nrrd"):
        read_ct(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_ct(tmp_path / "nothing.nrrd")


def test_a_colour_picture_is_no_volume(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkVectorUInt8, 3), str(tmp_path / "rgb.nrrd"))
    with pytest.raises(ImageError, match="3 values per voxel"):
        read_volume(tmp_path / "rgb.nrrd")


def test_a_dicom_folder_reads_like_the_volume_it_came_from(a_small_ct: Volume, tmp_path: Path) -> None:
    write_ct_series(a_small_ct, tmp_path, "1.2.3.1")
    back = read_ct(tmp_path)
    assert back.same_grid(a_small_ct)
    np.testing.assert_array_equal(back.voxels, a_small_ct.voxels)


def test_two_series_in_one_folder_ask_for_a_choice(a_small_ct: Volume, tmp_path: Path) -> None:
    write_ct_series(a_small_ct, tmp_path, "1.2.3.1")
    write_ct_series(a_small_ct.like(a_small_ct.voxels + 100), tmp_path, "1.2.3.2")
    with pytest.raises(ImageError, match=r"2 series.*--series.*1\.2\.3\.1"):
        read_ct(tmp_path)
    np.testing.assert_array_equal(read_ct(tmp_path, series="1.2.3.2").voxels, a_small_ct.voxels + 100)
    with pytest.raises(ImageError, match="no series 9"):
        read_ct(tmp_path, series="9")


def test_a_missing_slice_in_a_dicom_series_is_refused(a_small_ct: Volume, tmp_path: Path) -> None:
    write_ct_series(a_small_ct, tmp_path, "1.2.3.1")
    sorted(tmp_path.iterdir())[10].unlink()
    with pytest.raises(ImageError, match="slices are missing"):
        read_ct(tmp_path)


def test_an_empty_folder_is_no_series(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no DICOM"):
        read_ct(tmp_path)


def test_a_box_holds_all_that_is_not_zero_and_ends_at_the_border() -> None:
    mask = np.zeros((6, 7, 8), bool)
    assert box_around(mask) is None
    mask[2, 3, 1] = mask[4, 3, 5] = True
    assert box_around(mask) == (slice(2, 5), slice(3, 4), slice(1, 6))
    assert box_around(mask, (1, 2, 3)) == (slice(1, 6), slice(1, 6), slice(0, 8))
