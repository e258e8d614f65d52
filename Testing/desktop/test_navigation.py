"""The navigation module by its buttons: calibrate, register, guide, lose the tool, record the final place."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.geometry import invert_rigid, rigid, rotation_about, rotation_between, transform_points, unit
from sacroplasty.planning.model import Plan
from sacroplasty.scene import anatomy, calibration, devices, navigation, nodes, planning
from sacroplasty.scene.reference import ReferenceFollower
from scene.navigated_case import DIVOT, LANDMARKS, TIP, ReferenceToRAS, put_tip_at
from scene.simple_case import make_ct, make_plan
from simple_sacrum import USUAL_SACRUM_TO_RAS, simple_sacrum

MODULE = "SacroplastyNavigation"
SACRAL_LANDMARKS = {
    "psis_left": (45, 40, -40),
    "psis_right": (-45, 40, -40),
    "median_crest_s1": (0, 45, -12),
    "median_crest_s2": (2, 42, -42),
    "median_crest_s3": (0, 30, -70),
}


@cache
def found():
    """CT and anatomy of the simple sacrum in the usual position; computed once."""
    sacrum = simple_sacrum(2.5, SacrumToRAS=USUAL_SACRUM_TO_RAS)
    return sacrum.ct, segment_from_labels(sacrum.ct, sacrum.bones)


def sacrum_point(left, posterior, superior):
    return transform_points(USUAL_SACRUM_TO_RAS, [left, posterior, superior])


class Room:
    """A patient on the table, tools in hands, and the module open."""

    def __init__(self, desktop, segmented=False):
        self.desktop, self.scene, self.rng = desktop, desktop.scene, np.random.default_rng(4)
        if segmented:
            ct, result = found()
            self.ct = nodes.add_volume(self.scene, ct, "CT")
            anatomy.show_anatomy(self.scene, result, self.ct)
            skin, target = sacrum_point(42, 75, -38), sacrum_point(38, 10, -32)
            planned = replace(
                make_plan(make_ct()).trajectories[0],
                entry_skin=skin,
                entry_bone=skin + 0.68 * (target - skin),
                target=target,
                length_mm=float(np.linalg.norm(target - skin)),
            )
            planning.show_plan(self.scene, Plan((planned,), nodes.volume_of(self.ct).content_hash()))
        else:
            self.ct = nodes.add_volume(self.scene, make_ct(), "CT")
            planning.show_plan(self.scene, make_plan(make_ct()))
        marks = self.scene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode")
        if marks is not None:
            self.scene.RemoveNode(marks)
        self.points = (
            {name: sacrum_point(*place) for name, place in SACRAL_LANDMARKS.items()} if segmented else LANDMARKS
        )
        nodes.add_points(self.scene, self.points, "Landmarks")
        self.stylus, self.trocar = (
            nodes.add_transform(self.scene, np.eye(4), f"{name}ToReference") for name in ("Stylus", "Trocar")
        )
        self.widget = desktop.open_module(MODULE)
        self.ui, self.parameters = self.widget.ui, self.widget._parameterNode
        self.readout = self.widget._readouts[0].parts

    def pivot(self, tool):
        self.parameters.toolToReference = tool
        self.ui.pivotButton.click()
        for turn in range(150):
            axis = [np.cos(0.1 * turn), np.sin(0.1 * turn), 0.0]
            rotation = rotation_about(axis, 35.0) @ rotation_about([0, 0, 1], 2.0 * turn)
            place = DIVOT - rotation @ TIP + self.rng.normal(0, 0.03, 3)
            nodes.set_transform(tool, rigid(rotation, place))
            self.widget.logic.collect()
        self.desktop.wait(30)
        self.ui.pivotButton.click()

    def select(self, name):
        rows = [row.name for row in self.widget._rows]
        self.ui.landmarksTable.selectRow(rows.index(name))

    def touch_all(self):
        self.parameters.toolToReference = self.stylus
        for name, point in self.points.items():
            self.select(name)
            put_tip_at(self.stylus, np.array(point) + self.rng.normal(0, 0.2, 3))
            self.ui.touchButton.click()

    def registered(self):
        self.pivot(self.stylus)
        self.pivot(self.trocar)
        self.touch_all()
        self.ui.registerButton.click()
        return self

    @property
    def trajectory(self):
        return planning.plan_of(self.scene).trajectories[0]

    def guide(self):
        self.parameters.tipToRAS = self.scene.GetFirstNodeByName("TrocarTipToTrocar")
        self.parameters.trajectory = planning.trajectory_rows(self.scene)[0].line
        self.ui.guideButton.click()

    def picture(self, name, folder):
        """What the panel shows just now."""
        self.widget._readouts[0]._drawn = None
        self.widget.showGuidance()
        assert self.desktop.picture(self.widget, folder / f"{MODULE}-{name}.png").stat().st_size > 10_000

    def hold(self, left_mm=0.0, aside_mm=0.0, tilt_deg=0.0, poses=1):
        """The trocar so far before its target, off the line and tilted; a tracker's noise on it."""
        along = unit(self.trajectory.target - self.trajectory.entry_skin)
        aside = unit(np.cross(along, [0, 0, 1.0]))
        known = calibration.calibration_of(self.scene, "Trocar")
        ahead = rotation_about(np.cross(along, aside), tilt_deg) @ along
        TipToRAS = rigid(
            rotation_between([0, 0, 1], ahead), self.trajectory.target - left_mm * along + aside_mm * aside
        )
        for _ in range(poses):
            shaken = rigid(np.eye(3), self.rng.normal(0, 0.02, 3)) @ TipToRAS
            nodes.set_transform(self.trocar, invert_rigid(ReferenceToRAS) @ shaken @ invert_rigid(known.TipToTool))


