"""The injection page by its buttons, over the simulated pump in virtual time: what a person sees and does."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import slicer
from desktop.harness.widgets import widget_class
from injection_room import VirtualLine
from sacroplasty.cement.monitor import MonitorReading
from sacroplasty.devices.fluoroscope import View
from sacroplasty.devices.pump import PumpRole
from sacroplasty.procedure.journal import Journal, read_journal
from sacroplasty.scene import anatomy, cement, nodes, planning
from sacroplasty.scene.in_use import mark
from sacroplasty.scene.navigation import REGISTRATION_NAME
from sacroplasty.scene.records import write_record
from sacroplasty.simulation.pump import PumpMachine
from sacroplasty.simulation.world import PumpModel, demonstration_world
from scene.simple_case import make_anatomy, make_ct, make_plan

NAME = "SacroplastyCementMonitor"
TURN_S = 0.1


class Monitor:
    """A spread monitor that says what the test tells it to."""

    views = ("Image_Detector",)
    zones = tip_ras = None

    def __init__(self, room):
        self.room, self.visibility = room, {}

    def update(self, frames, now_s, *given):
        room = self.room
        health = "the image moved" if room.level == "blind" else "ok"
        level = None if room.level == "none" else room.level
        return MonitorReading(
            now_s,
            room.machine.syringe.out_ml,
            0.1,
            room.evenness,
            health,
            level,
            room.level == "leak",
            (),
            warnings=("bone",) if level == "warning" else (),
        )


class Room:
    """The module over a simulated pump, a monitor that is told what to say, and a clock in the test's hands."""

    def __init__(self, desktop, monkeypatch, folder):
        self.desktop = desktop
        self.now_s, self.level, self.evenness = 1000.0, "none", 0.9
        self.machine = PumpMachine(PumpModel(), demonstration_world(0).trocar)
        self.line = VirtualLine(self.machine, np.random.default_rng(0), lambda name: False)
        self.pump = PumpRole(self.line, "desk")
        self.fluoroscope = SimpleNamespace(view=lambda plane, now_s: View(None, 0.0, True, ""))
        self.show_case(desktop.scene)
        registration = {"error_mm": 1.0, "rms_mm": 0.5, "residuals_mm": {}}
        write_record(desktop.scene, REGISTRATION_NAME, registration)
        mark(desktop.scene, REGISTRATION_NAME, registration)
        monkeypatch.setenv("HOME", str(folder))
        self.journals = folder / "Sacroplasty sessions"
        desktop.module_widget("SacroplastyDevices").logic.desk = lambda: self
        desktop.load_module(NAME)
        clock = SimpleNamespace(monotonic=lambda: self.now_s, time=lambda: 1.7e9 + self.now_s)
        monkeypatch.setattr(sys.modules[NAME], "time", clock)
        self.widget = desktop.open_module(NAME)
        self.ui, self.logic = self.widget.ui, self.widget.logic
        self.widget._timer.stop()
        self.begin_watch()
        self.widget.parent.show()

    def show_case(self, scene):
        ct = make_ct()
        ct_node = nodes.add_volume(scene, ct, "CT")
        anatomy.show_anatomy(scene, make_anatomy(ct), ct_node)
        planning.show_plan(scene, make_plan(ct))

    def begin_watch(self):
        self.desk.watch._monitor = Monitor(self)

    def picture(self, path):
        """The page as it is seen in a window of a usual height."""
        window = widget_class("slicer.qMRMLWidget")()
        window.resize(1600, 1020)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slicer.util, "mainWindow", lambda: window)
            self.widget._drawnAt = 0.0
            self.widget.showReadout()
            self.desktop.picture(self.widget, path, width=500)
        assert self.ui.stopButton.height >= 1020 // 3
        self.widget.parent.show()

    def take_frames(self):
        return []

    @property
    def desk(self):
        return self.logic._desk

    def wait(self, seconds, held=False):
        """Let time pass, with the button held down or not."""
        for _ in range(round(seconds / TURN_S)):
            self.now_s += TURN_S
            self.line.advance(self.now_s)
            self.pump.poll(self.now_s)
            self.ui.injectButton.down = held
            self.logic.tick(self.now_s)
            self.pump.poll(self.now_s)
        self.widget.showReadout()

    def armed(self):
        self.wait(1.0)
        self.ui.mixButton.click()
        self.now_s += 290.0
        self.wait(1.0)
        self.ui.armButton.click()
        self.wait(0.5)
        assert self.logic.readout().injection == "armed", self.logic.readout().reason
        return self

    def events(self):
        (path,) = self.journals.glob("injection-*.jsonl")
        return read_journal(path)


@pytest.fixture
def room(desktop, monkeypatch, tmp_path):
    return Room(desktop, monkeypatch, tmp_path)


