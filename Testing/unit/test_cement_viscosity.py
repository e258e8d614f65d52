"""The live estimate of viscosity against a pump that is not its own model."""

import math

import numpy as np
import pytest

from sacroplasty.cement.line import InjectionLine, Segment, cannula_line
from sacroplasty.cement.viscosity import ViscosityEstimator
from sacroplasty.simulation.cannula import flow_ml_s

CANNULA = cannula_line(11, 2.388, 150.0)
STIFF = InjectionLine(CANNULA.syringe_diameter_mm, CANNULA.segments, compliance_ml_per_kpa=5e-5)


def readings(consistency: float, seed: int, seconds: float = 8.0, flow: float = 0.05, compliance: float = 6e-5):
    """(time, pressure, flow, outflow, K) at 10 Hz with 5 % noise on both, an offset of 15 kPa, rest for 1 s.

    The line is a fifth softer than the estimator is told, has a hub that the estimator takes for a cone and that here
    is four steps, and the cement stiffens half as fast again as expected.
    """
    rng = np.random.default_rng(seed)
    pieces = [(4.0, 3.75), (3.6, 3.75), (3.2, 3.75), (2.8, 3.75), (2.388, 150.0)]
    n, pressure = 0.6, 0.0
    unit = sum(flow_ml_s(1.0, 1.0, n, diameter, length) ** -n for diameter, length in pieces)
    for index in range(round(seconds * 10) + 1):
        time_s = index / 10
        plunger = flow if time_s > 1.0 else 0.0
        k = consistency * math.exp(max(time_s - 1.0, 0.0) / 133)
        for _ in range(50):
            out = (max(pressure, 0.0) / (unit * k)) ** (1 / n)
            pressure += 0.002 * (plunger - out) / compliance
        yield (
            time_s,
            pressure * (1 + 0.05 * rng.normal()) + 15.0,
            plunger * (1 + 0.05 * rng.normal()),
            out,
            k,
        )


def last_of(estimator: ViscosityEstimator, measured, later_s: float = 0.0):
    """The estimate after all measurements, and the consistency that the cement has then."""
    found = [(estimator.update(later_s + time_s, pressure, flow), k) for time_s, pressure, flow, _, k in measured]
    return found[-1]


@pytest.mark.parametrize("consistency", [50.0, 200.0, 600.0, 1000.0])
@pytest.mark.parametrize("seed", range(3))
def test_two_seconds_of_flow_tell_the_consistency_to_a_tenth(consistency, seed):
    estimator = ViscosityEstimator(STIFF, 0.6, growth_per_s=1 / 200)
    flowing_s = 0.0
    for time_s, pressure, flow, out, k in readings(consistency, seed):
        estimate = estimator.update(time_s, pressure, flow)
        flowing_s += 0.1 * (out > 0.5 * 0.05)
        if flowing_s >= 2.0:
            assert estimate.consistency_pa_sn == pytest.approx(k, rel=0.1)
            assert estimate.known


def test_the_uncertainty_covers_the_error():
    off = []
    for seed in range(12):
        estimate, k = last_of(ViscosityEstimator(STIFF, 0.6, growth_per_s=1 / 200), readings(300.0, seed, seconds=5.0))
        off.append((estimate.consistency_pa_sn - k) / estimate.standard_deviation_pa_sn)
        assert estimate.standard_deviation_pa_sn < 0.1 * k
    assert np.abs(off).max() < 3.0


def test_standstill_tells_nothing_and_before_the_flow_reaches_the_tip_it_is_not_known():
    estimator = ViscosityEstimator(STIFF, 0.6)
    for time_s, pressure, flow, _, _ in readings(400.0, 1, seconds=1.1):
        estimate = estimator.update(time_s, pressure, flow)
        if flow == 0:
            assert math.isnan(estimate.consistency_pa_sn) and math.isnan(estimate.apparent_viscosity_pa_s)
            assert not estimate.known
    assert not estimate.known, "a tenth of a second of a line that stretches is no measurement"
    stopped = estimator.update(2.0, 300.0, 0.0)
    assert math.isnan(stopped.consistency_pa_sn) and stopped.flowing_s == 0.0


def test_a_second_step_is_judged_anew_from_the_pressure_that_is_left():
    estimator = ViscosityEstimator(STIFF, 0.6, growth_per_s=1 / 200)
    for time_s, pressure, flow, _, _ in readings(300.0, 2, seconds=6.0):
        estimator.update(time_s, pressure, flow)
    for index in range(200):
        estimator.update(6.1 + index / 10, 15.0 + 400.0 * math.exp(-index / 20), 0.0)
    estimate, k = last_of(estimator, readings(900.0, 3, seconds=7.0), later_s=26.2)
    assert estimate.consistency_pa_sn == pytest.approx(k, rel=0.1)


@pytest.mark.parametrize(
    "broken", [(math.nan, 300.0, 0.05), (3.0, math.nan, 0.05), (3.0, 300.0, math.inf), (1.0, 300.0, 0.05)]
)
def test_measurements_that_cannot_be_are_left_out(broken):
    first, second = (ViscosityEstimator(STIFF, 0.6) for _ in range(2))
    for time_s, pressure, flow, _, _ in readings(300.0, 4, seconds=2.9):
        first.update(time_s, pressure, flow)
        second.update(time_s, pressure, flow)
    refused = first.update(*broken)
    assert math.isnan(refused.consistency_pa_sn) and not refused.known
    after = (3.2, 380.0, 0.05)
    assert first.update(*after) == second.update(*after)


def test_apparent_viscosity_is_that_at_the_wall_of_the_narrowest_piece():
    line = InjectionLine(14.5, (Segment("the tube", 3.0, 300.0), Segment("the cannula", 2.0, 100.0)))
    estimator = ViscosityEstimator(line, 1.0)
    # 8 mu L Q / (pi R^4) of both pieces, 100 Pa s and 0.1 mL/s.
    pressure = 8 * 100.0 * 0.1e-6 / math.pi * (0.3 / 1.5e-3**4 + 0.1 / 1e-3**4) / 1000
    for index in range(40):
        estimate = estimator.update(index / 10, pressure, 0.1)
    assert estimate.apparent_viscosity_pa_s == pytest.approx(100.0, rel=0.03)
