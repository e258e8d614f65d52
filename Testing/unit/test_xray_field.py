"""Circle and blades found in frames whose true ones are known, and in real frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cement_scene import body_line_integrals, views
from sacroplasty.errors import ImageError
from sacroplasty.xray.field import find_field
from sacroplasty.xray.imaging_chain import ImagingChain, expose_frame, field_mask

REAL = Path(__file__).parents[3] / "shared/data/fluoroscopy"
GEOMETRY = views(288)["ap"]


def frame(**chain):
    settings = ImagingChain(photons_per_pixel=500, scatter_fraction=0.12, penumbra_mm=0.6, **chain)
    return expose_frame(body_line_integrals(GEOMETRY), GEOMETRY, settings, np.random.default_rng(3)).pixels


def between(blades_mm):
    left, right, top, bottom = blades_mm
    columns, rows = GEOMETRY.detector_pixels
    u = (np.arange(columns) - (columns - 1) / 2) * GEOMETRY.pixel_spacing_mm[0]
    v = (np.arange(rows) - (rows - 1) / 2) * GEOMETRY.pixel_spacing_mm[1]
    return ((v >= -top) & (v <= bottom))[:, None] & ((u >= -left) & (u <= right))[None, :]


def check(found, true):
    """Nothing outside is taken, and of the inside little is lost."""
    assert not (found & ~true).any()
    assert np.count_nonzero(found) > 0.9 * np.count_nonzero(true)


def test_a_flat_panel_shows_all():
    found = find_field(frame())
    assert found.circle is None and found.blades == ()
    assert found.mask.all()


@pytest.mark.parametrize("diameter_mm", [180.0, 230.0, 280.0])
def test_the_circle_of_an_intensifier(diameter_mm):
    found = find_field(frame(field_diameter_mm=diameter_mm))
    assert found.circle is not None
    column, row, radius = found.circle
    assert (column, row) == pytest.approx((143.5, 143.5), abs=1.0)
    assert radius * GEOMETRY.pixel_spacing_mm[0] == pytest.approx(diameter_mm / 2, abs=2.0)
    assert found.blades == ()
    check(found.mask, field_mask(GEOMETRY, diameter_mm))


@pytest.mark.parametrize("blades_mm", [(80, 70, 500, 500), (90, 500, 75, 90), (60, 60, 60, 60)])
def test_blades_before_a_flat_panel(blades_mm):
    found = find_field(frame(blades_mm=blades_mm))
    assert found.circle is None
    assert len(found.blades) == sum(blade < 140 for blade in blades_mm)
    check(found.mask, between(blades_mm))


@pytest.mark.parametrize("dimming", [0.7, 0.9])
def test_soft_blades_before_a_picture_with_dim_corners(dimming):
    v, u = np.mgrid[0:256, 0:256]
    edges = {"left": u - 13, "right": 248 - u, "top": v - 15, "bottom": 246 - v}
    open_share = np.prod([1 / (1 + np.exp(-edge / 1.5)) for edge in edges.values()], axis=0)
    dim = 1 - dimming * (np.hypot(u - 128, v - 128) / 181) ** 2
    pixels = np.random.default_rng(5).poisson(2000 * dim * np.exp(-(v - 60) / 150) * open_share)
    found = find_field(pixels)
    assert len(found.blades) == 4
    inside = np.all([edge > 12 for edge in edges.values()], axis=0)
    outside = np.any([edge < -3 for edge in edges.values()], axis=0)
    assert found.mask[inside].mean() > 0.97 and not found.mask[outside].any()


def test_blades_within_the_circle():
    blades_mm = (500.0, 70.0, 80.0, 500.0)
    found = find_field(frame(field_diameter_mm=260.0, blades_mm=blades_mm))
    assert found.circle is not None and len(found.blades) == 2
    check(found.mask, field_mask(GEOMETRY, 260.0) & between(blades_mm))


def test_a_dark_instrument_over_the_border_is_no_blade():
    pixels = frame(field_diameter_mm=260.0)
    pixels[130:170, :110] = 300
    found = find_field(pixels)
    assert found.blades == ()
    check(found.mask, field_mask(GEOMETRY, 260.0))


@pytest.mark.parametrize("pixels", [np.zeros((64, 64)), np.eye(64) * 1000.0])
def test_a_frame_without_a_field_is_refused(pixels):
    with pytest.raises(ImageError, match="field"):
        find_field(pixels)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real fluoroscopy images of ../shared/data are absent")
def test_circle_and_blades_of_a_real_intensifier():
    pydicom = pytest.importorskip("pydicom")
    fields = {path.stem[-2:]: find_field(pydicom.dcmread(path).pixel_array) for path in sorted(REAL.glob("*.dcm"))}
    # The same intensifier takes all nine; it was collimated for the last two.
    circles = np.array([found.circle for found in fields.values()])
    assert np.abs(circles - np.median(circles, axis=0)).max() < 2.5
    assert [len(found.blades) > 0 for found in fields.values()] == [False] * 7 + [True] * 2
    for name in ("29", "30"):
        sideways = [blade.normal for blade in fields[name].blades if abs(blade.normal[0]) < 0.2]
        assert {np.sign(normal[1]) for normal in sideways} == {-1.0, 1.0}
