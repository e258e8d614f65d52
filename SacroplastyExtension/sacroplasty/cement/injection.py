"""The injection into one ala as a state machine: prepare, armed, injecting, holding, finished, or stopped.

Pure: `step` takes the state and the facts and returns the next state with the commands for the pump. It is to be called
at every tick. `stopped` is latched: only a person's reset leads out of it, and after an abort nothing does.

    prepare -arm-> armed -start-> injecting -> holding -> injecting ... -> finished
    armed, injecting, holding, finished -withdraw-> withdrawing -withdrawn-> armed      (the next depot)
    all -stop, abort, any doubt while cement flows-> stopped -reset-> prepare

Two clocks come in. `now_s` is the procedure's: waiting between steps goes by it. `device_now_s` is the one of the
facts' times: freshness and obedience of devices go by it. They are the same in an operating room and differ only in a
rehearsal that runs faster than life. Either of them set back stops.

By hand (`Prescription.delivery`) the same machine runs: its commands are then told to a person, see `manual_injection`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal

from ..errors import PlanError
from .interlock import Decision, Facts, Limits, Observed, interlock

Phase = Literal["prepare", "armed", "injecting", "holding", "withdrawing", "finished", "stopped"]
Mode = Literal["stepwise", "continuous"]
Delivery = Literal["pump", "manual"]
Request = Literal["arm", "start", "continue", "finish", "withdraw", "withdrawn", "abort", "stop", "reset"]

#: Smaller differences than this are the pump's resolution.
_VOLUME_TOLERANCE_ML = 0.02

#: Cement that still flows out after a stop and counts to the step.
_AFTER_FLOW_ML = 0.1

#: The pump has this long to follow a command before it counts as disobedient.
_OBEY_S = 1.0

#: After the last run the injection is finished when no more than this is still to come, or this long after.
_SETTLED_ML = 0.05
_SETTLE_S = 20.0

#: A person's decision to go on in spite of the spread's shape holds this long.
_DECISION_S = 10.0

#: No pause between two steps, and no way back of a trocar, is longer.
_LONGEST_WAIT_S = 600.0
_LONGEST_WITHDRAWAL_MM = 60.0

#: While cement stands, these still end the injection; anything else only keeps it from going on.
_STOP_WHILE_HOLDING = ("leak", "pump_fault", "pump_connected", "operator_stop", "cement_phase")

#: A syringe in a hand has none of these.
_OF_A_PUMP = ("pump_connected", "pump_fault", "pressure_kpa")


@dataclass(frozen=True)
class Command:
    """An order for the pump, by the names of the device protocol."""

    name: Literal["arm", "run", "hold", "stop", "withdraw", "reset"]
    arguments: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"command": self.name, **self.arguments}


ARM, HOLD, STOP, RESET = (Command(name) for name in ("arm", "hold", "stop", "reset"))


@dataclass(frozen=True)
class Prescription:
    """What is to be given through one cannula.

    Attributes:
        planned_volume_ml: usually 3 to 8 mL per ala (Tabilo, Norambuena and Joaquim, technical description).
        other_volume_ml: cement already given elsewhere, which counts to the total.
        step_volume_ml, wait_s: 1 mL and 20 s in the stepwise technique of the same source.
        lowest_concentricity: below it the next step waits for a person's decision.
        delivery: by the pump, or by a person with syringes.
    """

    side: Literal["left", "right"]
    planned_volume_ml: float
    mode: Mode = "stepwise"
    other_volume_ml: float = 0.0
    step_volume_ml: float = 1.0
    wait_s: float = 20.0
    rate_ml_s: float = 0.05
    pressure_limit_kpa: float = 4000.0
    lowest_concentricity: float = 0.3
    delivery: Delivery = "pump"

    def check(self, limits: Limits) -> Prescription:
        """This prescription, if it keeps to the limits.

        Raises:
            PlanError: naming the number that does not.
        """
        for name in ("planned_volume_ml", "step_volume_ml", "rate_ml_s", "pressure_limit_kpa"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise PlanError(f"{name} is {value}; it must be a positive number")
        if self.planned_volume_ml > limits.ala_volume_ml:
            raise PlanError(
                f"{self.planned_volume_ml:.1f} mL are planned for the {self.side} ala; the limit is "
                f"{limits.ala_volume_ml:.1f} mL: plan less"
            )
        if not (self.other_volume_ml >= 0 and self.other_volume_ml + self.planned_volume_ml <= limits.total_volume_ml):
            raise PlanError(
                f"{self.planned_volume_ml:.1f} mL after {self.other_volume_ml:.1f} mL given before; the limit for both "
                f"sides is {limits.total_volume_ml:.1f} mL: plan less"
            )
        if self.step_volume_ml > limits.ala_volume_ml:
            raise PlanError(f"a step of {self.step_volume_ml:.1f} mL is more than an ala may hold; 1 mL is usual")
        if self.rate_ml_s > limits.rate_ml_s:
            raise PlanError(
                f"{self.rate_ml_s:g} mL/s is faster than {limits.rate_ml_s:g} mL/s; "
                "0.05 mL/s is usual (is it in mL/min?)"
            )
        if self.pressure_limit_kpa > limits.pressure_kpa:
            raise PlanError(f"the pressure limit may be up to {limits.pressure_kpa:.0f} kPa")
        if not 0 <= self.wait_s <= _LONGEST_WAIT_S:
            raise PlanError(f"the pause between steps is {self.wait_s} s; give 0 to {_LONGEST_WAIT_S:.0f} s")
        if not 0 <= self.lowest_concentricity <= 1:
            raise PlanError(f"the lowest concentricity is {self.lowest_concentricity}; give 0 to 1")
        return self

    @property
    def step_ml(self) -> float:
        """Volume between two pauses."""
        return self.planned_volume_ml if self.mode == "continuous" else self.step_volume_ml


@dataclass(frozen=True)
class Depot:
    """Cement given at one place of the tip.

    Attributes:
        withdrawn_mm: how far the trocar stood back from where it was placed first.
    """

    withdrawn_mm: float
    volume_ml: float


@dataclass(frozen=True)
class InjectionState:
    """Where the injection stands.

    Attributes:
        since_s, device_since_s: when the phase began, on both clocks.
        given_ml: cement given into this ala, after-flow included, as far as is known. It never falls.
        steps_done: completed steps.
        withdrawn_mm: how far the trocar stands back from where it was placed.
        left_depots: of the places that the tip has left.
        note: why it was aborted; empty while nobody has said so, None when it was not aborted.
        reason: why it stopped or does not go on; empty when all is well.
    """

    prescription: Prescription
    limits: Limits
    phase: Phase = "prepare"
    since_s: float = 0.0
    device_since_s: float = 0.0
    given_ml: float = 0.0
    steps_done: int = 0
    withdrawn_mm: float = 0.0
    left_depots: tuple[Depot, ...] = ()
    note: str | None = None
    reason: str = ""
    # Bookkeeping: the pump's counter and what had been given when it was armed, the newest counter of this run, the
    # volumes at which this step began and ends, whether it was let go in the middle, when a person decided to go on in
    # spite of the shape, and the times of the last tick.
    counter_at_arm_ml: float | None = None
    given_at_arm_ml: float = 0.0
    counter_ml: float = -math.inf
    step_from_ml: float = 0.0
    step_until_ml: float = 0.0
    interrupted: bool = False
    decided_s: float = -math.inf
    ticked_s: float = -math.inf
    device_ticked_s: float = -math.inf

    @property
    def depots(self) -> tuple[Depot, ...]:
        """Cement by place of the tip, the present one last."""
        before = sum(depot.volume_ml for depot in self.left_depots)
        return (*self.left_depots, Depot(self.withdrawn_mm, self.given_ml - before))


@dataclass(frozen=True)
class InjectionFacts:
    """What is known at a tick; None is not known.

    Attributes:
        interlock: the facts of the interlock; its three volumes are filled in here.
        pump_volume_ml: the pump's own counter, or what a person has given out of syringes.
        pump_state: the pump's own state; `running` and `stopped` matter here.
        after_flow_ml: cement that would still come out if the plunger halted now, as predicted; it is not
            ordered twice.
        concentricity: of the spread monitor.
        warning: what the spread monitor warns of though it does not stop, in words; empty for nothing.
        held: whether a person holds the button by which cement may flow; None where nobody has to.
        request: what a person asks for at this tick.
        withdrawn_mm: with the request `withdrawn`: by how much the trocar was pulled back; 0 for not at all.
        note: with the request `abort`: why.
    """

    interlock: Facts
    pump_volume_ml: Observed[float] | None = None
    pump_state: Observed[str] | None = None
    after_flow_ml: Observed[float] | None = None
    concentricity: Observed[float] | None = None
    warning: str = ""
    held: bool | None = None
    request: Request | None = None
    withdrawn_mm: float = math.nan
    note: str = ""


def begin(
    prescription: Prescription,
    limits: Limits,
    now_s: float,
    device_now_s: float | None = None,
    given_ml: float = 0.0,
) -> InjectionState:
    """The state before anything is armed.

    Args:
        given_ml: cement that is in this ala already; it counts to the plan and to the limits.

    Raises:
        PlanError: when the prescription breaks the limits, or everything planned is given.
    """
    prescription.check(limits)
    if not (math.isfinite(given_ml) and given_ml >= 0):
        raise PlanError(f"the cement given before is {given_ml} mL; it must be known")
    if given_ml > prescription.planned_volume_ml - _AFTER_FLOW_ML:
        raise PlanError(f"all that was planned for the {prescription.side} ala is given")
    own = replace(
        limits,
        step_volume_ml=prescription.step_ml + _AFTER_FLOW_ML,
        # The last step may end with the planned volume at the very limit.
        ala_volume_ml=limits.ala_volume_ml + _VOLUME_TOLERANCE_ML,
        total_volume_ml=limits.total_volume_ml + _VOLUME_TOLERANCE_ML,
        pressure_kpa=prescription.pressure_limit_kpa,
    )
    device_s = now_s if device_now_s is None else device_now_s
    return InjectionState(
        prescription,
        own,
        since_s=now_s,
        device_since_s=device_s,
        given_ml=given_ml,
        given_at_arm_ml=given_ml,
        ticked_s=now_s,
        device_ticked_s=device_s,
    )


@dataclass(frozen=True)
class _Now:
    procedure_s: float
    device_s: float


_Outcome = tuple[InjectionState, list[Command]]


def decide(state: InjectionState, facts: InjectionFacts, device_now_s: float) -> Decision:
    """The interlock's decision with the volumes that follow from the pump's counter."""
    limits = state.limits
    if state.phase == "injecting":
        limits = replace(limits, step_volume_ml=state.step_until_ml - state.step_from_ml + _AFTER_FLOW_ML)
    decision = interlock(_with_volumes(state, facts), limits, device_now_s)
    return decision.without(*_OF_A_PUMP) if state.prescription.delivery == "manual" else decision


def step(
    state: InjectionState, facts: InjectionFacts, now_s: float, device_now_s: float | None = None
) -> tuple[InjectionState, list[Command]]:
    """One tick: the next state and what the pump is told, in order.

    Args:
        device_now_s: on the clock of the facts' times; `now_s` when it is the same clock.
    """
    now = _Now(now_s, now_s if device_now_s is None else device_now_s)
    clock_fault = _clock_fault(state, now)
    state = replace(state, given_ml=_given_ml(state, facts), ticked_s=now.procedure_s, device_ticked_s=now.device_s)
    if facts.request == "stop":
        return _stop(state, "stop was pressed", now)
    if facts.request == "abort":
        return _abort(state, facts.note.strip(), now)
    if state.phase == "stopped":
        return _stopped(state, facts, now)
    if clock_fault and state.phase not in ("prepare", "finished"):
        return _stop(state, clock_fault, now)
    pump_runs = facts.pump_state is not None and facts.pump_state.value == "running"
    if state.phase != "injecting" and pump_runs and now.device_s - state.device_since_s > _OBEY_S:
        return _stop(state, "the pump runs without an order", now)
    if state.phase in ("armed", "holding", "withdrawing", "finished") and _too_much_ml(state) > 0:
        return _stop(state, f"{_too_much_ml(state):.1f} mL more than ordered were given", now)
    decision = decide(state, facts, now.device_s)
    if facts.request == "withdraw" and state.phase not in ("prepare", "withdrawing"):
        return _begin_withdrawal(state, facts, now)
    return _TICKS[state.phase](state, facts, decision, now)


def _enter(state: InjectionState, phase: Phase, now: _Now, reason: str = "") -> InjectionState:
    return replace(state, phase=phase, since_s=now.procedure_s, device_since_s=now.device_s, reason=reason)


def _prepare(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    # The pump may be armed while the cement still ripens.
    decision = decision.without("cement_phase")
    if facts.request != "arm":
        return replace(state, reason=decision.text), []
    if not decision.allowed:
        return replace(state, reason=f"not armed: {decision.text}"), []
    armed = replace(
        _enter(state, "armed", now),
        counter_at_arm_ml=_counter_ml(facts),
        given_at_arm_ml=state.given_ml,
        step_from_ml=state.given_ml,
        step_until_ml=state.given_ml,
        interrupted=False,
    )
    return armed, [ARM]


def _armed(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    if _is_complete(state, facts):
        return _enter(state, "finished", now), []
    if facts.pump_state is not None and facts.pump_state.value == "withdrawing":
        return replace(state, reason="the pump still relieves the line"), []
    starts = facts.request == "start" if facts.held is None else facts.held
    if starts and decision.allowed:
        return _run(state, facts, now)
    return replace(state, reason=decision.text), []


def _injecting(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    if not decision.allowed:
        return _stop(state, decision.text, now)
    state = replace(state, counter_ml=max(state.counter_ml, _counter_ml(facts)))
    pump_state = facts.pump_state.value if facts.pump_state is not None else "unknown"
    obeyed_long_ago = now.device_s - state.device_since_s > _OBEY_S
    # The plunger has done its part; what the line's stretch still holds back comes out while the pump holds.
    plunger_done = pump_state == "holding" and obeyed_long_ago and _is_mostly_given(state, facts)
    if plunger_done or state.given_ml >= state.step_until_ml - _VOLUME_TOLERANCE_ML:
        return _end_step(state, facts, now), [HOLD]
    if facts.request == "finish":
        return _enter(state, "finished", now, "finished by the operator"), [HOLD]
    if facts.held is False:
        if state.step_until_ml - state.given_ml - _after_flow_ml(facts) <= _AFTER_FLOW_ML:
            return _end_step(state, facts, now), [HOLD]
        return replace(_enter(state, "holding", now, "let go"), interrupted=True), [HOLD]
    if pump_state != "running" and obeyed_long_ago:
        return _stop(state, f"the pump does not run though it was told to (it is {pump_state})", now)
    return state, []


def _end_step(state: InjectionState, facts: InjectionFacts, now: _Now) -> InjectionState:
    state = replace(_enter(state, "holding", now), steps_done=state.steps_done + 1, interrupted=False)
    return _enter(state, "finished", now) if _is_complete(state, facts) and _is_settled(state, facts, now) else state


def _holding(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    if any(reason.fact in _STOP_WHILE_HOLDING for reason in decision.reasons):
        return _stop(state, decision.text, now)
    complete = _is_complete(state, facts)
    if facts.request == "finish" or (complete and _is_settled(state, facts, now)):
        return _enter(state, "finished", now), []
    coming_ml, rested_s = _after_flow_ml(facts), now.procedure_s - state.since_s
    if coming_ml > 2 * _AFTER_FLOW_ML and rested_s >= _SETTLE_S:
        return _stop(state, f"{coming_ml:.1f} mL did not come out in {rested_s:.0f} s: is the cannula blocked?", now)
    if complete or (coming_ml > 2 * _AFTER_FLOW_ML and not state.interrupted):
        return replace(state, reason=f"{coming_ml:.2f} mL is still to come"), []
    if facts.request == "continue":
        state = replace(state, decided_s=now.procedure_s)
    # A step that was let go in the middle is the same step when it goes on.
    if not (state.interrupted or now.procedure_s - state.since_s >= state.prescription.wait_s):
        return replace(state, reason=""), []
    if not decision.allowed:
        return replace(state, reason=decision.text), []
    decided = 0 <= now.procedure_s - state.decided_s <= _DECISION_S
    doubt = "" if decided else _doubt_about_shape(state, facts, now)
    if doubt:
        return replace(state, reason=doubt), []
    if facts.held is False:
        return replace(state, reason="hold the button to go on"), []
    return _run(state, facts, now)


def _begin_withdrawal(state: InjectionState, facts: InjectionFacts, now: _Now) -> _Outcome:
    """The pump rests, and the line is relieved, so that the trocar draws no cement along its way."""
    commands = [HOLD] if state.phase == "injecting" else []
    relief_ml = _after_flow_ml(facts)
    if relief_ml > _VOLUME_TOLERANCE_ML and state.prescription.delivery == "pump":
        commands.append(Command("withdraw", {"volume_ml": relief_ml}))
    return _enter(state, "withdrawing", now, "pull the trocar back and say by how much"), commands


def _withdrawing(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    """The trocar is in a hand and hides from the monitor; a leak that is known still stops."""
    leak = facts.interlock.leak
    ends = [reason.fact for reason in decision.reasons if reason.fact in _STOP_WHILE_HOLDING and reason.fact != "leak"]
    if ends or (leak is not None and leak.value):
        return _stop(state, decision.text, now)
    if facts.request != "withdrawn":
        return state, []
    back_mm = facts.withdrawn_mm
    if not 0 <= back_mm <= _LONGEST_WITHDRAWAL_MM:
        return replace(state, reason=f"the trocar cannot be {back_mm} mm back; give 0 to 60 mm"), []
    state = replace(_enter(state, "armed", now), step_from_ml=state.given_ml, interrupted=False)
    state = replace(state, step_until_ml=state.given_ml + _after_flow_ml(facts))
    if back_mm > 0:
        state = replace(state, left_depots=state.depots, withdrawn_mm=state.withdrawn_mm + back_mm)
    return state, []


def _finished(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    return state, []


_TICKS = {
    "prepare": _prepare,
    "armed": _armed,
    "injecting": _injecting,
    "holding": _holding,
    "withdrawing": _withdrawing,
    "finished": _finished,
}


def _stopped(state: InjectionState, facts: InjectionFacts, now: _Now) -> _Outcome:
    if facts.request == "reset" and state.note is None:
        reset = replace(_enter(state, "prepare", now), counter_at_arm_ml=None, given_at_arm_ml=state.given_ml)
        return reset, [RESET]
    # Told again until the pump says so itself: a stop may be lost on the way.
    reported = facts.pump_state
    obeyed = reported is not None and reported.value == "stopped" and reported.time_s >= state.device_since_s
    return state, [] if obeyed else [STOP]


def _run(state: InjectionState, facts: InjectionFacts, now: _Now) -> _Outcome:
    coming_ml = _after_flow_ml(facts)
    if state.interrupted:
        # Never more than a whole step, whatever the predictions then and now were.
        volume_ml = min(state.step_until_ml - state.given_ml - coming_ml, state.prescription.step_ml)
        if volume_ml <= _VOLUME_TOLERANCE_ML:  # What was still in the line has completed the step meanwhile.
            return _end_step(state, facts, now), []
    else:
        volume_ml = _next_step_ml(state, facts)
        state = replace(state, step_from_ml=state.given_ml, step_until_ml=state.given_ml + coming_ml + volume_ml)
    running = replace(
        _enter(state, "injecting", now), counter_ml=_counter_ml(facts), interrupted=False, decided_s=-math.inf
    )
    arguments = {
        "rate_ml_s": state.prescription.rate_ml_s,
        "volume_ml": volume_ml,
        "pressure_limit_kpa": state.prescription.pressure_limit_kpa,
    }
    return running, [Command("run", arguments)]


def _stop(state: InjectionState, reason: str, now: _Now) -> _Outcome:
    if state.phase == "stopped":
        return state, [STOP]
    return _enter(state, "stopped", now, reason), [STOP]


def _abort(state: InjectionState, note: str, now: _Now) -> _Outcome:
    """Stops at once; it is over once a person has said why."""
    stopped, commands = _stop(state, "", now)
    note = note or stopped.note or ""
    reason = f"aborted: {note}" if note else "aborted: write down why"
    return replace(stopped, note=note, reason=reason), commands


def _clock_fault(state: InjectionState, now: _Now) -> str:
    """That time runs backwards or is none, in words."""
    for time_s, last_s in ((now.procedure_s, state.ticked_s), (now.device_s, state.device_ticked_s)):
        if not time_s >= last_s:
            return f"the clock was set back by {last_s - time_s:.1f} s"
    return ""


def _is_mostly_given(state: InjectionState, facts: InjectionFacts) -> bool:
    """Whether no more is missing from this step than the line may hold back, by prediction or at least."""
    return state.step_until_ml - state.given_ml <= 2 * _AFTER_FLOW_ML + _after_flow_ml(facts)


def _too_much_ml(state: InjectionState) -> float:
    """Cement given beyond the last order and what the line may have held back; 0 when it is in order."""
    return max(0.0, state.given_ml - state.step_until_ml - 2 * _AFTER_FLOW_ML)


def _is_complete(state: InjectionState, facts: InjectionFacts) -> bool:
    """Whether so little is missing from the plan that the after-flow makes up for it."""
    return _next_step_ml(state, facts) <= _AFTER_FLOW_ML


def _is_settled(state: InjectionState, facts: InjectionFacts, now: _Now) -> bool:
    """Whether the line has given out what it held back, as far as it is worth waiting for."""
    coming_ml, rested_s = _after_flow_ml(facts), now.procedure_s - state.since_s
    return coming_ml <= _SETTLED_ML or (coming_ml <= 2 * _AFTER_FLOW_ML and rested_s >= _SETTLE_S)


def _next_step_ml(state: InjectionState, facts: InjectionFacts) -> float:
    missing_ml = state.prescription.planned_volume_ml - state.given_ml - _after_flow_ml(facts)
    return min(state.prescription.step_ml, missing_ml)


def _after_flow_ml(facts: InjectionFacts) -> float:
    """Cement on its way; none where nothing was predicted, and the limits guard what is given then."""
    predicted = facts.after_flow_ml
    if predicted is None or not math.isfinite(predicted.value):
        return 0.0
    return max(0.0, predicted.value)


def _counter_ml(facts: InjectionFacts) -> float:
    """The pump's counter; NaN when it is not known or no number."""
    observed = facts.pump_volume_ml
    known = observed is not None and isinstance(observed.value, Real) and math.isfinite(observed.value)
    return float(observed.value) if observed is not None and known else math.nan