@pytest.fixture
def room(desktop):
    return Room(desktop)


def test_a_tool_is_pivoted_checked_and_refused_in_words(desktop, room):
    ui = room.ui
    assert not ui.pivotButton.enabled
    room.pivot(room.stylus)
    assert ui.pivotStatusLabel.text.startswith("✔ error 0.0")
    assert not room.widget.logic.isSweeping() and ui.pivotAdviceLabel.text == ""
    ui.divotButton.click()
    for turn in range(15):
        rotation = rotation_about([1, 0, 0], 2.0 * turn)
        nodes.set_transform(room.stylus, rigid(rotation, DIVOT - rotation @ (TIP + np.array([4.0, 0, 0]))))
        room.widget.logic.collect()
    ui.divotButton.click()
    assert ui.pivotStatusLabel.text.startswith("✘ Stylus: tip 4.0 mm off the divot")
    assert not ui.sweepButton.enabled
    ui.pivotButton.click()
    room.widget.logic.collect()
    ui.pivotButton.click()
    assert ui.pivotStatusLabel.text.startswith("✘ only 1 valid poses")


def test_a_calibration_is_saved_and_loaded_and_used_only_after_a_check_in_its_divot(desktop, room, tmp_path):
    ui, path = room.ui, tmp_path / "stylus.json"
    assert not ui.saveCalibrationButton.enabled and not ui.loadCalibrationButton.enabled
    room.parameters.toolToReference = room.stylus
    assert not ui.saveCalibrationButton.enabled and ui.loadCalibrationButton.enabled
    ui.loadCalibrationButton.click()
    assert ui.pivotStatusLabel.text == "✘ choose a file for the calibration first (.json)"
    room.pivot(room.stylus)
    ui.calibrationPathLineEdit.currentPath = str(path)
    ui.saveCalibrationButton.click()
    assert ui.pivotStatusLabel.text == f"✔ Written to {path}"
    ui.loadCalibrationButton.click()
    assert ui.pivotStatusLabel.text.startswith("✘ restored from a file, check it in the divot")
    assert not ui.sweepButton.enabled
    ui.divotButton.click()
    for turn in range(15):
        rotation = rotation_about([1, 0, 0], 2.0 * turn)
        nodes.set_transform(room.stylus, rigid(rotation, DIVOT - rotation @ TIP))
        room.widget.logic.collect()
    ui.divotButton.click()
    assert ui.pivotStatusLabel.text.startswith("✔ Stylus: tip 0.0 mm off the divot") and ui.sweepButton.enabled
    room.parameters.toolToReference = room.trocar
    ui.loadCalibrationButton.click()
    assert "is the calibration of 'Stylus', not of 'Trocar'" in ui.pivotStatusLabel.text


