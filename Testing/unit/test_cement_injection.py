"""The injection state machine with a pump that obeys, and with ones that do not."""

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.cement.injection import InjectionFacts, Prescription, begin, step
from sacroplasty.cement.interlock import Facts, Limits, Observed
from sacroplasty.errors import PlanError

TICK_S = 0.1


@dataclass
class Bench:
    """A pump and the facts around it, ticked at 10 Hz."""

    prescription: Prescription
    now_s: float = 0.0
    counter_ml: float = 0.0
    pump: str = "idle"
    run_until_ml: float = 0.0
    rate_ml_s: float = 0.0
    concentricity: float = 0.8
    leak: bool = False
    frames_at_s: float | None = None
    obeys: bool = True
    cement: str = "working"

    def __post_init__(self) -> None:
        self.state = begin(self.prescription, Limits(), self.now_s)
        self.log: list[tuple[float, dict]] = []

    def facts(self, request=None) -> InjectionFacts:
        now = self.now_s
        frame_s = now if self.frames_at_s is None else self.frames_at_s
        known = Facts(
            operator_stop=Observed(False, now),
            pump_connected=Observed(True, now),
            pump_fault=Observed(False, now),
            frames_changing={"ap": Observed(True, frame_s)},
            monitor_healthy=Observed(True, now),
            leak=Observed(self.leak, now),
            cement_phase=Observed(self.cement, now),
            pressure_kpa=Observed(500.0, now),
            registration_error_mm=Observed(1.0, now),
        )
        return InjectionFacts(
            interlock=known,
            pump_volume_ml=Observed(self.counter_ml, now),
            pump_state=Observed(self.pump, now),
            concentricity=Observed(self.concentricity, now),
            request=request,
        )

    def tick(self, request=None, facts=None) -> list[str]:
        self.now_s += TICK_S
        if self.pump == "running":
            self.counter_ml = min(self.counter_ml + self.rate_ml_s * TICK_S, self.run_until_ml)
        self.state, commands = step(self.state, facts or self.facts(request), self.now_s)
        for command in commands:
            self.log.append((self.now_s, command.to_dict()))
            if self.obeys:
                self._obey(command.to_dict())
        return [command.name for command in commands]

    def _obey(self, command: dict) -> None:
        if command["command"] == "run":
            self.pump, self.rate_ml_s = "running", command["rate_ml_s"]
            self.run_until_ml = self.counter_ml + command["volume_ml"]
        else:
            after = {"arm": "armed", "hold": "holding", "stop": "stopped", "reset": "idle", "withdraw": "holding"}
            self.pump = after[command["command"]]

    def run_to(self, phase: str, limit_s: float = 400.0) -> None:
        end = self.now_s + limit_s
        while self.state.phase != phase:
            assert self.now_s < end, f"still {self.state.phase}: {self.state.reason}"
            self.tick()

    def started(self) -> "Bench":
        assert self.tick("arm") == ["arm"]
        assert self.tick("start") == ["run"]
        return self


def test_stepwise_injection_gives_the_planned_volume_in_steps_with_pauses():
    bench = Bench(Prescription("left", 3.5)).started()
    bench.run_to("finished")
    runs = [(time, entry) for time, entry in bench.log if entry["command"] == "run"]
    holds = [time for time, entry in bench.log if entry["command"] == "hold"]
    assert [entry["volume_ml"] for _, entry in runs] == pytest.approx([1.0, 1.0, 1.0, 0.5], abs=0.07)
    assert bench.counter_ml == pytest.approx(3.5, abs=0.03)
    pauses = [later - earlier for earlier, (later, _) in zip(holds, runs[1:], strict=False)]
    assert pauses == pytest.approx([20.0] * 3, abs=2 * TICK_S)


def test_continuous_injection_runs_once():
    bench = Bench(Prescription("right", 4.0, mode="continuous")).started()
    bench.run_to("finished")
    assert [entry["command"] for _, entry in bench.log] == ["arm", "run", "hold"]
    assert bench.log[1][1] == {"command": "run", "rate_ml_s": 0.05, "volume_ml": 4.0, "pressure_limit_kpa": 4000.0}


