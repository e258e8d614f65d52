"""Cannula flow against Poiseuille's law and a numerical solution of the momentum balance."""

import math

import numpy as np
import pytest

from sacroplasty.cement import hydraulics


def test_newtonian_pressure_is_poiseuilles():
    flow, viscosity, diameter, length = 0.05, 100.0, 2.388, 120.0
    radius_m = diameter / 2000
    expected = 8 * viscosity * length * 1e-3 * flow * 1e-6 / (math.pi * radius_m**4) / 1000
    assert hydraulics.cannula_pressure_kpa(flow, viscosity, 1.0, diameter, length) == pytest.approx(expected)


@pytest.mark.parametrize("flow_index", [0.4, 0.6, 0.9])
def test_power_law_pressure_matches_the_integrated_velocity_profile(flow_index):
    consistency, radius, length, gradient = 300.0, 1.2e-3, 0.12, 4e6
    r = np.linspace(0, radius, 20001)
    # Momentum balance: stress r * gradient / 2 = K * shear^n; the flow is the velocity integrated over the bore.
    shear = (r * gradient / (2 * consistency)) ** (1 / flow_index)
    flow_m3 = math.pi * np.trapezoid(r**2 * shear, r)
    pressure = hydraulics.cannula_pressure_kpa(flow_m3 * 1e6, consistency, flow_index, 2 * radius * 1e3, length * 1e3)
    assert pressure == pytest.approx(gradient * length / 1000, rel=1e-5)


def test_13_gauge_needs_about_twice_the_pressure_of_11_gauge():
    ratio = [
        hydraulics.cannula_pressure_kpa(0.05, 200, 0.6, 1.803, 100)
        / hydraulics.cannula_pressure_kpa(0.05, 200, 0.6, 2.388, 100)
    ]
    assert 2.0 < ratio[0] < 2.5


def test_force_on_a_known_piston():
    # 1 MPa on a bore of 14.5 mm.
    assert hydraulics.plunger_force_n(1000.0, 14.5) == pytest.approx(165.13, abs=0.01)


def test_tip_pressure_is_small_beside_the_cannula():
    tip = hydraulics.tip_pressure_kpa(0.05, 100.0, 4e-8, 10.0)
    assert 0 < tip < 0.1 * hydraulics.cannula_pressure_kpa(0.05, 100.0, 1.0, 2.388, 120.0)


def test_nonsense_bores_are_refused():
    with pytest.raises(ValueError, match="inner_diameter_mm"):
        hydraulics.cannula_pressure_kpa(0.05, 100.0, 0.6, 0.0, 150.0)