def test_what_pivoting_lacks_is_said_while_it_goes_on(desktop, room, picture_folder):
    room.parameters.toolToReference = room.stylus
    room.ui.pivotButton.click()
    for turn in range(40):
        nodes.set_transform(room.stylus, rigid(rotation_about([1, 0, 0], 0.2 * turn), [0, 0, 0.1 * turn]))
        room.widget.logic.collect()
    desktop.wait(300)
    assert "turned through only" in room.ui.pivotAdviceLabel.text
    for turn in range(60):
        rotation = rotation_about([np.cos(0.05 * turn), np.sin(0.05 * turn), 0.0], 30.0)
        nodes.set_transform(room.stylus, rigid(rotation, DIVOT - rotation @ TIP))
        room.widget.logic.collect()
    desktop.wait(300)
    assert not room.ui.coverageLabel.pixmap.isNull()
    room.ui.registrationCollapsibleButton.collapsed = True
    room.ui.guidanceCollapsibleButton.collapsed = True
    room.picture("tools", picture_folder)
    room.ui.spinButton.click()
    assert not room.ui.pivotButton.checked and room.ui.spinButton.checked, "one thing at a time"
    desktop.leave(room.widget)
    assert not room.ui.spinButton.checked


def test_landmarks_are_touched_registered_and_checked(desktop, room):
    ui = room.ui
    room.pivot(room.stylus)
    room.pivot(room.trocar)
    assert not ui.registerButton.enabled
    room.touch_all()
    ui.registerButton.click()
    assert ui.registrationStatusLabel.text.startswith("✔ 5 landmarks, expected error at the target")
    assert ui.errorLabel.text.startswith("Expected at the left target: ") and "voxels of the CT" in ui.errorLabel.text
    row = [ui.landmarksTable.item(0, column).text() for column in range(4)]
    assert row[1] == "✔ yes" and float(row[2]) < 1.0 and float(row[3]) < 2.0
    room.select("crest")
    put_tip_at(room.stylus, room.points["crest"])
    ui.checkPointButton.click()
    assert ui.registrationStatusLabel.text.startswith("✔") and "in place" in ui.registrationStatusLabel.text
    put_tip_at(room.stylus, np.array(room.points["crest"]) + np.array([0, 0, 4.0]))
    ui.checkPointButton.click()
    assert "has moved: register again" in ui.registrationStatusLabel.text
    assert navigation.registration_problem(desktop.scene) == "the patient is not registered"


def test_the_page_says_that_the_reference_jumped(desktop, room, monkeypatch):
    room.pivot(room.stylus)
    room.touch_all()
    room.ui.registerButton.click()
    reference = nodes.add_transform(desktop.scene, np.eye(4), "ReferenceToTracker")
    now = [100.0]
    monkeypatch.setattr(room.widget.logic, "_reference", ReferenceFollower(desktop.scene, lambda: now[0]))
    for step in range(220):
        now[0] += 0.02
        place = [0.0 if step < 80 else 4.0, 0.001 * (step % 7), 0.0]
        nodes.set_transform(reference, rigid(np.eye(3), place))
        room.widget.onTimer()
    text = room.ui.registrationStatusLabel.text
    assert text == "✘ the reference, or the camera, moved by 4.0 mm: touch a check point"
    room.select("crest")
    assert room.ui.checkPointButton.enabled
    put_tip_at(room.stylus, room.points["crest"])
    room.ui.checkPointButton.click()
    assert room.ui.registrationStatusLabel.text.startswith("✔")
    assert navigation.registration_problem(desktop.scene) == ""