def test_nothing_runs_without_arm_and_start():
    bench = Bench(Prescription("left", 3.0))
    for _ in range(50):
        assert bench.tick() == []
    assert bench.tick("start") == []
    bench.tick("arm")
    for _ in range(50):
        assert bench.tick() == []
    assert bench.state.phase == "armed"


def test_pump_may_be_armed_but_not_started_while_the_cement_ripens():
    bench = Bench(Prescription("left", 3.0))
    ripening = replace(bench.facts("arm").interlock, cement_phase=Observed("waiting", TICK_S))
    assert bench.tick(facts=replace(bench.facts("arm"), interlock=ripening)) == ["arm"]
    ripening = replace(bench.facts().interlock, cement_phase=Observed("waiting", 2 * TICK_S))
    assert bench.tick(facts=replace(bench.facts("start"), interlock=ripening)) == []
    assert "working time" in bench.state.reason


def test_a_leak_stops_the_pump_at_the_same_tick():
    bench = Bench(Prescription("left", 3.0)).started()
    for _ in range(60):
        bench.tick()
    bench.leak = True
    assert bench.tick() == ["stop"]
    assert bench.state.phase == "stopped"
    assert "leak" in bench.state.reason


def test_stop_stays_until_a_person_resets_it():
    bench = Bench(Prescription("left", 3.0)).started()
    bench.leak = True
    bench.tick()
    bench.leak = False
    for request in (None, "start", "arm", "continue", "finish", None):
        assert "run" not in bench.tick(request)
        assert bench.state.phase == "stopped"
    given = bench.state.given_ml
    assert bench.tick("reset") == ["reset"]
    assert (bench.state.phase, bench.state.given_ml) == ("prepare", given)


def test_volume_before_a_stop_counts_after_the_reset():
    bench = Bench(Prescription("left", 2.0, mode="continuous")).started()
    while bench.counter_ml < 1.2:
        bench.tick()
    bench.tick("stop")
    bench.tick("reset")
    bench.counter_ml = 0.0  # the pump forgets on a reset
    bench.tick()
    bench.started().run_to("finished")
    assert bench.log[-2][1]["volume_ml"] == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("phase", ["prepare", "armed", "injecting", "holding", "finished", "stopped"])
def test_stop_wins_in_every_phase(phase):
    bench = Bench(Prescription("left", 2.0))
    if phase == "armed":
        bench.tick("arm")
    elif phase != "prepare":
        bench.started()
        if phase == "stopped":
            bench.tick("stop")
        else:
            bench.run_to(phase)
    assert bench.tick("stop") == ["stop"]
    assert bench.state.phase == "stopped"


def test_stop_is_repeated_until_the_pump_confirms_it():
    bench = Bench(Prescription("left", 2.0)).started()
    bench.obeys = False
    bench.tick("stop")
    assert [bench.tick() for _ in range(5)] == [["stop"]] * 5
    bench.pump = "stopped"
    assert bench.tick() == []


def test_a_pump_that_runs_without_an_order_is_stopped():
    bench = Bench(Prescription("left", 2.0))
    for _ in range(20):
        bench.tick()
    bench.pump = "running"
    assert bench.tick() == ["stop"]
    assert "without an order" in bench.state.reason


def test_a_pump_that_does_not_follow_is_stopped():
    bench = Bench(Prescription("left", 2.0))
    bench.tick("arm")
    bench.obeys = False
    bench.tick("start")
    bench.run_to("stopped", 2.0)
    assert "does not run" in bench.state.reason


def test_a_pump_that_gives_more_than_ordered_is_stopped():
    bench = Bench(Prescription("left", 3.0)).started()
    for _ in range(30):
        bench.tick()
    bench.counter_ml += 1.5
    bench.run_until_ml = 9.0
    assert bench.tick() == ["stop"]
    assert "volume of this step" in bench.state.reason


