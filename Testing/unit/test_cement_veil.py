"""Scatter over the picture, and how strongly cement shows, are found from cement of known volume."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.cement.veil import Sample, find_scale_and_veil, most_of, unveiled, veil_share

PATH = np.linspace(0.1, 1.8, 200)
SIGNAL = np.linspace(300.0, 900.0, 200)


def seen(veil, path=PATH):
    """Attenuation of the whole signal, of which `veil` does not pass the cement."""
    return -np.log(((SIGNAL - veil) * np.exp(-path) + veil) / SIGNAL)


def growing(veil, strength=1.0):
    """Samples of cement that becomes thicker and of which the pump expects `PATH` in the end."""
    parts = (0.2, 0.4, 0.6, 0.8, 1.0)
    return [Sample(seen(veil, strength * part * PATH), np.log(SIGNAL), part * PATH.sum()) for part in parts]


@pytest.mark.parametrize("veil", [0.0, 100.0, 250.0])
@pytest.mark.parametrize("strength", [0.65, 1.0, 1.25])
def test_cement_is_shown_as_thick_as_it_is(veil, strength):
    samples = growing(veil, strength)
    scale, found = find_scale_and_veil(samples)
    shown = scale * unveiled(samples[-1].attenuation, veil_share(np.log(SIGNAL), found))
    assert shown.sum() == pytest.approx(PATH.sum(), rel=0.04)
    thicker = seen(veil, 1.5 * strength * PATH)
    assert (scale * unveiled(thicker, veil_share(np.log(SIGNAL), found))).sum() == pytest.approx(
        1.5 * PATH.sum(), rel=0.1
    )


def test_cement_as_usual_has_its_veil():
    scale, veil = find_scale_and_veil(growing(250.0))
    assert scale == pytest.approx(1.0, abs=0.01)
    assert veil == pytest.approx(250.0, abs=3.0)


def test_one_frame_tells_a_veil_alone():
    scale, veil = find_scale_and_veil(growing(100.0)[:1])
    assert scale == pytest.approx(1.0, abs=0.01)
    assert veil == pytest.approx(100.0, abs=3.0)


def test_the_veil_is_never_darker_than_the_darkest_cement():
    sample = Sample(seen(250.0), np.log(SIGNAL), 100 * PATH.sum())
    _, veil = find_scale_and_veil([sample])
    assert veil < (SIGNAL * np.exp(-seen(250.0))).min() * 1.1
    assert PATH.sum() < most_of(sample) < sample.expected_sum