def test_a_landmark_in_the_wrong_place_is_marked_in_the_table(desktop, room):
    room.pivot(room.stylus)
    room.touch_all()
    room.select("hiatus")
    put_tip_at(room.stylus, np.array(room.points["hiatus"]) + np.array([0, 0, 4.0]))
    room.ui.touchButton.click()
    room.ui.registerButton.click()
    marked = [room.ui.landmarksTable.item(row, 0).text() for row in range(5)]
    assert sum("touch again" in text for text in marked) == 1
    assert "touch again" in marked[[row.name for row in room.widget._rows].index("hiatus")]


def test_bone_is_swept_point_by_point_and_can_be_cleared(desktop, room):
    room.pivot(room.stylus)
    room.ui.sweepButton.click()
    for step in range(25):
        put_tip_at(room.stylus, [2.0 * step, 0, 0])
        room.widget.logic.sweep()
    room.ui.sweepButton.click()
    assert room.ui.sweepLabel.text == "25 points"
    assert len(navigation.swept(desktop.scene)) == 25
    room.ui.clearSweepButton.click()
    assert room.ui.sweepLabel.text == "0 points" and not room.ui.clearSweepButton.enabled


def test_guidance_shows_figures_and_blanks_when_the_tool_is_lost(desktop, room):
    room.registered().guide()
    assert room.readout.phaseLabel.text == "✘ NO GUIDANCE"
    assert room.readout.reasonLabel.text == "Trocar was never seen"
    room.hold(left_mm=12.0, aside_mm=2.0)
    room.widget.showGuidance()
    assert room.readout.phaseLabel.text == "IN THE BONE"
    assert float(room.readout.offsetLabel.text) == pytest.approx(2.0, abs=0.3)
    assert room.readout.depthLabel.text == "12" and room.readout.boneCaptionLabel.text == "Past cortex (mm)"
    assert "Clearance unknown" in room.readout.nearestLabel.text
    assert room.ui.placedButton.enabled
    room.trocar.SetAttribute(devices.VALID, "0")
    room.trocar.SetAttribute(devices.REASON, "TrocarToTracker is out of view")
    room.widget.showGuidance()
    assert (room.readout.offsetLabel.text, room.readout.depthLabel.text) == ("–", "–")
    assert room.readout.phaseLabel.text == "✘ NO GUIDANCE"
    assert room.readout.reasonLabel.text == "TrocarToTracker is out of view"
    assert "guidance lost" in room.readout.warningsLabel.text
    assert not room.ui.placedButton.enabled


def test_the_screen_is_blank_a_tenth_of_a_second_after_the_last_pose(desktop, room, monkeypatch):
    clock = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: clock)
    room.registered().guide()
    room.hold(left_mm=12.0)
    room.widget.onTimer()
    assert room.readout.depthLabel.text == "12"
    clock += 0.069
    room.widget.onTimer()
    assert room.readout.depthLabel.text == "12"
    # The next tick comes 20 ms later, or a little after that: it would be too late.
    clock += 0.002
    room.widget.onTimer()
    assert room.readout.depthLabel.text == "–" and room.readout.reasonLabel.text == "no pose of Trocar for 0.1 s"


def test_leaving_the_module_ends_guidance_everywhere(desktop, room):
    room.registered().guide()
    room.ui.screenButton.click()
    room.hold(left_mm=12.0)
    room.widget.showGuidance()
    screen = room.widget._screen
    assert screen.parts.depthLabel.text == "12"
    assert screen.parts.statusLabel.text.startswith("Research software, not a medical device.")
    assert desktop.scene.GetFirstNodeByName("Live trocar") is not None
    desktop.leave(room.widget)
    assert screen.parts.depthLabel.text == "–" and screen.parts.reasonLabel.text == "The module was left."
    assert desktop.scene.GetFirstNodeByName("Live trocar") is None
    desktop.enter(room.widget)
    room.ui.screenButton.click()
    assert room.widget._screen is None


