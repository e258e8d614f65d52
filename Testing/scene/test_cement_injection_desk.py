"""The cement table: nothing flows unless everything is known and a person holds the button."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sacroplasty.cement.monitor import MonitorReading
from sacroplasty.devices.fluoroscope import Frame as DetectorFrame
from sacroplasty.devices.fluoroscope import View
from sacroplasty.devices.link import Server
from sacroplasty.devices.messages import Sensor
from sacroplasty.devices.pump import PumpReading
from sacroplasty.devices.pump_protocol import Answer, PumpState
from sacroplasty.errors import AnatomyError, DeviceError, PlanError
from sacroplasty.procedure.case import PlacedTrocar
from sacroplasty.procedure.journal import read_journal
from sacroplasty.procedure.recovery import unclosed
from sacroplasty.scene import anatomy, cement, injection_chart, injection_desk, nodes, planning, spread, spread_watch
from sacroplasty.scene.in_use import mark
from sacroplasty.scene.monitor_page import RECORD_NAME as MONITOR_NAME
from sacroplasty.scene.navigation import REGISTRATION_NAME, show_trocar
from sacroplasty.scene.records import read_record, write_record
from sacroplasty.scene.volume_meter import metered_volumes
from sacroplasty.xray.geometry import CArm
from sacroplasty.xray.project import attenuation_from_hu, line_integrals
from scene.simple_case import make_anatomy, make_ct, make_plan

WORKING_S = 300.0


class Pump:
    """A pump that obeys at once; `orders` is what it was told."""

    def __init__(self):
        self.orders = []
        self.state, self.delivered_ml, self.age_s, self.fault = "idle", 0.0, 0.0, ""
        self.answers = []
        self.client = SimpleNamespace(connected=True)
        self.alarm = ""

    def reading(self, now_s):
        state = PumpState(1, self.state, self.fault, self.delivered_ml, 0.0, 10.0, 500.0, 0.0, "test", 1)
        return PumpReading(
            self.age_s < 0.3, state, self.age_s, "" if self.age_s < 0.3 else "the state is old", self.alarm
        )

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

    def withdraw(self, volume_ml, now_s):
        self._told("withdraw", "holding")

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


@pytest.fixture
def devices():
    return Devices()


@pytest.fixture
def desk(scene, devices, tmp_path):
    planning.show_plan(scene, make_plan(make_ct()))
    registration = {"error_mm": 1.0, "rms_mm": 0.5, "residuals_mm": {}}
    write_record(scene, REGISTRATION_NAME, registration)
    mark(scene, REGISTRATION_NAME, registration)
    made = injection_desk.InjectionDesk(scene, devices, 0.0, 1000.0, tmp_path)
    made.mix(0.0, 1000.0)
    return made


class Monitor:
    """A spread monitor that says what it is told to."""

    views = ("Image_Detector",)
    zones = tip_ras = None

    def __init__(self):
        self.level, self.time_s = "none", 0.0

    def update(self, frames, now_s, *given):
        level = None if self.level == "none" else self.level
        health = "late (Image_Detector)" if level == "blind" or now_s - self.time_s > 0.4 else "ok"
        warnings = ("bone",) if level == "warning" else ()
        return MonitorReading(now_s, 0.5, 0.1, 0.9, health, level, level == "leak", (), warnings=warnings)


def see(desk, now_s, level="none"):
    desk.watch._monitor = desk.watch._monitor or Monitor()
    desk.watch._monitor.level, desk.watch._monitor.time_s = level, now_s


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
    restored = injection_desk.InjectionDesk(scene, Devices(), 5000.0, 1000.0 + 360.0)
    readout = restored.readout(5000.0)
    assert readout.age_s == pytest.approx(360.0)
    assert readout.given_ml["left"] == pytest.approx(0.4)
    assert cement.given_ml(scene) == {"left": pytest.approx(0.4)}


def test_views_are_learned_from_frames_without_cement_and_then_watched(scene, desk, devices):
    ct = make_ct()
    ct_node = nodes.add_volume(scene, ct, "CT")
    anatomy.show_anatomy(scene, make_anatomy(ct), ct_node)
    planning.show_plan(scene, make_plan(ct))
    desk.learn_views(0.0)
    assert desk.readout(0.0).banner_text == "learning the views: hold still"
    geometry = CArm().pose([-38.0, -15, 0], [0, 1, 0], [0, 0, 1]).resampled(128)
    rng = np.random.default_rng(1)
    through = line_integrals(ct.like(attenuation_from_hu(ct.voxels)), geometry)

    def expose(time_s):
        pixels = rng.poisson(4000 * np.exp(through.min() - through)).astype(np.uint16)
        frame = DetectorFrame("Image_Detector", pixels, geometry.to_dict(), 4000.0, 5.0, None, time_s, time_s)
        devices.frames.append(frame)

    for turn in range(25):
        expose(0.2 * turn)
        desk.tick(0.2 * turn, False)
    readout = desk.readout(0.2 * turn)
    assert readout.banner == "none" and "mL seen" in readout.banner_text
    desk.tick(0.2 * turn + 1.0, False)
    assert desk.readout(0.2 * turn + 1.0).banner == "blind"


def test_views_cannot_be_learned_without_a_segmented_ct(desk):
    with pytest.raises(AnatomyError, match="needs the segmented CT"):
        desk.learn_views(0.0)


def test_what_the_pump_refuses_is_shown_with_its_reason(desk, devices):
    devices.pump.answers = [Answer(3, "run", False, "limit", "the pump bears at most 3000 kPa", "armed")]
    desk.tick(0.1, False)
    assert desk.readout(0.1).reason == "the pump refuses to run: the pump bears at most 3000 kPa"
    desk.tick(0.2, False, "arm")
    assert "refuses" not in desk.readout(0.2).reason


def test_the_pressure_asked_for_is_one_that_the_simulated_pump_bears():
    from sacroplasty.procedure.conduct import PRESSURE_LIMIT_KPA
    from sacroplasty.simulation.world import PumpModel

    assert PumpModel().largest_pressure_kpa > PRESSURE_LIMIT_KPA


def orders(folder):
    (path,) = folder.glob("injection-*.jsonl")
    return [one["command"] for one in read_journal(path) if one["event"] == "order"]


def flow(desk, devices, until_ml, now=WORKING_S + 0.1):
    """Hold the button until so much is given; returns the time."""
    while desk.readout(now).given_ml["left"] < until_ml:
        now += 0.1
        see(desk, now)
        desk.tick(now, True)
        devices.pump.delivered_ml += 0.01 * (devices.pump.state == "running")
    return now


def test_every_order_is_in_the_journal_of_the_case(desk, devices, tmp_path):
    armed(desk)
    now = flow(desk, devices, 0.3)
    desk.stop(now)
    assert orders(tmp_path) == ["arm", "run"], "and the stop as an event of its own"
    desk.close(now)
    (path,) = tmp_path.glob("injection-*.jsonl")
    events = [one["event"] for one in read_journal(path)]
    assert events[0] == "session_started" and events[-1] == "session_closed" and "stop" in events
    assert "cement_mixed" in events and "injection_armed" in events and "progress" in events


def test_looking_at_the_page_writes_nothing(scene, tmp_path):
    planning.show_plan(scene, make_plan(make_ct()))
    desk = injection_desk.InjectionDesk(scene, Devices(), 0.0, 1000.0, tmp_path / "journals")
    desk.tick(1.0, False)
    desk.close(2.0)
    assert not (tmp_path / "journals").exists()


def test_without_a_journal_nothing_is_armed(scene, devices):
    planning.show_plan(scene, make_plan(make_ct()))
    registration = {"error_mm": 1.0, "rms_mm": 0.5, "residuals_mm": {}}
    write_record(scene, REGISTRATION_NAME, registration)
    mark(scene, REGISTRATION_NAME, registration)
    desk = injection_desk.InjectionDesk(scene, devices, 0.0, 1000.0)
    see(desk, 0.1)
    desk.tick(0.1, False, "arm")
    assert devices.pump.orders == [] and "no journal is kept" in desk.readout(0.1).reason


def test_a_killed_session_is_taken_over_and_nothing_is_armed_before_that_is_decided(scene, desk, devices, tmp_path):
    armed(desk)
    now = flow(desk, devices, 0.4)
    # The program is killed here: nothing is closed, and the scene was saved before the injection.
    scene.RemoveNode(scene.GetFirstNodeByName(cement.RECORD_NAME))
    after = injection_desk.InjectionDesk(scene, Devices(), 9000.0, 1000.0 + now + 60.0, tmp_path)
    assert "ended without being closed" in after.readout(9000.0).earlier_text
    see(after, 9000.1)
    after.tick(9000.1, False, "arm")
    assert after.readout(9000.1).injection == "prepare" and "first decide" in after.readout(9000.1).reason
    after.take_up(9000.2, 1000.0 + now + 60.2)
    readout = after.readout(9000.2)
    assert readout.injection == "stopped" and readout.given_ml["left"] == pytest.approx(0.4, abs=0.06)
    assert readout.age_s == pytest.approx(now + 60.2, abs=0.5)
    assert cement.given_ml(scene)["left"] == readout.given_ml["left"] and cement.was_stopped(scene)
    again = injection_desk.InjectionDesk(scene, Devices(), 9001.0, 1000.0 + now + 61.0, tmp_path)
    assert again.earlier.path == after._session._journal.path, "now it is that one which was not closed"


def test_a_killed_session_of_another_patient_is_left(scene, desk, devices, tmp_path):
    armed(desk)
    flow(desk, devices, 0.4)
    other = injection_desk.InjectionDesk(scene, Devices(), 9000.0, 5000.0, tmp_path)
    other.leave_earlier(9000.0)
    assert other.readout(9000.0).earlier_text == ""
    assert read_journal(desk._session._journal.path)[-1]["event"] == "session_left"


def test_a_journal_that_moves_to_another_folder_leaves_nothing_unclosed(desk, tmp_path):
    armed(desk)
    desk.keep_journals(tmp_path / "elsewhere")
    assert desk.earlier is None and unclosed(tmp_path) is None
    desk.stop(WORKING_S + 1.0)
    (path,) = (tmp_path / "elsewhere").glob("injection-*.jsonl")
    assert read_journal(path)[-1]["event"] == "stop"


def test_a_disk_that_is_full_stops_the_pump(desk, devices, monkeypatch):
    armed(desk)
    now = flow(desk, devices, 0.2)

    def full(*arguments, **facts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(desk._session._journal, "write", full)
    for _ in range(10):
        now += 0.1
        see(desk, now)
        desk.tick(now, True)
        devices.pump.delivered_ml += 0.01 * (devices.pump.state == "running")
    assert devices.pump.orders[-1] == "stop"
    readout = desk.readout(now)
    assert "No space left" in readout.journal_text and readout.alarms.gravest is not None


def test_depots_and_the_note_of_an_abort_are_kept_in_the_scene(scene, desk, devices):
    armed(desk)
    now = flow(desk, devices, 0.5)
    desk.tick(now + 0.1, True, "withdraw")
    assert devices.pump.orders[-2:] == ["hold", "withdraw"] or devices.pump.orders[-1] == "hold"
    desk.watch._monitor = None
    desk.tick(now + 0.2, False, "withdrawn", withdrawn_mm=5.0)
    desk.tick(now + 0.3, False, "abort", note="enough")
    record = read_record(scene, cement.RECORD_NAME)
    assert record["depots"]["left"] == [[0.0, pytest.approx(0.5, abs=0.02)], [5.0, pytest.approx(0.0, abs=0.02)]]
    assert record["notes"]["left"] == "enough"
    desk.choose("left", now + 0.4)
    assert desk.readout(now + 0.4).injection == "stopped", "a new beginning needs a reset"


def test_curves_are_in_the_scene_as_a_table_and_a_chart(scene, desk, devices):
    armed(desk)
    now = flow(desk, devices, 0.5)
    for _ in range(2):
        desk.tick(now + 0.1, False)
        now = flow(desk, devices, 0.8, now + 0.2)
    desk.stop(now)
    see(desk, now)
    desk.tick(now, False)
    table = nodes.first_node(scene, "vtkMRMLTableNode", injection_chart.TABLE_NAME)
    columns = [table.GetTable().GetColumn(at) for at in range(table.GetNumberOfColumns())]
    assert [column.GetName() for column in columns][:2] == ["time (s)", "given (mL)"]
    assert columns[1].GetValue(columns[1].GetNumberOfValues() - 1) >= 0.5
    charts = [scene.GetNthNodeByClass(at, "vtkMRMLPlotChartNode").GetName() for at in range(2)]
    assert sorted(charts) == [injection_chart.TABLE_NAME, MONITOR_NAME], "each once, however often written"
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") == 3 + 4
    chart = scene.GetFirstNodeByName(injection_chart.TABLE_NAME)
    assert chart is not None


def test_the_tip_goes_back_along_the_trocar_that_was_placed(scene, desk):
    planned = planning.chosen(planning.plan_of(scene))["left"]
    back = spread_watch.tip_ras(scene, "left", 7.0)
    assert np.linalg.norm(back - planned.target) == pytest.approx(7.0)
    assert np.linalg.norm(back - planned.entry_skin) < np.linalg.norm(planned.target - planned.entry_skin)
    tip = planned.target + np.array([3.0, 0.0, 0.0])
    show_trocar(scene, "left", PlacedTrocar(tip, tip + np.array([0.0, -90.0, 0.0]), 3.0, 1.0, 1.0), planned)
    assert spread_watch.tip_ras(scene, "left", 7.0) == pytest.approx(tip + np.array([0.0, -7.0, 0.0]))
    with pytest.raises(PlanError, match="right side"):
        spread_watch.tip_ras(scene, "right", 0.0)


def test_a_prediction_is_told_only_for_the_tip_and_volume_that_it_was_made_for(scene, desk):
    planned = planning.chosen(planning.plan_of(scene))["left"]
    assert desk.readout(0.0).spread_text == ""
    depot = {"position_ras": planned.target, "volume_ml": planned.planned_volume_ml, "note": ""}
    pressure = {"begin_kpa": 300.0, "end_kpa": 900.0, "text": ""}
    found = {
        "room_ml": 20.0,
        "in_plan_fraction": 1.0,
        "members": 32,
        "any_leak": 0.25,
        "pressure": pressure,
        "risks": [],
    }
    write_record(scene, spread.RECORD_NAME, {"left": {"depots": [depot], **found}})
    assert desk.readout(0.0).spread_text == "leak in 25% of 32 runs" and desk._likely_way() == ""
    vein = {"route": "venous", "probability": 0.2, "interval": [0.1, 0.4], "earliest_ml": 1.0, "distance_mm": None}
    found["risks"] = [vein | {"volume_at_risk_ml": None}]
    write_record(scene, spread.RECORD_NAME, {"left": {"depots": [depot], **found}})
    assert desk._likely_way() == "Venous (in 20% of 32 runs)"
    tip = planned.target + np.array([3.0, 0.0, 0.0])
    show_trocar(scene, "left", PlacedTrocar(tip, tip + np.array([0.0, -90.0, 0.0]), 3.0, 1.0, 1.0), planned)
    assert desk.readout(0.0).spread_text == "of another tip, volume or segmentation: predict again"
    assert desk._likely_way() == ""


def test_by_hand_the_pump_is_never_spoken_to(desk, devices):
    desk.choose("left", 1.0, replace(desk.technique, delivery="manual"))
    with pytest.raises(PlanError, match="one syringe"):
        desk.enter_volume(5.0, 1.0)
    desk.read_temperature(22.0, WORKING_S)
    see(desk, WORKING_S)
    desk.tick(WORKING_S, False, "arm")
    desk.tick(WORKING_S, False, "start")
    assert desk.readout(WORKING_S).instruction.startswith("Inject 1.0 mL")
    desk.enter_volume(0.7, WORKING_S)
    desk.tick(WORKING_S, False)
    assert desk.readout(WORKING_S).given_ml["left"] == pytest.approx(0.7)
    assert desk.stop(WORKING_S)
    assert desk.readout(WORKING_S).instruction == "STOP INJECTING" and devices.pump.orders == []
    desk.choose("left", WORKING_S, replace(desk.technique, delivery="pump"))
    with pytest.raises(PlanError, match="by hand"):
        desk.enter_volume(0.5, WORKING_S)


@pytest.mark.parametrize("address", ["somewhere", "host:", ":1", "host:70000"])
def test_an_address_of_a_meter_that_is_none_is_refused(address):
    with pytest.raises(DeviceError, match="no address of a scale"):
        metered_volumes(address)


def test_a_syringe_that_is_being_emptied_tells_the_monitor_no_volume(desk, monkeypatch):
    told = []
    watch = desk.watch.tick
    monkeypatch.setattr(desk.watch, "tick", lambda *told_now: told.append(told_now) or watch(*told_now))
    desk.choose("left", 1.0, replace(desk.technique, delivery="manual"))
    armed(desk)
    desk.tick(WORKING_S + 0.1, False, "start")
    desk.tick(WORKING_S + 0.2, False)
    assert desk.readout(WORKING_S + 0.2).injection == "injecting"
    assert [counted for _, _, counted, _ in told][-3:] == [True, True, False]
    desk.enter_volume(1.0, WORKING_S + 0.3)
    for number in range(3):
        see(desk, WORKING_S + 0.4 + 0.1 * number)
        desk.tick(WORKING_S + 0.4 + 0.1 * number, False)
    assert told[-1][1:] == (1.0, True, 0.0)


def test_a_meter_over_openigtlink_counts_by_hand(desk):
    server = Server(0)
    meter = metered_volumes(f"127.0.0.1:{server.port}")
    end = time.monotonic() + 5.0
    while meter.read(time.monotonic()) is None:
        assert time.monotonic() < end
        server.poll(time.monotonic(), 0.01)
        server.send(Sensor("SyringeVolume", (1.25,)))
        server.flush(time.monotonic())
    assert meter.read(time.monotonic()).value == 1.25
    desk.choose("left", 1.0, replace(desk.technique, delivery="manual"))
    desk.use_volume_source(meter)
    with pytest.raises(PlanError, match="by hand"):
        desk.enter_volume(0.5, 1.0)
    meter.close()
    server.close()
