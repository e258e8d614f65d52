"""The cement table: one batch's clock, the injection of each ala through the interlock, and what the screen shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from slicer import vtkMRMLScene

from ..cement.aging import CementClock
from ..cement.injection import (
    Command,
    InjectionFacts,
    InjectionState,
    Prescription,
    Request,
    begin,
    step,
)
from ..cement.interlock import Facts, Limits, Observed
from ..cement.monitor import Frame, MonitorSettings, SpreadMonitor
from ..cement.zones import make_zones
from ..devices.fluoroscope import Frame as DetectorFrame
from ..errors import AnatomyError, GeometryError, ImageError, PlanError
from ..planning.model import Side
from ..procedure.conduct import PRESSURE_LIMIT_KPA
from ..xray.geometry import XrayGeometry
from .anatomy import anatomy_of, segmented_ct
from .devices import DeviceDesk
from .navigation import registration_error_mm
from .planning import chosen, plan_of
from .records import read_record, write_record
from .workflow import write_step

RECORD_NAME = "Sacroplasty cement"
#: The record follows the volume in steps of this size, so that a lost session loses no more.
_RECORD_STEP_ML = 0.05

#: Frames without cement that the monitor learns from, of each plane.
_REFERENCE_FRAMES = 8

#: Without new frames the monitor is asked this often whether it still sees.
_LOOK_S = 0.1

BannerLevel = Literal["none", "watch", "warning", "leak", "blind"]


@dataclass(frozen=True)
class MonitorView:
    """What the spread monitor last said. `level` is `blind` when it cannot see; `time_s` is when it was true."""

    time_s: float
    level: BannerLevel
    text: str
    concentricity: float


@dataclass(frozen=True)
class CementReadout:
    """Everything that the cement page shows; None is not known and is shown as a dash.

    Attributes:
        age_s: seconds since mixing by the wall; `seconds_to_next` until the cement may or may no longer be used.
        given_ml, planned_ml: by side.
        injection: phase of the injection state machine.
        step_text: which step of how many.
        reason: why cement does not flow now, in words.
        may_arm, may_inject: whether the buttons lead anywhere now.
    """

    age_s: float | None
    phase: str
    seconds_to_next: float | None
    given_ml: dict[Side, float]
    planned_ml: dict[Side, float | None]
    total_ml: float
    total_limit_ml: float
    pressure_kpa: float | None
    pump_text: str
    injection: str
    step_text: str
    reason: str
    banner: BannerLevel
    banner_text: str
    may_arm: bool
    may_inject: bool


class CementDesk:
    """Cement and injection over the devices of a desk, for one case.

    `tick` is to be called at every turn of the timer. Cement runs only while a person holds the button: letting go
    halts the pump, and no step begins by itself.
    """

    def __init__(self, scene: vtkMRMLScene, devices: DeviceDesk, now_s: float, unix_s: float) -> None:
        """
        Args:
            now_s: on the clock of all other calls.
            unix_s: wall time, by which a restored case knows how old its cement is.
        """
        self._scene = scene
        self._devices = devices
        self._limits = Limits()
        self._given: dict[Side, float] = {"left": 0.0, "right": 0.0}
        self._recorded_ml = 0.0
        self._clock = CementClock()
        self._mixed_at_unix_s: float | None = None
        self._stopped = False
        self._side: Side = "left"
        self._state: InjectionState | None = None
        self._refusal = ""
        self._monitor: MonitorView | None = None
        self._spread: SpreadMonitor | None = None
        self._reference: dict[str, list[Frame]] | None = None
        self._looked_s = -math.inf
        self._waiting: dict[str, DetectorFrame] = {}
        self._restore(now_s, unix_s)
        self.choose(self._side, now_s)

    @property
    def side(self) -> Side:
        return self._side

    def mix(self, now_s: float, unix_s: float) -> None:
        """A new batch: its age counts from now."""
        self._clock = self._clock.mixed(now_s)
        self._mixed_at_unix_s = unix_s
        self._write()
        write_step(self._scene, "cement", True, ["mixed"])

    def read_temperature(self, temperature_c: float, now_s: float) -> None:
        """Take a reading of the room's temperature."""
        self._clock = self._clock.with_reading(now_s, temperature_c)

    def learn_views(self) -> None:
        """Begin to learn what the views show without cement, with the trocar of this side in place.

        From then on every frame is watched. After the C-arm, the table or the trocar was moved, learn again.

        Raises:
            AnatomyError: without a segmentation of a CT in the scene.
            PlanError: when this side has no accepted trajectory.
        """
        ct_node, segmentation = segmented_ct(self._scene)
        if segmentation is None or ct_node is None:
            raise AnatomyError("the monitor needs the segmented CT; run the segmentation first")
        plan = plan_of(self._scene)
        trajectory = chosen(plan).get(self._side) if plan else None
        if trajectory is None:
            raise PlanError(f"no trajectory is accepted for the {self._side} ala, so no cement belongs there")
        zones = make_zones(anatomy_of(self._scene, segmentation, ct_node), trajectory.target, (self._side,))
        settings = MonitorSettings(frame_period_s=self._limits.frame_period_s)
        self._spread = SpreadMonitor(zones, trajectory.target, settings)
        self._monitor = None
        self._waiting = {}
        self._reference = {}

    def choose(self, side: Side, now_s: float) -> None:
        """Turn to one ala. Not while cement flows or waits to flow."""
        if self._state is not None and self._state.phase in ("armed", "injecting", "holding"):
            self._refusal = "stop or finish this side first"
            return
        self._side = side
        self._refusal = ""
        planned = self._planned().get(side)
        if planned is None:
            self._state, self._refusal = None, f"no cement is planned for the {side} ala"
            return
        other: Side = "right" if side == "left" else "left"
        remaining = planned - self._given[side]
        try:
            prescription = Prescription(
                side, remaining, other_volume_ml=self._given[other], pressure_limit_kpa=PRESSURE_LIMIT_KPA
            )
            self._state = begin(prescription, self._limits, now_s) if remaining > 0 else None
            self._refusal = "" if remaining > 0 else f"all that was planned for the {side} ala is given"
        except PlanError as error:
            self._state, self._refusal = None, str(error)
        self._start_ml = self._given[side]

    def stop(self, now_s: float) -> bool:
        """Stop the pump, first of all. False when it cannot be told."""
        told = self._devices.stop_pump(now_s)
        self._stopped = True
        if self._state is not None:
            self._state, _ = step(self._state, self._facts("stop", now_s), now_s)
        self._write()
        return told

    def tick(self, now_s: float, held: bool, request: Request | None = None) -> None:
        """One turn: decide, and tell the pump.

        Args:
            held: whether a person holds the injection button now.
            request: what else was asked for at this turn.
        """
        self._watch(now_s)
        self._hear_refusals()
        if self._state is None:
            return
        if request is None and held:
            request = "start" if self._state.phase == "armed" else "continue"
        before = self._state
        after, commands = step(before, self._facts(request, now_s), now_s)
        if not held:
            if any(command.name == "run" for command in commands):
                # The next step is due, but nobody asks for it.
                after, commands = replace(before, given_ml=after.given_ml, reason="hold the button to go on"), []
            elif after.phase == "injecting":
                # Given back to the step machine as a pause.
                after = replace(after, phase="holding", since_s=now_s, device_since_s=now_s, reason="let go")
                commands = [Command("hold")]
        self._state = after
        self._stopped = self._stopped or after.phase == "stopped"
        for command in commands:
            self._send(command, now_s)
        self._given[self._side] = self._start_ml + after.given_ml
        if after.phase != before.phase or abs(sum(self._given.values()) - self._recorded_ml) >= _RECORD_STEP_ML:
            self._write()
            if after.phase in ("finished", "stopped"):
                write_step(
                    self._scene, "injection", after.phase == "finished", [after.reason or given_text(self._scene)]
                )

    def readout(self, now_s: float) -> CementReadout:
        """What the page shows now."""
        reading = self._devices.pump.reading(now_s) if self._devices.pump is not None else None
        fresh = reading.state if reading is not None and reading.ready else None
        phase = self._clock.phase(now_s)
        mixed_at_s = self._clock.mixed_at_s
        to_next = {
            "mixing": self._clock.seconds_until_working,
            "waiting": self._clock.seconds_until_working,
            "working": self._clock.seconds_left,
        }.get(phase)
        state = self._state
        planned = self._planned()
        banner, banner_text = self._banner(now_s)
        return CementReadout(
            age_s=None if mixed_at_s is None else now_s - mixed_at_s,
            phase=phase,
            seconds_to_next=to_next(now_s) if to_next else None,
            given_ml=dict(self._given),
            planned_ml={side: planned.get(side) for side in get_args(Side)},
            total_ml=sum(self._given.values()),
            total_limit_ml=self._limits.total_volume_ml,
            pressure_kpa=fresh.pressure_kpa if fresh else None,
            pump_text="not connected" if reading is None else (reading.reason or (fresh.state if fresh else "unknown")),
            injection=state.phase if state else "none",
            step_text=_step_text(state),
            reason=self._refusal or (state.reason if state else ""),
            banner=banner,
            banner_text=banner_text,
            may_arm=state is not None and state.phase in ("prepare", "stopped") and fresh is not None,
            may_inject=state is not None and state.phase in ("armed", "injecting", "holding"),
        )

    def _planned(self) -> dict[Side, float]:
        plan = plan_of(self._scene)
        return {side: trajectory.planned_volume_ml for side, trajectory in chosen(plan).items()} if plan else {}

    def _banner(self, now_s: float) -> tuple[BannerLevel, str]:
        if self._reference is not None:
            return "blind", "learning the views: hold still"
        if self._monitor is None:
            return "blind", "the views were not learned"
        if not 0 <= now_s - self._monitor.time_s <= self._limits.frame_age_s:
            return "blind", "the spread monitor is silent"
        return self._monitor.level, self._monitor.text

    def _facts(self, request: Request | None, now_s: float) -> InjectionFacts:
        """What is known, each with its time. What is not known stays None and forbids."""
        pump = self._devices.pump
        reading = pump.reading(now_s) if pump is not None else None
        state = reading.state if reading is not None else None
        heard_s = now_s - reading.age_s if reading is not None and math.isfinite(reading.age_s) else -math.inf
        error_mm = registration_error_mm(self._scene)
        monitor = self._monitor
        return InjectionFacts(
            interlock=Facts(
                operator_stop=Observed(request == "stop", now_s),
                pump_connected=Observed(reading.ready, heard_s) if reading is not None else None,
                pump_fault=Observed(state.fault not in ("", "order"), heard_s) if state is not None else None,
                frames_changing=self._frames(now_s),
                monitor_healthy=Observed(monitor.level != "blind", monitor.time_s) if monitor else None,
                leak=Observed(monitor.level == "leak", monitor.time_s) if monitor else None,
                cement_phase=Observed(self._clock.phase(now_s), now_s),
                pressure_kpa=Observed(state.pressure_kpa, heard_s) if state is not None else None,
                registration_error_mm=Observed(error_mm, now_s) if error_mm is not None else None,
            ),
            pump_volume_ml=Observed(state.delivered_ml, heard_s) if state is not None else None,
            pump_state=Observed(state.state, heard_s) if state is not None else None,
            concentricity=Observed(monitor.concentricity, monitor.time_s) if monitor else None,
            request=request,
        )

    def _watch(self, now_s: float) -> None:
        """Let the monitor learn from, or look at, all frames that have come."""
        frames = self._devices.take_frames()
        if self._spread is None:
            return
        if self._reference is not None:
            self._learn(frames)
            return
        self._waiting |= {taken.plane: taken for taken in frames if taken.plane in self._spread.views}
        if not self._waiting and now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        try:
            # One picture a turn, the newest of its plane: looking takes long, and the pump waits for its heartbeat.
            for plane in list(self._waiting)[:1]:
                self._spread.update({plane: _frame_of(self._waiting.pop(plane))}, now_s)
            reading = self._spread.update({}, now_s)
        except ImageError as error:
            self._monitor = MonitorView(now_s, "blind", str(error), math.nan)
            return
        level: BannerLevel = "blind" if not reading.healthy else (reading.level or "none")
        text = (
            reading.health if not reading.healthy else f"{reading.volume_ml:.1f} ± {reading.volume_ml_sd:.1f} mL seen"
        )
        self._monitor = MonitorView(now_s, level, text, reading.concentricity)

    def _hear_refusals(self) -> None:
        """What the pump would not do is shown with its reason until something else is asked for."""
        if self._devices.pump is None:
            return
        for answer in self._devices.pump.take_answers():
            if answer.accepted:
                self._refusal = ""
            elif answer.code != "latched":  # What a stop overtook needs no reason beside the stop's own.
                self._refusal = f"the pump refuses to {answer.command}: {answer.reason}"

    def _learn(self, frames: list[DetectorFrame]) -> None:
        """Collect reference frames; when every plane that sends has enough, the monitor knows its views."""
        assert self._reference is not None and self._spread is not None
        for taken in frames:
            self._reference.setdefault(taken.plane, []).append(_frame_of(taken))
        if not self._reference or min(map(len, self._reference.values())) < _REFERENCE_FRAMES:
            return
        try:
            for plane, learned in self._reference.items():
                self._spread.set_reference(plane, learned)
            self._reference = None
        except ImageError as error:
            self._refusal = str(error)
            self._spread, self._reference = None, None

    def _frames(self, now_s: float) -> dict[str, Observed[bool]] | None:
        """Every plane that the monitor was started with must be live."""
        role = self._devices.fluoroscope
        if role is None:
            return None
        planes = self._spread.views if self._spread is not None else ()
        views = {plane: role.view(plane, now_s) for plane in planes}
        return {plane: Observed(view.changing, now_s - view.age_s) for plane, view in views.items()}

    def _send(self, command: Command, now_s: float) -> None:
        pump = self._devices.pump
        if pump is None:
            return
        if command.name == "run":
            pump.run(now_s=now_s, **command.arguments)
        elif command.name == "stop":
            pump.stop(now_s)
        elif command.name == "arm":
            pump.arm(now_s)
        elif command.name == "hold":
            pump.hold(now_s)
        elif command.name == "reset":
            pump.reset(now_s)

    def _restore(self, now_s: float, unix_s: float) -> None:
        record = read_record(self._scene, RECORD_NAME) or {}
        for side in get_args(Side):
            self._given[side] = float(record.get("given_ml", {}).get(side, 0.0))
        self._recorded_ml = sum(self._given.values())
        self._stopped = bool(record.get("stopped", False))
        mixed_at_unix_s = record.get("mixed_at_unix_s")
        if mixed_at_unix_s is not None and mixed_at_unix_s <= unix_s:
            self._mixed_at_unix_s = float(mixed_at_unix_s)
            self._clock = self._clock.mixed(now_s - (unix_s - self._mixed_at_unix_s))

    def _write(self) -> None:
        self._recorded_ml = sum(self._given.values())
        record: dict[str, Any] = {
            "mixed_at_unix_s": self._mixed_at_unix_s,
            "given_ml": self._given,
            "stopped": self._stopped,
        }
        write_record(self._scene, RECORD_NAME, record)


