"""What the monitor page says of readings that are told to it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from sacroplasty.cement.measures import SpreadMeasures
from sacroplasty.cement.monitor import Frame, MonitorReading, SpreadEvent
from sacroplasty.errors import ImageError
from sacroplasty.scene.monitor_page import KEPT_S, Look, MonitorPage
from sacroplasty.scene.records import read_record
from sacroplasty.xray.geometry import CArm

GEOMETRY = CArm().pose([0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]).resampled(64)
TIP = np.array([10.0, 0.0, 0.0])


class Watch:
    """A watch that shows and says what the test tells it to."""

    def __init__(self):
        self.monitor = SimpleNamespace(views=("a", "b"), zones=object(), tip_ras=TIP, settings=None, visibility={})
        self.monitor.seen = lambda view: (SimpleNamespace(full_geometry=GEOMETRY), None)
        self.monitor.settings = SimpleNamespace(cement_per_mm=0.1)
        self.reading, self.shown, self.learning, self.problem = None, {}, None, ""
        self.marks = {}
        self.level = "none"
        self.acknowledged = 0

    def banner(self, now_s):
        return self.level, "said of b"

    def given_ml(self, total_ml):
        return total_ml

    def acknowledge_leak(self):
        self.acknowledged += 1

    def say(self, now_s, level=None, volume_ml=1.0, warnings=(), event=None):
        self.level = level or "none"
        measures = SpreadMeasures(missing_ml=0.0, missing_ml_sd=0.1)
        events = () if event is None else (event,)
        self.reading = MonitorReading(
            now_s, volume_ml, 0.1, 0.9, "ok", level, level == "leak", events, measures=measures, warnings=warnings
        )


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def page(scene, watch):
    return MonitorPage(scene, watch, 0.0, 1.7e9)


def leak(time_s):
    return SpreadEvent(time_s, "leak", "sacral_canal", TIP + np.array([-9.0, 0.0, 3.0]), True)


def test_what_cannot_be_told_is_said(page, watch):
    watch.shown = {"a": Frame(np.ones((64, 64), np.uint16), 0.0, GEOMETRY)}
    watch.say(1.0)
    page.follow(1.0, 1.0)
    assert page.readout(1.0).unknown == ()
    watch.say(2.0, level="leak", warnings=("missing",))
    page.follow(2.0, 1.9)
    assert page.readout(2.0).unknown == ("missing cement",)
    watch.say(3.0, volume_ml=0.2)
    watch.shown = {"a": Frame(np.ones((64, 64), np.uint16), 3.0, None)}
    watch.monitor.views, watch.monitor.tip_ras = ("a",), None
    page.follow(3.0, 0.2)
    assert page.readout(3.0).unknown == ("no geometry", "no zones", "one view", "unsure volume")
    watch.monitor = None
    page.follow(4.0, 0.2)
    assert page.readout(4.0).unknown == ("not learned",)


def test_where_cement_went_that_nobody_sees_is_what_was_predicted(scene, watch):
    page = MonitorPage(scene, watch, 0.0, 1.7e9, lambda: "a vein (in 12% of 32 runs)")
    for number, (route, way) in enumerate({"missing": "a vein (in 12% of 32 runs)", "bone": ""}.items(), start=1):
        watch.say(number, "warning", event=SpreadEvent(number, "warning", route, None, False))
        page.follow(number, 2.0)
        assert page.readout(number).likely_way == way


def test_a_leak_stands_with_its_place_until_it_is_acknowledged(scene, page, watch):
    watch.say(1.0, "leak", event=leak(1.0))
    page.follow(1.0, 1.0)
    for now in (1.1, 1.2):
        watch.say(now, "leak")
        page.follow(now, 1.0)
    readout = page.readout(1.2)
    assert readout.event.route == "sacral_canal" and readout.may_acknowledge
    assert readout.from_tip_ras == pytest.approx([-9.0, 0.0, 3.0])
    assert page.acknowledge_leak() and watch.acknowledged == 1
    assert page.readout(1.2).event is None
    watch.say(1.3)
    page.follow(1.3, 1.0)
    assert not page.acknowledge_leak() and watch.acknowledged == 1
    told = read_record(scene, "Sacroplasty monitor")["events"]
    assert [(one["level"], one["unix_s"]) for one in told] == [("leak", 1.7e9 + 1.0)]


def test_thirty_seconds_are_kept_and_a_moment_is_found_again(page, watch):
    for number in range(100):
        level = 100 + number
        pixels = np.full((64, 64), 1000, np.uint16)
        pixels[: number % 64] = 3000
        watch.shown = {"a": Frame(pixels, float(level), GEOMETRY)}
        watch.say(float(level))
        page.follow(float(level), 0.0)
    page.show_moment(1000.0, 199.0)
    assert page.readout(199.0).replayed.before_s == KEPT_S
    oldest = page.picture("a", Look(), 199.0)
    page.show_moment(5.0, 199.0)
    replayed = page.readout(230.0).replayed
    assert replayed.before_s == 5.0 and not replayed.playing
    assert not np.array_equal(page.picture("a", Look(), 199.0), oldest)
    page.replay(300.0)
    assert page.readout(310.0).replayed.playing and page.readout(310.0).replayed.before_s == pytest.approx(20.0)
    assert not page.readout(340.0).replayed.playing, "it stands at its end"
    watch.say(341.0, "warning")
    page.follow(341.0, 0.0)
    assert page.readout(341.0).replayed is None, "something graver ends it"


def test_a_blind_monitor_has_no_figures_and_an_unreadable_frame_says_why(page, watch):
    watch.say(1.0)
    watch.shown = {"b": Frame(np.zeros((64, 64, 3, 2)), 1.0, GEOMETRY)}
    page.follow(1.0, 1.0)
    readout = page.readout(1.0)
    assert "shape" in readout.faults["b"] and readout.text == "said of view 1"
    assert page.picture("b", Look(), 1.0) is None
    watch.level = "blind"
    blind = page.readout(1.0)
    assert math.isnan(blind.volume_ml) and blind.measures is None and blind.event is None
    with pytest.raises(ImageError, match="no picture"):
        page.snapshot(1.0, Look())


def test_the_curve_begins_with_the_cement_and_is_kept_in_the_scene(scene, page, watch):
    for now in range(60):
        watch.say(float(now), volume_ml=max(0.0, 0.1 * (now - 40)))
        page.follow(float(now), max(0.0, 0.1 * (now - 40)))
    assert page.curve[0].time_s == pytest.approx(36.0) and page.curve[-1].image_ml == pytest.approx(1.9)
    page.keep()
    table = scene.GetFirstNodeByName("Sacroplasty monitor")
    names = {
        scene.GetNthNodeByClass(at, "vtkMRMLPlotSeriesNode").GetName()
        for at in range(scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode"))
    }
    assert table is not None and {"given (mL)", "seen (mL)"} <= names
