"""The injection into one ala as a state machine: prepare, armed, injecting, holding, finished, or stopped.

Pure: `step` takes the state and the facts and returns the next state with the commands for the pump. It is to be called
at every tick. `stopped` is latched: only a person's reset leads out of it.

Two clocks come in. `now_s` is the procedure's: waiting between steps goes by it. `device_now_s` is the one of the
facts' times: freshness and obedience of devices go by it. They are the same in an operating room and differ only in a
rehearsal that runs faster than life.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..errors import PlanError
from .interlock import Decision, Facts, Limits, Observed, interlock

Phase = Literal["prepare", "armed", "injecting", "holding", "finished", "stopped"]
Mode = Literal["stepwise", "continuous"]
Request = Literal["arm", "start", "continue", "finish", "withdraw", "stop", "reset"]

#: Smaller differences than this are the pump's resolution.
_VOLUME_TOLERANCE_ML = 0.02

#: Cement that still flows out after a stop and counts to the step.
_AFTER_FLOW_ML = 0.1

#: The pump has this long to follow a command before it counts as disobedient.
_OBEY_S = 1.0

#: While cement stands, these still end the injection; anything else only keeps it from going on.
_STOP_WHILE_HOLDING = ("leak", "pump_fault", "pump_connected", "operator_stop", "cement_phase")


@dataclass(frozen=True)
class Command:
    """An order for the pump, by the names of the device protocol."""

    name: Literal["arm", "run", "hold", "stop", "withdraw", "reset"]
    arguments: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"command": self.name, **self.arguments}


ARM, HOLD, STOP, WITHDRAW, RESET = (Command(name) for name in ("arm", "hold", "stop", "withdraw", "reset"))


@dataclass(frozen=True)
class Prescription:
    """What is to be given through one cannula.

    Attributes:
        planned_volume_ml: usually 3 to 8 mL per ala (Tabilo, Norambuena and Joaquim, technical description).
        other_volume_ml: cement already given elsewhere, which counts to the total.
        step_volume_ml, wait_s: 1 mL and 20 s in the stepwise technique of the same source.
        lowest_concentricity: below it the next step waits for a person's decision.
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
                f"{limits.ala_volume_ml:.1f} mL: plan less or two depots"
            )
        if not (self.other_volume_ml >= 0 and self.other_volume_ml + self.planned_volume_ml <= limits.total_volume_ml):
            raise PlanError(
                f"{self.planned_volume_ml:.1f} mL after {self.other_volume_ml:.1f} mL given before; the limit for both "
                f"sides is {limits.total_volume_ml:.1f} mL: plan less"
            )
        if self.pressure_limit_kpa > limits.pressure_kpa:
            raise PlanError(f"the pressure limit may be up to {limits.pressure_kpa:.0f} kPa")
        return self

    @property
    def step_ml(self) -> float:
        """Volume between two pauses."""
        return self.planned_volume_ml if self.mode == "continuous" else self.step_volume_ml


@dataclass(frozen=True)
class InjectionState:
    """Where the injection stands.

    Attributes:
        since_s, device_since_s: when the phase began, on both clocks.
        given_ml: cement given through this cannula, after-flow included, as far as is known.
        steps_done: completed steps.
        reason: why it stopped or does not go on; empty when all is well.
    """

    prescription: Prescription
    limits: Limits
    phase: Phase = "prepare"
    since_s: float = 0.0
    device_since_s: float = 0.0
    given_ml: float = 0.0
    steps_done: int = 0
    reason: str = ""
    # Bookkeeping: the pump's counter and what had been given when it was armed, and the volume at which this step ends.
    counter_at_arm_ml: float | None = None
    given_at_arm_ml: float = 0.0
    step_from_ml: float = 0.0
    step_until_ml: float = 0.0


@dataclass(frozen=True)
class InjectionFacts:
    """What is known at a tick; None is not known.

    Attributes:
        interlock: the facts of the interlock; its three volumes are filled in here.
        pump_volume_ml: the pump's own counter.
        pump_state: the pump's own state; `running` and `stopped` matter here.
        concentricity: of the spread monitor.
        request: what a person asks for at this tick.
    """

    interlock: Facts
    pump_volume_ml: Observed[float] | None = None
    pump_state: Observed[str] | None = None
    concentricity: Observed[float] | None = None
    request: Request | None = None


