"""Views of a C-arm whose pose is not known: what the monitor tells by the picture alone, and what it says it cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cement_scene import CENTER, body_line_integrals, expose, sphere_line_integrals, views
from sacroplasty.cement.interlock import Facts, Limits, Observed, interlock
from sacroplasty.cement.leaks import pixel_size_mm
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.cement.unplaced_view import PictureMarks, pixel_mm_of_cannula
from sacroplasty.errors import ImageError

AP = views(144)["ap"]
TIP_UV = tuple(float(x) for x in AP.project(CENTER))
PIXEL_MM = pixel_size_mm(AP, CENTER)
PERIOD_S = 0.2


class Watch:
    """A monitor of one view without geometry, and frames for it."""

    def __init__(self, marks):
        self.rng = np.random.default_rng(4)
        self.now_s = 0.0
        self.monitor = SpreadMonitor(settings=MonitorSettings(frame_period_s=PERIOD_S))
        self.monitor.set_reference("ap", [self.frame() for _ in range(8)], marks)

    def frame(self, *spheres):
        total = body_line_integrals(AP) + sum(sphere_line_integrals(AP, center, volume) for center, volume in spheres)
        return Frame(expose(total, self.rng), self.now_s, None)

    def update(self, *spheres):
        self.now_s += PERIOD_S
        return self.monitor.update({"ap": self.frame(*spheres)}, self.now_s)


def test_with_tip_and_scale_there_are_volume_and_shape_but_no_judgement():
    reading = Watch(PictureMarks(TIP_UV, PIXEL_MM)).update((CENTER, 1.0))
    assert reading.healthy and reading.level is None
    assert reading.volume_ml == pytest.approx(1.0, rel=0.03)
    assert reading.concentricity == pytest.approx(1.0, abs=0.06)
    assert reading.leak is None
    assert any("whether and where cement leaks" in what for what in reading.cannot_tell)
    assert any("where cement of view ap lies" in what for what in reading.cannot_tell)


def test_without_a_scale_there_is_no_volume_and_no_length():
    reading = Watch(PictureMarks(TIP_UV)).update((CENTER, 1.0))
    assert reading.healthy and math.isnan(reading.volume_ml)
    assert reading.concentricity == pytest.approx(1.0, abs=0.06)
    assert math.isnan(reading.measures.views["ap"].area_mm2) and math.isnan(reading.measures.mean_front_mm)
    assert "the volume by view ap: no scale" in reading.cannot_tell


def test_without_a_tip_there_is_no_shape():
    reading = Watch(PictureMarks(pixel_mm=PIXEL_MM)).update((CENTER, 1.0))
    assert reading.volume_ml == pytest.approx(1.0, rel=0.03)
    assert math.isnan(reading.concentricity)
    assert any("no tip" in what for what in reading.cannot_tell)


def test_cement_apart_from_the_rest_and_streaks_are_warnings():
    watch = Watch(PictureMarks(TIP_UV, PIXEL_MM))
    assert watch.update((CENTER, 1.0)).events == ()
    apart = watch.update((CENTER, 1.0), (CENTER + np.array([20.0, 0.0, 15.0]), 0.1))
    assert [(event.level, event.route, event.stop) for event in apart.events] == [("warning", "unknown", False)]
    streak = [(CENTER + np.array([18.0, 0.0, 1.2 * step]), 0.005) for step in range(12)]
    assert {event.route for event in watch.update((CENTER, 1.0), *streak).events} == {"venous"}


def test_what_is_not_judged_forbids_the_flow():
    reading = Watch(PictureMarks(TIP_UV, PIXEL_MM)).update((CENTER, 0.5))
    facts = Facts(leak=Observed(reading.leak, reading.time_s))
    reasons = [one.text for one in interlock(facts, Limits(), reading.time_s).reasons if one.fact == "leak"]
    assert reasons == ["the leak state is not known"]


@pytest.mark.parametrize(
    ("marks", "word"),
    [
        (None, "no geometry"),
        (PictureMarks((200.0, 10.0)), "outside the picture"),
        (PictureMarks((math.nan, 10.0)), "outside the picture"),
        (PictureMarks(TIP_UV, 50.0), "pixel of 50"),
    ],
)
def test_marks_that_cannot_be_are_refused(marks, word):
    with pytest.raises(ImageError, match=word):
        Watch(marks)


@pytest.mark.parametrize("blur_px", [0.0, 0.8])
@pytest.mark.parametrize("diameter_px", [4.3, 7.0, 12.0])
def test_the_cannula_tells_the_size_of_a_pixel(blur_px, diameter_px):
    tip, shaft = np.array([60.0, 90.0]), np.array([140.0, 30.0])
    way = (shaft - tip) / np.linalg.norm(shaft - tip)
    fine = 3
    v, u = (np.indices((200 * fine, 200 * fine)) + 0.5) / fine - 0.5
    along = (u - tip[0]) * way[0] + (v - tip[1]) * way[1]
    apart = np.abs((v - tip[1]) * way[0] - (u - tip[0]) * way[1])
    radius = diameter_px / 2
    path = np.sqrt(np.maximum(radius**2 - apart**2, 0)) - np.sqrt(np.maximum((0.78 * radius) ** 2 - apart**2, 0))
    signal = np.exp(-4 * path / diameter_px * (along > 0)).reshape(200, fine, 200, fine).mean(axis=(1, 3))
    signal = gaussian_filter(signal, blur_px)
    rng = np.random.default_rng(2)
    frames = [rng.poisson(500 * signal * (1 + 0.2 * np.sin(np.arange(200) / 30))) for _ in range(6)]
    found = pixel_mm_of_cannula(frames, np.add(tip, [0.6, -0.5]), shaft, 3.05)
    assert found == pytest.approx(3.05 / diameter_px, rel=0.06)


def test_where_no_cannula_is_there_is_no_scale():
    frames = [np.random.default_rng(number).poisson(500, (200, 200)) for number in range(4)]
    with pytest.raises(ImageError, match="no cannula"):
        pixel_mm_of_cannula(frames, (60, 90), (140, 30), 3.05)
    with pytest.raises(ImageError, match="too close"):
        pixel_mm_of_cannula(frames, (60, 90), (65, 92), 3.05)


def test_a_streak_that_keeps_the_view_from_being_calibrated_is_said():
    watch = Watch(PictureMarks(TIP_UV, PIXEL_MM))
    streak = [(CENTER + np.array([18.0, 0.0, 1.2 * step]), 0.005) for step in range(12)]
    for given_ml in (0.5, 1.0, 1.5, 1.9, 2.1, 2.2):
        watch.now_s += PERIOD_S
        frame = watch.frame((CENTER, given_ml - 0.06), *streak)
        reading = watch.monitor.update({"ap": frame}, watch.now_s, given_ml)
        told = any("not calibrated" in what for what in reading.cannot_tell)
        assert told == (given_ml > 2.0)
    # It judges no leak and forbids the flow anyway: what it shows of the cement stays of use.
    assert reading.healthy and reading.leak is None
