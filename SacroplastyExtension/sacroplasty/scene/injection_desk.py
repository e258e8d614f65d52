"""The injection page's work: one case's injections over the devices of a desk, and all that the page shows of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from slicer import vtkMRMLScene

from ..cement.aging import CementClock, clock_notices
from ..cement.alarms import AlarmBoard
from ..cement.delivery import Delivery
from ..cement.injection import Delivery as DeliveryKind
from ..cement.injection import InjectionState, Mode, Prescription, Request
from ..cement.interlock import Limits
from ..cement.line import InjectionLine, injection_line, pressure_outlook
from ..cement.manual_injection import EnteredVolumes, ManualDelivery, VolumeSource
from ..errors import DocumentError, ImageError, PlanError
from ..planning.model import Depot, Side
from ..planning.needles import needle
from ..procedure.conduct import PRESSURE_LIMIT_KPA, RATE_ML_S
from ..procedure.injection_alarms import standing_alarms
from ..procedure.injection_curves import since_first_flow
from ..procedure.injection_session import InjectionSession, Sample, Wish
from ..procedure.journal import Journal
from ..procedure.pump_delivery import PumpDelivery
from ..procedure.recovery import RecoveredSession, mark, unclosed
from . import spread
from .cement import RECORD_NAME, given_text
from .cement_estimate import LiveEstimate
from .devices import DeviceDesk
from .injection_chart import show_curves
from .leak_evidence import LeakEvidence
from .monitor_page import MonitorPage
from .planning import chosen, plan_of
from .records import read_record, write_record
from .spread import SpreadSummary
from .spread_watch import BannerLevel, SpreadWatch, tip_ras
from .workflow import write_step

#: The record in the scene follows the volume in steps of this size.
_RECORD_STEP_ML = 0.05

_OUTLOOK_S = 5.0


@dataclass(frozen=True)
class Technique:
    """How cement is given; see `Prescription`."""

    mode: Mode = "stepwise"
    delivery: DeliveryKind = "pump"
    step_volume_ml: float = 1.0
    wait_s: float = 20.0
    rate_ml_s: float = RATE_ML_S
    lowest_concentricity: float = 0.3


@dataclass(frozen=True)
class InjectionReadout:
    """Everything that the injection page shows; None is not known and is shown as a dash.

    Attributes:
        age_s: seconds since mixing by the wall; `seconds_to_next` until the cement may or may no longer be used.
        given_ml, planned_ml: by side.
        injection: phase of the injection state machine.
        step_text: which step of how many.
        wait_s: of the pause between two steps that is left.
        reason: why cement does not flow now, in words.
        instruction: what the person at the syringe is to do; empty with a pump.
        viscosity_text, after_flow_text, outlook_text: what flow and pressure say; empty when they say nothing.
        spread_text: of the prediction that the scene shows, if it is of this tip and volume; empty without one.
        withdrawn_text: where the trocar's tip is, and the depots that it left.
        may_...: whether a button leads anywhere now.
        decides: whether a person's decision is waited for.
        awaits_note: whether an abort still needs its reason.
        earlier_text: of a session that ended without being closed and that nobody has dealt with yet.
        journal_text: where the journal is kept, or why it is not.
        alarms: those that stand.
    """

    age_s: float | None
    phase: str
    seconds_to_next: float | None
    given_ml: dict[Side, float]
    planned_ml: dict[Side, float | None]
    total_ml: float
    total_limit_ml: float
    pressure_kpa: float | None
    rate_ml_s: float | None
    pump_text: str
    injection: str
    step_text: str
    wait_s: float
    reason: str
    instruction: str
    viscosity_text: str
    after_flow_text: str
    outlook_text: str
    spread_text: str
    withdrawn_text: str
    banner: BannerLevel
    banner_text: str
    may_arm: bool
    may_inject: bool
    may_withdraw: bool
    may_abort: bool
    withdrawing: bool
    decides: bool
    awaits_note: bool
    earlier_text: str
    journal_text: str
    alarms: AlarmBoard


class InjectionDesk:
    """Cement and injection over the devices of a desk, for one case.

    `tick` is to be called at every turn of the timer. From a pump cement runs only while a person holds the button:
    letting go halts the pump, and no step begins by itself.
    """

    def __init__(
        self, scene: vtkMRMLScene, devices: DeviceDesk, now_s: float, unix_s: float, journals: Path | None = None
    ) -> None:
        """
        Args:
            now_s: on the clock of all other calls.
            unix_s: wall time, by which a restored case knows how old its cement is.
            journals: folder of the journals; None keeps none, and nothing can be armed.
        """
        self._scene = scene
        self._devices = devices
        limits = Limits()
        self.watch = SpreadWatch(scene, devices, limits)
        self.page = MonitorPage(scene, self.watch, now_s, unix_s, self._likely_way)
        self._evidence = LeakEvidence(scene, now_s, unix_s)
        self._estimate = LiveEstimate(scene)
        self.technique = Technique()
        self.alarms = AlarmBoard()
        self.earlier: RecoveredSession | None = None
        self._journals: Path | None = None
        self._source: VolumeSource = EnteredVolumes()
        self._manual = ManualDelivery(self._source)
        self._session = InjectionSession(limits, None, self._line("left"), now_s, unix_s)
        self._note = ""
        self._outlook: tuple[float, str] = (-math.inf, "")
        self._recorded_ml = 0.0
        self._restore(now_s, unix_s)
        self.choose(self._session.side, now_s)
        # Last, so that a page that is only looked at writes nothing.
        if journals is not None:
            self.keep_journals(journals)

    @property
    def side(self) -> Side:
        return self._session.side

    @property
    def samples(self) -> list[Sample]:
        """The curves: volume, flow and pressure over time, from shortly before the first flow."""
        return since_first_flow(self._session.samples)

    def keep_journals(self, folder: Path) -> None:
        """Write the journal into this folder from now on, and look there for a session that was not closed."""
        self._journals = folder
        self._session.keep_journal(lambda: _new_journal(folder))
        try:
            self.earlier = unclosed(folder) if folder.is_dir() else None
        except (DocumentError, OSError) as error:
            self._session.refusal = str(error)

    def take_up(self, now_s: float, unix_s: float) -> None:
        """Go on with the session that was not closed: its clock and volumes, stopped until a person resets."""
        if self.earlier is None:
            return
        self._session.take_up(self.earlier, now_s, unix_s)
        mark(self.earlier, "session_taken_over")
        self.earlier = None
        self.choose(self._session.side, now_s)
        self._write()

    def leave_earlier(self, now_s: float) -> None:
        """The session that was not closed is another patient's."""
        if self.earlier is not None:
            self._session.note("session_left", now_s, earlier=self.earlier.path.name)
            mark(self.earlier, "session_left")
        self.earlier = None

    def mix(self, now_s: float, unix_s: float) -> None:
        """A new batch: its age counts from now."""
        self._session.mix(now_s)
        self._write()
        write_step(self._scene, "cement", True, ["mixed"])

    def read_temperature(self, temperature_c: float, now_s: float) -> None:
        """Take a reading of the room's temperature."""
        self._session.clock = self._session.clock.with_reading(now_s, temperature_c)

    def learn_views(self, now_s: float) -> None:
        """Begin to learn what the views show now, with the trocar of this side in place; see `SpreadWatch.learn`.

        Raises:
            AnatomyError, PlanError: without what the monitor needs.
        """
        state = self._session.state
        self.page.begin_reference()
        self.watch.learn(self.side, state.withdrawn_mm if state else 0.0)
        self._session.note("views_learned", now_s)

    def acknowledge_leak(self, now_s: float) -> None:
        """A person has seen the leak. The pump stays stopped until it is reset."""
        if self.page.acknowledge_leak():
            self._session.note("leak_acknowledged", now_s)

    def choose(self, side: Side, now_s: float, technique: Technique | None = None) -> None:
        """Turn to one ala, or give in another way. Not while cement flows or waits to flow."""
        session = self._session
        if session.under_way:
            session.refusal = "stop or finish this side first"
            return
        self.technique = technique or self.technique
        session.line = self._line(side)
        self._note = ""
        planned = self._planned().get(side)
        if planned is None:
            session.state, session.side = None, side
            session.refusal = f"no cement is planned for the {side} ala"
            return
        other: Side = "right" if side == "left" else "left"
        way = self.technique
        prescription = Prescription(
            side,
            planned,
            mode=way.mode,
            other_volume_ml=session.given_ml[other],
            step_volume_ml=way.step_volume_ml,
            wait_s=way.wait_s,
            rate_ml_s=way.rate_ml_s,
            pressure_limit_kpa=PRESSURE_LIMIT_KPA,
            lowest_concentricity=way.lowest_concentricity,
            delivery=way.delivery,
        )
        session.choose(prescription, self._delivery(), now_s)

    def predict_spread(self, progress: Callable[[float], None] | None = None) -> SpreadSummary:
        """Predict where the planned volume of this side goes from the tip as it stands, and show it in the scene.

        Args:
            progress: called with the share done; may raise to end it.

        Raises:
            AnatomyError, PlanError: without what it needs, or while cement is under way: it takes seconds in which
                nobody would watch.
        """
        session = self._session
        if session.under_way:
            raise PlanError("the spread is predicted before the injection or after it, not while cement is under way")
        return spread.predict(
            self._scene,
            self.side,
            self._depots(),
            session.line,
            session.clock.preset,
            self.technique.rate_ml_s,
            progress=progress,
        )

    def _depots(self) -> list[Depot]:
        """What was left behind on the way back, and the rest of the plan at the tip as it stands.

        Raises:
            PlanError: when nothing is planned.
        """
        planned, state = self._planned().get(self.side), self._session.state
        if planned is None:
            raise PlanError(f"no cement is planned for the {self.side} ala")
        left = state.left_depots if state is not None else ()
        depots = [Depot(tip_ras(self._scene, self.side, one.withdrawn_mm), one.volume_ml) for one in left]
        rest_ml = planned - sum(depot.volume_ml for depot in depots)
        return [*depots, Depot(tip_ras(self._scene, self.side, state.withdrawn_mm if state else 0.0), rest_ml)]

    def _spread_text(self) -> str:
        """What is predicted for this side; one of another tip or volume must not be believed."""
        found = spread.summary(self._scene, self.side)
        if found is None:
            return ""
        if self._planned().get(self.side) is None or not spread.is_of(self._scene, self.side, self._depots()):
            return "of another tip, volume or segmentation: predict again"
        text = f"leak in {found.any_leak:.0%} of {found.members} runs"
        return f"{text}, first {found.rows[0].route}" if found.rows and found.any_leak > 0 else text

    def _likely_way(self) -> str:
        """The way out by which the prediction for this tip and volume leaks most often; empty without one."""
        found = spread.summary(self._scene, self.side)
        first = next(iter(found.rows), None) if found is not None else None
        if found is None or first is None or not spread.is_of(self._scene, self.side, self._depots()):
            return ""
        return f"{first.route} (in {first.probability:.0%} of {found.members} runs)" if first.probability > 0 else ""

    def enter_volume(self, volume_ml: float, now_s: float) -> None:
        """Count a syringe that was given by hand.

        Raises:
            PlanError: for a volume that no syringe gave, or when volumes are not entered by hand.
        """
        if self.technique.delivery != "manual" or not isinstance(self._source, EnteredVolumes):
            raise PlanError("volumes are entered only while cement is injected by hand")
        self._source.enter(volume_ml, now_s)
        self._session.note("volume_entered", now_s, volume_ml=volume_ml)

    def use_volume_source(self, source: VolumeSource) -> None:
        """Take volumes given by hand from a scale or sensor from now on. Not while cement is under way."""
        if not self._session.under_way:
            self._source, self._manual = source, ManualDelivery(source)

    def pause_sound(self, now_s: float) -> None:
        """Pause the alarms' sound; what is seen stays."""
        self.alarms = self.alarms.with_sound_paused(now_s)
        self._session.note("sound_paused", now_s)

    def stop(self, now_s: float) -> bool:
        """Stop first of all. False when there is no pump that can be told."""
        before = self._session.state
        self._session.stop(self._delivery(), now_s)
        if before is not None and self._session.state is not None:
            self._follow(before, self._session.state, now_s)
        self._write()
        pump = self._devices.pump
        return self.technique.delivery == "manual" or (pump is not None and pump.client.connected)

    def tick(
        self,
        now_s: float,
        held: bool,
        request: Request | None = None,
        withdrawn_mm: float = math.nan,
        note: str = "",
    ) -> None:
        """One turn: look, decide, write down, tell the pump.

        Args:
            held: whether a person holds the injection button now.
            request: what else was asked for at this turn; `withdrawn_mm` and `note` belong to it.
        """
        session = self._session
        self.watch.tick(now_s, session.total_ml, self._is_counted(), session.in_line_ml)
        if self.watch.problem:
            self.page.refuse_reference(self.watch.problem)
            session.refusal, self.watch.problem = self.watch.problem, ""
        if self.earlier is not None and request in ("arm", "reset"):
            session.refusal, request = "first decide about the session that ended without being closed", None
        before = session.state
        by_hand = self.technique.delivery == "manual"
        wish = Wish(request, None if by_hand else held, withdrawn_mm, note)
        session.tick(self.watch.surroundings(now_s), self._delivery(), wish, now_s)
        if session.state is not None and before is not None:
            self._follow(before, session.state, now_s)
        self._raise_alarms(now_s)
        # Pictures come last: the pump has its orders by now.
        self.page.follow(now_s, session.total_ml)
        self._keep_evidence(now_s)
        self._estimate.tick(self.watch.monitor, self.side, self.watch.given_ml(session.total_ml), now_s)

    def readout(self, now_s: float) -> InjectionReadout:
        """What the page shows now."""
        session = self._session
        state, clock = session.state, session.clock
        phase = clock.phase(now_s)
        told = self._devices.pump.reading(now_s) if self._devices.pump is not None else None
        pump = told.state if told is not None and told.ready else None
        to_next = {
            "mixing": clock.seconds_until_working,
            "waiting": clock.seconds_until_working,
            "working": clock.seconds_left,
        }.get(phase)
        planned = self._planned()
        by_hand = self.technique.delivery == "manual"
        banner, banner_text = self.watch.banner(now_s)
        name = state.phase if state else "none"
        estimate = session.viscosity
        known = estimate is not None and estimate.known and now_s - estimate.time_s < 1.0
        return InjectionReadout(
            age_s=None if clock.mixed_at_s is None else now_s - clock.mixed_at_s,
            phase=phase,
            seconds_to_next=to_next(now_s) if to_next else None,
            given_ml=dict(session.given_ml),
            planned_ml={side: planned.get(side) for side in get_args(Side)},
            total_ml=session.total_ml,
            total_limit_ml=session.limits.total_volume_ml,
            pressure_kpa=pump.pressure_kpa if pump else None,
            rate_ml_s=pump.rate_ml_s if pump else None,
            pump_text=_pump_text(told),
            injection=name,
            step_text=_step_text(state),
            wait_s=_wait_s(state, now_s),
            reason=session.refusal or (state.reason if state else ""),
            instruction=self._manual.instruction if by_hand else "",
            viscosity_text=(
                f"{estimate.apparent_viscosity_pa_s:.0f} Pa·s "
                f"± {estimate.standard_deviation_pa_sn / estimate.consistency_pa_sn:.0%}"
                if known and estimate is not None
                else ""
            ),
            spread_text=self._spread_text(),
            after_flow_text="" if math.isnan(session.after_flow_ml) else f"{session.after_flow_ml:.2f} mL",
            outlook_text=self._outlook_text(now_s),
            withdrawn_text=_withdrawn_text(state),
            banner=banner,
            banner_text=banner_text,
            may_arm=name in ("prepare", "stopped") and (by_hand or pump is not None) and not self._is_aborted(),
            may_inject=name in ("armed", "injecting", "holding"),
            may_withdraw=name in ("armed", "injecting", "holding", "finished"),
            may_abort=name not in ("none", "prepare") and not (state is not None and state.note),
            withdrawing=name == "withdrawing",
            decides=state is not None and name == "holding" and "decide" in state.reason,
            awaits_note=state is not None and state.note == "",
            earlier_text=_earlier_text(self.earlier),
            journal_text=session.trouble
            or (f"Journal in {self._journals}" if self._journals else "No journal is kept"),
            alarms=self.alarms,
        )

    def close(self, now_s: float) -> None:
        """Let go of the case; what is under way is stopped."""
        self._session.close(self._delivery(), now_s)

    def _delivery(self) -> Delivery:
        return self._manual if self.technique.delivery == "manual" else PumpDelivery(self._devices.pump)

    def _is_counted(self) -> bool:
        """Whether all cement that was given is known: a person enters a syringe after having given it."""
        injecting = self._session.state is not None and self._session.state.phase == "injecting"
        return not (self.technique.delivery == "manual" and self._source.by_hand and injecting)

    def _planned(self) -> dict[Side, float]:
        plan = plan_of(self._scene)
        return {side: trajectory.planned_volume_ml for side, trajectory in chosen(plan).items()} if plan else {}

    def _line(self, side: Side) -> InjectionLine:
        """Syringe and planned cannula."""
        plan = plan_of(self._scene)
        trajectory = chosen(plan).get(side) if plan else None
        return injection_line(trajectory.needle if trajectory else needle())

    def _is_aborted(self) -> bool:
        return self._session.state is not None and self._session.state.note is not None

    def _follow(self, before: InjectionState, after: InjectionState, now_s: float) -> None:
        """Keep the scene's record up to date, and the monitor at the tip."""
        if after.withdrawn_mm != before.withdrawn_mm:
            tip = tip_ras(self._scene, self.side, after.withdrawn_mm)
            self._session.note("tip_moved", now_s, withdrawn_mm=after.withdrawn_mm, tip_ras=tip)
            if self.watch.learned:
                # The views show the trocar elsewhere: the monitor is blind until it has learned them anew.
                self.page.begin_reference()
                self.watch.learn(self.side, after.withdrawn_mm)
        if after.phase != before.phase or abs(self._session.total_ml - self._recorded_ml) >= _RECORD_STEP_ML:
            self._write()
        if after.phase != before.phase and after.phase in ("holding", "finished", "stopped"):
            show_curves(self._scene, self.samples)
            self.page.keep()
        if after.phase != before.phase and after.phase in ("finished", "stopped"):
            text = after.reason or given_text(self._scene)
            write_step(self._scene, "injection", after.phase == "finished", [text])

    def _keep_evidence(self, now_s: float) -> None:
        """Pictures of a leak, for report and journal."""
        try:
            path = self._evidence.follow(self.watch, self._journals)
        except (ImageError, OSError) as error:
            self._session.note("leak_picture", now_s, failed=str(error))
            return
        if path is not None:
            self._session.note("leak_picture", now_s, file=path.name)

    def _raise_alarms(self, now_s: float) -> None:
        session = self._session
        state = session.state
        level, text = self.watch.banner(now_s)
        pump = self._devices.pump
        reading = pump.reading(now_s) if pump is not None and self.technique.delivery == "pump" else None
        standing = standing_alarms(
            state.phase if state else "none",
            state.reason if state else "",
            self.technique.delivery == "manual",
            reading.alarm if reading is not None else "",
            level,
            text,
            self.watch.warning,
            clock_notices(session.clock, now_s) if session.clock.mixed_at_s is not None else (),
            session.trouble,
        )
        before = {alarm.key for alarm in self.alarms.active}
        self.alarms = self.alarms.with_alarms(standing, now_s)
        for alarm in self.alarms.active:
            if alarm.key not in before:
                session.note("alarm", now_s, priority=alarm.priority, text=alarm.text)

    def _outlook_text(self, now_s: float) -> str:
        """Whether pump and cannula can still give this flow at the end of the cement's time."""
        at_s, text = self._outlook
        if now_s - at_s >= _OUTLOOK_S:
            clock = self._session.clock
            age_s = clock.equivalent_age_s(now_s)
            outlook = pressure_outlook(
                self._session.line,
                clock.preset,
                self.technique.rate_ml_s,
                PRESSURE_LIMIT_KPA,
                age_s if math.isfinite(age_s) else None,
            )
            text = ""
            if outlook.exceeds_at_s is not None:
                minutes, seconds = divmod(int(outlook.exceeds_at_s), 60)
                text = f"over {PRESSURE_LIMIT_KPA:.0f} kPa from an age of {minutes}:{seconds:02d} on"
            self._outlook = now_s, text
        return text

    def _restore(self, now_s: float, unix_s: float) -> None:
        record = read_record(self._scene, RECORD_NAME) or {}
        session = self._session
        for side in get_args(Side):
            session.given_ml[side] = float(record.get("given_ml", {}).get(side, 0.0))
        self._recorded_ml = session.total_ml
        session.stopped = bool(record.get("stopped", False))
        mixed_at_unix_s = record.get("mixed_at_unix_s")
        if mixed_at_unix_s is not None and mixed_at_unix_s <= unix_s:
            session.clock = CementClock().mixed(now_s - (unix_s - float(mixed_at_unix_s)))

    def _write(self) -> None:
        session = self._session
        self._recorded_ml = session.total_ml
        record: dict[str, Any] = dict(read_record(self._scene, RECORD_NAME) or {})
        record |= {
            "mixed_at_unix_s": session.mixed_at_unix_s,
            "given_ml": session.given_ml,
            "stopped": session.stopped,
        }
        state = session.state
        if state is not None and state.given_ml > 0:
            depots = [[depot.withdrawn_mm, depot.volume_ml] for depot in state.depots]
            record["depots"] = {**record.get("depots", {}), self.side: depots}
            record["notes"] = {**record.get("notes", {}), self.side: state.note or ""}
        write_record(self._scene, RECORD_NAME, record)


