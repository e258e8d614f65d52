"""What is wrong with a link is found and named; what a pump does against its word raises an alarm."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.devices.fluoroscope import FluoroscopeRole
from sacroplasty.devices.link import Client, LinkCounts, Received
from sacroplasty.devices.link_watch import FINDINGS, LinkWatch, implausible
from sacroplasty.devices.messages import Command, Image, Transform
from sacroplasty.devices.pump import PumpRole
from sacroplasty.devices.pump_protocol import PumpState
from sacroplasty.devices.pump_watch import PumpWatch
from sacroplasty.devices.pump_watch import implausible as implausible_pump
from sacroplasty.geometry import rigid
from sacroplasty.simulation.carm import SimulatedCArm
from sacroplasty.simulation.faults import FAULTS, FaultyServer, parse_faults
from sacroplasty.simulation.live import LiveFolder
from sacroplasty.simulation.pump import SimulatedPump
from sacroplasty.simulation.tracker import SimulatedTracker
from sacroplasty.simulation.world import TOOLS, TrackerModel, demonstration_world
from sacroplasty.xray.geometry import CArm

STATE = PumpState(1, "running", "", 0.0, 0.0, 19.0, 100.0, 0.05, "me", 3)

#: For each defect of the link, what must be found of it.
FOUND = {
    "drop": {"lost"},
    "delay": {"late"},
    "jitter": {"uneven"},
    "duplicate": {"repeated"},
    "reorder": {"out-of-order"},
    "freeze": {"frozen"},
    "stale-clock": {"clock-stands"},
    "clock-jump": {"clock-set"},
    "half-open": {"silent"},
    "bad-crc": {"damaged"},
    "truncated-body": {"damaged"},
    "absurd-size": {"damaged"},
    "garbage": {"damaged"},
    "reboot": {"disconnected"},
    "wrong-units": {"implausible"},
}


def watched(device, server, client, seconds):
    """Turn time by hand, in steps of 20 ms, and watch the client's link; the watch and codes by second."""
    watch, by_second = LinkWatch(), {}
    for tick in range(round(seconds * 50)):
        now_s = 100 + tick * 0.02
        device.step(now_s, 0.0)
        time.sleep(0.0002)
        for received in client.poll(now_s):
            watch.observe(received)
        watch.assess(now_s, client.connected, client.reason, client.counts)
        found = by_second.setdefault(int(now_s - 100), set())
        found |= {finding.code for finding in watch.findings(now_s, 0.0)}
    return watch, by_second


def make(device, fault, folder):
    faults = parse_faults([f"{fault}@2"])
    server = FaultyServer(0, faults, np.random.default_rng(1))
    world = replace(demonstration_world(1), tracker=TrackerModel(rate_hz=50))
    live, rng = LiveFolder(folder), np.random.default_rng(2)
    if device == "tracker":
        return server, SimulatedTracker(world, server, live, rng, epoch_s=1.7e9)
    return server, SimulatedPump(world, server, live, faults, 1.0, epoch_s=1.7e9)


@pytest.mark.parametrize("fault", FOUND)
def test_every_defect_of_a_tracker_is_found_under_its_name(fault, tmp_path):
    server, device = make("tracker", fault, tmp_path)
    client = Client(port=server.port)
    watch, by_second = watched(device, server, client, seconds=5)
    assert not by_second[0] | by_second[1], "nothing is found while all is well"
    assert FOUND[fault] <= by_second[2] | by_second[3] | by_second[4]
    first = watch.take_news()[0]
    assert first.first_s >= 101.9 and first.text and watch.take_news() == []
    client.close()
    server.close()


@pytest.mark.parametrize("fault", sorted(set(FOUND) - {"wrong-units"}))
def test_every_defect_of_a_pumps_link_is_found_under_its_name(fault, tmp_path):
    server, device = make("pump", fault, tmp_path)
    client = Client(port=server.port)
    _, by_second = watched(device, server, client, seconds=8)
    assert not by_second[0] | by_second[1]
    # A pump speaks ten times a second, so that what takes many messages to be seen takes some seconds.
    assert FOUND[fault] <= set.union(*(by_second[second] for second in range(2, 8)))
    client.close()
    server.close()


