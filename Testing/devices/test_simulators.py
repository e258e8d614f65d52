"""Simulated devices as processes: they agree on one world, and none is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sacroplasty.devices.fluoroscope import FluoroscopeRole
from sacroplasty.devices.link import Client
from sacroplasty.devices.messages import Command, CommandReply
from sacroplasty.devices.pump import PumpRole
from sacroplasty.devices.tracker import TrackerRole
from sacroplasty.errors import DeviceError
from sacroplasty.geometry import rigid, rotation_about, transform_points
from sacroplasty.image import Volume, write_volume
from sacroplasty.simulation.carm import SimulatedCArm
from sacroplasty.simulation.cement import Deposit, paint_cement, post_operative_ct, read_truth
from sacroplasty.simulation.faults import FaultyServer, parse_faults
from sacroplasty.simulation.hand import Hand
from sacroplasty.simulation.live import LiveFolder
from sacroplasty.simulation.serve import Service, end, read_ready, serve_all, start
from sacroplasty.simulation.tracker import SimulatedTracker
from sacroplasty.simulation.world import demonstration_world, read_world, write_world
from sacroplasty.xray.detector import log_image
from sacroplasty.xray.geometry import CArm

TIP_IN_TOOL = np.array([3.0, -4.0, 180.0])
TRACKER_TO_RAS = rigid(rotation_about([1, 0.2, 0], 170), [30, -20, 1100])
TARGET = np.array([-30.0, 5.0, 10.0])
BESIDE_TARGET = np.array([-30.0, 5.0, 15.0])


def block_ct() -> Volume:
    """A body of water, 180 x 120 x 120 mm, with a block of loose bone; 2 mm voxels, centred on the origin."""
    k, j, i = np.ogrid[:60, :60, :90]
    x, y, z = (i - 44.5) * 2, (j - 29.5) * 2, (k - 29.5) * 2
    voxels = np.where((np.abs(x) < 80) & (np.abs(y) < 55) & (np.abs(z) < 58), 0, -1000).astype(np.int16)
    voxels[(np.abs(x) < 55) & (np.abs(y) < 25) & (np.abs(z) < 35)] = 40
    IJKToRAS = np.diag([2.0, 2.0, 2.0, 1.0])
    IJKToRAS[:3, 3] = -89.0, -59.0, -59.0
    return Volume(voxels, IJKToRAS)


@pytest.fixture(scope="module")
def world_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    ct = block_ct()
    write_volume(ct, folder / "ct.nrrd")
    bone = ct.voxels > 20
    x = ct.ras_of(np.argwhere(np.ones(ct.voxels.shape)))[:, 0].reshape(ct.voxels.shape)
    write_volume(ct.like((bone & (x < -2)).astype(np.uint8)), folder / "left.nrrd")
    z = ct.ras_of(np.argwhere(np.ones(ct.voxels.shape)))[:, 2].reshape(ct.voxels.shape)
    write_volume(ct.like((~bone & (ct.voxels > -500) & (z > 35) & (z < 55)).astype(np.uint8)), folder / "leak.nrrd")
    write_world(
        folder / "world.json",
        {
            "ct": "ct.nrrd",
            "permeable": {"left": "left.nrrd"},
            "TrackerToRAS": TRACKER_TO_RAS,
            "ReferenceToTracker": rigid(np.eye(3), [50, 0, 1000]),
            "tools": {
                "Stylus": {"TipToTool": rigid(np.eye(3), TIP_IN_TOOL)},
                "Trocar": {"TipToTool": rigid(np.eye(3), [0, 0, 150])},
            },
            "landmarks": {"promontory": [0.0, -20.0, 30.0], "left": TARGET},
            "tracker": {"noise_mm": 0.1, "localization_mm": 0.3},
            "carm": {"photons_per_pixel": 5000.0},
            "leak": {"side": "left", "into": "leak.nrrd", "after_ml": 1.0, "fraction": 0.4},
            "seed": 11,
        },
    )
    return folder / "world.json"


class Theatre:
    """Links to running simulators."""

    def __init__(self, services: list[Service]) -> None:
        self.children = [start(service) for service in services]
        try:
            self.ports = {ready["role"]: ready["port"] for ready in map(read_ready, self.children)}
        except DeviceError:
            end(self.children)
            raise
        self.tracker = TrackerRole(Client(port=self.ports.get("tracker", 9)))
        self.carm = FluoroscopeRole(Client(port=self.ports.get("carm", 9)))
        self.pump = PumpRole(Client(port=self.ports.get("pump", 9)), "theatre")
        self.hands = Client(port=self.ports.get("tracker", 9))
        self.answers: list[dict] = []

    def poll(self, now_s: float) -> None:
        for role, part in (("tracker", self.tracker), ("carm", self.carm), ("pump", self.pump)):
            if role in self.ports:
                part.poll(now_s)
        if "tracker" in self.ports:
            messages = [item.message for item in self.hands.poll(now_s)]
            self.answers += [json.loads(message.text) for message in messages if isinstance(message, CommandReply)]

    def hand(self, until, **order) -> dict:
        """Give an order to the hands and wait until they have done it."""
        until(lambda: self.hands.connected, self.poll)
        self.answers.clear()
        self.hands.send(Command("Hand", command_id=1, command="Hand", text=json.dumps(order)))
        until(lambda: self.answers, self.poll)
        (answer,) = self.answers
        done_s = time.monotonic() + answer["busy_s"] + 0.05
        until(lambda: time.monotonic() > done_s, self.poll, limit_s=answer["busy_s"] + 2)
        return answer

    def close(self) -> None:
        for link in (self.tracker.client, self.carm.client, self.pump.client, self.hands):
            link.close()
        end(self.children)


@pytest.fixture
def theatre(world_file):
    services = [Service(role, world=str(world_file), speed=20.0) for role in ("tracker", "carm", "pump")]
    theatre = Theatre(services)
    yield theatre
    theatre.close()


def mean_pose(theatre, until, name):
    theatre.tracker.record(True)
    until(lambda: len(theatre.tracker.recorded(name)) >= 20, theatre.poll)
    matrices = [matrix for _, matrix in theatre.tracker.recorded(name)]
    theatre.tracker.record(False)
    return np.mean(matrices, axis=0)


def test_an_injection_with_a_planted_leak_from_pivot_to_pictures(theatre, until, world_file):
    """Hands, tracker, C-arm and pump agree: poses lead to the true tip, cement appears there, volumes add up."""
    theatre.tracker.record(True)
    theatre.hand(until, tool="Stylus", pivot_s=1.5)
    poses = np.array([matrix for _, matrix in theatre.tracker.recorded("StylusToTracker")])
    assert len(poses) > 60
    # R tip + t = pivot, least squares.
    left = np.concatenate([np.concatenate([pose[:3, :3], -np.eye(3)], axis=1) for pose in poses])
    tip = np.linalg.lstsq(left, -poses[:, :3, 3].ravel(), rcond=None)[0][:3]
    np.testing.assert_allclose(tip, TIP_IN_TOOL, atol=0.6)

    theatre.hand(until, tool="Stylus", touch="promontory")
    pose = mean_pose(theatre, until, "StylusToTracker")
    touched = transform_points(TRACKER_TO_RAS @ pose, TIP_IN_TOOL)
    assert np.linalg.norm(touched - [0, -20, 30]) < 1.5

    theatre.hand(until, tool="Trocar", place={"landmark": "left", "offset_mm": [0, -20, 0]})
    theatre.hand(until, tool="Trocar", move={"translate_mm": [0, 20, 0]})
    pose = mean_pose(theatre, until, "TrocarToTracker")
    tip_ras = transform_points(TRACKER_TO_RAS @ pose, [0, 0, 150])
    assert np.linalg.norm(tip_ras - TARGET) < 2.5
    assert theatre.hand(until, connect="left")["accepted"] is False
    theatre.hand(until, tool="Trocar", release="left")
    theatre.hand(until, connect="left")

    geometry = CArm().pose([0, 0, 0], [0, -1, 0], [0, 0, 1])
    lateral = CArm().pose([0, 0, 0], [1, 0, 0], [0, 0, 1])
    order = theatre.carm.move([geometry.to_dict(), lateral.to_dict()], 10.0, 128, True)
    frames = {}

    def collect(now_s):
        theatre.poll(now_s)
        for frame in theatre.carm.take_frames():
            frames.setdefault(frame.plane, []).append(frame)

    until(
        lambda: all(len(frames.get(plane, [])) > 3 for plane in ("Image_Detector", "Image_Detector2")),
        collect,
        limit_s=15,
    )
    assert theatre.carm.answer(order).accepted
    before = {plane: found[-1] for plane, found in frames.items()}

    until(lambda: theatre.pump.reading(time.monotonic()).ready, collect)
    theatre.pump.arm(time.monotonic())
    theatre.pump.run(0.2, 3.0, 2900, time.monotonic())
    reading = lambda: theatre.pump.reading(time.monotonic())  # noqa: E731
    until(lambda: reading().state.state == "holding" and reading().state.delivered_ml > 2.85, collect, limit_s=15)
    frames.clear()
    until(lambda: all(len(frames.get(plane, [])) > 3 for plane in ("Image_Detector", "Image_Detector2")), collect)

    for plane, view in (("Image_Detector", geometry.resampled(128)), ("Image_Detector2", lateral.resampled(128))):
        after = frames[plane][-1]
        assert after.geometry == json.loads(json.dumps(view.to_dict()))
        gain = log_image(after.pixels, after.air_level) - log_image(before[plane].pixels, before[plane].air_level)
        # Beside the shaft, behind which there is no light to be lost.
        u, v = np.rint(view.project(BESIDE_TARGET)).astype(int)
        assert gain[v - 1 : v + 2, u - 1 : u + 2].mean() > 0.6, "cement at the tip"
        far = gain[:20, :20]
        assert abs(far.mean()) < 0.05
    (truth,) = read_truth(world_file)
    assert truth.side == "left"
    assert truth.leaked_ml == pytest.approx(0.4 * (truth.delivered_ml - 1.0), abs=1e-6)
    assert truth.delivered_ml == pytest.approx(reading().state.delivered_ml, abs=0.1)
    held = [depot.voxels.sum() * depot.voxel_volume_ml for depot in truth.depots]
    assert sum(held) == pytest.approx(truth.delivered_ml, rel=1e-4)
    ct = block_ct()
    fraction = paint_cement((truth,), ct)
    assert fraction.voxels.sum() * ct.voxel_volume_ml == pytest.approx(truth.delivered_ml, rel=0.02)
    painted = post_operative_ct(ct, fraction)
    center = tuple(np.rint(ct.kji_of(tip_ras)).astype(int))
    assert painted.voxels[center] > 1500


@pytest.mark.parametrize("fault", ["delay", "freeze", "stale-clock", "half-open"])
def test_a_tracker_that_fails_quietly_is_not_believed(fault, tmp_path):
    """The defect begins after 3 s of good service; time is turned by hand."""
    server = FaultyServer(0, parse_faults([f"{fault}@3"]), np.random.default_rng(1))
    world = demonstration_world(1)
    tracker = SimulatedTracker(world, server, LiveFolder(tmp_path), np.random.default_rng(2), epoch_s=1.7e9)
    role = TrackerRole(Client(port=server.port))
    believed = []
    for tick in range(700):
        now_s = 50 + tick * 0.01
        role.poll(now_s)
        tracker.step(now_s, 0.0)
        time.sleep(0.0002)
        role.poll(now_s)
        believed.append(role.pose("ReferenceToTracker", now_s).matrix is not None)
    assert np.mean(believed[50:300]) > 0.97
    assert not any(believed[420:]), "never again from 1.2 s after the beginning of the defect"
    role.client.close()
    server.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frame_rate_hz": 1000}, "frames/s"),
        ({"pixels": 5000}, "columns"),
        ({"geometries": []}, "one or two"),
        ({"geometries": [{}]}, "lacks"),
        ({"inside": True}, "inside the patient"),
    ],
)
def test_a_c_arm_refuses_what_no_c_arm_can_do(change, words, tmp_path, until):
    server = FaultyServer(0, parse_faults([]), np.random.default_rng(1))
    c_arm = SimulatedCArm(demonstration_world(1), server, LiveFolder(tmp_path), np.random.default_rng(2), 0.0)
    role = FluoroscopeRole(Client(port=server.port))
    until(lambda: role.client.connected, role.poll, lambda now_s: c_arm.step(now_s, 0.0))
    record = CArm().pose([0, 0, 0], [0, -1, 0], [0, 0, 1]).to_dict()
    if change.pop("inside", False):
        record |= {
            "source_to_detector_mm": 400.0,
            "source_in_detector_mm": [*record["source_in_detector_mm"][:2], 400.0],
        }
    order = role.move(**({"geometries": [record], "frame_rate_hz": 5.0, "pixels": 64, "expose": True} | change))
    until(lambda: role.answer(order), role.poll, lambda now_s: c_arm.step(now_s, 0.0))
    assert not role.answer(order).accepted and words in role.answer(order).reason
    role.client.close()
    c_arm.close()
    server.close()


def test_a_noisy_line_loses_messages_but_not_the_link(world_file, until):
    faults = ("drop", "bad-crc", "garbage")
    theatre = Theatre([Service("tracker", faults=faults, world=str(world_file), live=str(world_file.parent / "noisy"))])
    try:
        theatre.tracker.record(True)
        until(lambda: len(theatre.tracker.recorded("ReferenceToTracker")) > 30, theatre.poll, limit_s=10)
        counts = theatre.tracker.client.counts
        assert counts.crc_errors > 0 and counts.skipped_bytes > 0 and counts.connections == 1
    finally:
        theatre.close()


def test_a_pump_that_lies_about_stopping_is_seen_in_its_own_figures(until):
    theatre = Theatre([Service("pump", faults=("run-after-stop",), speed=5.0)])
    try:
        until(lambda: theatre.pump.reading(time.monotonic()).ready, theatre.poll)
        theatre.pump.arm(time.monotonic())
        theatre.pump.run(0.2, 5.0, 2900, time.monotonic())
        until(lambda: theatre.pump.reading(time.monotonic()).state.delivered_ml > 0.3, theatre.poll)
        theatre.pump.stop(time.monotonic())
        until(lambda: not theatre.pump.stop_pending, theatre.poll)
        at_stop_ml = theatre.pump.reading(time.monotonic()).state.delivered_ml
        until(lambda: theatre.pump.reading(time.monotonic()).state.delivered_ml > at_stop_ml + 0.5, theatre.poll)
        assert theatre.pump.reading(time.monotonic()).state.state == "stopped"
    finally:
        theatre.close()


def command_line(*arguments: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sacroplasty.cli", "simulate", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("device", "how"),
    [("all", "stdin"), ("all", "SIGKILL"), ("all", "SIGTERM"), ("pump", "SIGTERM"), ("pump", "SIGINT")],
)
def test_no_simulator_outlives_its_parent(device, how, until):
    parent = command_line(device, "--port", "0", "--until-stdin-closes")
    ports = [json.loads(parent.stdout.readline())["port"] for _ in range(3 if device == "all" else 1)]
    assert not any(refuses(port) for port in ports)
    if how == "stdin":
        parent.stdin.close()
    else:
        parent.send_signal(getattr(signal, how))
    code = parent.wait(10)
    assert code == (-signal.SIGKILL if how == "SIGKILL" else 0)
    until(lambda: all(refuses(port) for port in ports), limit_s=5)
    for stream in (parent.stdin, parent.stdout, parent.stderr):
        stream.close()


@pytest.mark.parametrize("device", ["tracker", "all"])
def test_a_port_in_use_is_one_line_and_exit_code_2(device):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = command_line(device, "--port", str(port))
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 2 and out == ""
    assert len(errors.strip().splitlines()) == 1 and f"port {port}" in errors and "in use" in errors


def test_bad_worlds_and_faults_are_refused_in_words(tmp_path, world_file):
    with pytest.raises(DeviceError, match="there is no fault 'fire'"):
        parse_faults(["fire"])
    record = json.loads(world_file.read_text())
    record["TrackerToRAS"][0][0] = 5.0
    broken = tmp_path / "world.json"
    broken.write_text(json.dumps(record))
    with pytest.raises(DeviceError, match="TrackerToRAS"):
        serve_all([Service("tracker", world=str(broken))])


def test_the_hand_moves_as_told_within_its_own_unsteadiness():
    hand = Hand(demonstration_world(1), np.random.default_rng(5))
    errors = []
    for _ in range(200):
        hand.order({"tool": "Trocar", "hide": True}, 0.0)
        hand.order({"tool": "Trocar", "place": {"tip_ras": [0, 0, 0], "direction_ras": [0, 1, 0]}}, 0.0)
        busy_s = hand.order({"tool": "Trocar", "move": {"translate_mm": [0, 30, 0], "rotate_deg": [10, 0, 0]}}, 0.0)
        pose = hand.pose("Trocar", busy_s)
        errors.append(pose[:3, 3] - [0, 30, 0])
        wanted = rotation_about([1, 0, 0], 10) @ [0, 1, 0]
        assert np.degrees(np.arccos(np.clip(pose[:3, 2] @ wanted, -1, 1))) < 2
    assert np.abs(np.mean(errors, axis=0)).max() < 0.15
    assert np.sqrt(np.square(errors).sum(axis=1).mean()) == pytest.approx(0.03 * 30, rel=0.2)
    with pytest.raises(DeviceError, match="no landmark"):
        hand.order({"tool": "Stylus", "touch": "knee"}, 0.0)


def test_cement_off_the_bone_still_goes_somewhere(world_file):
    world = read_world(world_file)
    deposit = Deposit(world, "left", rigid(np.eye(3), [0.0, 45.0, 0.0]), world.ct())
    (depot,) = deposit.truth(1.0).depots
    assert depot.voxels.sum() * depot.voxel_volume_ml == pytest.approx(1.0, rel=1e-3)


def test_the_processes_of_a_world_see_whole_records(tmp_path):
    live, other = LiveFolder(tmp_path), LiveFolder(tmp_path)
    assert other.read_hand().connected is None and other.read_delivered() == {}
    for number in range(300):
        live.write_delivered({"left": float(number)})
        assert other.read_delivered() == {"left": float(number)}
