"""Scatter over the picture is found from cement of known volume, and taken out."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.cement.veil import find_veil, unveiled, veil_share

PATH = np.linspace(0.1, 1.8, 200)
SIGNAL = np.linspace(300.0, 900.0, 200)


def seen(veil):
    """Attenuation of the whole signal, of which `veil` does not pass the cement."""
    return -np.log(((SIGNAL - veil) * np.exp(-PATH) + veil) / SIGNAL)


@pytest.mark.parametrize("veil", [0.0, 100.0, 250.0])
def test_the_veil_that_hides_cement_is_found_and_taken_out(veil):
    found = find_veil(seen(veil), np.log(SIGNAL), PATH.sum())
    assert found == pytest.approx(veil, abs=3.0)
    share = veil_share(np.log(SIGNAL), found)
    assert np.allclose(unveiled(seen(veil), share), PATH, rtol=0.02)


def test_cement_that_shows_more_than_expected_has_no_veil():
    assert find_veil(seen(0.0), np.log(SIGNAL), 0.5 * PATH.sum()) == pytest.approx(0.0, abs=0.01)


def test_the_veil_is_never_darker_than_the_darkest_cement():
    found = find_veil(seen(250.0), np.log(SIGNAL), 100 * PATH.sum())
    assert found < (SIGNAL * np.exp(-seen(250.0))).min() * 1.1
    assert np.isfinite(unveiled(seen(250.0), veil_share(np.log(SIGNAL), found))).all()