def _given_ml(state: InjectionState, facts: InjectionFacts) -> float:
    """Cement given into this ala; the last known value where the counter says nothing or less."""
    if state.counter_at_arm_ml is None:
        return state.given_ml
    given = state.given_at_arm_ml + _counter_ml(facts) - state.counter_at_arm_ml
    return max(state.given_ml, given) if math.isfinite(given) else state.given_ml


def _with_volumes(state: InjectionState, facts: InjectionFacts) -> Facts:
    observed = facts.pump_volume_ml
    if observed is None:
        return replace(facts.interlock, step_volume_ml=None, ala_volume_ml=None, total_volume_ml=None)
    given = max(state.given_ml, 0.0)
    step_ml = max(given - state.step_from_ml, 0.0) if state.phase == "injecting" else 0.0
    # A counter that ran back or is not a number makes every volume unknown.
    lowest = -math.inf if state.counter_at_arm_ml is None else state.counter_at_arm_ml
    if state.phase == "injecting":
        lowest = max(lowest, state.counter_ml)
    if not _counter_ml(facts) >= lowest - _VOLUME_TOLERANCE_ML:
        given = step_ml = math.nan
    return replace(
        facts.interlock,
        step_volume_ml=Observed(step_ml, observed.time_s),
        ala_volume_ml=Observed(given, observed.time_s),
        total_volume_ml=Observed(given + state.prescription.other_volume_ml, observed.time_s),
    )


def _doubt_about_shape(state: InjectionState, facts: InjectionFacts, now: _Now) -> str:
    """Why the spread does not allow the next step by itself; empty when it does."""
    seen = facts.concentricity
    fresh = seen is not None and now.device_s - seen.time_s <= state.limits.frame_age_s
    if seen is None or not fresh or not math.isfinite(seen.value):
        return "the shape of the spread is not known; look at both views and decide"
    if seen.value < state.prescription.lowest_concentricity:
        return (
            f"the cement does not spread evenly (index {seen.value:.2f}, expected at least "
            f"{state.prescription.lowest_concentricity:.2f}); turn or withdraw the trocar, or decide to go on"
        )
    if facts.warning:
        return f"{facts.warning}; look at both views and decide"
    return ""
