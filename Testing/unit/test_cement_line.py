"""The injection line against the momentum balance integrated slice by slice, and its after-flow against an ODE."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

from sacroplasty.cement.line import (
    ATMOSPHERE_KPA,
    InjectionLine,
    Segment,
    cannula_line,
    pressure_outlook,
)
from sacroplasty.cement.presets import PowerLawFluid, default_preset, load_presets
from sacroplasty.errors import PlanError
from sacroplasty.simulation.cannula import flow_ml_s

DOUGH = PowerLawFluid(400.0, 0.55)
LINE = InjectionLine(
    14.5,
    (Segment("the tube", 3.0, 200.0), Segment("the hub", 4.0, 15.0, 2.388), Segment("the 11G cannula", 2.388, 150.0)),
    compliance_ml_per_kpa=2e-4,
)


def gradient_kpa_mm(flow: float, fluid: PowerLawFluid, diameter_mm: float) -> float:
    """Pressure gradient that drives a flow, found by trial on the integrated velocity profile."""

    def of(gradient: float) -> float:
        wall = diameter_mm / 2000

        def speed_m_s(r: float) -> float:
            return quad(
                lambda s: (gradient * 1e6 * s / (2 * fluid.consistency_pa_sn)) ** (1 / fluid.flow_index), r, wall
            )[0]

        return 2 * math.pi * quad(lambda r: r * speed_m_s(r), 0, wall)[0] * 1e6

    return brentq(lambda log: math.log(of(math.exp(log)) / flow), math.log(1e-3), math.log(1e3), xtol=1e-6)


@pytest.mark.parametrize("fluid", [DOUGH, PowerLawFluid(20.0, 0.8), PowerLawFluid(1500.0, 0.4)])
def test_pressure_of_the_whole_line_is_that_of_the_velocity_profiles_in_its_slices(fluid):
    expected = 0.0
    for segment in LINE.segments:
        first, last = segment.inner_diameter_mm, segment.outlet_diameter_mm or segment.inner_diameter_mm
        slices = 1 if first == last else 12
        for index in range(slices):
            diameter = first + (last - first) * (index + 0.5) / slices
            expected += math.exp(gradient_kpa_mm(0.05, fluid, diameter)) * segment.length_mm / slices
    assert LINE.pressure_kpa(0.05, fluid) == pytest.approx(expected, rel=0.002)


def test_the_simulated_cannula_is_another_way_to_the_same_flow():
    cannula = LINE.segments[-1]
    pressure = cannula.pressure_kpa(0.05, DOUGH)
    out = flow_ml_s(pressure, DOUGH.consistency_pa_sn, DOUGH.flow_index, cannula.inner_diameter_mm, cannula.length_mm)
    assert out == pytest.approx(0.05, rel=1e-3)
    assert flow_ml_s(-5.0, 400.0, 0.5, 2.0, 100.0) == 0.0


def test_flow_inverts_pressure_and_the_cannula_takes_most_of_it():
    pressure = LINE.pressure_kpa(0.07, DOUGH)
    assert float(LINE.flow_ml_s(pressure, DOUGH)) == pytest.approx(0.07)
    assert float(LINE.flow_ml_s(-3.0, DOUGH)) == 0.0
    assert cannula_line(11, 2.388, 150.0).pressures_kpa(0.05, DOUGH)["the 11G cannula"] > 0.9 * cannula_line(
        11, 2.388, 150.0
    ).pressure_kpa(0.05, DOUGH)


def test_dead_volume_is_that_of_cylinders_and_a_cone():
    cone = math.pi * 15.0 / 3 * (2.0**2 + 2.0 * 1.194 + 1.194**2)
    expected = math.pi * (1.5**2 * 200 + 1.194**2 * 150) + cone
    assert LINE.dead_volume_ml == pytest.approx(expected / 1000)


def test_force_on_the_plunger_has_its_friction():
    line = replace(LINE, friction_n=8.0)
    area_mm2 = math.pi * 7.25**2
    assert line.plunger_force_n(0.05, DOUGH) == pytest.approx(8.0 + LINE.pressure_kpa(0.05, DOUGH) * area_mm2 / 1000)


@pytest.mark.parametrize("air_ml", [0.0, 0.15])
@pytest.mark.parametrize("relief_ml_s", [0.0, 0.1])
@pytest.mark.parametrize("fluid", [DOUGH, PowerLawFluid(60.0, 0.8), PowerLawFluid(1200.0, 0.5)])
def test_after_flow_is_that_of_a_line_that_relaxes(fluid, relief_ml_s, air_ml):
    line = replace(LINE, air_ml=air_ml)
    start_kpa, back_kpa = line.pressure_kpa(0.05, fluid), 8.0

    def change(_, state):
        pressure = state[0]
        out = float(line.flow_ml_s(pressure - back_kpa, fluid))
        softness = 2e-4 + air_ml * ATMOSPHERE_KPA / (ATMOSPHERE_KPA + pressure) ** 2
        return [-(out + (relief_ml_s if pressure > 30.0 else 0.0)) / softness, out]

    solved = solve_ivp(change, (0, 40), [start_kpa, 0.0], rtol=1e-7, atol=1e-9, max_step=0.05, t_eval=[1.0, 5.0, 40.0])
    after = line.after_flow(start_kpa, fluid, back_kpa, relief_ml_s, relieved_kpa=30.0)
    assert [after.volume_ml(t) for t in (1.0, 5.0, 40.0)] == pytest.approx(list(solved.y[1]), rel=0.01, abs=2e-4)
    if relief_ml_s == 0.0:
        assert after.total_ml == pytest.approx(float(line.stored_ml(start_kpa) - line.stored_ml(back_kpa)), rel=1e-4)
    assert after.volume_ml(after.settled_s()) == pytest.approx(after.total_ml - 0.01, abs=1e-6) or after.total_ml < 0.01


def test_air_in_the_cement_makes_the_after_flow_larger():
    pressure = LINE.pressure_kpa(0.05, DOUGH)
    assert (
        replace(LINE, air_ml=0.3).after_flow(pressure, DOUGH).total_ml > LINE.after_flow(pressure, DOUGH).total_ml + 0.2
    )


def test_a_relaxed_line_gives_no_more_and_an_unknown_one_is_refused():
    assert LINE.after_flow(5.0, DOUGH, back_pressure_kpa=6.0).total_ml == 0.0
    with pytest.raises(ValueError, match="after-flow needs"):
        LINE.after_flow(math.nan, DOUGH)
    with pytest.raises(ValueError, match="0 or more"):
        LINE.pressure_kpa(-0.1, DOUGH)
    assert math.isnan(LINE.pressure_kpa(math.nan, DOUGH))
    assert math.isnan(LINE.pressure_kpa(0.05, PowerLawFluid(math.nan, 0.6)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"syringe_diameter_mm": 0.0}, "syringe's bore"),
        ({"segments": ()}, "at least the cannula"),
        ({"segments": (Segment("a tube", -2.0, 100.0),)}, "the bore of a tube is -2.0 mm"),
        ({"segments": (Segment("a tube", 2.0, math.nan),)}, "the length of a tube is nan mm"),
        ({"segments": (Segment("a tube", 2.0, 10.0, 0.0),)}, "outlet"),
        ({"compliance_ml_per_kpa": -1e-4}, "compliance"),
        ({"air_ml": math.inf}, "air_ml"),
    ],
)
def test_impossible_lines_are_refused(change, word):
    with pytest.raises(PlanError, match=word):
        replace(LINE, **change)


def test_a_13_gauge_is_warned_of_before_it_needs_too_much():
    preset = default_preset()
    thin, wide = (cannula_line(gauge, bore, 150.0) for gauge, bore in ((13, 1.803), (11, 2.388)))
    late = pressure_outlook(thin, preset, 0.05, 4000.0)
    assert late.exceeds_at_s is not None and preset.working_from_s < late.exceeds_at_s < preset.working_until_s
    assert "13G" in late.text and "finish before" in late.text
    at_that_age = thin.pressure_kpa(0.05, preset.fluid(late.exceeds_at_s))
    assert at_that_age == pytest.approx(4000.0, rel=0.02)
    fine = pressure_outlook(wide, preset, 0.05, 4000.0)
    assert (fine.exceeds_at_s, fine.text) == (None, "")
    assert fine.end_kpa == pytest.approx(wide.pressure_kpa(0.05, preset.fluid(preset.working_until_s)))
    now = pressure_outlook(thin, preset, 0.05, 4000.0, age_s=590.0)
    assert "from now on" in now.text and now.begin_force_n > 4000 * math.pi * 7.25**2 / 1000


def test_every_preset_can_be_pushed_through_an_11_gauge_when_its_time_begins():
    for preset in load_presets().values():
        outlook = pressure_outlook(cannula_line(11, 2.388, 150.0), preset, 0.05, 4000.0)
        assert outlook.begin_kpa < 4000.0
        assert np.isfinite(outlook.end_kpa) and outlook.end_kpa > outlook.begin_kpa
