"""The spread monitor on X-rays of spheres in closed form, in a sacrum of blocks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cement_scene import CENTER, PLACES, block_anatomy, body_line_integrals, expose, sphere_line_integrals, views
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.cement.zones import make_zones
from sacroplasty.errors import AnatomyError, ImageError

VIEWS = views(144)
PERIOD_S = 0.2
ABOVE_THE_ALA = [-35.0, 0.0, 46.0]
BESIDE_THE_BONE = "whether cement leaks close beside the bone: less than a breath was seen"
WITHOUT_CT = "whether a view is too dark before the first millilitre: no CT"


@pytest.fixture(scope="module")
def zones():
    return make_zones(block_anatomy(), CENTER, ("left",))


class Bench:
    """A monitor, and X-rays of spheres for it."""

    def __init__(self, zones=None, names=("ap", "lateral"), seed=1, tip=CENTER):
        self.rng = np.random.default_rng(seed)
        self.names = names
        self.monitor = SpreadMonitor(zones, tip, MonitorSettings(frame_period_s=PERIOD_S))
        self.now_s = 0.0
        for name in names:
            self.monitor.set_reference(name, [self.frame(name) for _ in range(8)])

    def frame(self, name, spheres=(), shift=(0.0, 0.0), body=None):
        body = body_line_integrals(VIEWS[name], shift) if body is None else body
        total = body + sum(sphere_line_integrals(VIEWS[name], center, volume) for center, volume in spheres)
        return Frame(expose(total, self.rng), self.now_s, VIEWS[name])

    def update(self, *spheres, shift=(0.0, 0.0)):
        self.now_s += PERIOD_S
        return self.monitor.update({name: self.frame(name, spheres, shift) for name in self.names}, self.now_s)


@pytest.mark.parametrize("volume_ml", [0.1, 0.5, 1.0, 3.0, 6.0])
@pytest.mark.parametrize("names", [("ap",), ("lateral",), ("ap", "lateral")])
def test_volume_of_a_sphere_is_right_within_its_error(volume_ml, names):
    reading = Bench(names=names).update((CENTER, volume_ml))
    assert reading.volume_ml == pytest.approx(volume_ml, rel=0.03, abs=0.005)
    assert abs(reading.volume_ml - volume_ml) < 3 * reading.volume_ml_sd


def test_without_cement_nothing_is_seen(zones):
    bench = Bench(zones)
    for _ in range(40):
        reading = bench.update()
        assert reading.volume_ml == 0.0
        assert reading.events == ()
        assert reading.healthy and math.isnan(reading.concentricity)


def test_a_twentieth_of_a_millilitre_is_seen():
    bench = Bench()
    assert all(bench.update((CENTER, 0.05)).volume_ml > 0.03 for _ in range(10))


def at_height(offset_mm):
    return CENTER + np.array([0.0, 0.0, offset_mm])


def test_concentricity_falls_as_the_cement_runs_away_from_the_tip():
    radius = (3 * 2000 / (4 * math.pi)) ** (1 / 3)
    offsets = [0.0, 0.5 * radius, radius]
    seen = [Bench().update((at_height(offset), 2.0)).concentricity for offset in offsets]
    assert seen == pytest.approx([1.0, 0.5, 0.0], abs=0.06)


def test_a_streak_is_not_concentric():
    streak = [(at_height(offset), 0.2) for offset in np.arange(-15, 16, 3)]
    assert Bench().update(*streak).concentricity < 0.4


def test_cement_in_the_planned_ala_is_no_leak(zones):
    bench = Bench(zones)
    for volume_ml in np.arange(0.2, 1.6, 0.2):
        reading = bench.update((CENTER, volume_ml))
        assert not reading.leak
        assert [event for event in reading.events if event.level != "watch"] == []


@pytest.mark.parametrize(("route", "place"), [*PLACES.items(), ("presacral", ABOVE_THE_ALA)])
def test_a_leak_is_confirmed_by_the_second_frame_and_named(zones, route, place):
    bench = Bench(zones)
    bench.update((CENTER, 1.0))
    first = bench.update((CENTER, 1.0), (place, 0.1))
    assert not first.leak
    second = bench.update((CENTER, 1.0), (place, 0.1))
    assert second.leak
    leaks = [event for event in second.events if event.level == "leak"]
    assert {event.route for event in leaks} == {route}
    assert all(event.stop for event in leaks)
    assert min(np.linalg.norm(event.position_ras - place) for event in leaks) < 6.0


def test_a_flicker_of_one_frame_is_no_leak(zones):
    bench = Bench(zones)
    for number in range(6):
        blob = [(PLACES["sacral_canal"], 0.1)] if number % 2 else []
        assert not bench.update((CENTER, 1.0), *blob).leak


def test_a_leak_stays_until_it_is_acknowledged(zones):
    bench = Bench(zones)
    for _ in range(2):
        bench.update((CENTER, 1.0), (PLACES["foramen_s1_left"], 0.2))
    assert bench.update((CENTER, 1.0)).leak
    assert bench.update((CENTER, 1.0)).level == "leak"
    bench.monitor.acknowledge_leak()
    assert not bench.update((CENTER, 1.0)).leak


def test_bone_outside_the_plan_is_a_warning_without_a_stop(zones):
    bench = Bench(zones)
    for _ in range(3):
        reading = bench.update((CENTER, 1.0), ([-10.0, 8.0, 28.0], 0.2))
    assert reading.level == "warning" and not reading.leak


def test_one_view_alone_finds_what_lies_beside_the_ala(zones):
    bench = Bench(zones, names=("ap",))
    for _ in range(2):
        reading = bench.update((CENTER, 1.0), (PLACES["sacral_canal"], 0.1))
    assert reading.leak


def test_each_state_is_told_once(zones):
    bench = Bench(zones)
    told = [event for _ in range(6) for event in bench.update((CENTER, 1.0), (PLACES["presacral"], 0.2)).events]
    assert [(event.level, event.route) for event in told if event.level == "leak"] == [("leak", "presacral")]


@pytest.mark.parametrize("shift", [(0.2, -0.3), (1.5, 1.0), (3.4, -2.7), (-7.3, 5.2)])
def test_movements_by_breathing_are_compensated(zones, shift):
    bench = Bench(zones)
    assert bench.update(shift=shift).volume_ml == 0.0
    for volume_ml in (0.5, 1.0):
        reading = bench.update((CENTER, volume_ml), shift=shift)
        assert reading.healthy and not reading.leak
        assert reading.volume_ml == pytest.approx(volume_ml, rel=0.02)


def test_a_patient_who_lies_elsewhere_blinds_the_monitor(zones):
    assert Bench(zones).update((CENTER, 1.0), shift=(12.0, 8.0)).health.startswith("moved")


EXPOSURES = {
    "more dose": lambda total: total - np.log(2.5),
    "less dose": lambda total: total + np.log(2.5),
    "lower voltage": lambda total: 4.5 + 1.12 * (total - 4.5),
    "higher voltage": lambda total: 4.5 + 0.9 * (total - 4.5) - 0.3,
    "slope": lambda total: (
        total + np.linspace(-0.1, 0.1, total.shape[1]) - np.linspace(-0.05, 0.05, len(total))[:, None]
    ),
}


@pytest.mark.parametrize("exposure", EXPOSURES)
def test_a_changed_exposure_is_taken_out(zones, exposure):
    bench = Bench(zones)
    for volume_ml in (0.0, 0.5, 1.5):
        bench.now_s += PERIOD_S
        frames = {}
        for name in bench.names:
            total = body_line_integrals(VIEWS[name])
            if volume_ml:
                total = total + sphere_line_integrals(VIEWS[name], CENTER, volume_ml)
            frames[name] = Frame(expose(EXPOSURES[exposure](total), bench.rng), bench.now_s, VIEWS[name])
        reading = bench.monitor.update(frames, bench.now_s)
        assert reading.healthy and reading.events == ()
        assert reading.volume_ml == pytest.approx(volume_ml, rel=0.03)


@pytest.mark.parametrize("kind", ["8 bit", "three equal colors", "floating point"])
def test_frames_of_any_source_are_read(kind):
    def changed(pixels):
        if kind == "floating point":
            return pixels / 7.0
        grey = np.rint(np.minimum(pixels / 96, 255)).astype(np.uint8)
        return grey if kind == "8 bit" else np.repeat(grey[..., None], 3, axis=2)

    bench = Bench(names=())
    monitor = bench.monitor
    frames = [replace(bench.frame("ap"), pixels=changed(bench.frame("ap").pixels)) for _ in range(8)]
    monitor.set_reference("ap", frames)
    frame = bench.frame("ap", [(CENTER, 1.0)])
    reading = monitor.update({"ap": replace(frame, pixels=changed(frame.pixels))}, 0.0)
    assert reading.volume_ml == pytest.approx(1.0, rel=0.04)


def test_inverted_greys_blind_the_monitor_in_words():
    bench = Bench(names=())
    bench.monitor.set_reference(
        "ap", [replace(one, pixels=65535 - one.pixels) for one in [bench.frame("ap") for _ in range(8)]]
    )
    frame = bench.frame("ap", [(CENTER, 1.0)])
    assert "inverted" in bench.monitor.update({"ap": replace(frame, pixels=65535 - frame.pixels)}, 0.0).health


def blind_frames():
    good = Bench().frame("ap")
    half = np.full_like(good.pixels, 65535)
    half[:, : half.shape[1] // 2] = good.pixels[:, : half.shape[1] // 2]
    other = VIEWS["ap"].RASToDetector.copy()
    other[0, 3] += 3.0
    return {
        "black": replace(good, pixels=np.zeros_like(good.pixels)),
        "saturated": replace(good, pixels=half),
        "exposure changed": replace(good, pixels=(good.pixels // 8).astype(np.uint16)),
        "no geometry": replace(good, geometry=None),
        "C-arm moved": replace(good, geometry=replace(VIEWS["ap"], RASToDetector=other)),
        "unreadable frame: 144 x 143 pixels instead of 144 x 144": replace(good, pixels=good.pixels[:-1]),
        "unreadable frame: the frame is in color; send the C-arm's grey picture without overlays": replace(
            good, pixels=np.stack([good.pixels, good.pixels, good.pixels // 2], axis=-1)
        ),
        "unreadable frame: the frame holds values that are no numbers (NaN)": replace(
            good, pixels=np.where(good.pixels > 9000, np.nan, good.pixels)
        ),
    }


@pytest.mark.parametrize("fault", blind_frames())
def test_a_useless_frame_blinds_the_monitor_and_stops(fault):
    bench = Bench()
    bench.update()
    bench.now_s += PERIOD_S
    frames = {"ap": replace(blind_frames()[fault], time_s=bench.now_s), "lateral": bench.frame("lateral")}
    reading = bench.monitor.update(frames, bench.now_s)
    assert reading.health == f"{fault} (ap)"
    assert math.isnan(reading.volume_ml)
    assert [(event.level, event.stop) for event in reading.events] == [("blind", True)]
    assert bench.update().healthy


def test_a_frozen_image_blinds_the_monitor():
    bench = Bench()
    bench.now_s += PERIOD_S
    frames = {name: bench.frame(name) for name in bench.names}
    assert bench.monitor.update(frames, bench.now_s).healthy
    repeated = {name: replace(frame, time_s=bench.now_s + PERIOD_S) for name, frame in frames.items()}
    assert bench.monitor.update(repeated, bench.now_s + PERIOD_S).health == "frozen (ap)"


def test_a_view_that_stays_away_blinds_the_monitor():
    bench = Bench()
    bench.update()
    assert bench.monitor.update({}, bench.now_s + 1.9 * PERIOD_S).healthy
    assert bench.monitor.update({}, bench.now_s + 2.1 * PERIOD_S).health.startswith("late")
    assert bench.monitor.update({}, math.nan).health.startswith("late")


def test_a_view_that_never_came_blinds_the_monitor():
    bench = Bench()
    bench.now_s += PERIOD_S
    assert bench.monitor.update({"ap": bench.frame("ap")}, bench.now_s).health == "no frame yet (lateral)"
    assert SpreadMonitor().update({}, 0.0).health == "no reference"


def test_bad_references_are_refused_in_words():
    bench = Bench()
    frames = [bench.frame("ap") for _ in range(5)]
    monitor = SpreadMonitor()
    with pytest.raises(ImageError, match="too few"):
        monitor.set_reference("ap", frames[:3])
    with pytest.raises(ImageError, match="frozen"):
        monitor.set_reference("ap", [frames[0]] * 5)
    with pytest.raises(ImageError, match="no geometry"):
        monitor.set_reference("ap", [replace(frame, geometry=None) for frame in frames])
    with pytest.raises(ImageError, match="moved between"):
        monitor.set_reference("ap", [*frames, replace(frames[0], geometry=VIEWS["lateral"])])
    with pytest.raises(ImageError, match="black or saturated"):
        white = [replace(frame, pixels=np.maximum(frame.pixels, 65000 + n)) for n, frame in enumerate(frames)]
        monitor.set_reference("ap", white)
    with pytest.raises(ImageError, match="no reference frames"):
        monitor.update({"oblique": frames[0]}, 0.0)


def test_fine_detectors_are_binned_without_loss_of_volume():
    geometry = VIEWS["ap"].resampled(768)
    bench = Bench(names=())
    body = body_line_integrals(geometry)

    def shot(extra=0.0):
        return Frame(expose(body + extra, bench.rng, photons=200.0), 0.0, geometry)

    monitor = SpreadMonitor(tip_ras=CENTER)
    monitor.set_reference("ap", [shot() for _ in range(6)])
    reading = monitor.update({"ap": shot(sphere_line_integrals(geometry, CENTER, 1.0))}, 0.0)
    assert reading.volume_ml == pytest.approx(1.0, rel=0.03)


def test_zones_name_every_place_of_the_blocks(zones):
    for place, position in PLACES.items():
        k, j, i = np.rint(zones.labels.kji_of(np.asarray(position))).astype(int)
        assert zones.names[zones.labels.voxels[k, j, i]] == place
    k, j, i = np.rint(zones.labels.kji_of(CENTER)).astype(int)
    assert zones.names[zones.labels.voxels[k, j, i]] == "planned"


def test_zones_without_a_canal_or_far_from_the_sacrum_are_refused():
    anatomy = block_anatomy(3.0)
    without = replace(anatomy, regions=anatomy.regions.like(anatomy.regions.voxels * (anatomy.regions.voxels != 1)))
    with pytest.raises(AnatomyError, match="no sacral_canal"):
        make_zones(without, CENTER, ("left",))
    with pytest.raises(AnatomyError, match="no sacrum within reach"):
        make_zones(anatomy, [500.0, 0, 0], ("left",))


def radius_mm(volume_ml):
    return (3 * 1000 * volume_ml / (4 * math.pi)) ** (1 / 3)


def test_measures_of_a_sphere_are_those_of_a_sphere(zones):
    bench = Bench(zones)
    measures = bench.update((CENTER, 2.0)).measures
    radius = radius_mm(2.0)
    for view in measures.views.values():
        assert view.area_mm2 == pytest.approx(math.pi * radius**2, rel=0.08)
        assert view.front_mm == pytest.approx(np.full(8, radius), abs=1.0)
    assert np.linalg.norm(measures.center_ras - CENTER) < 1.0
    # The joint's gap begins 15 mm beside the tip, the S1 foramen 9 mm; two shadows leave a box around a sphere.
    assert measures.distance_mm["si_joint_left"] == pytest.approx(15 - radius, abs=2.0)
    assert measures.distance_mm["foramen_s1_left"] == pytest.approx(9 - radius, abs=2.0)


def test_the_front_has_the_speed_of_the_flow(zones):
    bench = Bench(zones)
    readings = [bench.update((CENTER, 0.5 + 0.02 * number)) for number in range(16)]
    grown = radius_mm(0.5 + 0.02 * 15) - radius_mm(0.5 + 0.02 * 9)
    assert readings[-1].measures.front_mm_s == pytest.approx(grown / (6 * PERIOD_S), abs=0.25)


def test_what_the_pump_gave_and_no_view_shows_is_missing(zones):
    bench = Bench(zones)
    bench.now_s += PERIOD_S
    frames = {name: bench.frame(name, [(CENTER, 1.5)]) for name in bench.names}
    measures = bench.monitor.update(frames, bench.now_s, pump_volume_ml=2.1).measures
    assert measures.missing_ml == pytest.approx(0.6, abs=0.05)


def test_cement_in_front_fills_the_anterior_third(zones):
    filled = {}
    for offset in (-12.0, 12.0):
        bench = Bench(zones)
        filled[offset] = bench.update((CENTER + np.array([0.0, offset, 0.0]), 1.5)).measures.anterior_third_filled
    # Anterior is where y is larger.
    assert filled[12.0] > 0.02 and filled[-12.0] == 0.0


def test_without_a_tip_there_is_a_volume_but_no_shape():
    reading = Bench(tip=None).update((CENTER, 1.0))
    # Where the cement lies between source and detector is a guess then.
    assert reading.volume_ml == pytest.approx(1.0, rel=0.3)
    assert reading.measures is None and math.isnan(reading.concentricity)


def test_a_streak_that_runs_away_in_front_is_a_vein(zones):
    bench = Bench(zones)
    bench.update((CENTER, 1.0))
    streak = [(np.array([-35.0, 24.0 + 1.5 * step, 10.0 + 1.0 * step]), 0.004) for step in range(9)]
    readings = [bench.update((CENTER, 1.0), *streak) for _ in range(2)]
    assert {event.route for event in readings[1].events if event.level == "leak"} == {"venous"}


def test_cement_beyond_the_zones_stops_too(zones):
    bench = Bench(zones)
    for _ in range(2):
        reading = bench.update((CENTER, 1.0), (CENTER + np.array([0.0, 4.0, -48.0]), 0.1))
    assert reading.leak


def test_time_that_runs_backwards_or_stands_still_blinds_the_monitor():
    bench = Bench()
    bench.update()
    for step_s in (0.0, -1.0, math.nan):
        frames = {name: replace(bench.frame(name), time_s=bench.now_s + step_s) for name in bench.names}
        assert bench.monitor.update(frames, bench.now_s).health == "time stands still or runs backwards (ap)"
        assert bench.update().healthy
    bench.now_s += PERIOD_S
    ahead = {name: replace(bench.frame(name), time_s=bench.now_s + 5.0) for name in bench.names}
    assert bench.monitor.update(ahead, bench.now_s).health == "its time lies ahead (ap)"


def test_the_pose_of_another_c_arm_blinds_the_monitor():
    bench = Bench()
    bench.update()
    bench.now_s += PERIOD_S
    other = replace(VIEWS["ap"], pixel_spacing_mm=(0.5, 0.5))
    frames = {"ap": replace(bench.frame("ap"), geometry=other), "lateral": bench.frame("lateral")}
    assert bench.monitor.update(frames, bench.now_s).health == "C-arm moved (ap)"


def test_a_reference_of_another_detector_is_refused():
    bench = Bench()
    small = [replace(bench.frame("ap"), pixels=bench.frame("ap").pixels[:100]) for _ in range(6)]
    with pytest.raises(ImageError, match=r"view ap: .*144 x 144 pixels"):
        bench.monitor.set_reference("ap", small)


def test_what_cannot_be_judged_is_said_and_is_no_all_clear(zones):
    without = Bench().update((CENTER, 1.0))
    assert without.leak is None
    assert without.cannot_tell == (WITHOUT_CT, "whether and where cement leaks: no zones of the anatomy")
    bench = Bench(zones)
    judged = bench.update((CENTER, 1.0))
    assert judged.leak is None and judged.cannot_tell == (BESIDE_THE_BONE, WITHOUT_CT)
    for _ in range(round(6.0 / PERIOD_S)):
        judged = bench.update((CENTER, 1.0))
    assert judged.leak is False and judged.cannot_tell == (WITHOUT_CT,)


def test_with_a_breath_of_reference_what_is_close_beside_the_bone_is_judged_soon(zones):
    bench = Bench(zones)
    for name in bench.names:
        bench.now_s = 0.0
        frames = []
        for _ in range(round(4.0 / PERIOD_S) + 1):
            frames.append(bench.frame(name))
            bench.now_s += PERIOD_S
        bench.monitor.set_reference(name, frames)
    # The picture is off for a while; then growth of two seconds is enough.
    bench.now_s += 60.0
    told = [bench.update((CENTER, 0.02 * number)).cannot_tell for number in range(1, 11)]
    assert told[0] == (BESIDE_THE_BONE, WITHOUT_CT)
    assert told[-1] == (WITHOUT_CT,)


def test_burned_in_text_that_changes_is_no_cement(zones):
    bench = Bench(zones, names=())
    draw = np.random.default_rng(11)

    def shot(*spheres):
        taken = bench.frame("ap", spheres)
        pixels = np.minimum(taken.pixels // 96, 200).astype(np.uint8)
        pixels[-14:-6, 20:60:2] = np.where(draw.random((8, 20)) < 0.5, 255, pixels[-14:-6, 20:60:2])
        return replace(taken, pixels=pixels)

    bench.monitor.set_reference("ap", [shot() for _ in range(8)])
    for volume_ml in (0.0, 0.0, 1.0):
        bench.now_s += PERIOD_S
        reading = bench.monitor.update({"ap": shot(*([(CENTER, volume_ml)] if volume_ml else []))}, bench.now_s)
        assert reading.healthy and not reading.leak
        assert reading.volume_ml == pytest.approx(volume_ml, rel=0.06)


def test_more_contrast_than_cement_has_is_calibrated_away(zones):
    bench = Bench(zones)
    for volume_ml in (0.4, 0.7, 1.0, 2.0):
        bench.now_s += PERIOD_S
        # Cement of another make, or a curve of greys: a quarter more contrast.
        frames = {}
        for name in bench.names:
            total = body_line_integrals(VIEWS[name]) + 1.25 * sphere_line_integrals(VIEWS[name], CENTER, volume_ml)
            frames[name] = Frame(expose(total, bench.rng), bench.now_s, VIEWS[name])
        reading = bench.monitor.update(frames, bench.now_s, pump_volume_ml=volume_ml)
    assert reading.volume_ml == pytest.approx(2.0, rel=0.03)


def test_cement_beside_what_cannot_be_seen_has_a_volume(zones):
    bench = Bench(zones)
    bench.now_s += PERIOD_S
    frames = {name: bench.frame(name, [(CENTER, 1.0)]) for name in bench.names}
    for frame in frames.values():
        frame.pixels[66:69, 65:68] = 65535
    reading = bench.monitor.update(frames, bench.now_s)
    assert reading.healthy
    # A twentieth of the shadow is hidden.
    assert reading.volume_ml == pytest.approx(1.0, rel=0.15) and math.isfinite(reading.volume_ml_sd)


def test_a_view_too_dark_to_show_what_the_pump_gives_blinds_the_monitor_until_it_is_learned_anew(zones):
    bench = Bench(zones)
    for given_ml in (0.4, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.3):
        bench.now_s += PERIOD_S
        frames = {"ap": bench.frame("ap", [(CENTER, given_ml)]), "lateral": bench.frame("lateral")}
        reading = bench.monitor.update(frames, bench.now_s, given_ml)
    assert reading.health == "too dark to show the cement that the pump gave (lateral)"
    assert set(bench.monitor.shadows()) == {"ap"}, "an empty picture says nothing of where the cement lies"
    assert any(event.stop and event.level == "blind" for event in reading.events) or reading.level == "blind"
    for name in bench.names:
        bench.monitor.set_reference(name, [bench.frame(name, [(CENTER, given_ml)]) for _ in range(8)])
    assert bench.update((CENTER, given_ml)).healthy


def test_views_that_show_what_the_pump_gives_stay_healthy(zones):
    bench = Bench(zones)
    for given_ml in (0.4, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.3):
        bench.now_s += PERIOD_S
        frames = {name: bench.frame(name, [(CENTER, given_ml)]) for name in bench.names}
        reading = bench.monitor.update(frames, bench.now_s, given_ml)
    assert reading.healthy and reading.cannot_tell == (BESIDE_THE_BONE, WITHOUT_CT)


BESIDE_PLAN = np.array([-10.0, 8.0, 28.0])


def given_with_a_warning(bench, volumes_ml, until_ml):
    """The last reading of an injection in which 0.2 mL lie in bone outside the plan until so much is given."""
    for given_ml in volumes_ml:
        bench.now_s += PERIOD_S
        spheres = [(CENTER, given_ml - 0.2), (BESIDE_PLAN, 0.2)] if given_ml < until_ml else [(CENTER, given_ml)]
        frames = {name: bench.frame(name, spheres) for name in bench.names}
        reading = bench.monitor.update(frames, bench.now_s, given_ml)
    return reading


def test_views_that_a_warning_kept_from_being_calibrated_blind_the_monitor_until_they_are_learned_anew(zones):
    bench = Bench(zones)
    reading = given_with_a_warning(bench, np.arange(0.4, 2.0, 0.2), until_ml=9.0)
    assert reading.level == "warning" and reading.healthy
    reading = given_with_a_warning(bench, [2.1, 2.2], until_ml=9.0)
    assert reading.health.startswith("not calibrated") and reading.level == "blind"
    for name in bench.names:
        bench.monitor.set_reference(name, [bench.frame(name, [(CENTER, 2.2)]) for _ in range(8)])
    assert bench.update((CENTER, 2.2)).healthy


def test_views_are_calibrated_late_when_a_warning_has_passed(zones):
    bench = Bench(zones)
    reading = given_with_a_warning(bench, np.arange(0.4, 2.6, 0.1), until_ml=1.15)
    assert reading.healthy and reading.level != "warning"
    assert reading.volume_ml == pytest.approx(2.5, rel=0.03)
    assert reading.volume_ml_sd < 0.05 * 2.5


def test_after_another_reference_a_breath_has_to_be_seen_again(zones):
    bench = Bench(zones)
    for _ in range(round(6.0 / PERIOD_S)):
        reading = bench.update((CENTER, 1.0))
    assert reading.leak is False
    for name in bench.names:
        bench.monitor.set_reference(name, [bench.frame(name, [(CENTER, 1.0)]) for _ in range(8)])
    assert bench.update((CENTER, 1.0)).leak is None
