"""Exposure, noise and display."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.errors import ImageError
from sacroplasty.xray.detector import EXPOSURE_TARGET, automatic_air_level, display_image, expose, log_image


def test_automatic_exposure_brings_the_middle_to_its_target() -> None:
    integrals = np.full((64, 64), 7.0)
    integrals[:, :10] = 0
    level = automatic_air_level(integrals)
    frame = expose(integrals, np.random.default_rng(0), air_level=level)
    assert frame[:, 20:].mean() == pytest.approx(EXPOSURE_TARGET, rel=0.01)
    assert (frame[:, :10] == 65535).all()


@pytest.mark.parametrize("photons", [50, 2000])
def test_noise_is_that_of_the_counted_photons(photons: float) -> None:
    integrals = np.full((200, 200), 6.0)
    level = automatic_air_level(integrals)
    frame = expose(integrals, np.random.default_rng(1), air_level=level, photons_per_pixel=photons)
    assert frame.std() / frame.mean() == pytest.approx(1 / np.sqrt(photons), rel=0.03)


def test_blur_spreads_an_edge_and_lowers_the_noise() -> None:
    integrals = np.full((200, 200), 6.0)
    level = automatic_air_level(integrals)
    sharp = expose(integrals, np.random.default_rng(2), air_level=level)
    soft = expose(integrals, np.random.default_rng(2), air_level=level, blur_pixels=1.0)
    # White noise through a Gaussian of standard deviation s keeps 1 / (4 pi s^2) of its variance.
    assert soft.var() / sharp.var() == pytest.approx(1 / (4 * np.pi), rel=0.15)


def test_the_logarithm_gives_the_line_integrals_back() -> None:
    integrals = np.linspace(3, 8, 256)[None, :].repeat(256, axis=0)
    level = automatic_air_level(integrals)
    frame = expose(integrals, np.random.default_rng(3), air_level=level, photons_per_pixel=20000)
    back = log_image(frame, level).mean(axis=0)
    seen = np.exp(-integrals[0]) * level < 60000
    np.testing.assert_allclose(back[seen], integrals[0][seen], atol=0.03)
    assert np.isfinite(log_image(np.zeros((2, 2), np.uint16), level)).all()


def test_bone_is_dark_and_air_is_white() -> None:
    integrals = np.full((100, 100), 6.0)
    integrals[40:60, 40:60] = 8.0
    integrals[:, :8] = 0.0
    shown = display_image(integrals)
    assert shown[50, 50] < 80
    assert shown[20, 60] > 200
    assert (shown[:, :8] == 255).all()
    assert (display_image(np.zeros((10, 10))) == 255).all()


def test_a_trocar_seen_end_on_does_not_wash_out_the_bone() -> None:
    rng = np.random.default_rng(4)
    integrals = 6 + rng.uniform(0, 2, (100, 100))
    with_metal = integrals.copy()
    with_metal[48:53, 48:53] += 80
    plain, metal = display_image(integrals), display_image(with_metal)
    away = np.ones((100, 100), bool)
    away[40:60, 40:60] = False
    assert (metal[48:53, 48:53] == 0).all()
    assert metal[away].std() > 0.8 * plain[away].std()


def test_a_given_window_makes_images_comparable() -> None:
    integrals = np.full((100, 100), 5.0)
    assert display_image(integrals, window=(4.0, 6.0))[50, 50] == 128


def test_outside_the_field_it_is_black_and_does_not_change_the_rest() -> None:
    integrals = 6 + np.random.default_rng(5).uniform(0, 2, (100, 100))
    field = np.zeros((100, 100), bool)
    field[10:90, 10:90] = True
    outside = np.where(field, integrals, 13.0)
    shown = display_image(outside, field=field)
    assert (shown[~field] == 0).all()
    np.testing.assert_array_equal(shown, display_image(np.where(field, integrals, 0.0), field=field))
    assert shown[field].mean() > 80
    assert (display_image(np.zeros((100, 100)), field=field)[field] == 255).all()


@pytest.mark.parametrize(("level", "photons"), [(0.0, 2000.0), (np.nan, 2000.0), (1e6, 0.0), (1e6, np.nan)])
def test_exposures_that_cannot_be_are_refused(level: float, photons: float) -> None:
    with pytest.raises(ImageError, match="positive"):
        expose(np.ones((4, 4)), np.random.default_rng(0), air_level=level, photons_per_pixel=photons)
    with pytest.raises(ImageError, match="NaN"):
        expose(np.full((4, 4), np.nan), np.random.default_rng(0), air_level=1e6)
    with pytest.raises(ImageError, match="air level"):
        log_image(np.ones((4, 4)), -1)