def _frame_of(taken: DetectorFrame) -> Frame:
    try:
        geometry = XrayGeometry.from_dict(taken.geometry or {})
    except (GeometryError, KeyError, TypeError, ValueError):
        geometry = None
    return Frame(taken.pixels, taken.received_s, geometry)


def show_injections(scene: vtkMRMLScene, given: Mapping[Side, float], stopped: str) -> None:
    """Record the cement given by side, and why it was stopped (empty when it was not)."""
    volumes = {side: given.get(side, 0.0) for side in get_args(Side)}
    write_record(scene, RECORD_NAME, {"mixed_at_unix_s": None, "given_ml": volumes, "stopped": bool(stopped)})
    write_step(scene, "injection", not stopped, [text for text in (stopped, given_text(scene)) if text])


def record_withdrawal(scene: vtkMRMLScene, without_tail: bool) -> None:
    """Record that the trocar is out, and whether it drew no tail of cement behind it.

    Raises:
        PlanError: when no cement was given, so that there is nothing to leave a tail.
    """
    if not given_ml(scene):
        raise PlanError("no cement was given yet; the withdrawal is recorded after the injection")
    text = "no cement tail" if without_tail else "a tail of cement is left behind: look at it on the CT"
    write_step(scene, "withdrawal", without_tail, [text])


def given_ml(scene: vtkMRMLScene) -> dict[Side, float]:
    """Cement given by side; sides without any are left out."""
    given: Mapping[str, float] = (read_record(scene, RECORD_NAME) or {}).get("given_ml", {})
    return {side: float(given[side]) for side in get_args(Side) if given.get(side, 0.0) > 0}


def given_text(scene: vtkMRMLScene) -> str:
    """Cement given, in a line."""
    given = given_ml(scene)
    return ", ".join(f"{volume:.1f} mL {side}" for side, volume in given.items()) if given else "none given"


def was_stopped(scene: vtkMRMLScene) -> bool:
    """Whether an injection of this case was ever stopped."""
    return bool((read_record(scene, RECORD_NAME) or {}).get("stopped", False))


def _step_text(state: InjectionState | None) -> str:
    if state is None:
        return "–"
    steps = math.ceil(state.prescription.planned_volume_ml / state.prescription.step_ml)
    return f"step {min(state.steps_done + 1, steps)} of {steps}"
