"""Alarms by priority: order, flashing, the pattern of their sound, and a pause that hides nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sacroplasty.cement.aging import Notice
from sacroplasty.cement.alarms import FLASH_HZ, PAUSE_S, PULSES_S, REPEAT_S, Alarm, AlarmBoard
from sacroplasty.procedure.injection_alarms import standing_alarms

LEAK = Alarm("leak", "high", "cement leaks")
BLIND = Alarm("blind", "medium", "the monitor is blind")
ENDING = Alarm("ending", "low", "two minutes left")


def pulses(board: AlarmBoard, from_s: float, until_s: float) -> int:
    """How many pulses begin, heard by a timer of 100 ms."""
    count, at = 0, from_s
    while at < until_s:
        count += board.sounds(at, at + 0.1)
        at += 0.1
    return count


def flashes(board: AlarmBoard, seconds: float) -> int:
    """Changes from dark to bright."""
    lit = [board.lit(step * 0.01) for step in range(round(seconds * 100))]
    return sum(after and not before for before, after in pairwise(lit))


def test_the_gravest_alarm_comes_first_and_all_stay():
    board = AlarmBoard().with_alarms([ENDING, BLIND, LEAK], 10.0)
    assert board.active == (LEAK, BLIND, ENDING) and board.gravest == LEAK
    assert board.with_alarms([], 11.0).gravest is None


@pytest.mark.parametrize(("alarm", "lowest_hz", "highest_hz"), [(LEAK, 1.4, 2.8), (BLIND, 0.4, 0.8)])
def test_flashing_keeps_to_the_rates_of_the_standard(alarm, lowest_hz, highest_hz):
    board = AlarmBoard().with_alarms([alarm], 0.0)
    assert lowest_hz <= FLASH_HZ[alarm.priority] <= highest_hz
    assert lowest_hz * 20 - 1 <= flashes(board, 20.0) <= highest_hz * 20 + 1


def test_a_low_alarm_is_a_steady_light():
    board = AlarmBoard().with_alarms([ENDING], 0.0)
    assert all(board.lit(step * 0.05) for step in range(100))
    assert not AlarmBoard().lit(0.0)


@pytest.mark.parametrize(("alarm", "number"), [(LEAK, 10), (BLIND, 3), (ENDING, 1)])
def test_each_priority_has_its_own_number_of_pulses_again_and_again(alarm, number):
    assert len(PULSES_S[alarm.priority]) == number
    board = AlarmBoard().with_alarms([alarm], 100.03)
    assert pulses(board, 100.0, 105.0) == number
    repeat_s = REPEAT_S[alarm.priority]
    expected = number if repeat_s < 60 else 0
    assert pulses(board, 100.0 + min(repeat_s, 50.0), 105.0 + min(repeat_s, 50.0)) == expected


def test_a_pause_silences_for_a_minute_and_hides_nothing():
    board = AlarmBoard().with_alarms([LEAK], 0.0).with_sound_paused(5.0)
    assert pulses(board, 5.0, 5.0 + PAUSE_S - 0.2) == 0
    assert board.gravest == LEAK and flashes(board, 10.0) > 10
    assert 0 < board.paused_s(30.0) <= PAUSE_S and board.paused_s(5.0 + PAUSE_S) == 0
    assert pulses(board, 5.0 + PAUSE_S, 20.0 + PAUSE_S) >= 10
    assert board.paused_s(-1000.0) <= PAUSE_S, "a clock that is set back does not silence for longer"


def test_a_new_alarm_as_grave_ends_the_pause_and_a_lesser_one_does_not():
    paused = AlarmBoard().with_alarms([BLIND], 0.0).with_sound_paused(1.0)
    assert paused.with_alarms([BLIND, ENDING], 2.0).paused_s(2.0) > 0
    assert paused.with_alarms([BLIND, LEAK], 2.0).paused_s(2.0) == 0
    other = Alarm("warning", "medium", "cement outside the ala")
    assert paused.with_alarms([BLIND, other], 2.0).paused_s(2.0) == 0
    assert paused.with_alarms([], 2.0).with_alarms([BLIND], 3.0).paused_s(3.0) == 0


def standing(**changes):
    known = dict(
        phase="injecting",
        reason="",
        by_hand=False,
        pump_alarm="",
        monitor_level="none",
        monitor_text="0.5 mL seen",
        warning="the monitor sees cement outside the planned ala",
        notices=(),
        trouble="",
    )
    return {alarm.key: alarm for alarm in standing_alarms(**known | changes)}


def test_what_stands_and_how_grave_it_is():
    assert standing() == {}
    assert standing(phase="stopped", reason="cement leaks")["stopped"].priority == "high"
    assert standing(phase="stopped", reason="cement leaks", by_hand=True)["stopped"].text.startswith("STOP INJECTING")
    assert standing(pump_alarm="the plunger goes on")["pump"].priority == "high"
    assert standing(monitor_level="leak")["leak"].priority == "high"
    assert standing(monitor_level="blind")["blind"].priority == "medium"
    assert standing(monitor_level="blind", phase="prepare") == {}, "before the injection it is only a reason"
    assert standing(monitor_level="warning")["warning"].priority == "medium"
    assert standing(monitor_level="warning", warning="nobody sees it")["warning"].text == "Nobody sees it. 0.5 mL seen"
    assert standing(monitor_level="watch")["watch"].priority == "low"
    assert standing(trouble="the disk is full")["journal"].priority == "medium"
    late = standing(notices=[Notice("warning", "last", "30 s left"), Notice("warning", "ending", "2 min left")])
    assert (late["last"].priority, late["ending"].priority) == ("medium", "low")
    assert standing(notices=[Notice("alarm", "too-stiff", "over")], phase="holding")["too-stiff"].priority == "medium"
    assert standing(notices=[Notice("prompt", "inject", "go")]) == {}


@pytest.mark.parametrize("reason", ["stop was pressed", "aborted: pain", "connect the line to the right trocar"])
def test_a_stop_that_a_person_made_calls_nobody(reason):
    assert standing(phase="stopped", reason=reason) == {}
