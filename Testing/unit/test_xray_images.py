"""Import of real X-rays: frames, geometry, and what is dropped on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataelem import DataElement

from make_dicom import write_xray
from sacroplasty.errors import GeometryError, ImageError
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.images import mirror_columns, read_xray, tags_of_geometry

ISOCENTER = [3.0, 4.0, 5.0]
GEOMETRY = CArm(detector_pixels=(60, 40), pixel_spacing_mm=(4.0, 4.0)).at_positioner_angles(ISOCENTER, 25, -15)
PIXELS = np.random.default_rng(8).integers(0, 4096, (40, 60)).astype(np.uint16)
FLUOROSCOPY = Path(__file__).parents[3] / "shared" / "data" / "fluoroscopy"


def header() -> dict:
    tags = tags_of_geometry(GEOMETRY, 620.0)
    return {keyword: value for keyword, value in tags.items() if keyword not in ("Rows", "Columns")}


@pytest.mark.parametrize("modality", ["XA", "RF"])
def test_a_single_frame_and_its_geometry(tmp_path: Path, modality: str) -> None:
    write_xray(tmp_path / "x.dcm", PIXELS, modality, PixelIntensityRelationship="LOG", **header())
    image = read_xray(tmp_path / "x.dcm", isocenter_ras=ISOCENTER)
    np.testing.assert_array_equal(image.frames, PIXELS[None])
    assert image.signal == "logarithmic"
    assert image.geometry is not None
    np.testing.assert_allclose(image.geometry.RASToDetector, GEOMETRY.RASToDetector, atol=1e-6)
    assert image.geometry.detector_pixels == (60, 40)
    assert (image.geometry_missing, image.notes, image.frame_times_s) == ("", (), ())


def test_several_frames_with_their_times(tmp_path: Path) -> None:
    frames = np.stack([PIXELS, PIXELS // 2, PIXELS // 3])
    write_xray(tmp_path / "even.dcm", frames, FrameTime=125.0)
    image = read_xray(tmp_path / "even.dcm")
    np.testing.assert_array_equal(image.frames, frames)
    assert image.frame_times_s == (0.0, 0.125, 0.25)
    write_xray(tmp_path / "uneven.dcm", frames, FrameTimeVector=[0, 100, 150])
    assert read_xray(tmp_path / "uneven.dcm").frame_times_s == pytest.approx((0.0, 0.1, 0.25))


def test_overlay_planes_never_reach_the_pixels(tmp_path: Path) -> None:
    name = np.packbits(np.ones(60 * 40, np.uint8)).tobytes()
    planes = {
        "rows": DataElement(0x60000010, "US", 40),
        "columns": DataElement(0x60000011, "US", 60),
        "kind": DataElement(0x60000040, "CS", "G"),
        "bits": DataElement(0x60000100, "US", 1),
        "data": DataElement(0x60003000, "OW", name),
        "second": DataElement(0x60023000, "OW", name),
    }
    write_xray(tmp_path / "x.dcm", PIXELS, **planes)
    image = read_xray(tmp_path / "x.dcm")
    np.testing.assert_array_equal(image.frames, PIXELS[None])
    assert image.notes == ("2 overlay planes dropped, which may name the patient",)


def test_an_overlay_in_unused_bits_is_dropped(tmp_path: Path) -> None:
    with_text = PIXELS | np.uint16(0x8000)
    write_xray(tmp_path / "x.dcm", with_text, BitsStored=12, HighBit=11)
    image = read_xray(tmp_path / "x.dcm")
    np.testing.assert_array_equal(image.frames, PIXELS[None])


def test_text_in_the_pixels_is_told(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", PIXELS, BurnedInAnnotation="YES")
    assert any("burned into the pixels" in note for note in read_xray(tmp_path / "x.dcm").notes)


def test_an_inverted_image_is_turned_bright_side_up(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", PIXELS, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_xray(tmp_path / "x.dcm").frames, 4095 - PIXELS[None])


def test_an_image_seen_from_the_source_is_mirrored_to_fit_the_record(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", mirror_columns(PIXELS), **header())
    image = read_xray(tmp_path / "x.dcm", isocenter_ras=ISOCENTER, seen_from_source=True)
    np.testing.assert_array_equal(image.frames, PIXELS[None])
    assert any("seen from the source" in note for note in image.notes)


@pytest.mark.parametrize(
    ("change", "isocenter", "words"),
    [
        ({}, None, "where the isocenter lies"),
        ({"PositionerPrimaryAngle": ""}, ISOCENTER, "lacks PositionerPrimaryAngle"),
        ({"PositionerPrimaryAngle": ""}, None, "lacks PositionerPrimaryAngle"),
        ({"DistanceSourceToPatient": 2000.0}, ISOCENTER, "2000 mm"),
        ({"PositionerMotion": "DYNAMIC"}, ISOCENTER, "moved during the run"),
        ({"FieldOfViewHorizontalFlip": "YES"}, ISOCENTER, "flipped or turned"),
        ({"FieldOfViewRotation": 90.0}, ISOCENTER, "flipped or turned"),
    ],
)
def test_without_a_trustworthy_header_there_is_no_geometry_but_a_reason(
    tmp_path: Path, change: dict, isocenter: list[float] | None, words: str
) -> None:
    write_xray(tmp_path / "x.dcm", PIXELS, **{**header(), **change})
    image = read_xray(tmp_path / "x.dcm", isocenter_ras=isocenter)
    assert image.geometry is None
    assert words in image.geometry_missing


def test_a_geometry_file_goes_before_the_header_and_fits_other_pixels(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", PIXELS, **header())
    fine = CArm(detector_pixels=(120, 80), pixel_spacing_mm=(2.0, 2.0)).at_positioner_angles(ISOCENTER, 80, 0)
    image = read_xray(tmp_path / "x.dcm", fine)
    assert isinstance(image.geometry, XrayGeometry)
    assert image.geometry.positioner_angles_deg == pytest.approx((80, 0))
    assert image.geometry.detector_pixels == (60, 40)


def test_a_geometry_of_other_proportions_is_refused(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", PIXELS)
    with pytest.raises(GeometryError, match="60 x 40 pixels, the geometry a detector of 1536 x 1536"):
        read_xray(tmp_path / "x.dcm", CArm().at_positioner_angles(ISOCENTER, 0, 0))


@pytest.mark.parametrize("ending", ["png", "tif", "mha"])
def test_plain_images(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(PIXELS), str(path))
    image = read_xray(path, GEOMETRY)
    np.testing.assert_array_equal(image.frames, PIXELS[None])
    assert image.geometry is not None
    assert "geometry file" in read_xray(path).geometry_missing


def test_grey_stored_as_color_is_read_and_color_refused(tmp_path: Path) -> None:
    grey = np.repeat((PIXELS >> 4).astype(np.uint8)[..., None], 3, axis=2)
    sitk.WriteImage(sitk.GetImageFromArray(grey, isVector=True), str(tmp_path / "grey.png"))
    np.testing.assert_array_equal(read_xray(tmp_path / "grey.png").frames[0], PIXELS >> 4)
    grey[3, 3, 1] ^= 255
    sitk.WriteImage(sitk.GetImageFromArray(grey, isVector=True), str(tmp_path / "color.png"))
    with pytest.raises(ImageError, match="in color"):
        read_xray(tmp_path / "color.png")


def test_what_is_no_x_ray_is_refused_by_name(tmp_path: Path) -> None:
    write_xray(tmp_path / "capture.dcm", PIXELS, "SC")
    with pytest.raises(ImageError, match="Secondary Capture Image Storage"):
        read_xray(tmp_path / "capture.dcm")
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    with pytest.raises(ImageError, match="neither DICOM nor"):
        read_xray(tmp_path / "notes.txt")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_xray(tmp_path / "broken.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_xray(tmp_path / "missing.dcm")


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", PIXELS)
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "x.dcm").read_bytes()[:-1000])
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_xray(tmp_path / "cut.dcm")


def test_without_pydicom_the_message_says_so(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", PIXELS)
    code = """
import sys
sys.modules["pydicom"] = None
from sacroplasty.errors import ImageError
from sacroplasty.xray.images import read_xray
try:
    read_xray(sys.argv[1])
except ImageError as error:
    print(error)
"""
    arguments = [sys.executable, "-c", code, str(tmp_path / "x.dcm")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "needs the package pydicom" in done.stdout


@pytest.mark.skipif(not FLUOROSCOPY.is_dir(), reason="needs ../shared/data/fluoroscopy beside the checkout")
def test_real_fluoroscopy_is_read() -> None:
    for path in sorted(FLUOROSCOPY.glob("*.dcm")):
        image = read_xray(path, isocenter_ras=ISOCENTER)
        assert image.frames.shape == (1, 1024, 1024)
        assert image.signal == "displayed"
        assert "lacks DistanceSourceToPatient, ImagerPixelSpacing" in image.geometry_missing
