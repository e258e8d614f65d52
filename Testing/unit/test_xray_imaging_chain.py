"""Each effect of the imaging chain, alone and switched off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sacroplasty.errors import ImageError
from sacroplasty.xray.detector import EXPOSURE_TARGET
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.imaging_chain import (
    ExposedFrame,
    ImagingChain,
    expose_frame,
    field_mask,
    ideal_pixels,
    seen_pixels,
)

GEOMETRY: XrayGeometry = CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(160)
SPACING = GEOMETRY.pixel_spacing_mm[0]
FLAT = np.full((160, 160), 5.0, np.float32)


def frame(chain: ImagingChain, integrals: np.ndarray = FLAT, seed: int = 0, **arguments: Any) -> ExposedFrame:
    return expose_frame(integrals, GEOMETRY, chain, np.random.default_rng(seed), **arguments)


def test_the_ideal_chain_is_exposed_right_and_nothing_else() -> None:
    integrals = FLAT + np.linspace(-0.3, 0.3, 160, dtype=np.float32)
    exposed = frame(ImagingChain(), integrals)
    np.testing.assert_allclose(exposed.signal, exposed.air_level * np.exp(-integrals), rtol=1e-5)
    assert exposed.pixels[40:120, 40:120].mean() == pytest.approx(EXPOSURE_TARGET, rel=1e-3)
    np.testing.assert_array_equal(exposed.pixels, frame(ImagingChain(), integrals, seed=1).pixels)


def test_without_automatic_exposure_the_air_level_holds() -> None:
    exposed = frame(ImagingChain(automatic_exposure=False, air_level=1e6))
    assert exposed.signal == pytest.approx(1e6 * np.exp(-5.0), rel=1e-5)


def test_noise_is_that_of_the_counted_photons() -> None:
    exposed = frame(ImagingChain(photons_per_pixel=400))
    assert exposed.signal.std() / exposed.signal.mean() == pytest.approx(1 / 20, rel=0.03)


def test_scatter_has_its_share_and_lowers_contrast_alone() -> None:
    integrals = FLAT.copy()
    integrals[75:85, 75:85] += 0.5
    clean, foggy = frame(ImagingChain(), integrals), frame(ImagingChain(scatter_fraction=0.5), integrals)
    measured = (slice(40, 120), slice(40, 120))
    scattered = foggy.signal / foggy.air_level - clean.signal / clean.air_level
    assert scattered[measured].mean() == pytest.approx(foggy.signal[measured].mean() / foggy.air_level / 2, rel=1e-3)
    contrast = [1 - image.signal[80, 80] / image.signal[80, 60] for image in (clean, foggy)]
    # There is more scatter in the middle of the middle than on its average.
    assert 0.4 * contrast[0] < contrast[1] < 0.5 * contrast[0]
    assert foggy.signal[40:120, 40:120].mean() == pytest.approx(EXPOSURE_TARGET, rel=1e-3)


def test_nothing_is_scattered_where_nothing_is_in_the_beam() -> None:
    air = np.zeros((160, 160), np.float32)
    chain = ImagingChain(scatter_fraction=0.5, automatic_exposure=False, air_level=1000.0)
    assert frame(chain, air).signal == pytest.approx(1000.0)


@pytest.mark.parametrize("effect", ["blur_mm", "penumbra_mm"])
def test_blur_has_its_width_in_mm(effect: str) -> None:
    integrals = FLAT.copy()
    integrals[:, 80:] += 2.0
    edge = frame(ImagingChain(**{effect: 3 * SPACING}), integrals).signal[80]
    line = -np.diff(edge) / (edge[10] - edge[150])
    middle = (np.arange(159) * line).sum()
    assert np.sqrt(((np.arange(159) - middle) ** 2 * line).sum()) == pytest.approx(3.0, rel=0.03)


def test_light_spreads_the_noise_and_the_penumbra_does_not() -> None:
    white = frame(ImagingChain(photons_per_pixel=400, penumbra_mm=2 * SPACING)).signal
    spread = frame(ImagingChain(photons_per_pixel=400, blur_mm=SPACING)).signal
    assert white.std() / white.mean() == pytest.approx(1 / 20, rel=0.03)
    # White noise through a Gaussian of standard deviation s keeps 1 / (4 pi s^2) of its variance.
    assert spread.var() / white.var() == pytest.approx(1 / (4 * np.pi), rel=0.1)


def test_blades_darken_what_is_outside() -> None:
    opening = (20 * SPACING, 30 * SPACING, 50 * SPACING, 10 * SPACING)
    exposed = frame(ImagingChain(blades_mm=opening, automatic_exposure=False, air_level=1e6))
    lit = np.argwhere(exposed.pixels > 0)
    # The middle lies between pixels 79 and 80.
    np.testing.assert_array_equal([lit.min(axis=0), lit.max(axis=0)], [[30, 60], [89, 109]])


def test_the_field_of_an_intensifier_is_a_circle() -> None:
    exposed = frame(ImagingChain(field_diameter_mm=100 * SPACING))
    lit = exposed.pixels > 0
    np.testing.assert_array_equal(lit, field_mask(GEOMETRY, 100 * SPACING))
    assert lit.sum() == pytest.approx(np.pi / 4 * 100**2, rel=0.005)


@pytest.mark.parametrize("chain", [
    ImagingChain(pincushion=0.1),
    ImagingChain(pincushion=-0.1),
    ImagingChain(s_distortion_deg=25),
    ImagingChain(pincushion=0.12, s_distortion_deg=-20, field_diameter_mm=150 * SPACING),
])  # fmt: skip
def test_distortion_there_and_back(chain: ImagingChain) -> None:
    ideal = np.random.default_rng(3).uniform(20, 139, (500, 2))
    np.testing.assert_allclose(ideal_pixels(seen_pixels(ideal, GEOMETRY, chain), GEOMETRY, chain), ideal, atol=1e-9)
    assert np.abs(seen_pixels(ideal, GEOMETRY, chain) - ideal).max() > 2


def test_pincushion_shows_the_edge_further_out_and_s_distortion_turns_it_clockwise() -> None:
    right_of_middle = np.array([79.5 + 75.0, 79.5])
    out = seen_pixels(right_of_middle, GEOMETRY, ImagingChain(pincushion=0.05))
    assert out[0] > right_of_middle[0] + 2
    assert out[1] == pytest.approx(79.5)
    turned = seen_pixels(right_of_middle, GEOMETRY, ImagingChain(s_distortion_deg=10))
    assert turned[1] > 79.5 + 5
    middle = np.array([79.5, 79.5])
    np.testing.assert_allclose(seen_pixels(middle, GEOMETRY, ImagingChain(pincushion=0.1)), middle)


def test_an_object_is_seen_where_the_distortion_puts_it() -> None:
    chain = ImagingChain(pincushion=0.08, s_distortion_deg=8)
    rows, columns = np.indices((160, 160))
    dot = np.exp(-((columns - 120) ** 2 + (rows - 50) ** 2) / 8.0)
    signal = frame(chain, FLAT + dot.astype(np.float32)).signal
    weight = np.zeros_like(signal)
    around = (slice(30, 75), slice(100, 145))
    weight[around] = signal[80, 80] - signal[around]
    weight[weight < 0.2 * weight.max()] = 0
    found = [(columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()]
    np.testing.assert_allclose(found, seen_pixels([120, 50], GEOMETRY, chain), atol=0.15)


def test_lag_is_a_pure_function_of_the_frame_before() -> None:
    chain = ImagingChain(lag=0.25, automatic_exposure=False, air_level=1e6)
    first = frame(chain)
    second = frame(chain, FLAT + 1, previous=first)
    alone = frame(chain, FLAT + 1)
    np.testing.assert_allclose(second.signal, 0.25 * first.signal + 0.75 * alone.signal, rtol=1e-6)
    np.testing.assert_array_equal(frame(replace(chain, lag=0.0), FLAT + 1, previous=first).signal, alone.signal)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scatter_fraction": 1.0}, "scatter_fraction"),
        ({"lag": -0.1}, "lag"),
        ({"lag": float("nan")}, "lag"),
        ({"photons_per_pixel": 0.0}, "photons_per_pixel"),
        ({"blur_mm": float("nan")}, "blur_mm"),
        ({"penumbra_mm": -1.0}, "penumbra_mm"),
        ({"field_diameter_mm": -1.0}, "field_diameter_mm"),
        ({"blades_mm": (1.0, 1.0, -1.0, 1.0)}, "blades_mm"),
        ({"pincushion": 0.5}, "pincushion"),
        ({"pincushion": float("nan")}, "pincushion"),
    ],
)
def test_a_chain_that_cannot_be_is_refused_by_name(change: dict, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        frame(ImagingChain(**change))


def test_frames_that_cannot_be_are_refused() -> None:
    with pytest.raises(ImageError, match="NaN"):
        frame(ImagingChain(), np.full((160, 160), np.nan, np.float32))
    with pytest.raises(ImageError, match="not of this detector"):
        frame(ImagingChain(), FLAT[:100])
    with pytest.raises(ImageError, match="open the collimator"):
        frame(ImagingChain(), np.full((160, 160), 1000.0, np.float32))
    small = frame(ImagingChain())
    with pytest.raises(ImageError, match="another size"):
        frame(ImagingChain(lag=0.1), previous=ExposedFrame(small.pixels[:9], small.signal[:9], 1.0))
