"""Cement given against cement seen: what is missing is warned of, and what cannot be cement blinds the monitor."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cement_scene import CENTER, block_anatomy, body_line_integrals, expose, sphere_line_integrals, views
from sacroplasty.cement.balance import MissingCement, nothing_given
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.cement.zones import make_zones
from sacroplasty.procedure.injection_alarms import monitor_warning

VIEWS = views(144)
PERIOD_S = 0.2
#: Contrast medium of 300 mg iodine in 1 mL attenuates more than cement: 0.23 against 0.16 per mm at 60 keV.
CONTRAST = 1.4


class Room:
    """Two views of a block with a tip in its left ala, learned at once or on demand."""

    def __init__(self):
        self.rng = np.random.default_rng(3)
        self.now_s = 0.0
        self.monitor = SpreadMonitor(
            make_zones(block_anatomy(), CENTER, ("left",)), CENTER, MonitorSettings(frame_period_s=PERIOD_S)
        )

    def frames(self, dense_ml=0.0, contrast=1.0):
        frames = {}
        for name, geometry in VIEWS.items():
            total = body_line_integrals(geometry)
            if dense_ml:
                total = total + contrast * sphere_line_integrals(geometry, CENTER, dense_ml)
            frames[name] = Frame(expose(total, self.rng), self.now_s, geometry)
        return frames

    def learn(self, **what):
        taken = [self.frames(**what) for _ in range(8)]
        for name in VIEWS:
            self.monitor.set_reference(name, [frames[name] for frames in taken])

    def update(self, given_ml, in_line_ml=0.0, **what):
        self.now_s += PERIOD_S
        return self.monitor.update(self.frames(**what), self.now_s, given_ml, in_line_ml)


@pytest.fixture(scope="module")
def calibrated():
    room = Room()
    room.learn()
    for given_ml in np.linspace(0.3, 1.05, 8):
        assert room.update(given_ml, dense_ml=given_ml).warnings == ()
    return room


def test_much_that_no_view_shows_is_a_warning_after_three_seconds_until_it_is_seen(calibrated):
    readings = [calibrated.update(2.0, dense_ml=1.1) for _ in range(18)]
    warned = [reading.level == "warning" for reading in readings]
    assert warned == [False] * 15 + [True] * 3
    assert readings[-1].warnings == ("missing",) and not readings[-1].leak
    told = [event for reading in readings for event in reading.events if event.level == "warning"]
    assert [(event.route, event.stop, event.position_ras) for event in told] == [("missing", False, None)]
    after = calibrated.update(2.0, dense_ml=2.0)
    assert after.level is None and after.warnings == ()


def test_what_the_stretched_line_holds_back_is_not_missing(calibrated):
    readings = [calibrated.update(2.0, in_line_ml=0.8, dense_ml=1.1) for _ in range(18)]
    assert all(reading.level is None for reading in readings)
    assert readings[-1].measures.missing_ml == pytest.approx(0.1, abs=0.06)


def test_little_or_unsure_or_unknown_is_not_missing():
    def warns(missing_ml, sd_ml):
        missing = MissingCement()
        return [missing.update(missing_ml, sd_ml, now_s) for now_s in np.arange(0.0, 6.0, 0.5)][-1]

    assert warns(0.55, 0.1)
    assert not warns(0.45, 0.01)
    assert not warns(0.55, 0.2)
    assert not warns(math.nan, 0.1) and not warns(0.55, math.nan)


def test_what_comes_and_goes_is_not_missing():
    missing = MissingCement()
    assert not any(missing.update(1.0 if number % 6 else 0.0, 0.1, 0.5 * number) for number in range(50))


def test_a_warning_says_what_it_is_about():
    assert monitor_warning(()) == ""
    assert "no view shows" in monitor_warning(("missing",))
    assert "outside the planned ala" in monitor_warning(("bone", "missing"))


def test_a_balloon_that_is_inflated_after_the_reference_blinds_the_monitor_and_is_no_leak():
    room = Room()
    room.learn()
    assert room.update(0.0).healthy
    for balloon_ml in (0.5, 1.0, 4.0):
        reading = room.update(0.0, dense_ml=balloon_ml, contrast=CONTRAST)
        assert reading.health.startswith("something that is no cement")
        assert reading.level == "blind" and not reading.leak
    assert all(event.level == "blind" and event.stop for event in reading.events)
    # Taken out again, the view is as it was.
    assert room.update(0.0).healthy


def test_a_reference_with_an_inflated_balloon_is_of_no_use_once_that_is_out_and_is_taken_anew():
    room = Room()
    room.learn(dense_ml=1.5, contrast=CONTRAST)
    assert room.update(0.0, dense_ml=1.5, contrast=CONTRAST).healthy
    gone = room.update(0.0)
    assert gone.level == "blind" and any(event.stop for event in gone.events)
    room.learn()
    for given_ml in (0.0, 0.3, 0.6):
        reading = room.update(given_ml, dense_ml=given_ml)
        assert reading.healthy and reading.volume_ml == pytest.approx(given_ml, rel=0.05, abs=0.01)


def test_the_first_drops_are_cement():
    assert nothing_given(0.0) and not nothing_given(0.06)
    room = Room()
    room.learn()
    for given_ml in (0.0, 0.02, 0.04, 0.06, 0.1, 0.2):
        assert room.update(given_ml, dense_ml=given_ml).healthy
