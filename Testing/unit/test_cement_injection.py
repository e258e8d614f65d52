"""The injection state machine with a pump that obeys, and with ones that do not."""

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.cement.injection import Depot, InjectionFacts, Prescription, begin, step
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
    after_flow_ml: float | None = None
    given_before_ml: float = 0.0
    held: bool | None = None

    def __post_init__(self) -> None:
        self.state = begin(self.prescription, Limits(), self.now_s, given_ml=self.given_before_ml)
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
            after_flow_ml=None if self.after_flow_ml is None else Observed(self.after_flow_ml, now),
            concentricity=Observed(self.concentricity, now),
            held=self.held,
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
        (Prescription("left", 3.0, rate_ml_s=0.0), "rate_ml_s"),
        (Prescription("left", 3.0, rate_ml_s=3.0), "mL/min"),
        (Prescription("left", 3.0, step_volume_ml=1000.0), "1000.0 mL"),
        (Prescription("left", 3000.0), "3000.0 mL"),
        (Prescription("left", 3.0, wait_s=-1.0), "pause"),
        (Prescription("left", 3.0, wait_s=math.nan), "pause"),
        (Prescription("left", 3.0, lowest_concentricity=2.0), "concentricity"),
        (Prescription("left", 3.0, other_volume_ml=math.nan), "12.0 mL"),
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


def held(bench: Bench, pressed: bool) -> list[str]:
    bench.held = pressed
    return bench.tick()


def test_cement_flows_only_while_the_button_is_held_and_the_step_goes_on_where_it_was_let_go():
    bench = Bench(Prescription("left", 2.0, wait_s=20.0))
    bench.held = False
    assert bench.tick("arm") == ["arm"]
    assert bench.tick("start") == [], "start means nothing where a button has to be held"
    assert held(bench, True) == ["run"]
    while bench.counter_ml < 0.4:
        held(bench, True)
    assert held(bench, False) == ["hold"]
    assert (bench.state.phase, bench.state.steps_done) == ("holding", 0)
    assert held(bench, False) == [] and "hold the button" in bench.state.reason
    assert held(bench, True) == ["run"]
    assert bench.log[-1][1]["volume_ml"] == pytest.approx(0.6, abs=0.02)
    while bench.state.phase == "injecting":
        held(bench, True)
    assert (bench.state.phase, bench.state.steps_done) == ("holding", 1)
    assert bench.counter_ml == pytest.approx(1.0, abs=0.03)
    for _ in range(190):
        assert held(bench, True) == [], "between two steps the pause is kept though the button is held"


def test_a_step_let_go_just_before_its_end_is_done():
    bench = Bench(Prescription("left", 3.0))
    bench.held = True
    bench.tick("arm")
    while bench.counter_ml < 0.93:
        bench.tick()
    assert held(bench, False) == ["hold"]
    assert bench.state.steps_done == 1


def test_a_held_button_is_no_decision_about_an_uneven_spread():
    bench = Bench(Prescription("left", 3.0, wait_s=1.0))
    bench.held = True
    bench.tick("arm")
    bench.tick()
    bench.run_to("holding")
    bench.concentricity = 0.1
    for _ in range(60):
        assert bench.tick() == []
    bench.held = False
    assert bench.tick("continue") == []
    assert held(bench, True) == ["run"]


def test_a_decision_does_not_last():
    bench = Bench(Prescription("left", 3.0, wait_s=1.0)).started()
    bench.held = False
    bench.run_to("holding")
    bench.concentricity = 0.1
    bench.tick("continue")
    for _ in range(110):
        bench.tick()
    assert held(bench, True) == []
    assert "evenly" in bench.state.reason


def test_what_the_monitor_warns_of_waits_for_a_decision():
    bench = Bench(Prescription("left", 3.0, wait_s=1.0)).started()
    bench.run_to("holding")
    warned = lambda: replace(bench.facts(), warning="cement outside the planned ala")  # noqa: E731
    for _ in range(30):
        bench.now_s += TICK_S
        bench.state, commands = step(bench.state, replace(warned(), request=None), bench.now_s)
        assert commands == []
    assert "outside the planned ala" in bench.state.reason