def _new_journal(folder: Path, clock: Callable[[], float] = time.time) -> Journal:
    """A journal of its own, named after the time, so that the newest comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("injection-%Y-%m-%d_%H%M%S", time.localtime(clock()))
    number = 0
    while (path := folder / f"{stem}-{number:02d}.jsonl").exists():
        number += 1
    return Journal(path)


def _pump_text(told: Any) -> str:
    if told is None:
        return "not connected"
    return str(told.reason or (told.state.state if told.state is not None else "unknown"))


def _step_text(state: InjectionState | None) -> str:
    if state is None:
        return "–"
    steps = math.ceil(state.prescription.planned_volume_ml / state.prescription.step_ml)
    return f"step {min(state.steps_done + 1, steps)} of {steps}"


def _wait_s(state: InjectionState | None, now_s: float) -> float:
    if state is None or state.phase != "holding" or state.interrupted:
        return 0.0
    return max(0.0, state.prescription.wait_s - (now_s - state.since_s))


def _withdrawn_text(state: InjectionState | None) -> str:
    if state is None or not state.left_depots:
        return ""
    left = ", ".join(f"{depot.volume_ml:.1f} mL" for depot in state.left_depots)
    return f"trocar {state.withdrawn_mm:.0f} mm back; depots before: {left}"


def _earlier_text(earlier: RecoveredSession | None) -> str:
    if earlier is None:
        return ""
    ended = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(earlier.ended_unix_s))
    given = ", ".join(f"{volume:.2f} mL {side}" for side, volume in earlier.given_ml.items())
    return f"A previous session ended without being closed: last entry {ended}, {given}, pump {earlier.phase}."