def test_an_injection_by_its_buttons_is_in_the_journal(room, picture_folder):
    room.armed()
    assert room.ui.injectButton.enabled and not room.ui.byHandFrame.visible
    room.wait(21.0, held=True)
    assert room.logic.readout().injection == "holding"
    assert ", wait 0:" in room.ui.stepLabel.text
    room.wait(24.0, held=True)
    assert room.logic.readout().injection == "injecting"
    assert "Pa·s ±" in room.ui.viscosityLabel.text and room.ui.afterFlowLabel.text.endswith(" mL")
    room.picture(picture_folder / f"{NAME}-injecting.png")
    room.wait(0.2, held=False)
    assert room.machine.state == "holding"
    events = room.events()
    told = [one["command"] for one in events if one["event"] == "order"]
    assert told == ["arm", "run", "hold", "run", "hold"]
    assert events[0]["event"] == "session_started" and events[-1]["given_ml"]["left"] > 1.0


@pytest.mark.parametrize("how", ["button", "Esc", "Space"])
def test_stop_by_button_and_by_key(room, how):
    room.armed()
    room.wait(3.0, held=True)
    assert room.machine.state == "running"
    if how == "button":
        room.ui.stopButton.pressed.emit()
    else:
        (shortcut,) = [one for one in room.widget._shortcuts if one.key().toString() == how]
        shortcut.activated.emit()
    room.wait(0.2, held=True)
    assert room.machine.state == "stopped" and room.logic.readout().injection == "stopped"
    room.wait(5.0, held=True)
    assert room.machine.state == "stopped" and room.ui.armButton.text == "Reset"
    assert room.logic.readout().alarms.gravest is None, "a stop that a person made calls nobody"


def test_keys_stop_only_while_the_page_is_shown(room):
    assert len(room.widget._shortcuts) == 2
    room.desktop.leave(room.widget)
    assert room.widget._shortcuts == []


def test_keys_pressed_on_the_shown_page_stop(room, desktop):
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    room.armed()
    room.wait(2.0, held=True)
    panel = room.widget.parent
    panel.activateWindow()
    desktop.wait(20)
    QTest.keyClick(panel, Qt.Key_Space)
    desktop.wait(20)
    room.wait(0.2, held=True)
    assert room.machine.state == "stopped"


def test_a_leak_raises_an_alarm_that_flashes_and_sounds_until_it_is_reset(room, picture_folder, monkeypatch):
    from PySide6.QtWidgets import QApplication

    beeps = []
    monkeypatch.setattr(QApplication, "beep", staticmethod(lambda: beeps.append(room.now_s)))
    room.armed()
    room.wait(12.0, held=True)
    room.level = "leak"
    room.wait(0.3, held=True)
    assert room.machine.state == "stopped"
    assert room.ui.alarmLabel.text.startswith("‼ ") and "leak" in room.ui.alarmLabel.text.lower()
    looks = set()
    for _ in range(60):
        room.wait(0.1)
        looks.add(room.ui.alarmLabel.styleSheet)
    assert len(looks) == 2 and len(beeps) == 10, "it flashes, and sounds in ten pulses"
    room.picture(picture_folder / f"{NAME}-leak.png")
    room.ui.pauseSoundButton.click()
    del beeps[:]
    room.wait(30.0)
    assert beeps == [] and room.ui.alarmLabel.visible and ":" in room.ui.pauseSoundButton.text
    assert [one["event"] for one in room.events()].count("sound_paused") == 1
    room.level = "none"
    room.ui.armButton.click()
    room.wait(0.5)
    assert room.logic.readout().alarms.gravest is None and not room.ui.alarmLabel.visible


def test_an_uneven_spread_waits_for_a_decision(room):
    room.armed()
    room.evenness = 0.1
    room.wait(50.0, held=True)
    assert "decide to go on" in room.ui.refusalLabel.text and room.ui.goOnButton.enabled
    room.ui.goOnButton.click()
    room.wait(1.0, held=True)
    assert room.machine.state == "running"


def test_the_trocar_is_withdrawn_on_the_page_and_the_next_depot_begins(room, picture_folder):
    room.armed()
    room.wait(15.0, held=True)
    room.ui.withdrawButton.click()
    room.wait(3.0, held=True)
    assert room.machine.state == "holding" and room.ui.withdrawingFrame.visible
    room.picture(picture_folder / f"{NAME}-withdraw.png")
    room.ui.backSpinBox.value = 6
    room.ui.backButton.click()
    room.wait(0.2)
    assert room.logic.readout().injection == "armed" and "6 mm back" in room.ui.withdrawnLabel.text
    assert room.ui.bannerLabel.text.startswith("✘ MONITOR BLIND"), "the views have to be learned anew"
    moved = [one for one in room.events() if one["event"] == "tip_moved"]
    planned = planning.chosen(planning.plan_of(room.desktop.scene))["left"]
    way = np.linalg.norm(np.array(moved[0]["tip_ras"]) - planned.target)
    assert way == pytest.approx(6.0)
    room.wait(1.0, held=True)
    assert room.machine.state == "holding", "blind: nothing flows"
    room.desk.watch._reference, room.desk.watch._monitor = None, Monitor(room)
    room.wait(1.0, held=True)
    assert room.machine.state == "running"


