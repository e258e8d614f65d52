"""Devices mirrored into the scene, against real sockets and the real simulators."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.anatomy.landmarks import touchable
from sacroplasty.devices.link import Server
from sacroplasty.devices.messages import Image, Transform
from sacroplasty.devices.session_file import read_session
from sacroplasty.errors import DeviceError, DocumentError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.scene import anatomy, devices, nodes, planning, sessions, simulators
from sacroplasty.simulation.patient import write_patient_world
from sacroplasty.simulation.world import CArmModel
from sacroplasty.xray.distortion import TERMS, Distortion, write_distortion
from sacroplasty.xray.geometry import CArm, XrayGeometry
from scene.simple_case import make_anatomy, make_ct, make_plan


@pytest.fixture
def server():
    made = Server(port=0)
    yield made
    made.close()


@pytest.fixture
def desk(scene):
    made = devices.DeviceDesk(scene, "test")
    yield made
    made.disconnect()


def turn_until(desk, server, is_done, limit_s=3.0):
    """Poll both ends until something is true; the time in seconds when it was."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        now = time.monotonic()
        server.poll(now)
        desk.poll(now)
        if is_done():
            return now
        time.sleep(0.002)
    raise AssertionError("it did not happen in time")


def addresses(ports):
    roles = {"tracker": "Tracker", "carm": "Fluoroscope", "pump": "Pump"}
    return {roles[role]: f"127.0.0.1:{port}" for role, port in ports.items()}


def transform(name, matrix, stamp_s, status="OK"):
    return Transform(name, timestamp_s=stamp_s, metadata={"TransformStatus": status}, matrix=matrix)


def test_tools_are_shown_in_the_frame_of_the_reference(scene, desk, server):
    desk.connect({"Tracker": f"127.0.0.1:{server.port}"})
    turn_until(desk, server, lambda: server.peers)
    ReferenceToTracker = rigid(rotation_about([0, 0, 1], 30), [50, 60, 900])
    StylusToReference = rigid(rotation_about([1, 0, 0], 20), [10, 20, 30])
    server.send(transform("ReferenceToTracker", ReferenceToTracker, 1.0))
    server.send(transform("StylusToTracker", ReferenceToTracker @ StylusToReference, 1.0))

    def node():
        return nodes.first_node(scene, "vtkMRMLLinearTransformNode", "StylusToReference")

    turn_until(desk, server, lambda: node() is not None)
    assert np.allclose(nodes.matrix_of(node()), StylusToReference, atol=1e-3)
    assert devices.is_valid(node())


def test_a_tool_that_appears_after_registration_stands_under_it(scene, desk, server):
    registration = nodes.add_transform(scene, rigid(np.eye(3), [1, 2, 3]), devices.REFERENCE_TO_RAS)
    desk.connect({"Tracker": f"127.0.0.1:{server.port}"})
    turn_until(desk, server, lambda: server.peers)
    for name in ("ReferenceToTracker", "TrocarToTracker"):
        server.send(transform(name, rigid(np.eye(3), [0, 0, 900]), 1.0))

    def node():
        return nodes.first_node(scene, "vtkMRMLLinearTransformNode", "TrocarToReference")

    turn_until(desk, server, lambda: node() is not None)
    assert node().GetParentTransformNode() is registration


def test_a_tool_out_of_view_keeps_its_last_place_but_is_marked(scene, desk, server):
    desk.connect({"Tracker": f"127.0.0.1:{server.port}"})
    turn_until(desk, server, lambda: server.peers)
    first = rigid(np.eye(3), [1, 2, 900])
    server.send(transform("StylusToTracker", first, 1.0))

    def node():
        return nodes.first_node(scene, "vtkMRMLLinearTransformNode", "StylusToTracker")

    turn_until(desk, server, lambda: node() is not None)
    server.send(transform("StylusToTracker", rigid(np.eye(3), [99, 0, 0]), 2.0, "OUT_OF_VIEW"))
    turn_until(desk, server, lambda: not devices.is_valid(node()))
    assert np.allclose(nodes.matrix_of(node()), first)
    assert "out of view" in node().GetAttribute(devices.REASON)


