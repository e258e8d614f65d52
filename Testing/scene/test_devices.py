"""Devices mirrored into the scene, against real sockets and the real simulators."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from sacroplasty.devices.link import Server
from sacroplasty.devices.messages import Image, Transform
from sacroplasty.errors import DeviceError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.scene import devices, nodes, simulators
from sacroplasty.xray.geometry import CArm


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
