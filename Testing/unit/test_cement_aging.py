"""The working-time clock against closed forms and the published handling rules."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.cement.aging import (
    ASSUMED_TEMPERATURE_C,
    READING_VALID_S,
    CementClock,
    Place,
)
from sacroplasty.cement.presets import default_preset, load_presets

PRESET = default_preset()
ROOM_C, BODY_C = ASSUMED_TEMPERATURE_C["bench"], ASSUMED_TEMPERATURE_C["body"]
rate_factor = PRESET.rate_factor


def steady(temperature_c: float, until_s: float, key: str = PRESET.key, place: Place = "bench") -> CementClock:
    """A batch mixed at 0 that has been kept at one temperature, read every minute, until now."""
    clock = CementClock(load_presets()[key]).mixed(0.0)
    if place != "bench":
        clock = clock.moved(0.0, place)
    for number in range(int(until_s / 60) + 1):
        clock = clock.with_reading(60.0 * number, temperature_c, place)
    return clock


def phase_at(temperature_c: float, time_s: float) -> str:
    return steady(temperature_c, time_s).phase(time_s)


def test_rate_doubles_from_25_to_37_degrees():
    assert rate_factor(37) / rate_factor(25) == pytest.approx(2.0, rel=1e-3)
    assert rate_factor(PRESET.reference_c) == 1.0


def test_age_at_the_reference_temperature_is_plain_time():
    assert steady(PRESET.reference_c, 500.0).equivalent_age_s(500.0) == pytest.approx(500.0)


def test_age_sums_over_changing_temperatures():
    clock = CementClock().mixed(0.0).with_reading(0.0, 22.0).with_reading(100.0, 37.0)
    expected = 100.0 + 80.0 * rate_factor(37.0)
    assert clock.equivalent_age_s(180.0) == pytest.approx(expected)


def test_missing_and_outdated_temperatures_count_as_warm():
    assert CementClock().mixed(0.0).equivalent_age_s(100.0) == pytest.approx(100.0 * rate_factor(ROOM_C))
    clock = CementClock().mixed(0.0).with_reading(0.0, 18.0)
    assert clock.temperature_c(READING_VALID_S) == (18.0, True)
    assert clock.temperature_c(READING_VALID_S + 1) == (ROOM_C, False)
    after = clock.equivalent_age_s(READING_VALID_S + 50) - clock.equivalent_age_s(READING_VALID_S)
    assert after == pytest.approx(50 * rate_factor(ROOM_C))


def test_a_hot_reading_that_became_outdated_stays_hot():
    clock = CementClock().mixed(0.0).with_reading(0.0, 30.0)
    assert clock.temperature_c(1000.0) == (30.0, False)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -40.0, 120.0])
def test_a_broken_thermometer_is_left_out(broken):
    assert CementClock().with_reading(0.0, broken).readings == ()


def test_phases_follow_the_handling_rules_at_room_temperature():
    assert CementClock().phase(0.0) == "not-mixed"
    phases = [phase_at(22.0, t) for t in (0.0, 44.9, 45.1, 239.9, 240.1, 599.9, 600.1)]
    assert phases == ["mixing", "mixing", "waiting", "waiting", "working", "working", "too-stiff"]


@pytest.mark.parametrize("now", [math.nan, -1.0])
def test_an_impossible_time_is_never_working(now):
    assert CementClock().mixed(0.0).phase(now) == "unknown"


def test_time_left_is_the_time_after_which_the_phase_changes():
    clock = steady(27.0, 10.0)
    wait, left = clock.seconds_until_working(10.0), clock.seconds_left(10.0)
    assert phase_at(27.0, 10.0 + wait - 0.1) == "waiting"
    assert phase_at(27.0, 10.0 + wait + 0.1) == "working"
    assert phase_at(27.0, 10.0 + left - 0.1) == "working"
    assert phase_at(27.0, 10.0 + left + 0.1) == "too-stiff"


def test_consistency_grows_fivefold_over_the_working_time():
    assert steady(22.0, 240.0).consistency_pa_sn(240.0) == pytest.approx(200.0)
    assert steady(22.0, 600.0).consistency_pa_sn(600.0) == pytest.approx(1000.0)
    assert math.isnan(CementClock().consistency_pa_sn(0.0))


@settings(max_examples=60, deadline=None)
@given(
    temperatures=st.lists(st.floats(10.0, 40.0), min_size=0, max_size=6),
    warmer=st.floats(0.0, 5.0),
    now=st.floats(0.0, 900.0),
)
def test_warmer_cement_is_never_younger(temperatures, warmer, now):
    cool, warm = CementClock().mixed(0.0), CementClock().mixed(0.0)
    temperatures = temperatures[: int(now / 100) + 1]
    for number, temperature in enumerate(temperatures):
        cool = cool.with_reading(100.0 * number, temperature)
        warm = warm.with_reading(100.0 * number, temperature + warmer)
    assert warm.equivalent_age_s(now) >= cool.equivalent_age_s(now) - 1e-9