def test_a_pose_that_grows_old_is_marked_without_any_message(scene, desk, server):
    desk.connect({"Tracker": f"127.0.0.1:{server.port}"})
    turn_until(desk, server, lambda: server.peers)
    server.send(transform("StylusToTracker", rigid(np.eye(3), [0, 0, 900]), 1.0))

    def node():
        return nodes.first_node(scene, "vtkMRMLLinearTransformNode", "StylusToTracker")

    now = turn_until(desk, server, lambda: node() is not None and devices.is_valid(node()))
    desk.poll(now + 0.2)
    assert not devices.is_valid(node())
    row = next(row for row in desk.rows(now + 0.2) if row.role == "Tracker")
    assert not row.ok and "s old" in row.text


def test_a_frame_stands_where_its_detector_stands(scene, desk, server):
    desk.connect({"Fluoroscope": f"127.0.0.1:{server.port}"})
    turn_until(desk, server, lambda: server.peers)
    geometry = CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(32)
    pixels = np.arange(32 * 32, dtype=np.uint16).reshape(1, 32, 32)
    metadata = {"Geometry": json.dumps(geometry.to_dict()), "AirLevel": "60000", "FrameRate": "5"}
    server.send(Image("Image_Detector", timestamp_s=1.0, metadata=metadata, voxels=pixels))
    frames = []
    turn_until(desk, server, lambda: frames.extend(desk.take_frames()) or frames)
    volume = nodes.volume_of(nodes.first_node(scene, "vtkMRMLScalarVolumeNode", "Image_Detector"))
    assert np.array_equal(volume.voxels, pixels)
    assert np.allclose(volume.ras_of([[0, 3, 7]])[0], geometry.pixel_ras([7, 3]))


def test_distortion_is_taken_out_of_the_frames_that_all_see_and_the_scene_keeps_it(scene, desk, server, tmp_path):
    shift = np.zeros((2, TERMS))
    shift[0, 0] = 2 / 16
    write_distortion(Distortion((32, 32), shift, 1.0, 0.1, 100), tmp_path / "distortion.json")
    desk.use_distortion(tmp_path / "distortion.json")
    with pytest.raises(DocumentError):
        desk.use_distortion(tmp_path / "none.json")
    desk.connect({"Fluoroscope": f"127.0.0.1:{server.port}"})
    turn_until(desk, server, lambda: server.peers)
    pixels = np.arange(32 * 32, dtype=np.uint16).reshape(1, 32, 32)
    server.send(Image("Image_Detector", timestamp_s=1.0, metadata={"Geometry": "{}"}, voxels=pixels))
    frames = []
    turn_until(desk, server, lambda: frames.extend(desk.take_frames()) or frames)
    assert np.array_equal(frames[0].pixels[:, :-2], pixels[0, :, 2:])
    again = devices.DeviceDesk(scene, "again")
    assert again.distortion.beads == 100
    again.use_distortion(None)
    assert again.distortion is None


def test_nothing_is_ok_before_it_speaks_and_stop_says_that_nobody_heard(desk):
    assert [(row.ok, row.text) for row in desk.rows(0.0)] == [(False, "not connected")] * 3
    assert not desk.stop_pump(0.0)
    with pytest.raises(DeviceError, match="no device has an address"):
        desk.connect({"Tracker": " ", "Pump": ""})


def test_simulators_start_connect_stop_and_leave_no_process(scene, desk):
    process = simulators.SimulatorProcess()
    try:
        end = time.monotonic() + 20
        while len(process.ports) < 3 and not process.problem and time.monotonic() < end:
            process.poll()
            time.sleep(0.02)
        assert set(process.ports) == {"tracker", "carm", "pump"}, process.problem
        ports = process.ports
        desk.connect(addresses(ports))
        while time.monotonic() < end:
            now = time.monotonic()
            desk.poll(now)
            rows = {row.role: row for row in desk.rows(now)}
            if rows["Tracker"].ok and rows["Pump"].ok:
                break
            time.sleep(0.005)
        assert rows["Tracker"].ok and rows["Pump"].ok, rows
        assert nodes.text_of(scene, "PumpState")
        assert desk.stop_pump(time.monotonic())
    finally:
        process.stop()
    assert not process.running