def test_every_defect_is_either_one_of_the_link_or_one_of_the_pump_alone():
    assert set(FOUND) | {"slow-reader", "ignore-run", "run-after-stop"} == set(FAULTS)
    assert set.union(*FOUND.values()) == set(FINDINGS)


def test_a_gap_now_and_then_is_no_finding():
    watch = LinkWatch()
    rng = np.random.default_rng(3)
    stamp_s = 1.7e9
    for number in range(600):
        stamp_s += 0.05 if number % 100 == 99 else 1 / 60  # A busy computer, once in a hundred.
        pose = rigid(np.eye(3), rng.normal(900, 0.1, 3))
        message = Transform("StylusToTracker", pose, timestamp_s=stamp_s, metadata={"TransformStatus": "OK"})
        watch.observe(Received(message, stamp_s - 1.7e9, 0))
    assert watch.take_news() == []


def test_what_cannot_be_in_millimeters_is_named():
    ok = {"TransformStatus": "OK"}
    assert "is it in mm?" in implausible(Transform("StylusToTracker", rigid(np.eye(3), [0.1, 0, 1.2]), metadata=ok))
    assert implausible(Transform("StylusToTracker", rigid(np.eye(3), [100, 0, 1200]), metadata=ok)) == ""
    # From the patient's reference a tool may be as near as it likes, and a tool that is not seen has no place.
    assert implausible(Transform("StylusToReference", np.eye(4), metadata=ok)) == ""
    assert implausible(Transform("StylusToTracker", np.eye(4), metadata={"TransformStatus": "MISSING"})) == ""
    geometry = CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).to_dict()
    assert implausible(Image("Image_Detector", np.zeros((1, 2, 2)), metadata={"Geometry": json.dumps(geometry)})) == ""
    geometry["source_to_detector_mm"] = 1.02
    assert implausible(Image("Image_Detector", np.zeros((1, 2, 2)), metadata={"Geometry": json.dumps(geometry)}))
    assert implausible(Image("Image_Detector", np.zeros((1, 2, 2)), metadata={"Geometry": "{"})) == ""


def observed(watch: PumpWatch, states):
    for number, (at_s, state, remaining_ml) in enumerate(states):
        watch.observe(replace(STATE, counter=number + 1, state=state, remaining_ml=remaining_ml), at_s)
    return watch.alarm


@pytest.mark.parametrize("state", ["stopped", "holding", "idle", "armed", "withdrawing"])
def test_a_plunger_that_moves_where_it_should_rest_raises_an_alarm(state):
    """Backwards is allowed, as far as it likes; forward is not."""
    back = [(0.1 * number, state, 15 + 0.05 * number) for number in range(20)]
    assert observed(PumpWatch(), back) == ""
    watch = PumpWatch()
    assert "goes on" in observed(watch, [*back, (2.0, state, 15.9), (2.1, state, 15.85)])
    assert watch.alarm and state in watch.alarm
    watch.forget()
    assert watch.alarm == ""


def test_a_plunger_that_rests_where_it_should_move_raises_an_alarm():
    moves = [(0.1 * number, "running", 19 - 0.005 * number) for number in range(40)]
    assert observed(PumpWatch(), moves) == ""
    slowly = [(0.1 * number, "running", 19 - 0.001 * number) for number in range(40)]
    assert "its plunger stands" in observed(PumpWatch(), slowly)
    briefly = [(0.1 * number, "running", 19.0) for number in range(9)]
    assert observed(PumpWatch(), briefly) == "", "not before a second has passed"


@pytest.mark.parametrize(
    ("change", "ordered", "words"),
    [
        ({"remaining_ml": 19000.0}, None, "in the syringe"),
        ({"pressure_kpa": 482500.0}, None, "a pressure of"),
        ({"rate_ml_s": 3.0}, 0.05, "where 0.05 mL/s were ordered"),
        ({"rate_ml_s": 0.0505}, 0.05, ""),
        ({"rate_ml_s": 3.0}, None, ""),
        ({}, 0.05, ""),
    ],
)
def test_figures_in_another_unit_are_no_state(change, ordered, words):
    found = implausible_pump(replace(STATE, **change), ordered)
    assert (words in found) if words else found == ""


