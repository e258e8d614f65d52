"""The devices module by its buttons, with real simulators behind it: what a person sees and what it does."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sacroplasty.geometry import rigid
from sacroplasty.scene import anatomy, nodes, planning
from sacroplasty.xray.distortion import TERMS, Distortion, write_distortion
from scene.simple_case import make_anatomy, make_ct, make_plan

NAME = "SacroplastyDevices"


@pytest.fixture
def widget(desktop):
    opened = desktop.open_module(NAME)
    opened.ui.patientCheckBox.checked = False
    yield opened
    opened.logic.stopSimulators()
    desktop.close(opened)


def wait_until(desktop, condition, limit_s=30.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        desktop.wait(20)


def states(widget):
    widget.showDevices()
    return [
        label.text for label in (widget.ui.trackerStateLabel, widget.ui.fluoroscopeStateLabel, widget.ui.pumpStateLabel)
    ]


def start(desktop, widget, defect="none", device=0):
    widget.ui.faultComboBox.currentText = defect
    widget.ui.faultDeviceComboBox.currentIndex = device
    widget.ui.startSimulatorsButton.click()
    wait_until(desktop, lambda: widget.logic.connected())


def run_pump(desktop, widget):
    """Arm and run, as the cement module would."""
    pump = widget.logic.desk().pump
    wait_until(desktop, lambda: pump.reading(time.monotonic()).ready)
    pump.arm(time.monotonic())
    pump.run(0.2, 5.0, 2900, time.monotonic())
    wait_until(desktop, lambda: pump.reading(time.monotonic()).state.state == "running")
    return pump


def test_three_live_devices_with_their_figures(desktop, widget, picture_folder):
    start(desktop, widget)
    wait_until(desktop, lambda: all("LIVE" in text or "CHECK" in text for text in states(widget)))
    desktop.wait(1500)
    widget.showDevices()
    table = widget.ui.devicesTable
    assert [table.item(row, 0).text() for row in range(3)] == ["Tracker", "Fluoroscope", "Pump"]
    assert all(table.item(row, 1).text().startswith("127.0.0.1:") for row in range(3))
    rates = [float(table.item(row, 2).text()) for row in range(3)]
    assert rates[0] > 60 and rates[1] > 2 and rates[2] > 8
    assert widget.ui.pumpTextLabel.text == "idle, 0.00 mL given"
    path = desktop.picture(widget, picture_folder / "SacroplastyDevices-live.png")
    assert path.stat().st_size > 10_000


def test_a_calibrated_distortion_is_chosen_by_its_file_and_kept_with_the_scene(desktop, widget, tmp_path):
    write_distortion(Distortion((64, 64), np.zeros((2, TERMS)), 1.0, 0.12, 345), tmp_path / "distortion.json")
    assert "as they come" in widget.ui.distortionLabel.text
    widget.ui.distortionPathLineEdit.currentPath = str(tmp_path / "distortion.json")
    assert "345 beads" in widget.ui.distortionLabel.text and "0.12" in widget.ui.distortionLabel.text
    widget.ui.distortionPathLineEdit.currentPath = str(tmp_path / "no.json")
    assert widget.ui.statusLabel.text.startswith("✘") and "345 beads" in widget.ui.distortionLabel.text
    widget.ui.distortionPathLineEdit.currentPath = ""
    assert "as they come" in widget.ui.distortionLabel.text


def test_an_alarm_is_seen_read_and_listed(desktop, widget, picture_folder):
    start(desktop, widget, "run-after-stop", 2)
    run_pump(desktop, widget)
    widget.ui.stopButton.pressed.emit()
    wait_until(desktop, lambda: states(widget)[2] == "‼ ALARM", limit_s=5)
    assert "switch it off at the pump" in widget.ui.pumpTextLabel.text
    assert widget.ui.eventsListWidget.item(0).text()[8:].startswith("  ‼ Pump: the pump says stopped")
    assert "background-color: black" in widget.ui.pumpStateLabel.styleSheet
    desktop.picture(widget, picture_folder / "SacroplastyDevices-alarm.png")


def test_stop_acts_at_the_press_and_says_so(desktop, widget):
    start(desktop, widget)
    pump = run_pump(desktop, widget)
    widget.ui.stopButton.pressed.emit()
    assert widget.ui.statusLabel.text.startswith("■")
    wait_until(desktop, lambda: not pump.stop_pending, limit_s=2)
    assert states(widget)[2] == "■ STOPPED"


def test_a_stop_stands_in_the_main_window_as_long_as_a_pump_is_connected(desktop, widget, monkeypatch, picture_folder):
    from PySide6.QtWidgets import QMainWindow

    from slicer import util

    window = QMainWindow()
    monkeypatch.setattr(util, "mainWindow", lambda: window)
    start(desktop, widget)
    pump = run_pump(desktop, widget)
    desktop.leave(widget)
    desktop.wait(300)
    bar = widget._stopBar
    assert bar is not None and window.toolBarArea(bar).name != "NoToolBarArea"
    (button,) = [child for child in bar.children() if getattr(child, "text", None) == "STOP THE PUMP"] or [None]
    assert button is not None
    window.resize(820, 110)
    window.show()
    desktop.wait(50)
    assert window.grab().save(str(picture_folder / "SacroplastyDevices-stop-bar.png"))
    window.hide()
    button.pressed.emit()
    wait_until(desktop, lambda: pump.reading(time.monotonic()).state.state == "stopped", limit_s=2)
    desktop.enter(widget)
    widget.ui.disconnectButton.click()
    assert widget._stopBar is None


def test_disconnected_and_connected_again_without_a_restart(desktop, widget):
    start(desktop, widget)
    wait_until(desktop, lambda: "LIVE" in states(widget)[2])
    first = widget.logic.desk().pump
    widget.ui.disconnectButton.click()
    assert states(widget) == ["○ NOT CONNECTED"] * 3 and widget.ui.connectButton.enabled
    ports = widget.logic._simulators.ports
    parameters = widget._parameterNode
    parameters.trackerAddress, parameters.fluoroscopeAddress = f"127.0.0.1:{ports['tracker']}", ""
    parameters.pumpAddress = f"127.0.0.1:{ports['pump']}"
    widget.ui.connectButton.click()
    wait_until(desktop, lambda: "LIVE" in states(widget)[2])
    widget.ui.reconnectButton.click()
    wait_until(desktop, lambda: "LIVE" in states(widget)[2])
    assert widget.logic.desk().pump is not first and states(widget)[1] == "○ NOT CONNECTED"
    parameters.trackerAddress = "somewhere"
    widget.ui.disconnectButton.click()
    widget.ui.connectButton.click()
    assert "no address of the tracker" in widget.ui.statusLabel.text


def test_a_session_is_recorded_replayed_and_put_into_the_scene(desktop, widget, tmp_path):
    start(desktop, widget)
    wait_until(desktop, lambda: all("LIVE" in text or "CHECK" in text for text in states(widget)))
    widget.ui.folderPathLineEdit.currentPath = str(tmp_path)
    widget.ui.recordButton.click()
    assert "End" in widget.ui.recordButton.text
    desktop.wait(1500)
    widget.showDevices()
    assert "MB in" in widget.ui.recordingLabel.text
    widget.ui.recordButton.click()
    (file,) = tmp_path.glob("*.session")
    assert widget.ui.sessionPathLineEdit.currentPath == str(file)
    widget.ui.stopSimulatorsButton.click()
    widget.ui.speedComboBox.currentIndex = 0
    widget.ui.replayButton.click()
    wait_until(desktop, lambda: "LIVE" in states(widget)[0] or "CHECK" in states(widget)[0], limit_s=5)
    assert widget.ui.trackerTextLabel.text.startswith("REPLAY, not live")
    widget.ui.stopButton.pressed.emit()
    assert "no pump to stop" in widget.ui.statusLabel.text
    widget.ui.disconnectButton.click()
    widget.ui.sequencesButton.click()
    assert desktop.scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") == 1
    widget.ui.plusButton.click()
    assert file.with_suffix(".igs.mha").stat().st_size > 1000
    widget.ui.sessionPathLineEdit.currentPath = str(tmp_path / "nothing.session")
    widget.ui.replayButton.click()
    assert "cannot be read" in widget.ui.statusLabel.text


def test_simulators_take_the_patient_of_the_scene_and_hands_obey(desktop, widget):
    ct = make_ct()
    ct_node = nodes.add_volume(desktop.scene, ct, "CT")
    anatomy.show_anatomy(desktop.scene, make_anatomy(ct), ct_node)
    planning.show_plan(desktop.scene, make_plan(ct))
    widget.ui.patientCheckBox.checked = True
    start(desktop, widget)
    combo = widget.ui.askComboBox
    texts = [combo.itemText(number) for number in range(combo.count)]
    assert "C-arm: outlet and lateral, live" in texts
    combo.currentIndex = texts.index("C-arm: outlet and lateral, live")
    wait_until(desktop, lambda: widget.logic._room._clients["CArm"].connected)
    widget.ui.askButton.click()
    wait_until(desktop, lambda: "LIVE" in states(widget)[1])
    wait_until(desktop, lambda: widget.ui.statusLabel.text == "✔ C-arm: outlet and lateral, live")
    # The answer and the first picture of each view come when they come.
    wait_until(desktop, lambda: widget.ui.fluoroscopeTextLabel.text == "2 live views")


def test_nodes_of_openigtlinkif_can_be_the_tracker(desktop, widget):
    node = desktop.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "StylusToTracker")
    node.SetAttribute("OpenIGTLink.TransformStatus", "OK")
    widget._parameterNode.trackerAddress = "scene"
    widget._parameterNode.fluoroscopeAddress = widget._parameterNode.pumpAddress = ""
    widget.ui.connectButton.click()
    for number in range(20):
        nodes.set_transform(node, rigid(np.eye(3), [0, 0, 900 + 0.1 * number]))
        desktop.wait(20)
    assert states(widget)[0] == "✔ LIVE"
    wait_until(desktop, lambda: states(widget)[0] == "✘ DO NOT USE", limit_s=1)