def test_simulators_that_cannot_start_say_why():
    with pytest.raises(DeviceError, match="cannot be started"):
        simulators.SimulatorProcess("/nowhere/python")


@pytest.mark.parametrize("role", ["tracker", "carm", "pump"])
def test_simulators_need_no_package_that_slicer_lacks(role):
    told = json.dumps({"role": role, "until_stdin_closes": True})
    program = f"""
import runpy, sys
for absent in ("click", "fastjsonschema", "pyigtl", "rich", "slicer", "trame_slicer"):
    sys.modules[absent] = None
sys.argv = ["simulation", {told!r}]
runpy.run_module("sacroplasty.simulation", run_name="__main__")
"""
    ran = subprocess.run([sys.executable, "-c", program], input="", capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["role"] == role


def connector_writes(scene, name, matrix, status="OK"):
    """What SlicerOpenIGTLink does with a TRANSFORM: matrix, Modified(), and its metadata as attributes."""
    node = nodes.first_node(scene, "vtkMRMLLinearTransformNode", name)
    node = node or scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    nodes.set_transform(node, matrix)
    node.Modified()
    node.SetAttribute("OpenIGTLink.TransformStatus", status)
    node.SetAttribute("OpenIGTLink.TransformValid", "true" if status == "OK" else "false")
    return node


def test_nodes_of_another_connector_feed_the_tracker(scene, desk):
    rng = np.random.default_rng(1)
    scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "ReferenceToRAS")
    desk.connect({"Tracker": "scene"})
    desk.poll(10.0)
    (row, _, _) = desk.rows(10.0)
    assert row.level == "none" and "OpenIGTLinkIF" in row.text
    StylusToReference = rigid(rotation_about([1, 0, 0], 20), [10, 20, 30])
    for tick in range(50):
        ReferenceToTracker = rigid(rotation_about([0, 0, 1], 30), np.array([50, 60, 900]) + rng.normal(0, 0.1, 3))
        connector_writes(scene, "ReferenceToTracker", ReferenceToTracker)
        stylus = connector_writes(scene, "StylusToTracker", ReferenceToTracker @ StylusToReference)
        desk.poll(10 + 0.02 * tick)
    relative = nodes.first_node(scene, "vtkMRMLLinearTransformNode", "StylusToReference")
    assert np.allclose(nodes.matrix_of(relative), StylusToReference) and devices.is_valid(relative)
    assert relative.GetParentTransformNode().GetName() == "ReferenceToRAS"
    assert {row.role: row.level for row in desk.rows(11.0)}["Tracker"] == "live"
    assert "ReferenceToRAS" not in desk.tracker.names, "a node without a status is no pose"

    connector_writes(scene, "StylusToTracker", np.eye(4), "OUT_OF_VIEW")
    desk.poll(11.01)
    assert not devices.is_valid(stylus) and not devices.is_valid(relative)
    assert "out of view" in relative.GetAttribute(devices.REASON)
    connector_writes(scene, "StylusToTracker", ReferenceToTracker @ StylusToReference)
    desk.poll(11.02)
    assert devices.is_valid(stylus)


def test_the_marks_on_a_connectors_nodes_do_not_keep_them_fresh(scene, desk):
    """Marks change the node too; were they taken for a message, a pose would stay alive by itself."""
    desk.connect({"Tracker": "scene"})
    stylus = connector_writes(scene, "StylusToTracker", rigid(np.eye(3), [0, 0, 900]))
    desk.poll(10.0)
    assert devices.is_valid(stylus)
    for tick in range(100):
        desk.poll(10.0 + 0.01 * tick)
        assert devices.is_valid(stylus) == (tick <= 10)
    desk.poll(20.0)
    assert "no node has changed" in desk.tracker.client.reason


