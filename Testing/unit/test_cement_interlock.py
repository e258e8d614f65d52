"""The interlock's truth table: every fact alone can forbid the flow, whatever way it is missing."""

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from sacroplasty.cement.injection import InjectionFacts, Prescription, begin, step
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


ALL = [field.name for field in fields(Facts)]
#: A value of each fact with which cement must not flow.
BAD = {
    "operator_stop": True,
    "pump_connected": False,
    "pump_fault": True,
    "frames_changing": False,
    "monitor_healthy": False,
    "leak": True,
    "cement_phase": "too-stiff",
    "step_volume_ml": 1.2,
    "ala_volume_ml": 8.2,
    "total_volume_ml": 12.4,
    "pressure_kpa": 4100.0,
    "registration_error_mm": 2.5,
}
#: Every way in which a fact is not in order, by name: the fact made of a good one.
WAYS = {
    "bad": lambda name, good: Observed(BAD[name], NOW),
    "absent": lambda name, good: None,
    "no value": lambda name, good: Observed(None, NOW),
    "stale": lambda name, good: Observed(good.value, NOW - 1.01),
    "not a number": lambda name, good: Observed(math.nan, NOW),
    "from the future": lambda name, good: Observed(good.value, NOW + 1.0),
    "time not a number": lambda name, good: Observed(good.value, math.nan),
    "wrong kind": lambda name, good: Observed("nonsense", NOW),
}


def spoilt(ways: dict[str, str]) -> Facts:
    """Good facts, with those named spoilt in the way named. Of the two views the second is."""
    changes = {}
    for name, way in ways.items():
        if name == "frames_changing":
            views = dict(GOOD.frames_changing)
            views["lateral"] = WAYS[way](name, views["lateral"])
            changes[name] = views
        else:
            changes[name] = WAYS[way](name, getattr(GOOD, name))
    return replace(GOOD, **changes)


def combinations_of_facts():
    """Each of the 4096 sets of facts that are not in order."""
    for size in range(len(ALL) + 1):
        yield from itertools.combinations(ALL, size)


@pytest.mark.parametrize("way", WAYS)
def test_truth_table_every_set_of_facts_that_are_not_in_order(way):
    rows = 0
    for broken in combinations_of_facts():
        decision = interlock(spoilt(dict.fromkeys(broken, way)), LIMITS, NOW)
        assert decision.allowed == (not broken)
        assert {reason.fact for reason in decision.reasons} == set(broken)
        rows += 1
    assert rows == 2 ** len(ALL) == 4096


def test_truth_table_every_pair_of_ways_of_every_pair_of_facts():
    rows = 0
    for first, second in itertools.combinations(ALL, 2):
        for ways in itertools.product(WAYS, WAYS):
            decision = interlock(spoilt(dict(zip((first, second), ways, strict=True))), LIMITS, NOW)
            assert not decision.allowed
            assert {reason.fact for reason in decision.reasons} == {first, second}
            rows += 1
    assert rows == 66 * 64


def test_truth_table_facts_spoilt_in_ways_drawn_at_random():
    rng = np.random.default_rng(8)
    names, ways = np.array(ALL), np.array([*WAYS, "in order"])
    for drawn in rng.integers(0, len(ways), (4000, len(names))):
        broken = {name: way for name, way in zip(names, ways[drawn], strict=True) if way != "in order"}
        decision = interlock(spoilt(broken), LIMITS, NOW)
        assert decision.allowed == (not broken)
        assert {reason.fact for reason in decision.reasons} == set(broken)


#: Facts that the state machine works out from the pump's counter.
VOLUMES = {"step_volume_ml", "ala_volume_ml", "total_volume_ml"}


def injecting():
    """A state in which cement flows, at NOW, and what is known of the pump."""
    known = InjectionFacts(GOOD, Observed(0.0, NOW), Observed("armed", NOW), concentricity=Observed(0.9, NOW))
    state, _ = step(begin(Prescription("left", 3.0), LIMITS, NOW), replace(known, request="arm"), NOW)
    state, commands = step(state, replace(known, request="start"), NOW)
    assert [command.name for command in commands] == ["run"]
    return state, replace(known, pump_state=Observed("running", NOW), pump_volume_ml=Observed(0.3, NOW))


@pytest.mark.parametrize("way", WAYS)
def test_truth_table_any_doubt_stops_the_pump_in_the_same_tick(way):
    state, known = injecting()
    for broken in combinations_of_facts():
        facts = replace(known, interlock=spoilt(dict.fromkeys(set(broken) - VOLUMES, way)))
        if VOLUMES & set(broken):
            counter = Observed(1.2, NOW) if way == "bad" else WAYS[way]("step_volume_ml", known.pump_volume_ml)
            facts = replace(facts, pump_volume_ml=counter)
        after, commands = step(state, facts, NOW)
        told = [command.name for command in commands]
        assert (after.phase, told) == (("stopped", ["stop"]) if broken else ("injecting", []))
