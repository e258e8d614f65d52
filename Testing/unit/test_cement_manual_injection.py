"""Injection by hand: the same machine, with words for a person and an alarm in place of a stop."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from sacroplasty.cement.injection import InjectionFacts, Prescription, begin, step
from sacroplasty.cement.interlock import Facts, Limits, Observed
from sacroplasty.cement.manual_injection import EnteredVolumes, ManualDelivery, WeighedVolumes
from sacroplasty.devices.link import Received
from sacroplasty.devices.messages import Sensor, String
from sacroplasty.devices.volume_meter import VolumeMeterRole
from sacroplasty.errors import PlanError

LIMITS = Limits()


class Table:
    """A person with syringes, ticked at 10 Hz."""

    def __init__(self, source=None, **prescription):
        self.source = source or EnteredVolumes()
        self.delivery = ManualDelivery(self.source)
        self.now_s = 0.0
        self.leak = False
        self.state = begin(Prescription("left", 3.0, delivery="manual", **prescription), LIMITS, 0.0)

    def tick(self, seconds=0.1, request=None):
        for _ in range(round(seconds / 0.1)):
            self.now_s += 0.1
            now = self.now_s
            told = self.delivery.facts(now)
            known = Facts(
                operator_stop=Observed(False, now),
                frames_changing={"ap": Observed(True, now)},
                monitor_healthy=Observed(True, now),
                leak=Observed(self.leak, now),
                cement_phase=Observed("working", now),
                registration_error_mm=Observed(1.0, now),
            )
            facts = InjectionFacts(known, told.volume_ml, told.state, concentricity=Observed(0.9, now), request=request)
            self.state, commands = step(self.state, facts, now)
            for command in commands:
                self.delivery.order(command, now)
            request = None

    def begun(self):
        self.tick(request="arm")
        self.tick(request="start")
        assert self.state.phase == "injecting", self.state.reason
        return self


def test_a_person_is_told_step_by_step_and_what_is_entered_counts():
    table = Table().begun()
    assert table.delivery.instruction == "Inject 1.0 mL slowly, then enter it"
    table.tick(30.0)
    assert table.state.phase == "injecting", "a person needs time"
    table.source.enter(0.6, table.now_s)
    table.tick(5.0)
    table.source.enter(0.4, table.now_s)
    table.tick(0.2)
    assert table.state.phase == "holding" and table.delivery.instruction == "Do not inject: wait"
    table.tick(21.0)
    assert table.state.phase == "injecting" and table.state.given_ml == pytest.approx(1.0)
    for _ in range(2):
        table.source.enter(1.0, table.now_s)
        table.tick(21.0)
    assert table.state.phase == "finished" and table.state.given_ml == pytest.approx(3.0)


def test_a_leak_is_told_at_the_same_tick():
    table = Table().begun()
    table.leak = True
    table.tick()
    assert table.state.phase == "stopped" and table.delivery.instruction == "STOP INJECTING"
    table.leak = False
    table.tick(30.0)
    assert table.delivery.instruction == "STOP INJECTING", "until a person resets it"


def test_limits_hold_for_syringes_too():
    table = Table().begun()
    table.source.enter(1.3, table.now_s)
    table.tick()
    assert table.state.phase == "stopped" and "volume of this step" in table.state.reason


def test_cement_given_during_the_pause_raises_the_alarm():
    table = Table().begun()
    table.source.enter(1.0, table.now_s)
    table.tick(2.0)
    table.source.enter(1.0, table.now_s)
    table.tick()
    assert table.state.phase == "stopped" and "more than ordered" in table.state.reason


def test_somebody_has_to_say_how_much_was_given():
    table = Table().begun()
    table.tick(59.0)
    assert table.state.phase == "injecting"
    table.tick(2.0)
    assert table.state.phase == "stopped" and "volume" in table.state.reason


@pytest.mark.parametrize("volume_ml", [0.0, -1.0, 1000.0, float("nan")])
def test_no_volume_that_a_syringe_cannot_give_is_entered(volume_ml):
    source = EnteredVolumes()
    with pytest.raises(PlanError, match="one syringe"):
        source.enter(volume_ml, 0.0)
    assert source.read(0.0).value == 0.0


def test_a_scale_counts_what_left_it():
    scale = SimpleNamespace(grams=50.0, time_s=0.0)
    source = WeighedVolumes(lambda now_s: Observed(scale.grams, scale.time_s), density_g_ml=1.25)
    table = Table(source)

    def weigh(grams, seconds):
        for _ in range(round(seconds / 0.1)):
            scale.grams, scale.time_s = grams, table.now_s
            table.tick()

    weigh(50.0, 0.5)
    table.begun()
    weigh(49.0, 1.0)
    assert table.state.given_ml == pytest.approx(0.8)
    table.tick(2.0)
    assert table.state.phase == "stopped", "a scale that says nothing any more is no scale"
    with pytest.raises(PlanError, match="density"):
        WeighedVolumes(lambda now_s: None, density_g_ml=0.0)


def test_without_a_volume_nothing_begins():
    table = Table(WeighedVolumes(lambda now_s: None, density_g_ml=1.2))
    table.tick(request="arm")
    assert table.state.phase == "prepare" and "volume" in table.state.reason


def test_the_pumps_facts_are_not_asked_of_a_person_and_all_others_are():
    table = Table().begun()
    told = table.delivery.facts(table.now_s)
    facts = InjectionFacts(Facts(), told.volume_ml, told.state)
    state, _ = step(table.state, facts, table.now_s)
    assert state.phase == "stopped"
    for word in ("pump", "pressure"):
        assert word not in state.reason
    for word in ("fluoroscopy", "monitor", "leak", "phase", "registration"):
        assert word in state.reason


def meter_with(message, received_s=5.0):
    role = VolumeMeterRole(SimpleNamespace(poll=lambda now_s: []))
    role.handle(Received(message, received_s, 1))
    return role


@pytest.mark.parametrize("message", [Sensor("SyringeVolume", (1.5, 3.0)), String("SyringeVolume", "1.5")])
def test_a_meter_tells_its_volume_as_sensor_or_as_string(message):
    assert meter_with(message).volume_ml() == (1.5, 5.0)


@pytest.mark.parametrize(
    "message",
    [
        Sensor("SyringeVolume", ()),
        String("SyringeVolume", "much"),
        String("SyringeVolume", "nan"),
        Sensor("SyringeVolume", (-1.0,)),
        Sensor("SyringeVolume", (1500.0,)),
    ],
)
def test_what_is_no_volume_in_milliliters_is_none(message):
    role = meter_with(message)
    assert role.volume_ml() is None and "no volume in mL" in role.problem
    role.handle(Received(replace(Sensor("SyringeVolume", (2.0,))), 6.0, 1))
    assert role.volume_ml() == (2.0, 6.0) and role.problem == ""


def test_messages_of_others_are_left_alone():
    role = meter_with(Sensor("Other", (1.0,)))
    assert role.volume_ml() is None and "nothing yet" in role.problem