def test_a_connectors_pictures_are_seen_and_left_alone(scene, desk):
    desk.connect({"Fluoroscope": "scene"})
    geometry = CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(32)
    rng = np.random.default_rng(2)
    for tick in range(4):
        volume = devices.detector_volume(rng.integers(0, 60000, (32, 32), dtype=np.uint16), geometry)
        node = nodes.first_node(scene, "vtkMRMLScalarVolumeNode", "Image_Detector")
        node = node or nodes.add_volume(scene, volume, "Image_Detector")
        nodes.set_volume(node, volume)
        node.SetAttribute("OpenIGTLink.Geometry", json.dumps(geometry.to_dict()))
        node.SetAttribute("OpenIGTLink.FrameRate", "5")
        desk.poll(10 + 0.2 * tick)
        desk.poll(10.1 + 0.2 * tick)
    assert len(desk.take_frames()) == 4
    assert desk.fluoroscope.view("Image_Detector", 10.65).frame is not None
    assert desk.fluoroscope.view("Image_Detector", 11.2).frame is None


@pytest.mark.parametrize(
    ("role", "address", "words"),
    [
        ("Pump", "scene", "connection of its own"),
        ("Tracker", "127.0.0.1", "no address of the tracker"),
        ("Pump", "127.0.0.1:99999", "no address"),
        ("Pump", "pump.local:18944", "numeric"),
        ("Tracker", ":18944", "no address"),
    ],
)
def test_what_is_no_address_is_said_in_words_and_the_old_connection_stays(desk, server, role, address, words):
    desk.connect({"Tracker": f"127.0.0.1:{server.port}"})
    before = desk.tracker
    with pytest.raises(DeviceError, match=words):
        desk.connect({role: address})
    assert desk.tracker is before


def test_a_tracker_in_meters_is_not_believed_and_named(scene, desk, server):
    desk.connect({"Tracker": f"127.0.0.1:{server.port}"})
    turn_until(desk, server, lambda: server.peers)
    server.send(transform("StylusToTracker", rigid(np.eye(3), [0.1, 0.05, 0.9]), 1.0))
    turn_until(desk, server, lambda: desk.tracker.names)
    now = time.monotonic()
    desk.poll(now)
    assert nodes.first_node(scene, "vtkMRMLLinearTransformNode", "StylusToTracker") is None
    row = desk.rows(now)[0]
    assert row.level == "none" and "is it in mm?" in row.text
    assert any("is it in mm?" in event.text for event in desk.events)


