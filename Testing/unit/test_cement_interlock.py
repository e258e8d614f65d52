"""The interlock's truth table: every fact alone can forbid the flow, whatever way it is missing."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.cement.interlock import Facts, Limits, Observed, interlock

NOW = 100.0
LIMITS = Limits()

GOOD = Facts(
    operator_stop=Observed(False, NOW),
    pump_connected=Observed(True, NOW),
    pump_fault=Observed(False, NOW),
    frames_changing={"ap": Observed(True, NOW), "lateral": Observed(True, NOW)},
    monitor_healthy=Observed(True, NOW),
    leak=Observed(False, NOW),
    cement_phase=Observed("working", NOW),
    step_volume_ml=Observed(0.4, NOW),
    ala_volume_ml=Observed(2.4, NOW),
    total_volume_ml=Observed(6.0, NOW),
    pressure_kpa=Observed(900.0, NOW),
    registration_error_mm=Observed(1.2, NOW),
)
NAMES = [field.name for field in fields(Facts) if field.name != "frames_changing"]
NUMBERS = [name for name in NAMES if isinstance(getattr(GOOD, name).value, float)]


def with_fact(name, observed) -> Facts:
    return replace(GOOD, **{name: observed})


def test_flow_is_allowed_when_every_fact_is_good():
    decision = interlock(GOOD, LIMITS, NOW)
    assert decision.allowed and decision.reasons == ()


def test_knowing_nothing_forbids_for_every_fact():
    decision = interlock(Facts(), LIMITS, NOW)
    assert not decision.allowed
    assert {reason.fact for reason in decision.reasons} == {field.name for field in fields(Facts)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda good: None, id="absent"),
        pytest.param(lambda good: Observed(None, NOW), id="no-value"),
        pytest.param(lambda good: Observed(good.value, NOW - 1.01), id="stale"),
        pytest.param(lambda good: Observed(good.value, NOW + 1.0), id="from-the-future"),
        pytest.param(lambda good: Observed(good.value, math.nan), id="time-not-a-number"),
        pytest.param(lambda good: Observed(math.nan, NOW), id="not-a-number"),
        pytest.param(lambda good: Observed("nonsense", NOW), id="wrong-kind"),
    ],
)
def test_any_fact_that_is_not_known_forbids_and_is_named(name, spoil):
    decision = interlock(with_fact(name, spoil(getattr(GOOD, name))), LIMITS, NOW)
    assert not decision.allowed
    assert [reason.fact for reason in decision.reasons] == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("operator_stop", True),
        ("pump_connected", False),
        ("pump_fault", True),
        ("monitor_healthy", False),
        ("leak", True),
        *[("cement_phase", phase) for phase in ("not-mixed", "mixing", "waiting", "too-stiff", "unknown")],
        ("step_volume_ml", 1.1),
        ("ala_volume_ml", 8.0),
        ("total_volume_ml", 12.0),
        ("pressure_kpa", 4000.0),
        ("registration_error_mm", 2.0),
        *[(name, -60.0) for name in ("step_volume_ml", "ala_volume_ml", "total_volume_ml", "pressure_kpa")],
        *[(name, math.inf) for name in ("step_volume_ml", "pressure_kpa", "registration_error_mm")],
    ],
)
def test_a_bad_value_forbids_alone(name, value):
    decision = interlock(with_fact(name, Observed(value, NOW)), LIMITS, NOW)
    assert [reason.fact for reason in decision.reasons] == [name]


@pytest.mark.parametrize(
    "views",
    [
        None,
        {},
        {"ap": None},
        {"ap": Observed(True, NOW), "lateral": None},
        {"ap": Observed(True, NOW), "lateral": Observed(False, NOW)},
        {"ap": Observed(True, NOW), "lateral": Observed(True, NOW - 0.41)},
        {"ap": Observed(True, NOW), "lateral": Observed(True, math.nan)},
    ],
)
def test_every_view_must_be_live(views):
    decision = interlock(replace(GOOD, frames_changing=views), LIMITS, NOW)
    assert {reason.fact for reason in decision.reasons} == {"frames_changing"}


def test_frames_are_too_old_after_two_periods():
    aged = replace(GOOD, frames_changing={"ap": Observed(True, NOW - 0.39)})
    assert interlock(aged, LIMITS, NOW).allowed
    assert not interlock(aged, replace(LIMITS, frame_period_s=0.15), NOW).allowed


def test_pump_silence_beyond_its_heartbeat_forbids():
    assert interlock(with_fact("pump_connected", Observed(True, NOW - 0.29)), LIMITS, NOW).allowed
    assert not interlock(with_fact("pump_connected", Observed(True, NOW - 0.31)), LIMITS, NOW).allowed


def test_a_clock_that_is_not_a_number_forbids():
    assert not interlock(GOOD, LIMITS, math.nan).allowed


def test_numpy_values_count_like_plain_ones():
    numpy_facts = replace(GOOD, leak=Observed(np.bool_(False), NOW), pressure_kpa=Observed(np.float32(900), NOW))
    assert interlock(numpy_facts, LIMITS, NOW).allowed
    assert not interlock(with_fact("leak", Observed(np.bool_(True), NOW)), LIMITS, NOW).allowed


@settings(max_examples=200, deadline=None)
@given(broken=st.sets(st.sampled_from(NAMES), min_size=1))
def test_each_of_several_broken_facts_is_named(broken):
    facts = replace(GOOD, **dict.fromkeys(broken))
    assert {reason.fact for reason in interlock(facts, LIMITS, NOW).reasons} == broken