@pytest.mark.parametrize("counter", [math.nan, -0.5])
def test_a_counter_that_makes_no_sense_stops(counter):
    bench = Bench(Prescription("left", 3.0)).started()
    bench.tick()
    broken = replace(bench.facts(), pump_volume_ml=Observed(counter, bench.now_s))
    assert bench.tick(facts=broken) == ["stop"]
    assert "volume" in bench.state.reason


def test_uneven_spread_waits_for_a_decision():
    bench = Bench(Prescription("left", 3.0)).started()
    bench.run_to("holding")
    bench.concentricity = 0.1
    for _ in range(300):
        assert bench.tick() == []
    assert "evenly" in bench.state.reason
    assert bench.tick("continue") == ["run"]


def test_a_decision_to_go_on_does_not_override_the_interlock():
    bench = Bench(Prescription("left", 3.0)).started()
    bench.run_to("holding")
    bench.frames_at_s = bench.now_s
    for _ in range(300):
        bench.tick()
    assert bench.tick("continue") == []
    assert bench.state.phase == "holding"
    assert "fluoroscopy" in bench.state.reason


def test_stale_frames_stop_a_running_pump():
    bench = Bench(Prescription("left", 3.0)).started()
    bench.frames_at_s = bench.now_s
    bench.run_to("stopped", 1.0)
    assert "fluoroscopy" in bench.state.reason


def test_waiting_goes_by_the_procedures_clock_and_freshness_by_the_devices():
    bench = Bench(Prescription("left", 2.0)).started()
    bench.run_to("holding")
    facts = bench.facts()
    state, commands = step(bench.state, facts, bench.now_s + 20.1, device_now_s=bench.now_s + 0.05)
    assert (state.phase, commands[0].name) == ("injecting", "run")
    # The same wait on the devices' clock means that nothing was heard of them for 20 s.
    state, commands = step(bench.state, facts, bench.now_s + 20.1)
    assert (state.phase, commands[0].name) == ("stopped", "stop")


@pytest.mark.parametrize(
    ("prescription", "word"),
    [
        (Prescription("left", 8.5), "8.0 mL"),
        (Prescription("left", 6.0, other_volume_ml=7.0), "12.0 mL"),
        (Prescription("left", 0.0), "planned_volume_ml"),
        (Prescription("left", math.nan), "planned_volume_ml"),
        (Prescription("left", 3.0, rate_ml_s=-1.0), "rate_ml_s"),
        (Prescription("left", 3.0, pressure_limit_kpa=9000.0), "4000 kPa"),
    ],
)
def test_prescriptions_beyond_the_limits_are_refused(prescription, word):
    with pytest.raises(PlanError, match=word):
        begin(prescription, Limits(), 0.0)


REQUESTS = st.sampled_from([None, None, None, "arm", "start", "continue", "finish", "withdraw", "stop", "reset"])


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(REQUESTS, max_size=120),
    leaks=st.lists(st.integers(0, 9).map(lambda number: number == 0), min_size=120, max_size=120),
)
def test_no_order_to_run_is_ever_given_with_a_leak_or_beyond_the_plan(requests, leaks):
    bench = Bench(Prescription("left", 2.0, wait_s=0.5, rate_ml_s=0.5))
    for request, leak in zip(requests, leaks, strict=False):
        bench.leak = leak
        commands = bench.tick(request)
        assert not (bench.leak and "run" in commands)
        assert not (bench.leak and bench.state.phase == "injecting")
        assert bench.state.given_ml <= 2.0 + 0.1


def test_an_injection_that_waits_for_a_frozen_picture_ends_when_the_cement_sets():
    bench = Bench(Prescription("left", 3.0)).started()
    bench.run_to("holding")
    bench.frames_at_s = bench.now_s
    for _ in range(600):
        assert bench.tick() in ([], ["hold"])
    assert bench.state.phase == "holding", "it may be that the picture comes back"
    bench.cement = "too-stiff"
    assert bench.tick() == ["stop"]
    assert bench.state.phase == "stopped"
    assert "too-stiff" in bench.state.reason
    assert "fluoroscopy" in bench.state.reason, "the cause of the waiting is told too"
