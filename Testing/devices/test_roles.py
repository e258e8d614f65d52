"""Tracker, fluoroscope and pump roles: what they accept, what they refuse, and that stop wins."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from sacroplasty.devices.fluoroscope import FluoroscopeRole
from sacroplasty.devices.freshness import Freshness
from sacroplasty.devices.link import Client, Received, Server
from sacroplasty.devices.messages import Command, CommandReply, Image, String, TrackedTool, TrackingData, Transform
from sacroplasty.devices.pump import PumpRole
from sacroplasty.devices.pump_protocol import PROTOCOL, Order, PumpState, parse_answer, parse_order, parse_state
from sacroplasty.devices.tracker import TrackerRole
from sacroplasty.errors import DeviceError, ImageError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.simulation.pump import PumpMachine, Syringe
from sacroplasty.simulation.world import PumpModel, Trocar

OK = {"TransformStatus": "OK", "TransformValid": "true"}
RNG = np.random.default_rng(3)


def unconnected() -> Client:
    return Client(port=9)


def jittered() -> np.ndarray:
    return rigid(rotation_about([0, 0, 1], 30), RNG.normal([1, 2, 3], 0.1))


def feed(role, message, received_s):
    role.handle(Received(message, received_s, 0))


def test_a_pose_is_used_only_as_long_as_it_is_fresh():
    role = TrackerRole(unconnected())
    assert role.pose("StylusToTracker", 0.0).matrix is None
    matrix = jittered()
    feed(role, Transform("StylusToTracker", matrix, timestamp_s=1000.0, metadata=OK), 10.0)
    pose = role.pose("StylusToTracker", 10.05)
    np.testing.assert_array_equal(pose.matrix, matrix)
    assert pose.age_s == pytest.approx(0.05) and pose.reason == ""
    pose = role.pose("StylusToTracker", 10.11)
    assert pose.matrix is None and "old" in pose.reason


@pytest.mark.parametrize("timestamp_s", [1000.0, 0.0])
def test_the_time_on_the_line_belongs_to_the_age(timestamp_s):
    role = TrackerRole(unconnected())
    message = Transform("StylusToTracker", jittered(), timestamp_s=timestamp_s, metadata=OK)
    role.handle(Received(message, 10.0, 0, delay_s=0.08))
    assert role.pose("StylusToTracker", 10.015).age_s == pytest.approx(0.095)
    assert role.pose("StylusToTracker", 10.015).matrix is not None
    assert role.pose("StylusToTracker", 10.025).matrix is None
    fluoroscope = FluoroscopeRole(unconnected())
    picture = Image("Image_Detector", np.ones((1, 4, 4)), timestamp_s=timestamp_s, metadata={"Geometry": "{}"})
    fluoroscope.handle(Received(picture, 10.0, 0, delay_s=0.39))
    assert fluoroscope.view("Image_Detector", 10.005).frame is not None
    assert fluoroscope.view("Image_Detector", 10.015).frame is None


@pytest.mark.parametrize(
    ("metadata", "matrix", "words"),
    [
        ({"TransformStatus": "MISSING", "TransformValid": "false"}, np.eye(4), "missing"),
        ({"TransformStatus": "OUT_OF_VIEW"}, np.eye(4), "out of view"),
        ({"TransformValid": "false"}, np.eye(4), "invalid"),
        ({}, np.eye(4), "without TransformStatus"),
        (OK, np.full((4, 4), np.nan), "NaN"),
        (OK, np.diag([1.1, 1, 1, 1]), "not rigid"),
        (OK, np.diag([-1.0, 1, 1, 1]), "left-handed"),
    ],
)
def test_a_pose_that_is_not_ok_is_no_pose(metadata, matrix, words):
    role = TrackerRole(unconnected())
    feed(role, Transform("StylusToTracker", matrix, timestamp_s=1.0, metadata=metadata), 10.0)
    pose = role.pose("StylusToTracker", 10.0)
    assert pose.matrix is None and words in pose.reason


def test_a_pose_that_hangs_delays_or_repeats_its_time_stamp_is_no_pose():
    frozen, late, stale = (TrackerRole(unconnected()) for _ in range(3))
    still = jittered()
    for tick in range(120):
        now_s = 10 + tick / 60
        hangs = still if tick >= 60 else jittered()
        feed(frozen, Transform("T", hangs, timestamp_s=1000 + tick / 60, metadata=OK), now_s)
        assert (frozen.pose("T", now_s).matrix is not None) == (tick <= 66), "the very same for a tenth of a second"
        lag_s = 0.0 if tick < 60 else 0.4
        feed(late, Transform("T", jittered(), timestamp_s=1000 + tick / 60 - lag_s + 0.0, metadata=OK), now_s)
        stamp_s = 1000 + min(tick, 60) / 60
        feed(stale, Transform("T", jittered(), timestamp_s=stamp_s, metadata=OK), now_s)
        if tick == 59:
            assert all(role.pose("T", now_s).matrix is not None for role in (frozen, late, stale))
    assert "hang" in frozen.pose("T", now_s).reason
    assert late.pose("T", now_s).matrix is None and late.pose("T", now_s).age_s == pytest.approx(0.4, abs=0.01)
    assert stale.pose("T", now_s).matrix is None


def test_tracking_data_and_plain_senders_are_accepted_knowingly():
    role = TrackerRole(unconnected(), require_status=False)
    feed(role, TrackingData("Tools", (TrackedTool("StylusToTracker", jittered()),)), 10.0)
    assert role.pose("StylusToTracker", 10.0).matrix is not None


@pytest.mark.parametrize("together", [True, False])
def test_two_tools_that_send_under_one_name_are_no_pose(together):
    role = TrackerRole(unconnected(), require_status=False)
    for tick in range(20):
        here, there = jittered(), rigid(np.eye(3), [150, 0, 0]) @ jittered()
        if together:
            # One message with one time stamp for both.
            tools = (TrackedTool("StylusToTracker", here), TrackedTool("StylusToTracker", there))
            feed(role, TrackingData("Tools", tools, timestamp_s=1 + tick / 60), 10 + tick / 60)
        else:
            pose = there if tick % 2 else here
            feed(role, Transform("StylusToTracker", pose, timestamp_s=1 + tick / 60), 10 + tick / 60)
    pose = role.pose("StylusToTracker", 10 + 19 / 60)
    assert pose.matrix is None
    assert pose.reason == "two tools send as StylusToTracker: give each its own name"


def test_samples_are_recorded_for_a_calibration_without_the_bad_ones():
    role = TrackerRole(unconnected())
    role.record(True)
    for tick in range(10):
        status = OK if tick % 2 else {"TransformStatus": "MISSING"}
        feed(role, Transform("T", jittered(), timestamp_s=1 + tick / 60, metadata=status), tick / 60)
    assert len(role.recorded("T")) == 5 and role.recorded("Other") == []


def test_a_clock_that_is_set_is_followed():
    freshness = Freshness()
    for tick in range(10):
        freshness.observe(5000 + tick * 0.1, 10 + tick * 0.1)
    assert freshness.observe(1400, 11.0) and freshness.age_s(11.0) == pytest.approx(0)


def frame_message(pixels, stamp_s, **metadata):
    record = {
        "Geometry": '{"source_to_detector_mm": 1020}',
        "AirLevel": "60000.5",
        "FrameRate": "5",
        "FrameNumber": "7",
    }
    return Image("Image_Detector", pixels, timestamp_s=stamp_s, metadata=record | metadata)


def test_a_frame_lives_for_two_periods_and_must_change():
    role = FluoroscopeRole(unconnected())
    pixels = RNG.integers(0, 9999, (1, 8, 8), dtype=np.uint16)
    feed(role, frame_message(pixels, 1.0), 10.0)
    view = role.view("Image_Detector", 10.39)
    assert view.frame is not None and view.frame.air_level == 60000.5 and view.frame.number == 7
    assert view.frame.geometry == {"source_to_detector_mm": 1020}
    assert role.view("Image_Detector", 10.41).frame is None
    feed(role, frame_message(pixels, 1.2), 10.2)
    assert "frozen" in role.view("Image_Detector", 10.2).reason
    feed(role, frame_message(pixels + np.uint16(1), 1.4, Geometry="{"), 10.4)
    assert "without its geometry" in role.view("Image_Detector", 10.4).reason
    assert role.view("Image_Detector2", 10.4).frame is None
    assert [frame.timestamp_s for frame in role.take_frames()] == [1.0, 1.2, 1.4] and role.take_frames() == []


def test_frames_are_corrected_and_one_that_cannot_be_has_no_geometry():
    role = FluoroscopeRole(unconnected())
    role.correct = lambda pixels: pixels[::-1]
    pixels = RNG.integers(0, 9999, (1, 8, 8), dtype=np.uint16)
    feed(role, frame_message(pixels, 1.0), 10.0)
    assert np.array_equal(role.view("Image_Detector", 10.1).frame.pixels, pixels[0, ::-1])

    def refuse(pixels):
        raise ImageError("other proportions")

    role.correct = refuse
    feed(role, frame_message(pixels + np.uint16(1), 1.2), 10.2)
    assert role.view("Image_Detector", 10.2).frame is None
    assert "other proportions" in role.view("Image_Detector", 10.2).reason
    assert [frame.geometry is None for frame in role.take_frames()] == [False, True]


class Bench:
    """A pump machine behind a real server and a role in front of it, with time that a test turns."""

    def __init__(self, speed: float = 1.0, session: str = "controller") -> None:
        self.server = Server(port=0)
        self.machine = PumpMachine(PumpModel(), Trocar(np.eye(4)), speed)
        self.client = Client(port=self.server.port, silence_s=None)
        self.role = PumpRole(self.client, session)
        self.now_s = 100.0
        self.deaf = False
        self.acted: list[str] = []
        self._told_s = 0.0
        self.run_for(0.3)

    def run_for(self, seconds: float, heartbeat: bool = True) -> None:
        for _ in range(round(seconds / 0.01)):
            self.now_s += 0.01
            if heartbeat:
                self.role.poll(self.now_s)
            for _ in range(3):
                for item in self.server.poll(self.now_s):
                    if isinstance(item.message, Command) and not self.deaf:
                        self.acted.append(item.message.command)
                        answer = self.machine.order(item.message.text, item.peer, self.now_s)
                        if answer is not None:
                            number, name = item.message.command_id, item.message.command
                            reply = CommandReply("Pump", command_id=number, command=name, text=answer.text())
                            self.server.send(reply, to=item.peer)
                self.server.flush(self.now_s)
            self.machine.tick(self.now_s)
            if self.now_s - self._told_s >= 0.1:
                self._told_s = self.now_s
                self.server.send(
                    String("PumpState", self.machine.told().text(), timestamp_s=self.now_s), replaceable=True
                )
            time.sleep(0.0002)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def accepted(bench):
    return {answer.command: answer.code for answer in bench.role.take_answers()}


def test_the_pump_delivers_what_was_ordered_and_then_holds(bench):
    assert bench.role.reading(bench.now_s).ready
    bench.role.run(0.1, 0.5, 2500, bench.now_s)
    bench.run_for(0.1)
    assert accepted(bench) == {"run": "not-armed"}
    bench.role.arm(bench.now_s)
    bench.run_for(0.1)
    bench.role.run(0.1, 0.5, 2500, bench.now_s)
    bench.run_for(0.2)
    assert accepted(bench) == {"arm": "ok", "run": "ok"}
    assert bench.machine.state == "running"
    bench.run_for(12)
    assert bench.machine.state == "holding"
    reading = bench.role.reading(bench.now_s)
    assert reading.ready and reading.state.state == "holding"
    assert bench.machine.syringe.displaced_ml == pytest.approx(0.5, abs=1e-6)
    # The line still holds some: a shear-thinning paste creeps out ever more slowly.
    assert 0.4 < bench.machine.syringe.out_ml < 0.5
    assert reading.state.delivered_ml == pytest.approx(bench.machine.syringe.out_ml, abs=0.01)


def running(bench):
    bench.role.arm(bench.now_s)
    bench.run_for(0.05)
    bench.role.run(0.2, 5.0, 2500, bench.now_s)
    bench.run_for(1.0)
    assert bench.machine.state == "running"


def test_stop_is_latched_and_outlives_everything_but_a_reset(bench):
    running(bench)
    bench.role.stop(bench.now_s)
    bench.run_for(0.3)
    assert bench.machine.state == "stopped" and not bench.role.stop_pending
    out_ml = bench.machine.syringe.out_ml
    bench.role.take_answers()
    bench.role.run(0.2, 1.0, 2500, bench.now_s)
    bench.role.arm(bench.now_s)
    bench.run_for(1.0)
    assert accepted(bench) == {"run": "latched", "arm": "latched"}
    assert bench.machine.syringe.out_ml - out_ml < 0.05, "the screw backs off, so that little flows on"
    bench.role.reset(bench.now_s)
    bench.run_for(0.1)
    assert accepted(bench) == {"reset": "ok"} and bench.machine.state == "idle"


def test_the_pump_stops_by_itself_300_ms_after_the_last_heartbeat(bench):
    running(bench)
    bench.run_for(0.19, heartbeat=False)
    assert bench.machine.state == "running"
    bench.run_for(0.13, heartbeat=False)
    assert bench.machine.state == "stopped" and bench.machine.told().fault == "dead-man"


def test_orders_lost_on_the_way_are_repeated_and_act_once(bench):
    bench.role.arm(bench.now_s)
    bench.run_for(0.05)
    bench.deaf = True
    bench.role.run(0.2, 1.0, 2500, bench.now_s)
    bench.run_for(0.1)
    bench.deaf = False
    bench.run_for(0.3)
    assert accepted(bench)["run"] == "ok" and bench.machine.state == "running"
    goal_ml = bench.machine._now.goal_ml
    repeated = Order(
        "run",
        "controller",
        bench.machine._now.sequence,
        {"rate_ml_s": 0.2, "volume_ml": 1.0, "pressure_limit_kpa": 2500},
    )
    assert bench.machine.order(repeated.text(), 1, bench.now_s).accepted
    assert bench.machine._now.goal_ml == goal_ml


def test_an_unanswered_order_is_reported_and_a_stop_is_repeated_until_it_is_confirmed(bench):
    running(bench)
    bench.deaf = True
    bench.role.hold(bench.now_s)
    bench.run_for(0.15)
    bench.role.stop(bench.now_s)
    bench.run_for(0.05)
    assert bench.role.stop_pending and bench.machine.state == "running"
    assert accepted(bench)["hold"] == "latched"
    bench.deaf = False
    bench.run_for(0.2)
    assert bench.machine.state == "stopped" and not bench.role.stop_pending


def test_a_run_sent_before_a_stop_but_arriving_after_it_does_nothing():
    machine = PumpMachine(PumpModel(), Trocar(np.eye(4)))
    numbers = {"rate_ml_s": 0.1, "volume_ml": 1.0, "pressure_limit_kpa": 2500.0}
    for sequence, command in enumerate(("hello", "arm"), start=1):
        assert machine.order(Order(command, "a", sequence, {}).text(), 1, 0.0).accepted
    machine.order(Order("stop", "a", 4, {}).text(), 1, 0.0)
    assert machine.order(Order("reset", "a", 5, {}).text(), 1, 0.0).accepted
    assert machine.order(Order("arm", "a", 6, {}).text(), 1, 0.0).accepted
    assert machine.order(Order("run", "a", 3, numbers).text(), 1, 0.0).code == "old-sequence"
    assert machine.state == "armed"


def test_anyone_can_stop_even_badly_but_only_the_controller_can_run():
    machine = PumpMachine(PumpModel(), Trocar(np.eye(4)))
    assert machine.order(Order("arm", "a", 1, {}).text(), 1, 0.0).code == "hello-first"
    assert machine.order(Order("hello", "a", 1, {}).text(), 1, 0.0).accepted
    assert machine.order(Order("hello", "b", 1, {}).text(), 2, 0.0).code == "occupied"
    assert machine.order(Order("hello", "a", 9, {}, protocol=PROTOCOL + 1).text(), 1, 0.0).code == "version"
    assert machine.order(Order("arm", "a", 2, {}).text(), 1, 0.0).accepted
    assert machine.order(Order("arm", "b", 3, {}).text(), 2, 0.0).code == "hello-first"
    machine.order('{"command": "stop", "sequence": "broken', 2, 0.0)
    assert machine.state == "stopped"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", "0", "true", '"1"', "null"])
def test_a_run_with_an_impossible_number_is_refused(number):
    text = Order("run", "a", 3, {"rate_ml_s": 0.1, "volume_ml": 1.0, "pressure_limit_kpa": 9.0}).text()
    with pytest.raises(DeviceError, match="positive rate_ml_s"):
        parse_order(text.replace('"rate_ml_s": 0.1', f'"rate_ml_s": {number}'))


def test_a_state_with_nan_is_no_state():
    text = PumpState(1, "idle", "", 0.0, 0.0, 1.0, 0.0, 0.0, "", 0).text()
    assert parse_state(text).state == "idle"
    for broken in ('"pressure_kpa": 0.0', '"state": "idle"', '"protocol": 1'):
        with pytest.raises(DeviceError):
            parse_state(text.replace(broken, broken.split(":")[0] + ": NaN"))
    with pytest.raises(DeviceError):
        parse_answer(json.dumps({"accepted": True}))


def test_limits_stop_the_pump():
    for field, fault in (({"largest_pressure_kpa": 50.0}, "stall"), ({"syringe_ml": 0.2}, "empty")):
        machine = PumpMachine(PumpModel(**field), Trocar(np.eye(4)))
        machine.order(Order("hello", "a", 1, {}).text(), 1, 0.0)
        machine.order(Order("arm", "a", 2, {}).text(), 1, 0.0)
        limit = min(50.0, machine._model.largest_pressure_kpa) if fault == "stall" else 2500.0
        numbers = {"rate_ml_s": 0.2, "volume_ml": 5.0, "pressure_limit_kpa": limit}
        assert machine.order(Order("run", "a", 3, numbers).text(), 1, 0.0).accepted
        for tick in range(1000):
            machine.order(Order("heartbeat", "a", 3, {}).text(), 1, tick * 0.01)
            machine.tick(tick * 0.01)
        assert machine.told().fault == fault
    numbers["rate_ml_s"] = 99.0
    machine.order(Order("reset", "a", 4, {}).text(), 1, 10.0)
    machine.order(Order("arm", "a", 5, {}).text(), 1, 10.0)
    assert machine.order(Order("run", "a", 6, numbers).text(), 1, 10.0).code == "limit"


@pytest.mark.parametrize(("fault", "moves"), [("ignore_run", False), ("run_after_stop", True)])
def test_a_defective_pump_lies_in_its_state_and_shows_it_in_its_volume(fault, moves):
    machine = PumpMachine(PumpModel(), Trocar(np.eye(4)))
    setattr(machine, fault, True)
    for sequence, command in enumerate(("hello", "arm"), start=1):
        machine.order(Order(command, "a", sequence, {}).text(), 1, 0.0)
    numbers = {"rate_ml_s": 0.1, "volume_ml": 1.0, "pressure_limit_kpa": 2500.0}
    machine.tick(0.0)
    assert machine.order(Order("run", "a", 3, numbers).text(), 1, 0.0).state == "running"
    machine.tick(0.1)
    assert machine.told().state == "running"
    if moves:
        machine.order(Order("stop", "a", 4, {}).text(), 1, 0.1)
        machine.tick(0.2)
        assert machine.told().state == "stopped" and machine.told().rate_ml_s == 0.0
    before_ml = machine.syringe.displaced_ml
    machine.order(Order("heartbeat", "a", 4, {}).text(), 1, 0.2)
    machine.tick(0.3)
    assert (machine.syringe.displaced_ml > before_ml) == moves


def test_the_line_obeys_the_law_of_the_pipe():
    """At steady flow the pressure is that of a power-law fluid in the cannula, worked out here by hand."""
    model = PumpModel()
    syringe = Syringe(model, Trocar(np.eye(4)))
    for _ in range(12000):
        syringe.turn(0.05, 0.005)
        if syringe.displaced_ml > 3:
            break
    radius_m, length_m, n, flow = 2.388e-3 / 2, 0.15, model.flow_index, 0.05e-6
    shear = (3 * n + 1) / n * flow / (np.pi * radius_m**3)
    expected_kpa = 2 * model.consistency_pa_sn * length_m / radius_m * shear**n / 1000
    assert syringe.pressure_kpa == pytest.approx(expected_kpa, rel=0.01)
    assert syringe.displaced_ml - syringe.out_ml == pytest.approx(expected_kpa * model.compliance_ml_kpa, rel=0.01)


def test_the_pump_runs_faster_in_a_fast_world_but_its_dead_man_does_not():
    bench = Bench(speed=10)
    running(bench)
    assert bench.machine.syringe.displaced_ml > 1.5
    bench.run_for(0.35, heartbeat=False)
    assert bench.machine.told().fault == "dead-man"
    bench.close()
