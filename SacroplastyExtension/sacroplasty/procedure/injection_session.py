"""The injections of one case under a person's hands: volumes of both alae, the cement's clock, and the journal.

One ala is injected at a time. Every order to the pump is in the journal before it is given, and a session that was
killed is taken up from there: stopped, with its clock and volumes, until a person resets it. Only a stop goes out
first and is written down after.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from ..cement.after_flow import AfterFlowWatch
from ..cement.aging import CementClock
from ..cement.delivery import Delivery, DeliveryFacts
from ..cement.injection import (
    STOP,
    Command,
    InjectionFacts,
    InjectionState,
    Prescription,
    Request,
    begin,
    step,
)
from ..cement.interlock import Facts, Limits, Observed
from ..cement.line import InjectionLine
from ..cement.presets import default_preset, load_presets
from ..cement.viscosity import ViscosityEstimate
from ..errors import PlanError
from ..planning.model import Side
from .journal import Journal
from .recovery import RecoveredSession

#: Between two events the journal follows the volume in steps of this size, so that a lost session loses no more.
PROGRESS_ML = 0.05

#: Phases in which one ala must be finished before the other one is turned to.
UNDER_WAY = ("armed", "injecting", "holding", "withdrawing")

#: A moment of the curves, and how many are kept.
_SAMPLE_S = 0.2
_KEPT_SAMPLES = 6000


@dataclass(frozen=True)
class Surroundings:
    """What is known beside pump, cement and volumes; None is not known. See `interlock.Facts` and `InjectionFacts`."""

    frames_changing: dict[str, Observed[bool]] | None = None
    monitor_healthy: Observed[bool] | None = None
    leak: Observed[bool] | None = None
    registration_error_mm: Observed[float] | None = None
    concentricity: Observed[float] | None = None
    warning: str = ""


@dataclass(frozen=True)
class Wish:
    """What a person asks for at a tick. See `InjectionFacts`."""

    request: Request | None = None
    held: bool | None = None
    withdrawn_mm: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """One moment of the curves; NaN is not known."""

    time_s: float
    given_ml: float
    rate_ml_s: float
    pressure_kpa: float


@dataclass
class InjectionSession:
    """Both alae of one case.

    Attributes:
        limits: of the case.
        open_journal: makes the journal when the first thing is to be written; None while no place for it was chosen,
            and then nothing can be armed.
        line: from pump to tip, for after-flow and viscosity.
        given_ml: by side.
        stopped: whether an injection of this case was ever stopped.
        trouble: why the journal cannot be kept, in words.
    """

    limits: Limits
    open_journal: Callable[[], Journal] | None
    line: InjectionLine
    now_s: float
    unix_s: float
    clock: CementClock = field(default_factory=CementClock)
    given_ml: dict[Side, float] = field(default_factory=lambda: dict.fromkeys(get_args(Side), 0.0))
    stopped: bool = False
    state: InjectionState | None = None
    side: Side = "left"
    refusal: str = ""
    trouble: str = ""
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._journal: Journal | None = None
        self._began_s, self._began_unix_s = self.now_s, self.unix_s
        self._noted_ml, self._noted_s = sum(self.given_ml.values()), self.now_s
        self._watch = AfterFlowWatch()
        self._counter_ml = math.nan
        self._earlier: RecoveredSession | None = None

    @property
    def total_ml(self) -> float:
        return sum(self.given_ml.values())

    @property
    def viscosity(self) -> ViscosityEstimate | None:
        return self._watch.viscosity

    @property
    def after_flow_ml(self) -> float:
        """That would still come out if the plunger halted now; NaN while it is not known."""
        return self._watch.after_flow_ml

    @property
    def in_line_ml(self) -> float:
        """What the stretched line holds back of the plunger's volume; nothing as long as it is not known."""
        return self._watch.in_line_ml

    @property
    def mixed_at_unix_s(self) -> float | None:
        """When the cement in use was mixed, in seconds since 1970; None when none was."""
        mixed_at_s = self.clock.mixed_at_s
        return None if mixed_at_s is None else self._began_unix_s + mixed_at_s - self._began_s

    @property
    def under_way(self) -> bool:
        return self.state is not None and self.state.phase in UNDER_WAY

    def take_up(self, earlier: RecoveredSession, now_s: float, unix_s: float) -> None:
        """Go on from a session that ended without being closed; `choose` then begins in its stop."""
        self.given_ml = dict(earlier.given_ml)
        self.stopped = True
        if earlier.mixed_at_unix_s is not None:
            # No temperature is known of the time between, so it counts as warm.
            clock = CementClock(load_presets().get(earlier.cement, default_preset()))
            self.clock = clock.mixed(now_s - (unix_s - earlier.mixed_at_unix_s))
        self.side = earlier.side
        self._earlier = earlier
        self.note("session_recovered", now_s, earlier=earlier.path.name, ended_as=earlier.phase)

    def mix(self, now_s: float) -> None:
        """A new batch: its age counts from now."""
        self.clock = self.clock.mixed(now_s)
        self.note("cement_mixed", now_s)

    def choose(self, prescription: Prescription, delivery: Delivery, now_s: float) -> None:
        """Turn to one ala. Not while cement flows or waits to flow.

        From an injection that is over, the pump is stopped first: nobody handles the line of a pump that is armed. The
        reset that this asks for says that the line is where it belongs.
        """
        if self.under_way:
            self.refusal = "stop or finish this side first"
            return
        over = self.state.phase if self.state is not None and self.state.phase in ("finished", "stopped") else ""
        earlier, self._earlier = self._earlier, None
        self.side, self.refusal, self.state = prescription.side, "", None
        try:
            state = begin(prescription, self.limits, now_s, given_ml=self.given_ml[prescription.side])
        except PlanError as error:
            self.refusal = str(error)
        else:
            if earlier is not None:
                state = replace(
                    state,
                    phase="stopped",
                    reason="a previous session ended without being closed: look at pump and trocar, then reset",
                    counter_at_arm_ml=earlier.counter_ml if earlier.side == prescription.side else None,
                )
            elif over:
                state = replace(
                    state, phase="stopped", reason=f"connect the line to the {self.side} trocar, then reset"
                )
            self.state = state
        self.note("ala_chosen", now_s, **_told_of(prescription), refused=self.refusal)
        if over == "finished":
            delivery.order(STOP, now_s)
            self.note("order", now_s, command="stop", arguments={}, reason="the line is moved")

    def stop(self, delivery: Delivery, now_s: float) -> None:
        """Stop first of all, then write it down. May be called between ticks."""
        delivery.order(STOP, now_s)
        self.stopped = True
        if self.state is not None:
            facts = self._facts(Surroundings(), DeliveryFacts(), Wish("stop"), now_s)
            self.state, _ = step(self.state, facts, max(now_s, self.state.ticked_s))
        self.note("stop", now_s, by="person")

    def tick(self, around: Surroundings, delivery: Delivery, wish: Wish, now_s: float) -> None:
        """One turn: look, decide, write down, order."""
        told = delivery.facts(now_s)
        for refusal in told.refusals:
            self.refusal = refusal.text
            self.note("order_refused", now_s, command=refusal.order, code=refusal.code, text=refusal.reason)
        self._look(told, now_s)
        if self.state is None:
            return
        if wish.request is not None:
            self.note("request", now_s, request=wish.request, withdrawn_mm=wish.withdrawn_mm, text=wish.note)
            self.refusal = ""
        if self.trouble or self.open_journal is None:
            wish = self._without_journal(wish)
        before = self.state
        self.state, commands = step(before, self._facts(around, told, wish, now_s), now_s)
        self.given_ml[self.side] = self.state.given_ml
        self._carry_out(before, commands, delivery, now_s)

    def close(self, delivery: Delivery, now_s: float) -> None:
        """End the session. What is under way is stopped."""
        if self.under_way:
            self.stop(delivery, now_s)
        if self._journal is not None:
            self.note("session_closed", now_s)
            self._journal.close()
        self._journal, self.open_journal = None, None

    def note(self, event: str, now_s: float, **facts: Any) -> bool:
        """Write an event into the journal with the volumes; False when that failed, which forbids all further flow."""
        self._noted_ml, self._noted_s = self.total_ml, now_s
        if self.open_journal is None:
            return False
        try:
            if self._journal is None:
                self._journal = self.open_journal()
                told = _told_of(self.state.prescription) if self.state is not None else {}
                self._write("session_started", self._began_s, unix_s=self._began_unix_s, **told)
            self._write(event, now_s, **facts)
        except OSError as error:
            self.trouble = f"the journal cannot be written ({error.strerror or error}): choose another folder"
            return False
        return True

    def keep_journal(self, open_journal: Callable[[], Journal]) -> None:
        """Write into another journal from now on; the one so far says that the session goes on elsewhere."""
        if self._journal is not None and not self.trouble:
            self.note("session_moved", self._noted_s)
            self._journal.close()
        self.open_journal, self._journal, self.trouble = open_journal, None, ""

    def _write(self, event: str, now_s: float, **facts: Any) -> None:
        assert self._journal is not None
        phase = self.state.phase if self.state is not None else "none"
        self._journal.write(
            now_s - self._began_s,
            event,
            side=self.side,
            phase=phase,
            given_ml=dict(self.given_ml),
            counter_ml=self._counter_ml,
            cement=self.clock.preset.key,
            mixed_at_unix_s=self.mixed_at_unix_s,
            **facts,
        )

    def _without_journal(self, wish: Wish) -> Wish:
        """Without a journal nothing begins and nothing goes on."""
        assert self.state is not None
        if self.under_way:
            return Wish("stop")
        if wish.request not in (None, "stop", "abort", "finish"):
            self.refusal = self.trouble or "no journal is kept: choose a folder for it"
            return Wish()
        return wish

    def _carry_out(self, before: InjectionState, commands: list[Command], delivery: Delivery, now_s: float) -> None:
        assert self.state is not None
        entered = self.state.phase != before.phase
        self.stopped = self.stopped or self.state.phase == "stopped"
        if commands:
            self.refusal = ""
        for command in commands:
            if command.name == "stop":
                delivery.order(command, now_s)
                if not entered:  # A repetition of what is written down already.
                    continue
            told = {"command": command.name, "arguments": command.arguments, "reason": self.state.reason}
            written = self.note("order", now_s, **told)
            if command.name == "stop":
                continue
            if not written:
                self._stop_for_want_of_journal(delivery, now_s)
                return
            delivery.order(command, now_s)
        if entered:
            self.note(f"injection_{self.state.phase}", now_s, reason=self.state.reason, depots=_depots(self.state))
        elif abs(self.total_ml - self._noted_ml) >= PROGRESS_ML:
            pressure_kpa = self.samples[-1].pressure_kpa if self.samples else math.nan
            self.note("progress", now_s, pressure_kpa=pressure_kpa)

    def _stop_for_want_of_journal(self, delivery: Delivery, now_s: float) -> None:
        assert self.state is not None
        delivery.order(STOP, now_s)
        self.stopped = True
        self.state = replace(self.state, phase="stopped", since_s=now_s, device_since_s=now_s, reason=self.trouble)

    def _facts(self, around: Surroundings, told: DeliveryFacts, wish: Wish, now_s: float) -> InjectionFacts:
        self.clock = self.clock.seen(now_s)
        return InjectionFacts(
            interlock=Facts(
                operator_stop=Observed(wish.request == "stop", now_s),
                pump_connected=told.connected,
                pump_fault=told.fault,
                frames_changing=around.frames_changing,
                monitor_healthy=around.monitor_healthy,
                leak=around.leak,
                cement_phase=Observed(self.clock.phase(now_s), now_s),
                pressure_kpa=told.pressure_kpa,
                registration_error_mm=around.registration_error_mm,
            ),
            pump_volume_ml=told.volume_ml,
            pump_state=told.state,
            after_flow_ml=self._watch.observed(now_s),
            concentricity=around.concentricity,
            warning=around.warning,
            held=wish.held,
            request=wish.request,
            withdrawn_mm=wish.withdrawn_mm,
            note=wish.note,
        )

    def _look(self, told: DeliveryFacts, now_s: float) -> None:
        """Curves, viscosity and after-flow from what was told last."""
        if told.volume_ml is not None:
            self._counter_ml = told.volume_ml.value
        pressure, rate = told.pressure_kpa, told.rate_ml_s
        pressure_kpa = pressure.value if pressure is not None else math.nan
        rate_ml_s = rate.value if rate is not None else math.nan
        if not self.samples or now_s - self.samples[-1].time_s >= _SAMPLE_S:
            self.samples.append(Sample(now_s, self.total_ml, rate_ml_s, pressure_kpa))
            del self.samples[:-_KEPT_SAMPLES]
        self._watch.look(self.line, told, self.clock, now_s)


def _depots(state: InjectionState) -> list[dict[str, float]]:
    return [{"withdrawn_mm": depot.withdrawn_mm, "volume_ml": depot.volume_ml} for depot in state.depots]


def _told_of(prescription: Prescription) -> dict[str, Any]:
    names = ("planned_volume_ml", "mode", "delivery", "step_volume_ml", "wait_s", "rate_ml_s", "pressure_limit_kpa")
    return {name: getattr(prescription, name) for name in names}
