"""Live guidance read from transform nodes: figures, silence within a tenth of a second, warnings, the final place."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.navigation.watchdog import WorkingVolume
from sacroplasty.scene import devices, navigation, nodes, report
from sacroplasty.scene.guidance import Guide
from sacroplasty.scene.guidance_display import SHAFT_NAME, TIP_NAME, TROCAR_NAME, GuidanceDisplay, follow_in_slice_views
from sacroplasty.scene.workflow import workflow_steps
from scene.navigated_case import NOW, NavigatedCase
from shaft_distances import everywhere

FREE = everywhere(sacral_canal=30.0)


@pytest.fixture
def case(scene):
    return NavigatedCase(scene)


@pytest.fixture
def guided(case):
    """`start` begins guidance; all of it ends with the test."""
    guides = []

    def start(clearance=FREE, **options):
        guides.append(Guide(case.scene, case.tip, case.line, case.clock, lambda: NOW, clearance, **options))
        return guides[-1]

    yield start
    for one in guides:
        one.close()


def test_guidance_reads_offset_angle_and_depth_in_the_patient(case, guided):
    guide = guided(None)
    sideways = np.cross(case.along, [1.0, 0, 0])
    case.hold(case.trajectory.target - 20 * case.along + 3 * sideways, noise_mm=0.0)
    reading = guide.reading()
    assert reading.valid, reading.reason
    assert reading.offset_from_line_mm == pytest.approx(3.0, abs=0.1)
    assert reading.depth_to_target_mm == pytest.approx(20.0, abs=0.1)
    assert reading.angle_deg == pytest.approx(0.0, abs=0.05)
    assert reading.nearest.distance_mm == -np.inf, "without the anatomy nothing is known to be clear"
    total = navigation.target_budgets(case.scene)["left"].total.rms_mm(case.trajectory.target)
    assert reading.predicted_error_mm == pytest.approx(float(total), rel=0.1)


def test_a_pose_from_before_guidance_began_is_no_pose(case, guided):
    case.hold(case.trajectory.target)
    guide = guided()
    assert guide.reading().reason == "Trocar was never seen"
    # Only a new measurement of the tool is one: not a registration that moves all of them.
    registration = nodes.first_node(case.scene, "vtkMRMLLinearTransformNode", "ReferenceToRAS")
    nodes.set_transform(registration, nodes.matrix_of(registration))
    assert not guide.reading().valid
    case.hold(case.trajectory.target)
    assert guide.reading().valid


def test_guidance_blanks_within_a_tenth_of_a_second_when_poses_stop(case, guided):
    guide = guided()
    case.hold(case.trajectory.target, seconds=0.2)
    case.now_s += 0.099
    assert guide.reading().valid
    case.now_s += 0.002
    reading = guide.reading()
    assert not reading.valid and reading.reason == "no pose of Trocar for 0.1 s"
    assert reading.depth_to_target_mm is None and reading.structures is None
    case.hold(case.trajectory.target)
    assert guide.reading().valid


@pytest.mark.parametrize("options", [{"smoothing_s": 0.04}, {"shown_s": 0.04}])
def test_smoothing_and_the_time_on_the_screen_count_as_age(case, guided, options):
    guide = guided(**options)
    case.hold(case.trajectory.target, seconds=0.5)
    case.now_s += 0.05
    assert guide.reading().valid
    case.now_s += 0.02
    assert not guide.reading().valid


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (devices.VALID, "0", "Trocar: not valid"),
        ("OpenIGTLink.TransformStatus", "OUT_OF_VIEW", "Trocar: out of view"),
        ("OpenIGTLink.TransformValid", "false", "Trocar: invalid"),
    ],
)
def test_what_the_source_says_against_a_pose_blanks_at_once(case, guided, key, value, words):
    guide = guided()
    case.hold(case.trajectory.target)
    assert guide.reading().valid
    case.trocar.SetAttribute(key, value)
    assert guide.reading().reason == words
    case.trocar.RemoveAttribute(key)
    assert not guide.reading().valid, "the pose from before the loss is none"
    case.hold(case.trajectory.target)
    assert guide.reading().valid


@pytest.mark.parametrize(
    ("matrix", "words"),
    [(np.diag([1.2, 1, 1, 1]), "not rigid"), (np.diag([1.0, 1, -1, 1]), "left-handed")],
)
def test_poses_that_cannot_be_blank_with_their_reason(case, guided, matrix, words):
    guide = guided()
    nodes.set_transform(case.trocar, matrix)
    assert words in guide.reading().reason


def test_guidance_rests_on_registration_calibration_and_plan(case, guided):
    guide = guided()
    case.hold(case.trajectory.target)
    assert guide.reading().valid
    navigation.refuse_registration(case.scene, CalibrationError("moved"))
    assert guide.reading().reason == "the patient is not registered"
    navigation.register(case.scene, case.landmarks)
    case.trocar.SetAndObserveTransformNodeID(None)
    case.hold(case.trajectory.target)
    assert "not under the registration" in guide.reading().reason


def test_an_error_too_large_at_the_target_guides_nobody(case, guided, monkeypatch):
    from sacroplasty.procedure import navigate

    monkeypatch.setattr(navigate, "TRACKER_NOISE", navigate.pose_noise(0.8, 0.5))
    case.hold(case.trajectory.target)
    guide = guided()
    case.hold(case.trajectory.target)
    assert "expected error of the tip at the target is" in guide.reading().reason


def to_tracker(case, name, ToolToTracker):
    node = nodes.first_node(case.scene, "vtkMRMLLinearTransformNode", name)
    if node is None:
        return nodes.add_transform(case.scene, ToolToTracker, name)
    nodes.set_transform(node, ToolToTracker)
    return node


def test_the_edge_of_the_trackers_volume_and_exchanged_tools_are_noticed(case, guided):
    volume = WorkingVolume(np.array([0.0, 0, 1]), 900, 2400, 240, 560)
    guide = guided(volume=volume)
    rng = np.random.default_rng(1)

    def stream(z_mm, reference_swing_mm=0.0, seconds=0.5):
        for tick in range(round(50 * seconds)):
            swing = [reference_swing_mm * np.sin(0.3 * tick), 0, 0]
            to_tracker(case, "TrocarToTracker", rigid(np.eye(3), rng.normal([0, 0, z_mm], 0.05)))
            to_tracker(case, "ReferenceToTracker", rigid(np.eye(3), rng.normal([0, 0, 1500], 0.05) + swing))
            case.hold(case.trajectory.target)
            case.now_s += 0.02

    stream(1500)
    assert guide.watch_text() == ("ok", "") and guide.reading().valid
    stream(2370)
    level, text = guide.watch_text()
    assert level == "check" and "from the edge" in text and guide.reading().valid
    stream(2450)
    assert guide.reading().reason == "Trocar is outside the tracker's volume"
    stream(1500, reference_swing_mm=40, seconds=2.5)
    assert "Reference moves" in guide.reading().reason


def test_warnings_follow_the_readings(case, guided):
    guide = guided(everywhere(foramen_s1_left=2.0))
    case.hold(case.trajectory.target)
    guide.reading()
    assert [(one.about, one.priority) for one in guide.alarms.standing] == [("foramen_s1_left", "high")]
    case.now_s += 0.2
    guide.reading()
    assert [one.about for one in guide.alarms.standing] == ["guidance"]


def test_a_recording_is_never_taken_for_live(case, guided):
    guide = guided()
    case.trocar.SetAttribute(devices.REPLAY, "Session of Tuesday")
    case.hold(case.trajectory.target, seconds=1.0)
    assert guide.reading().valid and guide.not_live() == "replay of Session of Tuesday"
    with pytest.raises(CalibrationError, match="this is no patient: replay of Session of Tuesday"):
        guide.place()
    case.trocar.RemoveAttribute(devices.REPLAY)
    sequence = case.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Trocar")
    sequence.SetDataNodeAtValue(case.trocar, "0")
    browser = case.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Recording")
    browser.AddSynchronizedSequenceNodeID(sequence.GetID())
    browser.AddProxyNode(case.trocar, sequence, False)
    assert guide.not_live() == "playback of Recording"


def test_a_trocar_that_rests_at_its_target_is_recorded_with_its_deviation(case, guided, tmp_path):
    guide = guided()
    case.hold(case.trajectory.target + np.array([0.8, 0, 0]) + 0.5 * case.along, seconds=1.0)
    placed = guide.place()
    assert np.linalg.norm(placed.hub_ras - placed.tip_ras) == pytest.approx(case.trajectory.length_mm)
    off = navigation.deviations(case.scene)["left"]
    assert (off.aside_mm, off.depth_mm, off.entry_mm) == pytest.approx((0.8, 0.5, 0.8), abs=0.1)
    assert navigation.trocars(case.scene)["left"].target_error_mm == pytest.approx(off.target_mm)
    assert nodes.first_node(case.scene, "vtkMRMLModelNode", "Trocar left") is not None
    step = {step.key: step for step in workflow_steps(case.scene)}["trocar"]
    assert step.reason == "left 0.9 mm off the target"
    page = report.export(case.scene, tmp_path / "report").read_text()
    assert "Trocars as placed" in page and "+0.5 mm" in page


def test_what_is_not_surely_in_place_is_not_recorded(case, guided):
    guide = guided()
    with pytest.raises(CalibrationError, match="not known"):
        guide.place()
    case.hold(case.trajectory.target - 10 * case.along, seconds=1.0)
    with pytest.raises(CalibrationError, match="10 mm left"):
        guide.place()
    assert navigation.trocars(case.scene) == {}
    guide.place(although_off=True)
    assert navigation.deviations(case.scene)["left"].depth_mm == pytest.approx(-10, abs=0.1)


def test_a_trocar_that_moves_or_may_touch_is_not_recorded(case, guided):
    guide = guided()
    case.hold(case.trajectory.target, seconds=0.5, noise_mm=0.6)
    with pytest.raises(CalibrationError, match="the trocar moves"):
        guide.place()
    touching = guided(None)
    case.hold(case.trajectory.target, seconds=1.0)
    with pytest.raises(CalibrationError, match="may touch"):
        touching.place(although_off=True)
    assert navigation.trocars(case.scene) == {}


def models(scene):
    return [nodes.first_node(scene, "vtkMRMLModelNode", name) for name in (TROCAR_NAME, SHAFT_NAME, TIP_NAME)]


def bounds(node):
    box = [0.0] * 6
    node.GetRASBounds(box)
    return np.array(box).reshape(3, 2)


def test_the_trocar_is_shown_in_true_width_with_its_error_and_hidden_without_a_pose(case, guided):
    guide, display = guided(), GuidanceDisplay(case.scene, case.tip)
    tip = case.trajectory.target - 5 * case.along
    case.hold(tip, noise_mm=0.0)
    display.show(guide.reading(), guide.trajectory, guide.uncertainty)
    trocar, shaft, ellipsoid = models(case.scene)
    assert all(node.GetDisplayNode().GetVisibility() for node in (trocar, shaft, ellipsoid))
    # From left to right, across the planned line: its width, and on both sides 1.96 standard deviations more.
    assert np.ptp(bounds(trocar)[0]) == pytest.approx(case.trajectory.outer_diameter_mm, abs=0.05)
    assert np.ptp(bounds(shaft)[0]) > case.trajectory.outer_diameter_mm + 1.0
    assert bounds(ellipsoid).mean(axis=1) == pytest.approx(tip, abs=0.1)
    # It goes with the tip, and away with the pose.
    higher = tip + np.array([0, 0, 3.0])
    case.hold(higher, noise_mm=0.0)
    assert bounds(ellipsoid).mean(axis=1) == pytest.approx(higher, abs=0.1)
    case.now_s += 0.2
    display.show(guide.reading(), guide.trajectory, guide.uncertainty)
    assert not any(node.GetDisplayNode().GetVisibility() for node in (trocar, shaft, ellipsoid))
    display.close()
    assert models(case.scene) == [None, None, None]


def test_slice_views_follow_the_trocar(scene):
    tip, ahead = np.array([10.0, 20, 30]), np.array([0.0, 1, 0])
    assert not follow_in_slice_views(scene, tip, ahead)
    for name in ("Red", "Yellow", "Green"):
        view = scene.CreateNodeByClass("vtkMRMLSliceNode")
        view.SetSingletonTag(name)
        view.SetLayoutName(name)
        scene.AddNode(view)
        view.UnRegister(None)
    turn = rotation_about([1, 0, 0], 20) @ rotation_about([0, 0, 1], 10)
    assert follow_in_slice_views(scene, tip, turn @ ahead)
    for name, across in (("Red", False), ("Yellow", True), ("Green", True)):
        matrix = scene.GetSingletonNode(name, "vtkMRMLSliceNode").GetSliceToRAS()
        normal = np.array([matrix.GetElement(row, 2) for row in range(3)])
        assert abs(normal @ turn @ ahead) == pytest.approx(0.0 if across else 1.0, abs=1e-6)
        assert [matrix.GetElement(row, 3) for row in range(3)] == pytest.approx(tip)
    red = scene.GetSingletonNode("Red", "vtkMRMLSliceNode").GetSliceToRAS()
    assert red.GetElement(0, 0) > 0.9, "the patient's right is on the right, as in the bull's-eye"


def test_xrays_that_the_trocar_is_drawn_over_leave_the_scene_alone(case):
    from sacroplasty.scene.guidance_xrays import VIEWS, guidance_xrays

    before = case.scene.GetNumberOfNodes()
    told = []
    pictures = guidance_xrays(case.scene, case.ct, None, told.append)
    assert tuple(picture.name for picture in pictures) == VIEWS and told[-1] == 1.0
    assert case.scene.GetNumberOfNodes() == before
    for picture in pictures:
        assert picture.png.startswith(b"\x89PNG")
        assert picture.geometry.detector_pixels == (384, 384)
    ap, lateral = pictures[0].geometry.view_direction_ras, pictures[1].geometry.view_direction_ras
    assert abs(ap @ lateral) < 0.1


def test_reference_lost_between_tool_and_patient_blanks(case, guided):
    guide = guided()
    case.hold(case.trajectory.target)
    reference = to_tracker(case, "ReferenceToTracker", rigid(np.eye(3), [0, 0, 1500]))
    assert guide.reading().valid
    reference.SetAttribute(devices.VALID, "0")
    reference.SetAttribute(devices.REASON, "ReferenceToTracker is out of view")
    assert guide.reading().reason == "ReferenceToTracker is out of view"