def test_cement_on_its_way_is_not_ordered_twice():
    bench = Bench(Prescription("left", 2.0, wait_s=0.0), after_flow_ml=0.0).started()
    bench.run_to("holding")
    bench.after_flow_ml = 0.15
    assert bench.tick() == ["run"]
    assert bench.log[-1][1]["volume_ml"] == pytest.approx(2.0 - bench.state.given_ml - 0.15, abs=1e-9)


def test_trocar_is_withdrawn_and_the_next_depot_needs_a_start():
    bench = Bench(Prescription("left", 4.0), after_flow_ml=0.15).started()
    while bench.counter_ml < 0.5:
        bench.tick()
    assert bench.tick("withdraw") == ["hold", "withdraw"], "the line is relieved before the trocar moves"
    assert bench.log[-1][1] == {"command": "withdraw", "volume_ml": 0.15}
    for request in (None, "start", "continue", "finish"):
        assert bench.tick(request) == []
    assert bench.state.phase == "withdrawing"
    said = replace(bench.facts("withdrawn"), withdrawn_mm=5.0)
    assert bench.tick(facts=said) == []
    assert (bench.state.phase, bench.state.withdrawn_mm) == ("armed", 5.0)
    bench.after_flow_ml, bench.pump = 0.0, "withdrawing"
    assert bench.tick("start") == [] and "relieves" in bench.state.reason
    bench.pump = "holding"
    assert bench.tick("start") == ["run"]
    bench.run_to("holding")
    first, second = bench.state.depots
    assert first == Depot(0.0, pytest.approx(0.5, abs=0.02)) and second.withdrawn_mm == 5.0
    assert first.volume_ml + second.volume_ml == pytest.approx(bench.state.given_ml)


@pytest.mark.parametrize("back_mm", [-1.0, 61.0, math.nan, math.inf])
def test_an_impossible_way_back_is_not_taken(back_mm):
    bench = Bench(Prescription("left", 4.0)).started()
    bench.tick("withdraw")
    bench.tick(facts=replace(bench.facts("withdrawn"), withdrawn_mm=back_mm))
    assert bench.state.phase == "withdrawing" and "0 to 60 mm" in bench.state.reason
    bench.tick(facts=replace(bench.facts("withdrawn"), withdrawn_mm=0.0))
    assert bench.state.phase == "armed" and bench.state.left_depots == ()


def test_a_leak_seen_while_the_trocar_is_withdrawn_stops():
    bench = Bench(Prescription("left", 4.0)).started()
    bench.tick("withdraw")
    unseen = replace(bench.facts(), interlock=replace(bench.facts().interlock, leak=None, monitor_healthy=None))
    assert bench.tick(facts=unseen) == []
    bench.leak = True
    assert bench.tick() == ["stop"]


def test_abort_stops_at_once_and_is_over_only_with_a_note():
    bench = Bench(Prescription("left", 4.0)).started()
    bench.obeys = False
    assert bench.tick("abort") == ["stop"]
    assert bench.state.phase == "stopped" and "write down why" in bench.state.reason
    assert bench.tick() == ["stop"], "told until it is obeyed"
    bench.pump = "stopped"
    assert bench.tick("reset") == [] and bench.state.phase == "stopped"
    assert "write down why" in bench.state.reason
    bench.tick(facts=replace(bench.facts("abort"), note="  "))
    assert bench.state.note == ""
    bench.tick(facts=replace(bench.facts("abort"), note="patient in pain"))
    assert bench.state.note == "patient in pain" and bench.state.reason == "aborted: patient in pain"
    assert bench.tick("reset") == [] and bench.state.phase == "stopped"


