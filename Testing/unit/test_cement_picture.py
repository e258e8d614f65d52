"""Pictures of live views: what they show where, against places that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cement_scene import CENTER, block_anatomy, body_line_integrals, expose, sphere_line_integrals, views
from sacroplasty.cement.cement_map import map_cement
from sacroplasty.cement.dial import RINGS_MM, front_dial, runs_away
from sacroplasty.cement.frames import binned_geometry
from sacroplasty.cement.leaks import pixel_size_mm
from sacroplasty.cement.measures import SECTORS
from sacroplasty.cement.picture import (
    LEAK_COLOR,
    NO_CHANGE,
    FirstSeen,
    lines_of,
    paint,
    picture_step,
    place_mark,
    ppm,
    shot_of,
)
from sacroplasty.cement.reference import learn_background
from sacroplasty.errors import ImageError
from sacroplasty.xray.overlay import anatomy_surfaces, outlines
from sacroplasty.xray.project import CEMENT_PER_MM

GEOMETRY = views(160)["ap"]
TIP_UV = GEOMETRY.project(CENTER)


class View:
    """One view, learned, and shots of cement in it."""

    def __init__(self):
        self.rng = np.random.default_rng(3)
        self.background = learn_background([self.frame([]) for _ in range(8)], GEOMETRY, None)
        self.known = None

    def frame(self, spheres, shift=(0.0, 0.0)):
        total = body_line_integrals(GEOMETRY, shift)
        for center, volume_ml in spheres:
            cement = sphere_line_integrals(GEOMETRY, center, volume_ml)
            total = total + np.roll(cement, np.rint(shift).astype(int), axis=(0, 1))
        return expose(total, self.rng)

    def shot(self, *spheres, time_s=0.0, shift=(0.0, 0.0)):
        pixels = self.frame(spheres, shift)
        pixel_mm = pixel_size_mm(self.background.geometry, CENTER)
        self.known = map_cement(self.background, pixels, self.known, pixel_mm)
        return shot_of(pixels, time_s, GEOMETRY, self.background, self.known, CEMENT_PER_MM)


@pytest.fixture
def view():
    return View()


def white(picture):
    return (picture == 255).all(axis=2)


def test_the_outline_of_cement_is_around_it_and_moves_with_the_patient(view):
    for shift in ((0.0, 0.0), (5.0, -4.0)):
        rows, columns = np.nonzero(white(paint(view.shot((CENTER, 2.0), shift=shift), kind="subtraction")))
        middle = np.array([rows.mean(), columns.mean()])
        assert middle == pytest.approx(TIP_UV[::-1] + shift, abs=1.0)
        radius_mm = (2000 * 3 / (4 * np.pi)) ** (1 / 3)
        reach = np.hypot(rows - middle[0], columns - middle[1]) * pixel_size_mm(GEOMETRY, CENTER)
        # Smoothing spreads the rim by a pixel, and the line lies outside.
        assert reach.mean() == pytest.approx(radius_mm, abs=2.5)


def test_without_cement_there_is_no_line_and_a_view_that_is_not_watched_is_shown_as_it_comes(view):
    assert np.ptp(paint(view.shot()), axis=2).max() == 0, "grey"
    frame = view.frame([])
    unwatched = shot_of(frame, 0.0, None)
    assert unwatched.cement is None and unwatched.geometry is None
    assert np.array_equal(paint(unwatched, kind="subtraction"), paint(unwatched)), "there is nothing to subtract"


def test_a_subtraction_is_even_without_cement_and_darker_the_thicker_it_is(view):
    picture = paint(view.shot(time_s=1.0), kind="subtraction")
    assert np.median(picture) == pytest.approx(NO_CHANGE, abs=2)
    thin, thick = (paint(view.shot((CENTER, volume)), kind="subtraction") for volume in (0.5, 3.0))
    column, row = np.rint(TIP_UV).astype(int)
    assert thick[row, column, 0] < thin[row, column, 0] < NO_CHANGE - 40


def test_a_road_map_shows_what_is_new_dark_and_what_was_there_pale(view):
    beside = CENTER + np.array([0.0, 0.0, 14.0])
    before = view.shot((CENTER, 1.0))
    after = view.shot((CENTER, 1.0), (beside, 1.0))
    picture = paint(after, kind="road map", road_map=before.cement)
    old, new = (np.rint(GEOMETRY.project(place)).astype(int)[::-1] for place in (CENTER, beside))
    assert picture[*old, 0] > NO_CHANGE and picture[*new, 0] < NO_CHANGE - 60
    assert paint(after, kind="subtraction")[*old, 0] < NO_CHANGE - 60


def test_cement_is_colored_by_when_it_was_first_seen_in_two_shots(view):
    first_seen = FirstSeen()
    beside = CENTER + np.array([0.0, 0.0, 14.0])
    speck = CENTER + np.array([0.0, 0.0, -16.0])
    for number in range(10):
        spheres = [(CENTER, 1.0)] + [(beside, 1.0)] * (number >= 5) + [(speck, 0.3)] * (number == 3)
        shot = view.shot(*spheres, time_s=float(number))
        first_seen.take(shot.cement, shot.time_s)
    old, new, once = (np.rint(GEOMETRY.project(place)).astype(int)[::-1] for place in (CENTER, beside, speck))
    assert first_seen.times_s[*old] == 0.0 and first_seen.times_s[*new] == 5.0
    assert np.isnan(first_seen.times_s[*once]), "one picture alone is noise"
    picture = paint(shot, first_seen_s=first_seen.times_s).astype(int)
    assert picture[*new].sum() > picture[*old].sum() and np.ptp(picture[*old]) > 20
    earlier = replace(shot, time_s=4.0)
    assert np.ptp(paint(earlier, first_seen_s=first_seen.times_s)[*new].astype(int)) == 0, "not known at that moment"


def test_lines_and_marks_lie_where_the_geometry_says_in_a_picture_of_fewer_pixels():
    large = GEOMETRY.resampled(720)
    assert picture_step(720) == 2 and picture_step(640) == 1 and picture_step(2048) == 4
    frame = np.random.default_rng(0).poisson(1000, (720, 720)).astype(np.uint16)
    shot = shot_of(frame, 0.0, large)
    assert shot.grey.shape == (360, 360)
    assert shot.geometry.to_dict() == binned_geometry(large, 2).to_dict()
    mark = lines_of([place_mark(CENTER, shot.geometry)], shot.geometry, LEAK_COLOR)
    rows, columns = np.nonzero((paint(shot, [mark]) == LEAK_COLOR).all(axis=2))
    assert np.array([columns.mean(), rows.mean()]) == pytest.approx(large.project(CENTER) / 2, abs=1.0)
    canal = outlines(anatomy_surfaces(block_anatomy(), ["sacral_canal"]), shot.geometry)
    drawn = lines_of(canal, shot.geometry)
    assert len(drawn.at) > 300 and (drawn.colors == 0).any(axis=1).sum() > 100, "with a dark rim"
    assert len(lines_of([], shot.geometry).at) == 0
    behind = large.source_ras + (large.source_ras - CENTER)
    assert place_mark(behind, shot.geometry).polylines == ()


def test_a_mark_outside_the_picture_is_left_out(view):
    shot = view.shot((CENTER, 1.0))
    far = CENTER + np.array([0.0, 0.0, 500.0])
    marked = paint(shot, [lines_of([place_mark(far, shot.geometry)], shot.geometry, LEAK_COLOR)])
    assert np.array_equal(marked, paint(shot))


@pytest.mark.parametrize("bits", ["uint8", "uint16", "float32"])
def test_frames_of_all_kinds_become_the_same_picture(view, bits):
    signal = view.frame([(CENTER, 2.0)]).astype(float)
    top = {"uint8": 255, "uint16": 65535, "float32": 1.0}[bits]
    frame = (signal / signal.max() * top).astype(bits)
    grey = shot_of(frame, 0.0, None).grey
    like = shot_of(view.frame([(CENTER, 2.0)]), 0.0, None).grey
    assert np.corrcoef(grey.ravel(), like.ravel())[0, 1] > 0.9
    assert np.percentile(grey, 99) > 230 and np.percentile(grey, 1) < 25


def test_what_is_no_picture_is_refused():
    for bad in (np.zeros((4, 4)), np.full((64, 64), np.nan), np.zeros((64, 64, 3, 2))):
        with pytest.raises(ImageError):
            shot_of(bad, 0.0, None)
    assert shot_of(np.zeros((64, 64), np.uint16), 0.0, None).grey.max() == 0, "black is black"


def test_the_file_holds_the_picture():
    picture = np.random.default_rng(1).integers(0, 255, (7, 5, 3)).astype(np.uint8)
    data = ppm(picture)
    assert data.startswith(b"P6 5 7 255\n")
    assert np.array_equal(np.frombuffer(data[-105:], np.uint8).reshape(7, 5, 3), picture)


def test_the_dial_shows_how_far_cement_reaches_into_each_direction():
    size = 120
    even = front_dial(np.full(SECTORS, 10.0), size)
    filled = (even.astype(int)[..., 2] > 150) & (even.astype(int)[..., 0] < 150)
    expected = np.pi * (10.0 / RINGS_MM[-1] * 0.94 * size / 2) ** 2
    assert np.count_nonzero(filled) == pytest.approx(expected, rel=0.2)
    front = np.full(SECTORS, 4.0)
    front[2] = 14.0  # downwards in the picture
    assert runs_away(front).tolist() == [number == 2 for number in range(SECTORS)]
    away = front_dial(front, size).astype(int)
    amber = (away[..., 0] > 200) & (away[..., 2] < 120)
    rows, columns = np.nonzero(amber)
    assert rows.mean() > size / 2 + 15 and columns.mean() == pytest.approx(size / 2, abs=2)
    assert not runs_away(np.zeros(SECTORS)).any() and not runs_away([5.0, *[0.5] * 7]).any(), "too small for a shape"


def test_a_dial_of_what_is_not_known_is_empty():
    nothing = front_dial(None, 90)
    assert np.array_equal(nothing, front_dial(np.full(SECTORS, np.nan), 90))
    assert np.array_equal(nothing, front_dial(np.zeros(SECTORS), 90))
