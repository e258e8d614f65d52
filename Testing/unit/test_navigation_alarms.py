"""Warnings begin at once, end without chattering, sound by priority, and never hide behind a pause."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.navigation.alarms import NO_GUIDANCE, PAST_TARGET, PULSES_S, GuidanceAlarms
from sacroplasty.navigation.clearance import Ahead, StructureClearance
from sacroplasty.navigation.guidance import GuidanceReading, blank

LOST = blank("the trocar is hidden")


def reading(ahead: Ahead | None = None, phase: str = "in-bone", **assured_mm: float) -> GuidanceReading:
    structures = tuple(
        StructureClearance(name, value + 1.0, 0.0, value, 0.1)
        for name, value in sorted(assured_mm.items(), key=lambda item: item[1])
    )
    return GuidanceReading(True, "", phase=phase, structures=structures, ahead=ahead, depth_to_target_mm=15.0)


CLEAR = reading(sacral_canal=9.0)


def events(alarms: GuidanceAlarms, seen: GuidanceReading, now_s: float) -> list[tuple[str, str | None]]:
    return [(event.about, event.priority) for event in alarms.update(seen, now_s)]


def test_each_structure_has_its_own_warning_with_its_priority() -> None:
    alarms = GuidanceAlarms()
    assert events(alarms, CLEAR, 0.0) == []
    assert events(alarms, reading(foramen_s1_left=-0.2, sacral_canal=0.8), 0.1) == [
        ("foramen_s1_left", "high"),
        ("sacral_canal", "medium"),
    ]
    assert [(one.about, one.distance_mm) for one in alarms.standing] == [
        ("foramen_s1_left", -0.2),
        ("sacral_canal", 0.8),
    ]
    assert events(alarms, reading(foramen_s1_left=-0.3, sacral_canal=0.7), 0.2) == []
    assert events(alarms, reading(foramen_s1_left=-0.3, sacral_canal=-0.1), 0.3) == [("sacral_canal", "high")]


def test_noise_about_a_limit_makes_one_event_and_no_chatter() -> None:
    alarms, told = GuidanceAlarms(), []
    rng = np.random.default_rng(3)
    for tick in range(600):
        told += events(alarms, reading(sacral_canal=float(rng.normal(0.0, 0.15))), tick / 30)
    assert told == [("sacral_canal", "medium"), ("sacral_canal", "high")] or told == [("sacral_canal", "high")]


def test_a_warning_ends_only_after_it_has_been_better_by_a_margin_for_a_while() -> None:
    alarms = GuidanceAlarms()
    alarms.update(reading(sacral_canal=0.9), 0.0)
    assert events(alarms, reading(sacral_canal=1.4), 0.5) == []
    assert events(alarms, reading(sacral_canal=3.0), 1.0) == []
    assert events(alarms, reading(sacral_canal=0.9), 1.5) == []
    assert events(alarms, reading(sacral_canal=3.0), 2.0) == []
    assert events(alarms, reading(sacral_canal=3.0), 3.1) == [("sacral_canal", None)]
    assert alarms.standing == ()


def test_lost_guidance_is_a_warning_of_its_own_once_there_was_some() -> None:
    alarms = GuidanceAlarms()
    assert events(alarms, LOST, 0.0) == []
    alarms.update(reading(sacral_canal=-1.0), 0.1)
    assert sorted(events(alarms, LOST, 0.2)) == [(NO_GUIDANCE, "medium"), ("sacral_canal", None)]
    assert sorted(events(alarms, reading(sacral_canal=-1.0), 0.3)) == [(NO_GUIDANCE, None), ("sacral_canal", "high")]


def test_what_is_unknown_counts_as_touched() -> None:
    alarms = GuidanceAlarms()
    assert events(alarms, reading(), 0.0) == [("unknown", "high")]
    assert events(GuidanceAlarms(), reading(foramen_s2_left=float("-inf")), 0.0) == [("foramen_s2_left", "high")]
    assert events(GuidanceAlarms(), reading(foramen_s2_left=float("nan")), 0.0) == [("foramen_s2_left", "high")]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (replace(CLEAR, ahead=Ahead("anterior_cortex", 4.0)), [("anterior_cortex", "low")]),
        (replace(CLEAR, ahead=Ahead("anterior_cortex", 6.0)), []),
        (replace(CLEAR, ahead=Ahead("anterior_cortex", 4.0), depth_to_target_mm=3.0), []),
        (replace(CLEAR, phase="past-target"), [(PAST_TARGET, "medium")]),
    ],
)
def test_what_lies_ahead_warns_unless_the_target_comes_first(
    seen: GuidanceReading, expected: list[tuple[str, str]]
) -> None:
    assert events(GuidanceAlarms(), seen, 0.0) == expected


def test_a_warning_sounds_when_it_begins_and_again_while_it_stands_but_not_at_every_tick() -> None:
    alarms = GuidanceAlarms()
    heard = []
    for tick in range(660):
        now_s = tick / 30
        alarms.update(reading(sacral_canal=0.8 if now_s < 11 else -1.0), now_s)
        priority = alarms.sound(now_s)
        heard += [(round(now_s, 1), priority)] if priority else []
    assert heard == [(0.0, "medium"), (10.0, "medium"), (11.0, "high"), (16.0, "high"), (21.0, "high")]


def test_a_pause_silences_but_hides_nothing_and_what_is_new_and_high_is_heard() -> None:
    alarms = GuidanceAlarms()
    alarms.update(reading(sacral_canal=0.8), 0.0)
    assert alarms.sound(0.0) == "medium"
    alarms.pause_sound(1.0, 60.0)
    assert alarms.paused_s(31.0) == pytest.approx(30.0)
    alarms.update(reading(sacral_canal=0.8), 20.0)
    assert alarms.sound(20.0) is None and [one.about for one in alarms.standing] == ["sacral_canal"]
    alarms.update(reading(sacral_canal=0.8, foramen_s1_left=-1.0), 21.0)
    assert alarms.sound(21.0) == "high"
    assert alarms.sound(30.0) is None
    assert alarms.sound(62.0) == "high"


def test_bursts_differ_by_priority() -> None:
    assert [len(PULSES_S[priority]) for priority in ("high", "medium", "low")] == [10, 3, 1]