def test_warnings_are_heard_in_bursts_and_a_pause_hides_nothing(desktop, room, monkeypatch):
    import qt

    heard = []
    clock = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: clock)
    monkeypatch.setattr(qt.QApplication, "beep", lambda: heard.append(clock), raising=False)
    room.registered().guide()
    room.widget._readouts.clear()

    def pass_by(seconds):
        nonlocal clock
        for _ in range(round(seconds * 12.5)):
            clock += 0.08
            room.hold(left_mm=12.0)
            room.widget.onTimer()

    # Without a segmentation nothing is known to be clear, which is of high priority: ten beeps, again after 5 s.
    pass_by(4.5)
    assert len(heard) == 10
    pass_by(3.5)
    assert len(heard) == 20
    room.ui.pauseButton.click()
    pass_by(8.0)
    assert len(heard) == 20 and room.ui.pauseButton.text == "Paused: 112 s"
    assert room.widget.logic.warningsText() == "✘✘ may touch Unknown"
    room.ui.soundCheckBox.click()
    room.ui.testSoundButton.click()
    pass_by(1.0)
    assert len(heard) == 23


def test_a_replay_says_so_in_the_readout(desktop, room):
    room.registered().guide()
    room.trocar.SetAttribute(devices.REPLAY, "Tuesday")
    room.hold(left_mm=12.0)
    room.widget.showGuidance()
    assert room.readout.notLiveLabel.text == "NOT LIVE: replay of Tuesday"
    assert not room.readout.notLiveLabel.isHidden()


def test_a_volume_that_cannot_be_is_said_in_words(desktop, room):
    room.registered()
    room.parameters.volumeNearMm, room.parameters.volumeFarMm = 2000.0, 1000.0
    room.guide()
    assert "far side behind its near side" in room.readout.reasonLabel.text


@pytest.fixture
def patient(desktop, monkeypatch):
    """A segmented sacrum, registered, with distances and X-rays; time stands unless the test turns it."""
    room = Room(desktop, segmented=True)
    room.clock = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: room.clock)
    room.registered().guide()
    return room


def test_a_segmented_patient_is_guided_pictured_and_recorded(desktop, patient, picture_folder):
    room = patient
    room.hold(left_mm=9.0, aside_mm=1.1, tilt_deg=1.5)
    room.widget.showGuidance()
    assert (
        "mm with the error, breach" in room.readout.detailLabel.text
        and "may touch" not in room.readout.warningsLabel.text
    )
    for label in (
        room.readout.bullsEyeLabel,
        room.readout.gaugeLabel,
        room.readout.xray0Label,
        room.readout.xray2Label,
    ):
        assert not label.pixmap.isNull()
    room.picture("guide", picture_folder)
    room.ui.screenButton.click()
    screen = room.widget._screen.widget
    screen.resize(1280, 720)
    desktop.wait(50)
    assert screen.grab().save(str(picture_folder / f"{MODULE}-screen.png"))
    room.ui.screenButton.click()
    room.hold(left_mm=-4.0, aside_mm=7.0, tilt_deg=-9.0)
    room.picture("warning", picture_folder)
    room.trocar.SetAttribute(devices.VALID, "0")
    room.trocar.SetAttribute(devices.REASON, "TrocarToTracker is out of view")
    room.picture("lost", picture_folder)
    room.trocar.RemoveAttribute(devices.VALID)
    for _ in range(30):
        patient.clock += 0.02
        room.hold(left_mm=6.0, aside_mm=0.8)
    room.widget.showGuidance()
    room.ui.placedButton.click()
    assert "not at its target: 6 mm left" in room.ui.placedLabel.text
    room.ui.offPlanCheckBox.click()
    room.ui.placedButton.click()
    assert room.ui.placedLabel.text.startswith("✔ left: 6.")
    assert "mm short), entry 0." in room.ui.placedLabel.text
    assert not room.ui.offPlanCheckBox.checked
    off = navigation.deviations(desktop.scene)["left"]
    assert (off.aside_mm, off.depth_mm) == pytest.approx((0.8, -6.0), abs=0.3)
    room.ui.guidanceCollapsibleButton.collapsed = True
    room.ui.registrationCollapsibleButton.collapsed = False
    room.picture("register", picture_folder)
