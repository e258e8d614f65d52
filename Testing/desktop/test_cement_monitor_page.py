"""The monitor page over live views in which cement grows and leaks: what a person sees, and what goes on meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

from desktop.monitored_room import NAME, MonitoredRoom
from monitored_case import HUB, TIP, VIEWS, body
from sacroplasty.scene import fluoroscopy, nodes
from sacroplasty.scene.records import read_record


@pytest.fixture
def room(desktop, monkeypatch, tmp_path):
    return MonitoredRoom(desktop, monkeypatch, tmp_path)


def test_the_views_are_learned_with_progress_and_a_bad_reference_is_refused(room, picture_folder):
    room.views.posed = False
    room.wait(0.3)
    assert "pose unknown" in room.panel.view0CaptionLabel.text and room.pixels().shape[0] > 100
    assert "were not learned" in room.panel.unknownLabel.text
    assert room.ui.bannerLabel.text.startswith("✘ MONITOR BLIND")
    assert not room.ui.acknowledgeButton.enabled
    room.ui.referenceButton.click()
    room.wait(4.6)
    assert room.ui.referenceLabel.text.startswith("✘") and "no geometry" in room.ui.referenceLabel.text
    room.picture(picture_folder / f"{NAME}-monitor-no-pose.png")
    room.views.posed = True
    room.ui.referenceButton.click()
    room.wait(0.5)
    assert room.ui.referenceProgressBar.visible and 0 < room.ui.referenceProgressBar.value < 100
    assert "hold still" in room.ui.referenceLabel.text
    # Something thick comes into the picture.
    room.machine.syringe.out_ml = 1.0
    room.wait(4.0)
    assert room.ui.referenceLabel.text.startswith("✘"), room.ui.referenceLabel.text
    assert "something moved" in room.ui.referenceLabel.text
    room.machine.syringe.out_ml = 0.0
    room.learned()
    assert not room.ui.referenceProgressBar.visible
    # What lies close beside the bone is judged a little later.
    assert "less than a breath was seen" in room.panel.unknownLabel.text
    room.wait(2.0)
    assert room.panel.unknownLabel.text == ""


def test_a_view_too_dark_for_cement_is_refused_before_any_is_given(room, picture_folder):
    room.views.scatter = 12000.0
    room.ui.referenceButton.click()
    room.wait(4.6)
    told = room.ui.referenceLabel.text
    assert told.startswith("✘ view 2: too dark to show 0.05 mL of cement at the tip"), told
    assert "collimate, or raise the dose" in told
    assert room.ui.bannerLabel.text.startswith("✘ MONITOR BLIND")
    room.picture(picture_folder / f"{NAME}-monitor-too-dark.png")
    room.views.scatter = 0.0
    room.learned()
    assert "View 1 would show 0.0" in room.ui.referenceLabel.text, room.ui.referenceLabel.text


def click(room, number, point_ras):
    """Press the mouse where a point of the patient lies in a picture."""
    from PySide6.QtCore import QPoint, Qt
    from PySide6.QtTest import QTest

    pose, _ = body(256)[VIEWS[number]]
    across, down = (pose.project(point_ras) + 0.5) / pose.detector_pixels
    label, shown = getattr(room.panel, f"picture{number}Label"), room.pixels(number).shape
    x = (label.width - shown[1]) / 2 + across * shown[1]
    y = (label.height - shown[0]) / 2 + down * shown[0]
    QTest.mouseClick(label, Qt.LeftButton, Qt.NoModifier, QPoint(int(x), int(y)))
    room.widget.showReadout()


def test_the_trocar_is_marked_in_views_without_pose_and_what_is_not_known_then_is_said(room, picture_folder):
    room.views.posed, room.views.trocar = False, True
    room.wait(0.3)
    assert room.ui.markButton.visible and not room.ui.markLabel.visible
    room.ui.markButton.click()
    for number in range(2):
        assert f"tip in view {number + 1}" in room.ui.markLabel.text
        click(room, number, TIP)
    assert "shaft far up in view 1" in room.ui.markLabel.text
    click(room, 1, TIP + 0.7 * (HUB - TIP))
    room.picture(picture_folder / f"{NAME}-monitor-marks.png")
    # View 1 looks along the trocar: its shaft is too short to be measured, and it goes without a scale.
    room.ui.markButton.click()
    assert not room.ui.markLabel.visible and not room.ui.markButton.checked
    blue = (np.abs(room.pixels().astype(int) - [90, 210, 255]) < 60).all(axis=2)
    assert np.count_nonzero(blue) > 20, "crosses stand where the trocar was marked"
    room.learned()
    assert room.ui.bannerLabel.text.startswith("? LEAKS NOT JUDGED")
    # The pump may not run, and what comes without being given would be something else.
    room.desk.watch._given_before_ml = -1.0
    room.machine.syringe.out_ml = 1.0
    room.wait(1.0)
    assert room.ui.bannerLabel.text.startswith("? LEAKS NOT JUDGED"), room.ui.bannerLabel.text
    assert float(room.panel.seenLabel.text.split(" ±")[0]) == pytest.approx(1.0, abs=0.2)
    told = room.panel.unknownLabel.text
    assert "whether and where cement leaks" in told and "where cement of view 1 lies" in told
    assert "the volume by view 1: no scale" in told and "the volume by view 2" not in told
    room.picture(picture_folder / f"{NAME}-monitor-unjudged.png")
    room.ui.mixButton.click()
    room.now_s += 290.0
    room.wait(1.0)
    room.ui.armButton.click()
    room.wait(1.0, held=True)
    assert room.machine.state != "running" and "leak state is not known" in room.logic.readout().reason


def test_a_shaft_where_there_is_none_is_refused(room):
    room.views.posed = False
    room.wait(0.3)
    room.ui.markButton.click()
    click(room, 0, TIP)
    click(room, 1, TIP)
    click(room, 1, TIP + 0.7 * (HUB - TIP))
    room.ui.markButton.click()
    room.ui.referenceButton.click()
    room.wait(4.6)
    assert "no cannula is to be seen" in room.ui.referenceLabel.text, room.ui.referenceLabel.text
    assert room.ui.bannerLabel.text.startswith("✘ MONITOR BLIND")


def test_good_cement_is_shown_with_its_figures_and_goes_into_the_report_and_the_scene(room, desktop, picture_folder):
    room.injecting(8.0)
    room.picture(picture_folder / f"{NAME}-monitor.png")
    parts = room.panel
    assert room.ui.bannerLabel.text.startswith("✔ NO LEAK SEEN")
    assert float(parts.seenLabel.text.split(" ±")[0]) == pytest.approx(room.machine.syringe.out_ml, abs=0.15)
    assert float(parts.evennessLabel.text) > 0.8
    assert "(mm)" in parts.nearestCaptionLabel.text and float(parts.nearestLabel.text) > 0
    assert parts.view0CaptionLabel.text.startswith("View 1: ") and not parts.fault0Label.visible
    assert not parts.replayLabel.visible and not room.ui.acknowledgeButton.enabled
    room.ui.structuresCheckBox.checked = False
    room.widget.showReadout()
    colored = np.ptp(room.pixels().astype(int), axis=2)
    room.ui.growthCheckBox.checked = False
    room.widget.showReadout()
    plain = np.ptp(room.pixels().astype(int), axis=2)
    assert np.count_nonzero(colored > 40) > np.count_nonzero(plain > 40) + 50, "growth is told by color"
    surface = nodes.first_node(desktop.scene, "vtkMRMLModelNode", "Cement seen left")
    assert surface.GetDisplayNode().GetVisibility()
    room.ui.estimateCheckBox.checked = False
    room.widget.showReadout()
    assert not surface.GetDisplayNode().GetVisibility()
    room.ui.snapshotButton.click()
    assert room.ui.snapshotLabel.text.startswith("✔ 2")
    pictures = fluoroscopy.report_pictures(desktop.scene)
    assert len(pictures) == 2 and all("mL seen" in caption for caption, _ in pictures)
    desktop.close(room.widget)
    again = desktop.open_module(NAME)
    again.ui.pageTabWidget.currentIndex = 1
    again.showReadout()
    assert again.ui.referenceLabel.text.startswith("Saved: ") and "mL seen" in again.ui.referenceLabel.text
    assert again.ui.bannerLabel.text.startswith("✘ MONITOR BLIND"), "what is saved watches nothing"


def test_a_leak_is_named_on_both_screens_and_acknowledging_it_starts_nothing(room, desktop, picture_folder):
    room.injecting()
    room.ui.screenButton.click()
    screen = room.widget._screen
    room.leak_ml = 0.2
    room.wait(1.0, held=True)
    assert room.machine.state == "stopped"
    assert room.ui.bannerLabel.text.startswith("✘ LEAK: Foramen S1 left"), room.ui.bannerLabel.text
    assert screen.parts.bannerLabel.text == room.ui.bannerLabel.text
    assert "mm from the tip" in room.ui.adviceLabel.text and "learn the views anew" in room.ui.adviceLabel.text
    assert "#d00000" in room.ui.bannerLabel.styleSheet, "the color of the alarm that stands"
    red = room.pixels().astype(int)
    assert np.count_nonzero((red[..., 0] > 180) & (red[..., 1] < 110) & (red[..., 2] < 110)) > 20, "a ring marks it"
    screen.widget.resize(1840, 1000)
    desktop.wait(20)
    assert screen.widget.grab().save(str(picture_folder / f"{NAME}-monitor-screen.png"))
    room.picture(picture_folder / f"{NAME}-monitor-leak.png")
    assert room.ui.acknowledgeButton.enabled
    room.ui.acknowledgeButton.click()
    room.wait(2.0, held=True)
    assert room.machine.state == "stopped" and room.logic.readout().injection == "stopped"
    assert [one["event"] for one in room.events()].count("leak_acknowledged") == 1
    told = read_record(desktop.scene, "Sacroplasty monitor")["events"]
    assert ("leak", "foramen_s1_left", True) in {(one["level"], one["route"], one["stop"]) for one in told}
    desktop.leave(room.widget)
    assert "NOT LIVE" in screen.parts.bannerLabel.text and screen.parts.seenLabel.text == "–"
    desktop.enter(room.widget)
    room.ui.screenButton.click()
    assert room.widget._screen is None and len(room.widget._readouts) == 1


def test_the_last_seconds_are_seen_again_while_the_monitor_and_the_stop_go_on(room, picture_folder):
    room.injecting()
    live = room.pixels()
    room.ui.replayButton.click()
    room.wait(0.5, held=True)
    assert room.panel.replayLabel.visible and "REPLAY, NOT LIVE" in room.panel.replayLabel.text
    assert room.machine.state == "running", "seeing the past stops nothing"
    assert not np.array_equal(room.pixels(), live)
    room.ui.replaySlider.value = -20
    room.widget.showReadout()
    assert "2.0 s before" in room.panel.replayLabel.text
    held, given = room.pixels(), room.logic.readout().total_ml
    room.wait(1.0, held=True)
    assert np.array_equal(room.pixels(), held), "the picture stands"
    assert room.logic.readout().total_ml > given
    room.picture(picture_folder / f"{NAME}-monitor-replay.png")
    room.leak_ml = 0.2
    room.wait(1.0, held=True)
    assert room.machine.state == "stopped", "the leak is found during the replay"
    assert not room.panel.replayLabel.visible, "and the live picture shows it"
    room.ui.freezeButton.click()
    assert room.panel.replayLabel.visible and room.ui.liveButton.visible
    room.ui.liveButton.click()
    assert not room.panel.replayLabel.visible and not room.ui.liveButton.visible


def test_subtraction_and_road_map_exclude_each_other_and_a_frozen_picture_is_blind(room, picture_folder):
    room.injecting()
    room.ui.subtractionButton.click()
    room.wait(0.2, held=True)
    subtracted = room.pixels()
    assert np.median(subtracted) > 180, "no change is light grey"
    room.ui.roadMapButton.click()
    assert not room.ui.subtractionButton.checked and room.ui.roadMapButton.checked
    room.wait(0.2, held=True)
    assert not np.array_equal(subtracted, room.pixels())
    room.ui.roadMapButton.click()
    room.views.still = True
    room.wait(1.0, held=True)
    assert room.machine.state != "running"
    assert room.ui.bannerLabel.text.startswith("✘ MONITOR BLIND") and "frozen" in room.ui.bannerLabel.text
    assert room.panel.seenLabel.text == "– ± –" and room.panel.fault0Label.text.startswith("✘")
    assert "#ffd500" in room.ui.bannerLabel.styleSheet
    room.picture(picture_folder / f"{NAME}-monitor-blind.png")


@pytest.fixture
def dark(desktop):
    """A desk of dark ground and bright letters, as Slicer has it when the system's theme is dark."""
    from PySide6.QtGui import QColor, QPalette

    bright = desktop.application.palette()
    dark = QPalette(bright)
    for role in (QPalette.Window, QPalette.Base, QPalette.Button):
        dark.setColor(role, QColor("#323232"))
    for role in (QPalette.WindowText, QPalette.Text, QPalette.ButtonText):
        dark.setColor(role, QColor("#f0f0f0"))
        dark.setColor(QPalette.Disabled, role, QColor("#808080"))
    desktop.application.setPalette(dark)
    yield
    desktop.application.setPalette(bright)


def test_one_view_says_what_it_cannot_tell_and_can_be_read_on_dark_ground(
    desktop, dark, monkeypatch, tmp_path, picture_folder
):
    room = MonitoredRoom(desktop, monkeypatch, tmp_path)
    room.views.views = ("outlet",)
    room.injecting()
    room.picture(picture_folder / f"{NAME}-monitor-one-view.png")
    label = room.panel.seenLabel
    assert label.grab().toImage().pixelColor(1, 1).lightness() < 80, "no label paints its own bright ground"
    assert label.palette.windowText().color().lightness() > 200
    assert "only one view" in room.panel.unknownLabel.text
    assert room.panel.picture1Label.text == "no picture"
