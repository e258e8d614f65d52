"""The distortion of an intensifier, found in the picture of a bead plate and taken out of frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from bead_plate import bead_plate
from command_line import CommandLine
from sacroplasty.errors import CalibrationError, DocumentError, ImageError
from sacroplasty.xray.bead_grid import calibrate_distortion
from sacroplasty.xray.distortion import Distortion, Undistorter, read_distortion, write_distortion
from sacroplasty.xray.geometry import CArm
from sacroplasty.xray.imaging_chain import ImagingChain, expose_frame, seen_pixels

ARM = CArm()
PIXELS = 512
GEOMETRY = ARM.pose([0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]).resampled(PIXELS)
WIDTH_MM = PIXELS * GEOMETRY.pixel_spacing_mm[0]
MIDDLE = (PIXELS - 1) / 2


def intensifier(pincushion: float, s_distortion_deg: float) -> ImagingChain:
    return ImagingChain(
        pincushion=pincushion,
        s_distortion_deg=s_distortion_deg,
        field_diameter_mm=0.95 * WIDTH_MM,
        photons_per_pixel=400.0,
        blur_mm=0.3,
    )


def plate(chain: ImagingChain, seed: int = 1) -> np.ndarray:
    return expose_frame(bead_plate(GEOMETRY), GEOMETRY, chain, np.random.default_rng(seed)).pixels


def within_field() -> np.ndarray:
    """Ideal pixels (n, 2) in the inner nine tenths of the circle."""
    u, v = np.meshgrid(np.arange(0, PIXELS, 8.0), np.arange(0, PIXELS, 8.0))
    uv = np.stack([u.ravel(), v.ravel()], axis=-1)
    return uv[np.linalg.norm(uv - MIDDLE, axis=1) < 0.4 * PIXELS]


@pytest.fixture(scope="module")
def calibrated() -> tuple[ImagingChain, Distortion]:
    chain = intensifier(0.06, 6.0)
    return chain, calibrate_distortion(plate(chain))


@pytest.mark.parametrize(("pincushion", "s_distortion_deg"), [(0.0, 0.0), (0.03, -3.0), (0.08, 8.0)])
def test_what_is_found_is_the_distortion_of_the_imaging_chain(pincushion: float, s_distortion_deg: float) -> None:
    chain = intensifier(pincushion, s_distortion_deg)
    found, uv = calibrate_distortion(plate(chain)), within_field()
    off = np.linalg.norm(found.seen(uv) - seen_pixels(uv, GEOMETRY, chain), axis=1)
    assert np.sqrt(np.mean(off**2)) < 0.15 and off.max() < 0.5
    assert found.beads > 400 and found.rest_pixels < 0.3


def test_an_undistorted_frame_shows_things_where_the_geometry_puts_them(
    calibrated: tuple[ImagingChain, Distortion],
) -> None:
    chain, distortion = calibrated
    u, v = np.meshgrid(np.arange(PIXELS), np.arange(PIXELS))
    places = [(120.0, 200.0), (380.0, 130.0), (300.0, 420.0)]
    spots = sum(np.exp(-((u - x) ** 2 + (v - y) ** 2) / 50) for x, y in places)
    pixels = expose_frame(spots, GEOMETRY, chain, np.random.default_rng(2)).pixels

    def off(frame: np.ndarray) -> list[float]:
        dark = np.log(np.median(frame)) - np.log(np.maximum(frame.astype(float), 1.0))
        found = []
        for x, y in places:
            near = np.hypot(u - x, v - y) < 30
            weight = np.where(near & (dark > 0.3), dark, 0.0)
            found.append(float(np.hypot((weight * u).sum() / weight.sum() - x, (weight * v).sum() / weight.sum() - y)))
        return found

    assert min(off(pixels)) > 2.0
    corrected = Undistorter(distortion)(pixels)
    assert max(off(corrected)) < 0.4
    assert corrected.dtype == pixels.dtype and corrected.shape == pixels.shape


def test_the_same_field_in_other_pixels_has_the_same_distortion(calibrated: tuple[ImagingChain, Distortion]) -> None:
    _, distortion = calibrated
    ideal = np.array([100.0, 180.0])
    half = distortion.seen((ideal + 0.5) / 2 - 0.5, (PIXELS // 2, PIXELS // 2))
    assert (half + 0.5) * 2 - 0.5 == pytest.approx(distortion.seen(ideal), abs=1e-9)
    undistorter = Undistorter(distortion)
    assert undistorter(np.full((256, 256), 7, np.uint8)).dtype == np.uint8
    with pytest.raises(ImageError, match="proportions"):
        undistorter(np.zeros((256, 300), np.uint16))


def test_beyond_the_beads_the_displacement_does_not_run_away(calibrated: tuple[ImagingChain, Distortion]) -> None:
    _, distortion = calibrated
    corner = np.array([0.0, 0.0])
    rim = MIDDLE + (corner - MIDDLE) / np.linalg.norm(corner - MIDDLE) * distortion.radius * PIXELS / 2
    assert distortion.seen(corner) - corner == pytest.approx(distortion.seen(rim) - rim, abs=1e-6)


def test_a_calibration_is_a_document(calibrated: tuple[ImagingChain, Distortion], tmp_path: Path) -> None:
    _, distortion = calibrated
    write_distortion(distortion, tmp_path / "distortion.json")
    again, uv = read_distortion(tmp_path / "distortion.json"), within_field()
    assert again.seen(uv) == pytest.approx(distortion.seen(uv))
    record = json.loads((tmp_path / "distortion.json").read_text())
    record["displacement"][0].pop()
    (tmp_path / "short.json").write_text(json.dumps(record))
    with pytest.raises(DocumentError):
        read_distortion(tmp_path / "short.json")


def noise() -> np.ndarray:
    return np.random.default_rng(3).poisson(400, (PIXELS, PIXELS)).astype(np.uint16)


def scattered_beads() -> np.ndarray:
    u, v = np.meshgrid(np.arange(PIXELS), np.arange(PIXELS))
    places = np.random.default_rng(4).uniform(40, PIXELS - 40, (300, 2))
    depth = sum(0.8 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 5) for x, y in places)
    return np.random.default_rng(5).poisson(4000 * np.exp(-depth)).astype(np.uint16)


@pytest.mark.parametrize(
    "picture", [noise(), scattered_beads(), np.zeros((PIXELS, PIXELS), np.uint16)], ids=["noise", "scattered", "black"]
)
def test_a_picture_of_no_grid_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(CalibrationError):
        calibrate_distortion(picture)


def test_the_command_makes_a_calibration_of_a_picture_and_refuses_another(
    sacroplasty: CommandLine, empty: Path, tmp_path: Path
) -> None:
    for name, picture in (("plate.mha", plate(intensifier(0.06, 6.0))), ("noise.mha", noise())):
        sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / name))
    found = sacroplasty("distortion", tmp_path / "plate.mha", "--out", tmp_path / "distortion.json", "--json")
    summary = json.loads(found.out)
    assert summary["beads"] > 400 and 8 < summary["largest_pixels"] < 40
    assert read_distortion(tmp_path / "distortion.json").beads == summary["beads"]
    refused = sacroplasty("distortion", tmp_path / "noise.mha", "--out", empty / "none.json")
    assert refused.code == 2 and "noise.mha" in refused.err and not list(empty.iterdir())