def begin(
    prescription: Prescription, limits: Limits, now_s: float, device_now_s: float | None = None
) -> InjectionState:
    """The state before anything is armed.

    Raises:
        PlanError: when the prescription breaks the limits.
    """
    prescription.check(limits)
    own = replace(
        limits,
        step_volume_ml=prescription.step_ml + _AFTER_FLOW_ML,
        # The last step may end with the planned volume at the very limit.
        ala_volume_ml=limits.ala_volume_ml + _AFTER_FLOW_ML,
        total_volume_ml=limits.total_volume_ml + _AFTER_FLOW_ML,
        pressure_kpa=prescription.pressure_limit_kpa,
    )
    device_since_s = now_s if device_now_s is None else device_now_s
    return InjectionState(prescription, own, since_s=now_s, device_since_s=device_since_s)


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
    return interlock(_with_volumes(state, facts), limits, device_now_s)


def step(
    state: InjectionState, facts: InjectionFacts, now_s: float, device_now_s: float | None = None
) -> tuple[InjectionState, list[Command]]:
    """One tick: the next state and what the pump is told, in order.

    Args:
        device_now_s: on the clock of the facts' times; `now_s` when it is the same clock.
    """
    now = _Now(now_s, now_s if device_now_s is None else device_now_s)
    state = replace(state, given_ml=_given_ml(state, facts))
    if facts.request == "stop":
        return _stop(state, "stop was pressed", now)
    if state.phase == "stopped":
        return _stopped(state, facts, now)
    pump_runs = facts.pump_state is not None and facts.pump_state.value == "running"
    if state.phase != "injecting" and pump_runs and now.device_s - state.device_since_s > _OBEY_S:
        return _stop(state, "the pump runs without an order", now)
    decision = decide(state, facts, now.device_s)
    if state.phase == "injecting":
        return _injecting(state, facts, decision, now)
    if state.phase == "holding":
        return _holding(state, facts, decision, now)
    if state.phase == "armed":
        return _armed(state, facts, decision, now)
    if state.phase == "finished":
        return (state, [WITHDRAW]) if facts.request == "withdraw" else (state, [])
    return _prepare(state, facts, decision, now)


def _enter(state: InjectionState, phase: Phase, now: _Now, reason: str = "") -> InjectionState:
    return replace(state, phase=phase, since_s=now.procedure_s, device_since_s=now.device_s, reason=reason)


