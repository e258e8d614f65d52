"""The monitor page over live views in which cement grows and leaks: what a person sees, and what goes on meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

from desktop.monitored_room import NAME, MonitoredRoom
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
    assert room.panel.unknownLabel.text == "" and not room.ui.referenceProgressBar.visible


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
