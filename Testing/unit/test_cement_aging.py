"""The working-time clock against closed forms and the published handling rules."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.cement.aging import (
    ASSUMED_TEMPERATURE_C,
    READING_VALID_S,
    CementClock,
    CementTable,
    Place,
    clock_notices,
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


@pytest.mark.parametrize("temperature_c", [18.0, 22.0, 25.0, 30.0])
def test_published_handling_times_hold_at_their_temperature_and_shorten_when_warm(temperature_c):
    key = "vertebroplasty-lai-2012"
    ends = [steady(temperature_c, 10.0, key).seconds_left(10.0) + 10.0]
    if temperature_c == 22.0:
        # Lai 2012: 8.5 min at 22 degC.
        assert ends[0] == pytest.approx(510.0, abs=1.0)
    else:
        assert (ends[0] < 510.0) == (temperature_c > 22.0)


def test_what_is_not_known_of_the_temperature_dependence_makes_cement_older():
    preset = load_presets()["vertebroplasty-lai-2012"]
    low, high = (replace(preset, activation_energy_j_mol=(one, one)) for one in preset.activation_energy_j_mol)
    assert preset.rate_factor(37.0) == high.rate_factor(37.0) > low.rate_factor(37.0)
    assert preset.rate_factor(0.0) == low.rate_factor(0.0) > high.rate_factor(0.0)


def test_cement_in_the_cannula_ages_by_the_cannulas_temperature():
    clock = CementClock().mixed(0.0).with_reading(0.0, 22.0).with_reading(100.0, 22.0).moved(100.0, "cannula")
    assert clock.temperature_c(99.0) == (22.0, True)
    assert clock.temperature_c(100.0) == (BODY_C, False), "what is not measured there counts as warm as the body"
    measured = clock.with_reading(100.0, 30.0, "cannula")
    assert measured.equivalent_age_s(160.0) == pytest.approx(100.0 + 60.0 * rate_factor(30.0))
    assert clock.equivalent_age_s(160.0) > measured.equivalent_age_s(160.0)


def test_a_new_batch_is_on_the_bench_again():
    old = CementClock().mixed(0.0).moved(10.0, "cannula").with_reading(15.0, 21.0)
    assert old.mixed(20.0).place(25.0) == "bench"
    assert old.mixed(20.0).temperature_c(25.0) == (21.0, True)


def test_a_clock_that_was_set_back_is_found_out():
    clock = CementClock().mixed(0.0).with_reading(300.0, 22.0)
    assert clock.phase(299.5) == "working"
    assert clock.phase(250.0) == "unknown", "a reading came later than now"
    looked_at = CementClock().mixed(0.0).seen(450.0)
    assert looked_at.phase(450.0) == "working"
    assert looked_at.phase(400.0) == "unknown"
    assert math.isnan(looked_at.seconds_left(400.0))
    assert looked_at.seen(math.nan).phase(451.0) == "working"
    assert [notice.level for notice in clock_notices(looked_at, 400.0)] == ["alarm"]
    assert looked_at.mixed(400.0).phase(410.0) == "mixing", "a new batch goes by the new time"
    assert clock.mixed(250.0).readings == ()


def radiofrequency() -> CementClock:
    return CementClock(load_presets()["generic-radiofrequency"])


def test_activation_starts_a_clock_of_its_own():
    clock = radiofrequency().mixed(0.0)
    assert clock.phase(600.0) == "waiting"
    assert math.isnan(clock.equivalent_age_s(600.0))
    assert clock_notices(clock, 600.0)[-1].code == "activate"
    active = clock.moved(600.0, "cannula").activated(600.0)
    assert active.phase(610.0) == "waiting"
    assert active.phase(630.0) == "working"
    assert active.equivalent_age_s(630.0) == pytest.approx(30.0), "at body temperature, which is its reference"
    assert active.phase(1300.0) == "too-stiff"


def test_what_was_not_activated_in_time_is_lost():
    late = radiofrequency().mixed(0.0).moved(1700.0, "cannula").activated(1700.0)
    assert late.phase(1750.0) == "working"
    assert late.seconds_left(1750.0) == pytest.approx(50.0)
    assert late.phase(1800.0) == "too-stiff"


def codes(clock: CementClock, now_s: float) -> list[str]:
    return [notice.code for notice in clock_notices(clock, now_s)]


def test_notices_lead_through_a_batch():
    assert codes(CementClock(), 0.0) == ["mix"]
    at = {time_s: codes(steady(22.0, time_s), time_s) for time_s in (10.0, 60.0, 220.0, 300.0, 500.0, 560.0, 600.0)}
    assert at == {
        10.0: ["mixing"],
        60.0: ["wait"],
        220.0: ["soon"],
        300.0: ["inject"],
        500.0: ["ending"],
        560.0: ["last"],
        600.0: ["too-stiff"],
    }
    assert clock_notices(steady(22.0, 600.0), 600.0)[0].level == "alarm"
    assert "1:40 min" in clock_notices(steady(22.0, 500.0), 500.0)[0].text


def test_a_missing_temperature_is_said_before_the_prompt():
    first, second = clock_notices(CementClock().mixed(0.0), 100.0)
    assert (first.level, first.code, second.code) == ("warning", "temperature", "wait")
    assert "25 °C is assumed" in first.text
    in_body = CementClock().mixed(0.0).moved(50.0, "body")
    assert "37 °C is assumed" in clock_notices(in_body, 100.0)[0].text


def test_two_batches_on_one_table():
    table = CementTable().with_batch("A", steady(22.0, 0.0)).with_batch("B", CementClock().mixed(300.0))
    assert table.clock.phase(400.0) == "not-mixed", "none is in use yet"
    table = table.use("B").with_reading(400.0, 22.0)
    assert table.clock.mixed_at_s == 300.0
    assert next(name for name, _ in table.notices(400.0)) == "B"
    assert {name for name, _ in table.notices(400.0)} == {"A", "B"}
    assert table.batches["A"].temperature_c(410.0) == (22.0, True)
    with pytest.raises(KeyError):
        table.use("C")