class Bench:
    """A pump role on a simulated pump with defects, its time turned by hand."""

    def __init__(self, folder, *faults: str) -> None:
        parsed = parse_faults(faults)
        self.server = FaultyServer(0, parsed, np.random.default_rng(1))
        self.pump = SimulatedPump(demonstration_world(1), self.server, LiveFolder(folder), parsed, 1.0, epoch_s=1.7e9)
        self.role = PumpRole(Client(port=self.server.port), "bench")
        self.now_s = 100.0

    def play(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 0.01
            self.pump.step(self.now_s, 0.0)
            time.sleep(0.0002)
            self.role.poll(self.now_s)

    def run(self) -> None:
        self.play(0.5)
        self.role.arm(self.now_s)
        self.play(0.1)
        self.role.run(0.1, 5.0, 2900.0, self.now_s)

    @property
    def reading(self):
        return self.role.reading(self.now_s)

    def close(self) -> None:
        self.role.client.close()
        self.server.close()


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(*faults):
        made.append(Bench(tmp_path, *faults))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_pump_that_ignores_run_is_not_ready_and_says_why(bench):
    one = bench("ignore-run")
    one.run()
    one.play(0.9)
    assert one.reading.ready and one.reading.state.state == "running"
    one.play(0.6)
    assert not one.reading.ready and "its plunger stands" in one.reading.alarm


def test_a_pump_that_goes_on_after_a_stop_raises_an_alarm_until_it_is_reset(bench):
    one = bench("run-after-stop")
    one.run()
    one.play(1.0)
    assert one.reading.ready and not one.reading.alarm
    one.role.stop(one.now_s)
    one.play(0.6)
    assert not one.role.stop_pending and one.reading.state.state == "stopped"
    assert not one.reading.ready and "switch it off at the pump" in one.reading.alarm
    one.role.reset(one.now_s)
    one.play(0.3)
    assert one.reading.state.state == "idle" and not one.reading.alarm


def test_an_honest_pump_raises_no_alarm_through_a_whole_injection(bench):
    one = bench()
    one.run()
    one.play(4.0)
    one.role.stop(one.now_s)
    one.play(3.0)  # It backs off meanwhile.
    one.role.reset(one.now_s)
    one.play(0.2)
    one.role.arm(one.now_s)
    one.play(0.2)
    one.role.withdraw(0.02, one.now_s)
    one.play(2.0)
    assert one.reading.ready and one.reading.alarm == "" and one.reading.state.state == "holding"


def test_a_stop_that_nobody_confirms_raises_an_alarm(bench):
    one = bench("half-open@1.7")
    one.run()
    one.play(1.0)
    assert one.reading.ready
    one.play(0.3)
    one.role.stop(one.now_s)
    one.play(0.3)
    assert not one.reading.alarm
    one.play(0.4)
    assert "has not confirmed the stop" in one.reading.alarm


def test_a_pump_that_lost_its_power_is_not_ready_until_it_is_connected_anew(bench):
    one = bench("reboot@2")
    one.run()
    one.play(6.0)
    reading = one.reading
    assert one.role.client.counts.connections == 2 and reading.state.state == "idle"
    assert reading.state.counter < 60, "it counts anew"
    assert not reading.ready and "counts its cement anew" in reading.reason
    fresh = PumpRole(Client(port=one.server.port), "again")
    one.role.client.close()
    one.role = fresh
    one.play(1.0)
    assert one.reading.ready


def test_a_pump_that_reads_slowly_stops_by_its_dead_man(bench):
    one = bench("slow-reader@1.7")
    one.run()
    one.play(1.0)
    assert one.reading.state.state == "running"
    one.play(1.5)
    assert one.reading.state.state == "stopped" and one.reading.state.fault == "dead-man"


def test_eight_tools_are_tracked_hidden_and_missing(tmp_path, until):
    world = replace(demonstration_world(1), tracker=TrackerModel(tools=TOOLS, rate_hz=250, interruptions_per_min=30))
    server = FaultyServer(0, parse_faults([]), np.random.default_rng(1))
    live = LiveFolder(tmp_path)
    tracker = SimulatedTracker(world, server, live, np.random.default_rng(2), epoch_s=1.7e9)
    client = Client(port=server.port)
    counts: dict[str, dict[str, int]] = {}
    for tick in range(3000):
        now_s = 100 + tick * 0.004
        if tick == 1000:
            live.write_detector(rigid(np.eye(3), [0, 400, 0]))
            client.send(Command("Hand", command_id=1, command="Hand", text='{"tool": "Trocar", "release": "left"}'))
        if tick == 2000:
            client.send(Command("Hand", command_id=2, command="Hand", text='{"tool": "all", "cover_s": 2.0}'))
        tracker.step(now_s, 0.0)
        time.sleep(0.0001)
        for received in client.poll(now_s):
            message = received.message
            if isinstance(message, Transform):
                of_tool = counts.setdefault(message.name.removesuffix("ToTracker"), {})
                status = message.metadata["TransformStatus"]
                of_tool[status] = of_tool.get(status, 0) + 1
    assert set(counts) == set(TOOLS)
    assert set(counts["Probe"]) == {"MISSING"} and set(counts["CannulaR"]) == {"MISSING"}
    assert counts["CArm"]["MISSING"] > 900 and counts["CArm"]["OK"] > 500
    assert counts["CannulaL"]["MISSING"] > 900 and counts["CannulaL"]["OK"] > 500
    # 2 s of 12 s covered, and 30 interruptions of 0.85 s a minute in the mean.
    assert counts["Table"]["OUT_OF_VIEW"] > 500 and counts["Table"]["OK"] > 1000
    client.close()
    server.close()


def test_the_c_arm_takes_angles_gives_single_shots_and_is_where_its_marker_says(tmp_path, until):
    server = FaultyServer(0, parse_faults([]), np.random.default_rng(1))
    live = LiveFolder(tmp_path)
    c_arm = SimulatedCArm(demonstration_world(1), server, live, np.random.default_rng(2), 1.7e9)
    client = Client(port=server.port)
    role = FluoroscopeRole(client)
    step = lambda now_s: c_arm.step(now_s, 0.0)  # noqa: E731
    until(lambda: client.connected, role.poll, step)
    body = {"angles": [[0, 0], [90, 0]], "isocenter_ras": [1, 2, 3], "pixels": 64, "frame_rate_hz": 30, "frames": 3}
    client.send(Command("CArm", command_id=1, command="CArm", text=json.dumps(body)))
    until(lambda: role.answer(1), role.poll, step)
    assert role.answer(1).accepted, role.answer(1).reason
    frames = []

    def collect(now_s):
        role.poll(now_s)
        frames.extend(frame for frame in role.take_frames() if frame.frame_rate_hz == 30)

    until(lambda: len(frames) >= 6, collect, step)
    end_s = time.monotonic() + 0.5
    until(lambda: time.monotonic() > end_s, collect, step)
    assert len(frames) == 6, "three of each plane, and no more"
    frontal = CArm().pose([1, 2, 3], [0, 1, 0], [0, 0, 1]).resampled(64)
    lateral = CArm().pose([1, 2, 3], [-1, 0, 0], [0, 0, 1]).resampled(64)
    for frame, geometry in zip(frames, (frontal, lateral), strict=False):
        np.testing.assert_allclose(frame.geometry["RASToDetector"], geometry.RASToDetector, atol=1e-9)
    # The demonstration's C-arm stands without error, so the true detector is the one that was asked for.
    full = CArm().pose([1, 2, 3], [0, 1, 0], [0, 0, 1])
    np.testing.assert_allclose(live.read_detector() @ full.RASToDetector, np.eye(4), atol=1e-9)
    for bad, words in (({"angles": [[0]]}, "lacks or garbles"), ({**body, "frames": 0}, "frames must be")):
        client.send(Command("CArm", command_id=9, command="CArm", text=json.dumps(bad)))
        role._answers.clear()
        until(lambda: role.answer(9), role.poll, step)
        assert not role.answer(9).accepted and words in role.answer(9).reason
    client.close()
    c_arm.close()
    server.close()


def test_counts_alone_tell_of_damage_and_lost_connections():
    watch = LinkWatch()
    watch.assess(0.0, True, "", LinkCounts(connections=1))
    watch.assess(1.0, True, "", LinkCounts(connections=1, crc_errors=2, skipped_bytes=30))
    assert [finding.code for finding in watch.findings(1.0)] == ["damaged"]
    lost = LinkCounts(connections=1, crc_errors=2, skipped_bytes=30)
    watch.assess(2.0, False, "the peer closed the connection", lost)
    assert watch.findings(2.0)[0].text == "the connection was lost: the peer closed the connection"
    assert watch.findings(60.0) == []