def test_abort_stops_at_once_and_asks_for_the_reason_on_the_page(room):
    room.armed()
    room.wait(3.0, held=True)
    room.ui.abortButton.pressed.emit()
    room.wait(0.2, held=True)
    assert room.machine.state == "stopped" and room.ui.noteFrame.visible
    assert not room.ui.armButton.enabled, "no reset before the reason is written down"
    room.ui.noteButton.click()
    room.wait(0.1)
    assert room.ui.noteFrame.visible
    room.ui.noteLineEdit.text = "pain in the leg"
    room.ui.noteButton.click()
    room.wait(0.1)
    assert not room.ui.noteFrame.visible and room.ui.refusalLabel.text == "aborted: pain in the leg"
    assert [one["text"] for one in room.events() if one.get("request") == "abort"] == ["", "pain in the leg"]


def test_injection_by_hand_tells_counts_and_raises_the_alarm(room, picture_folder):
    room.ui.byHandCheckBox.checked = True
    room.ui.techniqueButton.click()
    room.wait(0.5)
    room.ui.mixButton.click()
    room.now_s += 290.0
    room.wait(0.5)
    room.ui.armButton.click()
    room.wait(0.2)
    room.ui.injectButton.click()
    room.wait(0.2)
    assert room.ui.instructionLabel.text.startswith("Inject 1.0 mL") and room.ui.byHandFrame.visible
    room.ui.givenSpinBox.value = 0.5
    room.ui.givenButton.click()
    room.wait(0.2)
    room.ui.givenButton.click()
    room.wait(0.2)
    assert room.ui.instructionLabel.text == "Do not inject: wait" and room.ui.leftVolumeLabel.text.startswith("1.0 /")
    room.wait(21.0)
    assert room.ui.instructionLabel.text.startswith("Inject")
    room.level = "leak"
    room.wait(0.2)
    assert room.ui.instructionLabel.text == "STOP INJECTING"
    assert room.ui.alarmLabel.text.startswith("‼ ")
    room.picture(picture_folder / f"{NAME}-by-hand.png")
    assert room.machine.state == "idle", "the pump was never spoken to"


def test_the_spread_is_predicted_from_the_tip_as_it_stands(room, monkeypatch):
    from sacroplasty.scene import spread

    asked = []

    def predict(scene, side, depots, line, preset, flow_ml_s, progress):
        progress(0.5)
        asked.append((side, [(depot.position_ras, depot.volume_ml) for depot in depots], flow_ml_s))
        assert room.ui.spreadButton.text == "Predicting, 50 %: press to cancel"

    monkeypatch.setattr(spread, "predict", predict)
    text = room.ui.spreadButton.text
    room.ui.spreadButton.click()
    target = planning.chosen(planning.plan_of(room.desktop.scene))["left"].target
    ((side, ((tip, volume),), flow),) = asked
    assert (side, volume, flow) == ("left", 4.0, 0.05) and np.allclose(tip, target)
    assert room.ui.spreadButton.text == text
    monkeypatch.setattr(slicer.app, "processEvents", room.ui.spreadButton.click)
    room.ui.spreadButton.click()
    assert "canceled" in room.ui.refusalLabel.text and len(asked) == 1
    room.armed()
    room.ui.spreadButton.click()
    assert "under way" in room.ui.refusalLabel.text


def test_a_killed_session_is_offered_and_taken_over_stopped(room, desktop, picture_folder):
    room.desktop.close(room.widget)
    with Journal(_folder(room) / "injection-2026-01-01_100000-00.jsonl") as journal:
        base = {"side": "left", "cement": "generic-high-viscosity", "counter_ml": 0.0}
        mixed = 1.7e9 + room.now_s - 400.0
        volumes = {"left": 1.4, "right": 0.0}
        journal.write(0.0, "session_started", unix_s=1.7e9, phase="prepare", given_ml=volumes, **base)
        journal.write(9.0, "progress", phase="injecting", given_ml=volumes, mixed_at_unix_s=mixed, **base)
    widget = desktop.open_module(NAME)
    widget._timer.stop()
    widget.parent.show()
    widget.showReadout()
    assert widget.ui.earlierFrame.visible and "1.40 mL left" in widget.ui.earlierLabel.text
    room.widget, room.ui = widget, widget.ui
    room.ui.cementCollapsibleButton.collapsed = True
    room.picture(picture_folder / f"{NAME}-recovered.png")
    widget.ui.takeUpButton.click()
    readout = widget.logic.readout()
    assert readout.injection == "stopped" and "without being closed" in readout.reason
    assert readout.given_ml["left"] == 1.4 and readout.age_s == pytest.approx(400.0)
    assert not widget.ui.earlierFrame.visible and cement.given_ml(desktop.scene) == {"left": 1.4}
    room.desktop.close(widget)
    again = desktop.open_module(NAME)
    assert again.logic.readout().earlier_text == "", "it is offered once"


def _folder(room):
    room.journals.mkdir(parents=True, exist_ok=True)
    return room.journals