@pytest.mark.parametrize("phase", ["armed", "injecting", "holding"])
@pytest.mark.parametrize("which", ["procedure", "device"])
@pytest.mark.parametrize("now_s", [-30.0, math.nan])
def test_a_clock_that_is_set_back_stops(phase, which, now_s):
    bench = Bench(Prescription("left", 3.0, wait_s=5.0))
    bench.tick("arm")
    if phase != "armed":
        bench.tick("start")
        bench.run_to(phase)
    back_s = bench.now_s + now_s
    times = (back_s, bench.now_s) if which == "procedure" else (bench.now_s, back_s)
    state, commands = step(bench.state, bench.facts(), *times)
    assert (state.phase, [command.name for command in commands]) == ("stopped", ["stop"])
    assert "clock was set back" in state.reason


def test_cement_that_comes_without_an_order_stops():
    bench = Bench(Prescription("left", 4.0)).started()
    bench.run_to("holding")
    bench.counter_ml += 0.15
    assert bench.tick() == [], "the line's stretch may give so much"
    bench.counter_ml += 0.2
    assert bench.tick() == ["stop"]
    assert "more than ordered" in bench.state.reason


def test_volume_never_falls_when_the_pump_forgets_what_it_gave():
    bench = Bench(Prescription("left", 3.0)).started()
    while bench.counter_ml < 0.6:
        bench.tick()
    bench.counter_ml = 0.3
    assert bench.tick() == ["stop"]
    bench.pump, bench.counter_ml = "stopped", 0.0
    bench.tick()
    bench.tick("reset")
    assert bench.state.given_ml == pytest.approx(0.6, abs=0.02)


def test_cement_given_before_counts_to_plan_and_limits():
    bench = Bench(Prescription("left", 3.0, mode="continuous"), given_before_ml=1.2).started()
    assert bench.log[-1][1]["volume_ml"] == pytest.approx(1.8)
    bench.run_to("finished")
    assert bench.state.given_ml == pytest.approx(3.0, abs=0.03)
    with pytest.raises(PlanError, match="all that was planned"):
        begin(Prescription("left", 3.0), Limits(), 0.0, given_ml=2.95)
    with pytest.raises(PlanError, match="must be known"):
        begin(Prescription("left", 3.0), Limits(), 0.0, given_ml=math.nan)


def test_the_last_run_is_finished_when_the_line_has_given_out_what_it_held():
    bench = Bench(Prescription("left", 1.0, mode="continuous"), after_flow_ml=0.0).started()
    bench.after_flow_ml = 0.15
    bench.run_to("holding")
    for _ in range(50):
        assert bench.tick() == []
    assert bench.state.phase == "holding" and "0.15 mL is still to come" in bench.state.reason
    bench.after_flow_ml = 0.04
    bench.tick()
    assert bench.state.phase == "finished"


def test_a_line_that_holds_back_much_is_no_pump_that_disobeys():
    bench = Bench(Prescription("left", 3.0, mode="continuous"), after_flow_ml=0.0).started()
    while bench.counter_ml < 2.5:
        bench.tick()
    bench.pump, bench.after_flow_ml = "holding", 0.5
    assert bench.tick() == ["hold"], "the plunger has gone its way; half a milliliter is still in the line"
    assert bench.state.phase == "holding"
    other = Bench(Prescription("left", 3.0, mode="continuous"), after_flow_ml=0.0).started()
    while other.counter_ml < 2.5:
        other.tick()
    other.pump = "holding"
    assert other.tick() == ["stop"], "nothing explains what is missing"


def test_a_blocked_cannula_gets_no_further_step_and_is_stopped():
    bench = Bench(Prescription("left", 3.0, wait_s=1.0), after_flow_ml=0.0).started()
    bench.run_to("holding")
    bench.after_flow_ml = 0.5
    for _ in range(190):
        assert bench.tick("continue") == []
    assert "still to come" in bench.state.reason
    for _ in range(15):
        bench.tick()
    assert bench.state.phase == "stopped" and "blocked" in bench.state.reason