def run_room(desk, process, until, limit_s=30.0):
    """Poll the simulators' process and the desk until something is true."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        process.poll()
        now = time.monotonic()
        if len(process.ports) == 3 and not desk.connected:
            desk.connect(addresses(process.ports))
        desk.poll(now, time.time())
        if until(now):
            return now
        assert not process.problem, process.problem
        time.sleep(0.004)
    raise AssertionError(f"it did not happen in time: {desk.rows(now)}")


def test_simulators_show_the_patient_of_the_scene_and_obey(scene, desk, tmp_path):
    """CT, anatomy and plan of the scene become the world; hands and C-arm do what a person asks for."""
    ct = make_ct()
    ct_node = nodes.add_volume(scene, ct, "CT")
    segmentation = anatomy.show_anatomy(scene, make_anatomy(ct), ct_node)
    planning.show_plan(scene, make_plan(ct))
    truth = anatomy.anatomy_of(scene, segmentation, ct_node)
    targets = {side: found.target for side, found in planning.chosen(planning.plan_of(scene)).items()}
    landmarks = list(touchable(truth.landmarks))
    world = write_patient_world(tmp_path, ct, truth, targets, landmarks, seed=3)
    orders = {order.text: order for order in simulators.room_orders(scene)}
    side = next(iter(targets))
    assert f"Trocar to the target on the {side}" in orders and "C-arm: ap, live" in orders

    process = simulators.SimulatorProcess(world=world)
    room = None
    try:
        run_room(desk, process, lambda now: desk.rows(now)[0].ok)
        room = simulators.SimulatedRoom(process.ports)
        answers = []

        def ask(text, done):
            sent = []

            def step(now):
                room.poll(now)
                if not sent and room.ask(orders[text]):
                    sent.append(text)
                answers.extend(room.take_answers())
                return sent and done(now)

            return run_room(desk, process, step)

        ask(
            f"Trocar to the target on the {side}",
            lambda now: desk.tracker.pose("TrocarToTracker", now).matrix is not None,
        )
        ask("C-arm: ap, live", lambda now: bool(desk.take_frames()))
        assert nodes.first_node(scene, "vtkMRMLScalarVolumeNode", "Image_Detector") is not None
        ask(
            "Stand between camera and tools for 3 s",
            lambda now: desk.tracker.pose("TrocarToTracker", now).status == "OUT_OF_VIEW",
        )
        ask(f"Connect the pump's line on the {side}", lambda now: any("release the trocar" in one for one in answers))
        assert f"✔ Trocar to the target on the {side}" in answers
    finally:
        if room is not None:
            room.close()
        process.stop()


def test_a_c_arm_that_only_sends_pictures_is_known_by_its_marker(scene, desk, tmp_path):
    """A frame-grabbed C-arm in the world of a patient: the tracked geometry is compared with the true one."""
    ct = make_ct()
    world = write_patient_world(tmp_path, ct, None, {}, [], seed=5)
    record = json.loads(world.read_text())
    record["tracker"]["tools"] = ["Stylus", "Reference", "CArm"]
    record["carm"]["sends_geometry"] = False
    world.write_text(json.dumps(record))
    TrackerToRAS, ReferenceToTracker = np.array(record["TrackerToRAS"]), np.array(record["ReferenceToTracker"])
    geometry = CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1])
    body = {"geometries": [geometry.to_dict()], "frame_rate_hz": 10, "pixels": 64, "expose": True}
    process = simulators.SimulatorProcess(world=world)
    room = None
    try:
        run_room(desk, process, lambda now: desk.rows(now)[0].ok)
        room = simulators.SimulatedRoom(process.ports)
        sent = []

        def until_pictures(now):
            room.poll(now)
            if not sent and room.ask(simulators.RoomOrder("a picture", "CArm", body)):
                sent.append(True)
            return desk.rows(now)[1].age_ms < 100

        run_room(desk, process, until_pictures)
        assert "without its geometry" in desk.rows(time.monotonic())[1].text
        # Registered without error, and the marker calibrated without error; what remains is the tracker's noise.
        nodes.add_transform(scene, TrackerToRAS @ ReferenceToTracker, devices.REFERENCE_TO_RAS)
        calibration = nodes.add_transform(scene, CArmModel().DetectorToMarker, devices.DETECTOR_TO_C_ARM)
        run_room(desk, process, lambda now: desk.rows(now)[1].ok)
        frame = desk.fluoroscope.view("Image_Detector", time.monotonic()).frame
        error = np.array(record["carm"]["geometry_error"])
        center = rigid(np.eye(3), ct.ras_of((np.array(ct.voxels.shape) - 1) / 2))
        true = replace(geometry, RASToDetector=geometry.RASToDetector @ center @ error @ np.linalg.inv(center))
        found = XrayGeometry.from_dict(frame.geometry)
        points = np.random.default_rng(1).uniform(-60, 60, (20, 3))
        apart_mm = (found.project(points) - true.resampled(64).project(points)) * found.pixel_spacing_mm
        # 0.1 mm and 0.1 deg of jitter at two markers 800 mm from what is projected.
        assert np.abs(apart_mm).max() < 6.0 and np.abs(apart_mm).mean() < 3.0
        scene.RemoveNode(calibration)
        run_room(desk, process, lambda now: "without its geometry" in desk.rows(now)[1].text, limit_s=3)
    finally:
        if room is not None:
            room.close()
        process.stop()


def test_a_pump_that_lies_raises_an_alarm_that_is_shown_and_logged(scene, desk, caplog):
    process = simulators.SimulatorProcess(faults={"pump": ["run-after-stop"]})
    try:
        run_room(desk, process, lambda now: desk.pump is not None and desk.pump.reading(now).ready)
        desk.pump.arm(time.monotonic())
        desk.pump.run(0.2, 5.0, 2900, time.monotonic())
        run_room(desk, process, lambda now: desk.pump.reading(now).state.remaining_ml < 19.9)
        assert desk.stop_pump(time.monotonic())
        run_room(desk, process, lambda now: desk.rows(now)[2].level == "alarm", limit_s=3)
        assert "switch it off at the pump" in desk.rows(time.monotonic())[2].text
        assert [event.alarm for event in desk.events if event.role == "Pump"].count(True) == 1
        assert "ALARM Pump: the pump says stopped and its plunger goes on" in caplog.text
    finally:
        process.stop()


def test_a_pump_that_stops_by_itself_is_listed_with_its_reason(scene, desk):
    process = simulators.SimulatorProcess(faults={"pump": ["slow-reader@6"]})
    try:
        run_room(desk, process, lambda now: desk.pump is not None and desk.pump.reading(now).ready)
        desk.pump.arm(time.monotonic())
        run_room(desk, process, lambda now: desk.pump.reading(now).state.state == "armed", limit_s=3)
        run_room(desk, process, lambda now: any("(stopped: dead-man)" in event.text for event in desk.events))
    finally:
        process.stop()


def test_a_session_is_recorded_replayed_and_shown_as_a_replay(scene, desk, host, tmp_path):
    process = simulators.SimulatorProcess()
    try:
        run_room(desk, process, lambda now: all(row.ok for row in desk.rows(now)))
        desk.record(tmp_path / "a.session", time.monotonic(), time.time())
        start = time.monotonic()
        run_room(desk, process, lambda now: now - start > 2.5)
        desk.reconnect()  # The recording goes on.
        run_room(desk, process, lambda now: all(row.ok for row in desk.rows(now)))
        desk.stop_recording()
    finally:
        process.stop()
    session = read_session(tmp_path / "a.session")
    assert session.links == devices.ROLES

    desk.replay(session, 1000.0, speed=4.0)
    desk.poll(1000.0 + 0.5)
    rows = {row.role: row for row in desk.rows(1000.5)}
    assert desk.replaying and rows["Tracker"].ok and rows["Tracker"].address == "replay of a.session"
    assert not rows["Pump"].ok, "nothing can be ordered in a replay"
    assert not desk.stop_pump(1000.5)
    desk.poll(1000.0 + 60)
    assert not any(row.ok for row in desk.rows(1060.0))
    desk.disconnect()
    assert not desk.replaying

    scene.Clear(0)
    browser = sessions.add_session(scene, session)
    host.save(tmp_path / "replay.mrb")
    counts = {}
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode")):
        sequence = scene.GetNthNodeByClass(number, "vtkMRMLSequenceNode")
        counts[sequence.GetName()] = sequence.GetNumberOfDataNodes()
    names = [f"Recorded{name}" for name in ("StylusToTracker", "ReferenceToTracker", "Image_Detector", "PumpState")]
    assert set(names) <= set(counts)
    assert counts[names[0]] > 100 and counts[names[2]] > 8 and counts[names[3]] > 20
    name = browser.GetName()
    scene.Clear(0)
    host.load(tmp_path / "replay.mrb")
    again = nodes.first_node(scene, "vtkMRMLSequenceBrowserNode", name)
    # Slicer's reader of transform sequences gives them longer names.
    loaded = [scene.GetNthNodeByClass(number, "vtkMRMLSequenceNode") for number in range(len(counts))]
    sequence = next(node for node in loaded if node.GetName().startswith("RecordedStylusToTracker"))
    assert sequence.GetNumberOfDataNodes() == counts["RecordedStylusToTracker"]
    assert again.GetNumberOfSynchronizedSequenceNodes(True) == len(counts)
    poses = [(time_s, found) for time_s, found in session.messages("Tracker") if found.name == "StylusToTracker"]
    time_s, message = poses[50]
    stored = sequence.GetDataNodeAtValue(f"{time_s:.4f}")
    assert np.allclose(nodes.matrix_of(stored), message.matrix, atol=1e-3)
