"""The cement table: nothing flows unless everything is known and a person holds the button."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sacroplasty.cement.monitor import MonitorReading
from sacroplasty.devices.fluoroscope import Frame as DetectorFrame
from sacroplasty.devices.fluoroscope import View
from sacroplasty.devices.pump import PumpReading
from sacroplasty.devices.pump_protocol import Answer, PumpState
from sacroplasty.errors import AnatomyError
from sacroplasty.scene import anatomy, cement, nodes, planning
from sacroplasty.scene.in_use import mark
from sacroplasty.scene.navigation import REGISTRATION_NAME
from sacroplasty.scene.records import write_record
from sacroplasty.xray.geometry import CArm
from scene.simple_case import make_anatomy, make_ct, make_plan

WORKING_S = 300.0


class Pump:
    """A pump that obeys at once; `orders` is what it was told."""

    def __init__(self):
        self.orders = []
        self.state, self.delivered_ml, self.age_s, self.fault = "idle", 0.0, 0.0, ""
        self.answers = []

    def reading(self, now_s):
        state = PumpState(1, self.state, self.fault, self.delivered_ml, 0.0, 10.0, 500.0, 0.0, "test", 1)
        return PumpReading(self.age_s < 0.3, state, self.age_s, "" if self.age_s < 0.3 else "the state is old")

    def take_answers(self):
        answers, self.answers = self.answers, []
        return answers

    def _told(self, order, state):
        self.orders.append(order)
        self.state = state

    def arm(self, now_s):
        self._told("arm", "armed")

    def run(self, rate_ml_s, volume_ml, pressure_limit_kpa, now_s):
        self._told("run", "running")

    def hold(self, now_s):
        self._told("hold", "holding")

    def stop(self, now_s):
        self._told("stop", "stopped")

    def reset(self, now_s):
        self._told("reset", "idle")


class Devices:
    """A desk of devices whose fluoroscope is live."""

    def __init__(self):
        self.pump = Pump()
        self.fluoroscope = SimpleNamespace(view=lambda plane, now_s: View(None, 0.0, True, ""))
        self.frames = []

    def take_frames(self):
        frames, self.frames = self.frames, []
        return frames

    def stop_pump(self, now_s):
        self.pump.stop(now_s)
        return True


@pytest.fixture
def devices():
    return Devices()


@pytest.fixture
def desk(scene, devices):
    planning.show_plan(scene, make_plan(make_ct()))
    registration = {"error_mm": 1.0, "residuals_mm": {}}
    write_record(scene, REGISTRATION_NAME, registration)
    mark(scene, REGISTRATION_NAME, registration)
    made = cement.CementDesk(scene, devices, 0.0, 1000.0)
    made.mix(0.0, 1000.0)
    return made


class Monitor:
    """A spread monitor that says what it is told to."""

    views = ("Image_Detector",)

    def __init__(self):
        self.level, self.time_s = "none", 0.0

    def update(self, frames, now_s):
        level = None if self.level == "none" else self.level
        health = "late (Image_Detector)" if level == "blind" or now_s - self.time_s > 0.4 else "ok"
        return MonitorReading(now_s, 0.5, 0.1, 0.9, health, level, level == "leak", ())


def see(desk, now_s, level="none"):
    desk._spread = desk._spread or Monitor()
    desk._spread.level, desk._spread.time_s = level, now_s


def armed(desk, now_s=WORKING_S):
    desk.read_temperature(22.0, now_s)
    see(desk, now_s)
    desk.tick(now_s, False, "arm")
    assert desk.readout(now_s).injection == "armed", desk.readout(now_s).reason


def test_cement_runs_while_the_button_is_held_and_halts_when_it_is_let_go(desk, devices):
    armed(desk)
    for step in range(20):
        now = WORKING_S + 0.1 * step
        see(desk, now)
        desk.tick(now, True)
        devices.pump.delivered_ml += 0.005 * (devices.pump.state == "running")
    assert devices.pump.orders == ["arm", "run"]
    see(desk, now + 0.1)
    desk.tick(now + 0.1, False)
    assert devices.pump.orders == ["arm", "run", "hold"]
    readout = desk.readout(now + 0.1)
    assert readout.injection == "holding" and readout.given_ml["left"] == pytest.approx(0.1)


def test_no_step_begins_by_itself(desk, devices):
    armed(desk)
    see(desk, WORKING_S + 0.1)
    desk.tick(WORKING_S + 0.1, True)
    see(desk, WORKING_S + 0.2)
    desk.tick(WORKING_S + 0.2, False)
    for second in range(1, 40):
        see(desk, WORKING_S + second)
        desk.tick(WORKING_S + second, False)
    assert devices.pump.orders == ["arm", "run", "hold"]
    assert "hold the button" in desk.readout(WORKING_S + 39).reason
    see(desk, WORKING_S + 40)
    desk.tick(WORKING_S + 40, True)
    assert devices.pump.orders[-1] == "run"


@pytest.mark.parametrize("fault", ["leak", "blind", "silent monitor", "old pump", "no registration"])
def test_anything_wrong_stops_the_pump_while_the_button_is_held(scene, desk, devices, fault):
    armed(desk)
    see(desk, WORKING_S + 0.1)
    desk.tick(WORKING_S + 0.1, True)
    assert devices.pump.state == "running"
    now = WORKING_S + 0.6
    if fault != "silent monitor":
        see(desk, now, fault if fault in ("leak", "blind") else "none")
    if fault == "old pump":
        devices.pump.age_s = 0.5
    if fault == "no registration":
        write_record(scene, REGISTRATION_NAME, {})
    desk.tick(now, True)
    assert devices.pump.orders[-1] == "stop"
    assert desk.readout(now).injection == "stopped" and cement.was_stopped(scene)


def test_without_monitor_or_devices_nothing_can_be_armed(scene, desk, devices):
    desk.tick(WORKING_S, False, "arm")
    assert devices.pump.orders == []
    assert "monitor" in desk.readout(WORKING_S).reason
    assert desk.readout(WORKING_S).banner == "blind"


def test_holding_the_button_before_the_cement_is_ready_moves_nothing(desk, devices):
    armed(desk, 100.0)
    see(desk, 100.1)
    desk.tick(100.1, True)
    assert devices.pump.orders == ["arm"]
    assert desk.readout(100.1).phase == "waiting"


def test_stop_comes_first_and_stays(desk, devices):
    armed(desk)
    assert desk.stop(WORKING_S + 0.1)
    see(desk, WORKING_S + 0.2)
    desk.tick(WORKING_S + 0.2, True)
    assert "run" not in devices.pump.orders and desk.readout(WORKING_S + 0.2).injection == "stopped"


def test_a_side_without_an_accepted_plan_gets_no_cement(desk, devices):
    desk.choose("right", WORKING_S)
    readout = desk.readout(WORKING_S)
    assert "no cement is planned for the right ala" in readout.reason and not readout.may_arm
    desk.tick(WORKING_S, True, "arm")
    assert devices.pump.orders == []


def test_a_restored_case_knows_the_age_and_the_volume(scene, desk, devices):
    armed(desk)
    see(desk, WORKING_S + 0.1)
    desk.tick(WORKING_S + 0.1, True)
    devices.pump.delivered_ml = 0.4
    see(desk, WORKING_S + 0.2)
    desk.tick(WORKING_S + 0.2, True)
    restored = cement.CementDesk(scene, Devices(), 5000.0, 1000.0 + 360.0)
    readout = restored.readout(5000.0)
    assert readout.age_s == pytest.approx(360.0)
    assert readout.given_ml["left"] == pytest.approx(0.4)
    assert cement.given_ml(scene) == {"left": pytest.approx(0.4)}


def test_views_are_learned_from_frames_without_cement_and_then_watched(scene, desk, devices):
    ct = make_ct()
    ct_node = nodes.add_volume(scene, ct, "CT")
    anatomy.show_anatomy(scene, make_anatomy(ct), ct_node)
    planning.show_plan(scene, make_plan(ct))
    desk.learn_views()
    assert desk.readout(0.0).banner_text == "learning the views: hold still"
    geometry = CArm().pose([-38.0, -15, 0], [0, 1, 0], [0, 0, 1]).resampled(128)
    rng = np.random.default_rng(1)

    def expose(time_s):
        pixels = rng.poisson(4000, (128, 128)).astype(np.uint16)
        frame = DetectorFrame("Image_Detector", pixels, geometry.to_dict(), 4000.0, 5.0, None, time_s, time_s)
        devices.frames.append(frame)

    for turn in range(12):
        expose(0.2 * turn)
        desk.tick(0.2 * turn, False)
    readout = desk.readout(0.2 * turn)
    assert readout.banner == "none" and "mL seen" in readout.banner_text
    desk.tick(0.2 * turn + 1.0, False)
    assert desk.readout(0.2 * turn + 1.0).banner == "blind"


def test_views_cannot_be_learned_without_a_segmented_ct(desk):
    with pytest.raises(AnatomyError, match="needs the segmented CT"):
        desk.learn_views()


def test_what_the_pump_refuses_is_shown_with_its_reason(desk, devices):
    devices.pump.answers = [Answer(3, "run", False, "limit", "the pump bears at most 3000 kPa", "armed")]
    desk.tick(0.1, False)
    assert desk.readout(0.1).reason == "the pump refuses to run: the pump bears at most 3000 kPa"
    devices.pump.answers = [Answer(4, "arm", True, "ok", "", "armed")]
    desk.tick(0.2, False)
    assert "refuses" not in desk.readout(0.2).reason


def test_the_pressure_asked_for_is_one_that_the_simulated_pump_bears():
    from sacroplasty.procedure.conduct import PRESSURE_LIMIT_KPA
    from sacroplasty.simulation.world import PumpModel

    assert PumpModel().largest_pressure_kpa > PRESSURE_LIMIT_KPA