def _prepare(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    # The pump may be armed while the cement still ripens.
    decision = decision.without("cement_phase")
    if facts.request != "arm":
        return replace(state, reason=decision.text), []
    if not decision.allowed or facts.pump_volume_ml is None:
        return replace(state, reason=f"not armed: {decision.text}"), []
    armed = replace(
        _enter(state, "armed", now), counter_at_arm_ml=facts.pump_volume_ml.value, given_at_arm_ml=state.given_ml
    )
    return armed, [ARM]


def _armed(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    if facts.request == "start" and decision.allowed:
        return _run(state, now)
    return replace(state, reason=decision.text), []


def _injecting(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    if not decision.allowed:
        return _stop(state, decision.text, now)
    pump_state = facts.pump_state.value if facts.pump_state is not None else "unknown"
    obeyed_long_ago = now.device_s - state.device_since_s > _OBEY_S
    # The plunger has done its part; what the line's stretch still holds back comes out while the pump holds.
    plunger_done = pump_state == "holding" and obeyed_long_ago and _is_mostly_given(state)
    if plunger_done or state.given_ml >= state.step_until_ml - _VOLUME_TOLERANCE_ML:
        state = replace(state, steps_done=state.steps_done + 1)
        return _enter(state, "finished" if _is_complete(state) else "holding", now), [HOLD]
    if facts.request == "finish":
        return _enter(state, "finished", now, "finished by the operator"), [HOLD]
    if pump_state != "running" and obeyed_long_ago:
        return _stop(state, f"the pump does not run though it was told to (it is {pump_state})", now)
    return state, []


def _holding(state: InjectionState, facts: InjectionFacts, decision: Decision, now: _Now) -> _Outcome:
    serious = [reason for reason in decision.reasons if reason.fact in _STOP_WHILE_HOLDING]
    if serious:
        return _stop(state, decision.text, now)
    if facts.request == "withdraw":
        return state, [WITHDRAW]
    if facts.request == "finish" or _is_complete(state):
        return _enter(state, "finished", now), []
    if not now.procedure_s - state.since_s >= state.prescription.wait_s:
        return replace(state, reason=""), []
    if not decision.allowed:
        return replace(state, reason=decision.text), []
    doubt = "" if facts.request == "continue" else _doubt_about_shape(state, facts, now)
    if doubt:
        return replace(state, reason=doubt), []
    return _run(state, now)


def _stopped(state: InjectionState, facts: InjectionFacts, now: _Now) -> _Outcome:
    if facts.request == "reset":
        reset = replace(_enter(state, "prepare", now), counter_at_arm_ml=None, given_at_arm_ml=state.given_ml)
        return reset, [RESET]
    # Told again until the pump says so itself: a stop may be lost on the way.
    reported = facts.pump_state
    obeyed = reported is not None and reported.value == "stopped" and reported.time_s >= state.device_since_s
    return state, [] if obeyed else [STOP]


def _run(state: InjectionState, now: _Now) -> _Outcome:
    volume_ml = _next_step_ml(state)
    running = replace(
        _enter(state, "injecting", now), step_from_ml=state.given_ml, step_until_ml=state.given_ml + volume_ml
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


def _is_mostly_given(state: InjectionState) -> bool:
    """Whether no more is missing from this step than the line may hold back."""
    return state.step_until_ml - state.given_ml <= 2 * _AFTER_FLOW_ML


def _is_complete(state: InjectionState) -> bool:
    """Whether so little is missing from the plan that the after-flow makes up for it."""
    return _next_step_ml(state) <= _AFTER_FLOW_ML


def _next_step_ml(state: InjectionState) -> float:
    return min(state.prescription.step_ml, state.prescription.planned_volume_ml - state.given_ml)


def _given_ml(state: InjectionState, facts: InjectionFacts) -> float:
    """Cement given through this cannula; the last known value where the counter says nothing."""
    if state.counter_at_arm_ml is None or facts.pump_volume_ml is None:
        return state.given_ml
    given = state.given_at_arm_ml + facts.pump_volume_ml.value - state.counter_at_arm_ml
    return given if math.isfinite(given) else state.given_ml


def _with_volumes(state: InjectionState, facts: InjectionFacts) -> Facts:
    observed = facts.pump_volume_ml
    if observed is None:
        return replace(facts.interlock, step_volume_ml=None, ala_volume_ml=None, total_volume_ml=None)
    given = max(state.given_ml, 0.0)
    step_ml = max(given - state.step_from_ml, 0.0) if state.phase == "injecting" else 0.0
    # A counter that ran back or is not a number makes every volume unknown.
    start = observed.value if state.counter_at_arm_ml is None else state.counter_at_arm_ml
    if not observed.value >= start - _VOLUME_TOLERANCE_ML:
        given = step_ml = math.nan
    return replace(
        facts.interlock,
        step_volume_ml=Observed(step_ml, observed.time_s),
        ala_volume_ml=Observed(given, observed.time_s),
        total_volume_ml=Observed(given + state.prescription.other_volume_ml, observed.time_s),
    )


def _doubt_about_shape(state: InjectionState, facts: InjectionFacts, now: _Now) -> str:
    """Why the spread's shape does not allow the next step by itself; empty when it does."""
    seen = facts.concentricity
    fresh = seen is not None and now.device_s - seen.time_s <= state.limits.frame_age_s
    if seen is None or not fresh or not math.isfinite(seen.value):
        return "the shape of the spread is not known; look at both views and decide"
    if seen.value < state.prescription.lowest_concentricity:
        return (
            f"the cement does not spread evenly (index {seen.value:.2f}, expected at least "
            f"{state.prescription.lowest_concentricity:.2f}); turn or withdraw the trocar, or decide to go on"
        )
    return ""
