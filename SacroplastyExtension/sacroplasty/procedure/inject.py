"""Steps 4 and 7 to 10 under fluoroscopy: set the views, mix, inject while watching, look once more at the end.

Generators like those of `navigate`. Every tick gathers the facts anew; what is missing, stale or doubtful stops.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from ..cement.after_flow import AfterFlowWatch
from ..cement.aging import CementClock
from ..cement.cannula import Cannula
from ..cement.delivery import DeliveryFacts
from ..cement.injection import InjectionFacts, InjectionState, Prescription, Request, begin, decide, step
from ..cement.interlock import Facts, Limits, Observed
from ..cement.line import injection_line
from ..cement.monitor import Frame, MonitorReading, MonitorSettings, SpreadMonitor
from ..cement.reference import taken_share
from ..devices.fluoroscope import PLANES, View
from ..devices.fluoroscope import Frame as DetectorFrame
from ..errors import DeviceError, GeometryError, ImageError
from ..geometry import unit
from ..planning.model import Side
from ..xray.geometry import XrayGeometry
from .case import Case, InjectionRecord, InjectionSample
from .equipment import Clocks, Equipment
from .injection_alarms import monitor_warning
from .journal import Journal
from .prepare import Preparation
from .prompts import ConnectLine, Press, Prompt, Wait, Watch
from .pump_delivery import PumpDelivery

#: Frames per second and columns of the live pictures.
FRAME_RATE_HZ = 5.0
COLUMNS = 256

_DEVICE_PATIENCE_S = 30.0
#: The injection of one side is only begun when the cement lasts this much longer than it should take.
_RESERVE = 1.15
#: Time for the after-flow and the last frames before an injection is judged [device s].
_SETTLE_S = 1.5
_SAMPLE_S = 0.2


@dataclass
class Fluoroscopy:
    """Live views of a biplane unit, one for each plane, and what of them is kept for the record.

    Attributes:
        geometries: by view, the first view on the first plane.
        kept: every frame received, by view.
    """

    geometries: dict[str, XrayGeometry]
    kept: dict[str, list[DetectorFrame]] = field(default_factory=dict)

    @property
    def planes(self) -> dict[str, str]:
        """The plane of each view."""
        return dict(zip(self.geometries, PLANES, strict=False))

    def take(self, equipment: Equipment) -> list[tuple[str, DetectorFrame]]:
        """Frames that have come since the last call, by view, in order; they are kept."""
        view_of = {plane: view for view, plane in self.planes.items()}
        taken = [
            (view_of[frame.plane], frame) for frame in equipment.fluoroscope.take_frames() if frame.plane in view_of
        ]
        for view, frame in taken:
            self.kept.setdefault(view, []).append(frame)
        return taken


def set_views(
    fluoroscopy: Fluoroscopy, equipment: Equipment, clocks: Clocks, journal: Journal
) -> Generator[Prompt, Request | None, None]:
    """Move the C-arm into its views and wait until all of them are live.

    Raises:
        DeviceError: when the C-arm refuses or no live picture comes.
    """
    records = [geometry.to_dict() for geometry in fluoroscopy.geometries.values()]
    order = equipment.fluoroscope.move(records, FRAME_RATE_HZ, COLUMNS, expose=True)
    if order is None:
        raise DeviceError(f"no fluoroscope: {equipment.fluoroscope.client.reason}")
    give_up_s = clocks.device.now() + _DEVICE_PATIENCE_S
    while True:
        now_s = clocks.device.now()
        answer = equipment.fluoroscope.answer(order)
        if answer is not None and not answer.accepted:
            raise DeviceError(f"the C-arm refuses: {answer.reason}")
        views = [equipment.fluoroscope.view(plane, now_s) for plane in fluoroscopy.planes.values()]
        if all(view.frame is not None for view in views):
            break
        if now_s > give_up_s:
            raise DeviceError(next(view.reason for view in views if view.reason))
        yield Prompt("positioning", f"C-arm to {' and '.join(fluoroscopy.geometries)}", Watch())
    journal.write(clocks.procedure.now(), "views_set", views=list(fluoroscopy.geometries))


def take_pictures(
    fluoroscopy: Fluoroscopy, equipment: Equipment, clocks: Clocks, journal: Journal
) -> Generator[Prompt, Request | None, None]:
    """Step 10: one picture in each view of `fluoroscopy`; then the beam is off."""
    yield from set_views(fluoroscopy, equipment, clocks, journal)
    fluoroscopy.take(equipment)
    records = [geometry.to_dict() for geometry in fluoroscopy.geometries.values()]
    equipment.fluoroscope.move(records, FRAME_RATE_HZ, COLUMNS, expose=False)


def mix_cement(
    clock: CementClock, duration_s: float, clocks: Clocks, journal: Journal
) -> Generator[Prompt, Request | None, CementClock]:
    """Have cement that is workable now and for `duration_s` more, of the batch at hand or of a new one."""
    now_s = clocks.procedure.now()
    if clock.phase(now_s) == "working" and clock.phase(now_s + duration_s * _RESERVE) == "working":
        return clock
    clock = clock.mixed(now_s)
    journal.write(now_s, "cement_mixed", preset=clock.preset.name)
    while (phase := clock.phase(clocks.procedure.now())) != "working":
        if phase not in ("mixing", "waiting"):
            raise DeviceError(f"the cement is {phase} before it was ever workable; check the clock and mix again")
        # The room's temperature is not measured here, so the clock counts on the warmer side.
        ready_s = now_s + clock.preset.working_from_s
        text = "Mix the cement" if phase == "mixing" else "Wait until the cement is like toothpaste"
        passed_s = clocks.procedure.now() - now_s
        yield Prompt("cement", text, Wait(min(ready_s, clocks.procedure.now() + 5.0)), min(passed_s / 240.0, 1.0))
    journal.write(clocks.procedure.now(), "cement_workable")
    return clock


def inject(
    prescription: Prescription,
    case: Case,
    preparation: Preparation,
    cement: CementClock,
    fluoroscopy: Fluoroscopy,
    equipment: Equipment,
    clocks: Clocks,
    journal: Journal,
    limits: Limits,
) -> Generator[Prompt, Request | None, InjectionRecord]:
    """Inject into one ala through the trocar that stands in it, until the volume is given or something stops it."""
    side = prescription.side
    while (yield Prompt("injection", f"{side}: connect the pump's line and confirm", ConnectLine(side))) != "continue":
        pass
    run = _InjectionRun(prescription, case, preparation, cement, fluoroscopy, equipment, clocks, journal, limits)
    yield from run.learn_reference()
    yield from run.follow()
    yield from run.settle()
    return run.record


class _InjectionRun:
    """One injection from its reference frames to its last."""

    def __init__(
        self,
        prescription: Prescription,
        case: Case,
        preparation: Preparation,
        cement: CementClock,
        fluoroscopy: Fluoroscopy,
        equipment: Equipment,
        clocks: Clocks,
        journal: Journal,
        limits: Limits,
    ) -> None:
        side: Side = prescription.side
        trocar = case.trocars[side]
        self.record = InjectionRecord(side, prescription.planned_volume_ml)
        case.injections[side] = self.record
        self._cement = cement
        self._fluoroscopy = fluoroscopy
        self._equipment = equipment
        self._clocks = clocks
        self._journal = journal
        self._error_mm = trocar.predicted_error_mm
        self._state: InjectionState = begin(prescription, limits, clocks.procedure.now(), clocks.device.now())
        needle = case.targets[side].needle
        cannula = Cannula(trocar.tip_ras, unit(trocar.hub_ras - trocar.tip_ras), needle.outer_diameter_mm)
        settings = MonitorSettings(frame_period_s=limits.frame_period_s)
        self._monitor = SpreadMonitor(preparation.zones[side], trocar.tip_ras, settings, cannula)
        self._reading: MonitorReading | None = None
        self._delivery = PumpDelivery(equipment.pump)
        self._line = injection_line(needle)
        self._after_flow = AfterFlowWatch()
        self._pump = DeliveryFacts()
        self._next_sample_s = float("-inf")
        self._refusal = ""
        self._alarm = ""

    def learn_reference(self) -> Generator[Prompt, Request | None, None]:
        """Take the frames before cement. Old frames are dropped first: the trocar may have been in the hand still."""
        self._equipment.fluoroscope.take_frames()
        frames: dict[str, list[Frame]] = {view: [] for view in self._fluoroscopy.geometries}
        give_up_s = self._clocks.device.now() + _DEVICE_PATIENCE_S
        share = 0.0
        while share < 1.0:
            for view, frame in self._new_frames():
                frames[view].append(frame)
            if self._clocks.device.now() > give_up_s:
                raise DeviceError("the fluoroscope does not send enough pictures for a reference")
            share = min(taken_share([frame.time_s for frame in taken]) for taken in frames.values())
            yield Prompt("positioning", f"{self.record.side}: reference pictures, hold still", Watch(), share)
        for view, taken in frames.items():
            self._monitor.set_reference(view, taken)
            # One view at a tick: learning takes long enough for the pump to miss its heartbeat.
            yield Prompt("positioning", f"{self.record.side}: learning the {view} view", Watch(), 1.0)
        # What the monitor says before it has seen a frame of each view is no news.
        while self._reading is None or not self._reading.healthy:
            seen = dict(self._new_frames())
            if seen:
                self._reading = self._monitor.update(seen, self._clocks.device.now())
            if self._clocks.device.now() > give_up_s:
                health = self._reading.health if self._reading is not None else "no frame"
                raise DeviceError(f"the spread monitor stays blind: {health}")
            yield Prompt("positioning", f"{self.record.side}: first pictures of the monitor", Watch(), 1.0)

    def follow(self) -> Generator[Prompt, Request | None, None]:
        """Tick until finished or stopped."""
        request: Request | None = None
        phase = ""
        give_up_s = self._clocks.device.now() + _DEVICE_PATIENCE_S
        while self._state.phase not in ("finished", "stopped"):
            facts, device_s = self._tick(request)
            if self._state.phase != phase:
                phase = self._state.phase
                self._journal.write(
                    self._clocks.procedure.now(),
                    f"injection_{phase}",
                    side=self.record.side,
                    given_ml=self._state.given_ml,
                    seen_ml=self._reading.volume_ml if self._reading else None,
                    reason=self._state.reason,
                )
            if self._state.phase in ("prepare", "armed") and device_s > give_up_s:
                raise DeviceError(f"the injection on the {self.record.side} could not begin: {self._state.reason}")
            request = yield self._prompt(facts, device_s)
        self.record.steps = self._state.steps_done
        self.record.ended_s = self._state.since_s
        self.record.stopped = self._state.reason + self._refusal if self._state.phase == "stopped" else ""

    def settle(self) -> Generator[Prompt, Request | None, None]:
        """Watch the after-flow; a stopped pump is told so until it has confirmed."""
        until_s = self._clocks.device.now() + _SETTLE_S
        while self._clocks.device.now() < until_s:
            self._tick(None)
            yield Prompt("withdrawal", f"{self.record.side}: turn the trocar, scrape at the cortex", Watch())
        if self._state.phase == "finished":
            yield from self._disarm()
        self.record.given_ml = self._state.given_ml
        if self._alarm:
            self.record.stopped = f"{self.record.stopped or 'finished'}; ALARM: {self._alarm}"
        if self._reading is not None:
            self.record.seen_ml, self.record.seen_sd_ml = self._reading.volume_ml, self._reading.volume_ml_sd
        self._journal.write(
            self._clocks.procedure.now(),
            "injection_record",
            side=self.record.side,
            given_ml=self.record.given_ml,
            seen_ml=self.record.seen_ml,
            steps=self.record.steps,
            stopped=self.record.stopped,
        )

    def _disarm(self) -> Generator[Prompt, Request | None, None]:
        """Bring the pump from holding to idle: nobody handles the line of an armed pump."""
        pump = self._equipment.pump
        pump.stop(self._clocks.device.now())
        give_up_s = self._clocks.device.now() + _DEVICE_PATIENCE_S
        released = False
        while True:
            now_s = self._clocks.device.now()
            state = pump.reading(now_s).state
            if released and state is not None and state.state == "idle":
                return
            if not released and not pump.stop_pending:
                pump.reset(now_s)
                released = True
            if now_s > give_up_s:
                raise DeviceError("the pump cannot be disarmed; switch it off before the line is touched")
            yield Prompt("withdrawal", f"{self.record.side}: disarming the pump", Watch())

    def _tick(self, request: Request | None) -> tuple[InjectionFacts, float]:
        """Look, decide, order. Returns what the decision rested on, and the device time of it."""
        self._observe(self._clocks.procedure.now(), self._clocks.device.now())
        # Looking takes time, and facts are judged by their age now.
        now_s, device_s = self._clocks.procedure.now(), self._clocks.device.now()
        facts = self._facts(now_s, device_s, request)
        self._state, commands = step(self._state, facts, now_s, device_s)
        for command in commands:
            self._delivery.order(command, device_s)
        return facts, device_s

    def _new_frames(self) -> list[tuple[str, Frame]]:
        """Frames that have come since the last call, by view."""
        return [
            (view, Frame(taken.pixels, taken.received_s, _geometry_of(taken)))
            for view, taken in self._fluoroscopy.take(self._equipment)
        ]

    def _observe(self, now_s: float, device_s: float) -> None:
        """Let the monitor see all new frames, or that time has passed without any."""
        frames = self._new_frames()
        # Each view's frames in their order; with several of one view the monitor sees them one after the other.
        while frames:
            batch: dict[str, Frame] = {}
            rest = []
            for view, frame in frames:
                if view in batch:
                    rest.append((view, frame))
                else:
                    batch[view] = frame
            self._update(batch, now_s, device_s)
            # Looking at frames takes longest of all: the pump must not wait for its heartbeat meanwhile.
            self._equipment.poll(self._clocks.device.now())
            frames = rest
        self._update({}, now_s, device_s)

    def _update(self, frames: dict[str, Frame], now_s: float, device_s: float) -> None:
        try:
            in_line_ml = self._after_flow.in_line_ml
            self._reading = self._monitor.update(frames, device_s, self._state.given_ml, in_line_ml)
        except ImageError as error:
            self._reading = None
            self._journal.write(now_s, "monitor_failed", side=self.record.side, reason=str(error))
            return
        for event in self._reading.events:
            self.record.events.append(event)
            self._journal.write(
                now_s,
                f"monitor_{event.level}",
                side=self.record.side,
                route=event.route,
                position_ras=event.position_ras,
                stop=event.stop,
                given_ml=self._state.given_ml,
                seen_ml=self._reading.volume_ml,
            )

    def _facts(self, now_s: float, device_s: float, request: Request | None) -> InjectionFacts:
        pump = self._pump = self._delivery.facts(device_s)
        for refusal in pump.refusals:
            self._refusal = f"; {refusal.text}"
            self._journal.write(now_s, "pump_refused", order=refusal.order, code=refusal.code, reason=refusal.reason)
        if pump.alarm and not self._alarm:
            self._alarm = pump.alarm
            self._journal.write(now_s, "pump_alarm", side=self.record.side, text=pump.alarm)
        planes = self._fluoroscopy.planes
        views = {view: self._equipment.fluoroscope.view(plane, device_s) for view, plane in planes.items()}
        reading = self._reading
        facts = Facts(
            operator_stop=Observed(request == "stop", device_s),
            pump_connected=pump.connected,
            pump_fault=pump.fault,
            frames_changing={view: Observed(_is_live(seen), device_s - seen.age_s) for view, seen in views.items()},
            monitor_healthy=None if reading is None else Observed(reading.healthy, reading.time_s),
            leak=None if reading is None or reading.leak is None else Observed(reading.leak, reading.time_s),
            cement_phase=Observed(self._cement.phase(now_s), device_s),
            pressure_kpa=pump.pressure_kpa,
            registration_error_mm=Observed(self._error_mm, device_s),
        )
        self._sample(now_s, device_s)
        self._after_flow.look(self._line, pump, self._cement, now_s)
        return InjectionFacts(
            interlock=facts,
            pump_volume_ml=pump.volume_ml,
            pump_state=pump.state,
            after_flow_ml=self._after_flow.observed(device_s),
            warning="" if reading is None else monitor_warning(reading.warnings),
            concentricity=None if reading is None else Observed(reading.concentricity, reading.time_s),
            request=request,
        )

    def _sample(self, now_s: float, device_s: float) -> None:
        pressure = self._pump.pressure_kpa
        if pressure is None or self._reading is None or device_s < self._next_sample_s:
            return
        self._next_sample_s = device_s + _SAMPLE_S
        self.record.samples.append(
            InjectionSample(
                time_s=now_s,
                pump_ml=self._state.given_ml,
                seen_ml=self._reading.volume_ml,
                seen_sd_ml=self._reading.volume_ml_sd,
                pressure_kpa=pressure.value,
            )
        )

    def _prompt(self, facts: InjectionFacts, device_s: float) -> Prompt:
        state, side = self._state, self.record.side
        fraction = state.given_ml / state.prescription.planned_volume_ml
        seen = self._reading.volume_ml if self._reading is not None else float("nan")
        volumes = f"{side}: {state.given_ml:.2f} of {state.prescription.planned_volume_ml:.1f} mL, seen {seen:.2f} mL"
        if state.phase == "prepare":
            return Prompt("injection", f"{volumes}. Arm the pump", Press("arm"), fraction)
        if state.phase == "armed":
            allowed = decide(state, facts, device_s).allowed
            text = f"{volumes}. Start" if allowed else f"{volumes}. {state.reason}"
            return Prompt("injection", text, Press("start") if allowed else Watch(), fraction)
        if state.phase == "holding" and state.reason:
            # What a person must decide is offered; what only needs patience is not.
            asks = "decide" in state.reason
            return Prompt("injection", f"{volumes}. {state.reason}", Press("continue") if asks else Watch(), fraction)
        text = f"{volumes}. {'Holding' if state.phase == 'holding' else 'Injecting'}"
        return Prompt("injection", text, Watch(), fraction)


def _is_live(view: View) -> bool:
    return view.frame is not None and view.changing


def _geometry_of(frame: DetectorFrame) -> XrayGeometry | None:
    """The pose sent with a frame; None when there is none or it is impossible, which the monitor calls blind."""
    if frame.geometry is None:
        return None
    try:
        return XrayGeometry.from_dict(frame.geometry)
    except (GeometryError, KeyError, TypeError, ValueError):
        return None
