"""An injection in virtual time: the real session, pump role and pump firmware, with faults drawn by chance.

The session sees what devices tell it. The record at the end holds what truly happened: the way of the plunger, cement
out of the tip by side, every order as it was given. `judge` compares the two without any of the judged code.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sacroplasty.cement.injection import Command as Order
from sacroplasty.cement.injection import Prescription
from sacroplasty.cement.interlock import Limits, Observed
from sacroplasty.cement.line import cannula_line
from sacroplasty.devices.link import Received
from sacroplasty.devices.messages import Command, CommandReply, String
from sacroplasty.devices.pump import PumpRole
from sacroplasty.devices.pump_protocol import DEVICE, STATE_NAME
from sacroplasty.procedure.injection_session import InjectionSession, Surroundings, Wish
from sacroplasty.procedure.journal import Journal
from sacroplasty.procedure.pump_delivery import PumpDelivery
from sacroplasty.simulation.pump import PumpMachine
from sacroplasty.simulation.world import PumpModel, demonstration_world

TICK_S = 0.1
FRAME_S = 0.2
STATE_S = 0.1
LIMITS = Limits(frame_period_s=FRAME_S)

#: What can go wrong, by name, and what it is.
FAULTS = {
    "pump lost": "the connection to the pump breaks",
    "pump silent": "the connection stands and nothing passes it",
    "late": "messages of both directions come 0.05 to 0.6 s late",
    "dropped": "half of the messages of both directions are lost",
    "doubled": "every message comes twice",
    "one view stale": "no new frame of one view",
    "one view frozen": "one view shows the same picture again and again",
    "blind": "the monitor says that it cannot see",
    "monitor silent": "the monitor says nothing any more",
    "leak": "the monitor sees a leak",
    "registration lost": "the expected error at the target is not a number",
    "pressure spike": "the pump tells 5000 kPa",
    "pressure not a number": "the pump tells no pressure",
    "counter not a number": "the pump tells no volume",
    "occlusion": "the cannula clogs",
    "other units": "the pump tells microliters and pascals",
    "power cut": "the pump is switched off and on and counts anew",
    "clock back": "the controller's clock is set back by 1 to 60 s",
    "clock forward": "the controller's clock is set forward by 1 to 30 s",
    "stop pressed": "a person presses stop",
    "abort": "a person aborts, and gives the reason later or never",
    "cement sets": "the cement's time is over",
    "ignore run": "the pump says that it runs, and stands",
    "run after stop": "the pump says that it is stopped, and goes on",
    "syringe empty": "the syringe runs out",
    "disk full": "the journal cannot be written",
    "wrong buttons": "a person presses whatever there is",
}
#: Defects of the pump itself, against which an alarm is all that a controller has.
PUMP_DEFECTS = ("run after stop",)


@dataclass
class Truth:
    """What truly happened, for `judge`.

    Attributes:
        orders: (time, name, arguments, tick) as the controller gave them.
        doubts: (tick, what) in which something was not in order with cement flowing, by the facts handed over.
        plunger: (time, way in mL, out of the tip in mL, side) of every tick.
        resets: ticks at which a person asked for a reset.
        alarmed_s: when the pump's own defect was told; NaN when it was not.
    """

    prescriptions: list[Prescription] = field(default_factory=list)
    orders: list[tuple[float, str, dict[str, float], int]] = field(default_factory=list)
    doubts: list[tuple[int, str]] = field(default_factory=list)
    plunger: list[tuple[float, float, float, str]] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)
    alarmed_s: float = math.nan
    faults: dict[str, tuple[float, float]] = field(default_factory=dict)
    given_ml: dict[str, float] = field(default_factory=dict)
    journal: list[dict[str, Any]] = field(default_factory=list)


class VirtualLine:
    """The link between controller and firmware, in virtual time. Answers to what `PumpRole` asks of a Client."""

    reason = "the line is cut"

    def __init__(self, machine: PumpMachine, rng: np.random.Generator, on: Callable[[str], bool]) -> None:
        self.connected = True
        self.counts = SimpleNamespace(connections=1)
        self.machine = machine
        self._rng, self._on = rng, on
        self._to_pump: deque[tuple[float, Command]] = deque()
        self._to_controller: deque[tuple[float, Any]] = deque()
        self._true_s = self._told_s = 0.0
        self._told_state = ""

    def send(self, message: Command) -> bool:
        if not self.connected:
            return False
        self._carry(self._to_pump, message)
        return True

    def poll(self, now_s: float, wait_s: float = 0.0) -> list[Received]:
        received = []
        while self._to_controller and self._to_controller[0][0] <= self._true_s:
            received.append(Received(self._to_controller.popleft()[1], now_s, 1))
        return received

    def advance(self, true_s: float) -> None:
        """Let the firmware hear, move and tell."""
        self._true_s = true_s
        cut = self._on("pump lost")
        if cut and self.connected:
            self.machine.lose_controller("controller-lost")
            self._to_pump.clear()
        if not cut and not self.connected:
            self.counts.connections += 1
        self.connected = not cut
        while self._to_pump and self._to_pump[0][0] <= true_s:
            message = self._to_pump.popleft()[1]
            answer = self.machine.order(message.text, 1, true_s)
            if answer is not None:
                reply = CommandReply(DEVICE, command_id=message.command_id, command=message.command, text=answer.text())
                self._carry(self._to_controller, reply)
        self.machine.tick(true_s)
        if not cut and (true_s - self._told_s >= STATE_S - 1e-9 or self.machine.state != self._told_state):
            self._told_s, self._told_state = true_s, self.machine.state
            self._carry(self._to_controller, String(STATE_NAME, self._state_text(), timestamp_s=1.0 + true_s))

    def _state_text(self) -> str:
        body = json.loads(self.machine.told().text())
        if self._on("pressure spike"):
            body["pressure_kpa"] = 5000.0
        if self._on("pressure not a number"):
            body["pressure_kpa"] = None
        if self._on("counter not a number"):
            body["delivered_ml"] = None
        if self._on("other units"):
            for name in ("delivered_ml", "run_ml", "remaining_ml", "pressure_kpa", "rate_ml_s"):
                body[name] = 1000 * (body[name] or 0.0)
        return json.dumps(body)

    def _carry(self, queue: deque[tuple[float, Any]], message: Any) -> None:
        if self._on("pump silent") or (self._on("dropped") and self._rng.random() < 0.5):
            return
        late_s = self._rng.uniform(0.05, 0.6) if self._on("late") else 0.002
        due_s = max([self._true_s + late_s, *(item[0] for item in list(queue)[-1:])])
        queue.extend([(due_s, message)] * (2 if self._on("doubled") else 1))


class Watched:
    """A delivery whose orders are noted, as given."""

    def __init__(self, inner: PumpDelivery, note: Callable[[Order], None]) -> None:
        self._inner, self._note = inner, note

    def order(self, command: Order, now_s: float) -> None:
        self._note(command)
        self._inner.order(command, now_s)

    def facts(self, now_s: float) -> Any:
        self.told = self._inner.facts(now_s)
        return self.told


class FullDisk(Journal):
    """A journal on a disk that is full while `full` says so."""

    full: Callable[[], bool] = staticmethod(lambda: False)

    def write(self, time_s: float, event: str, **facts: Any) -> None:
        if self.full():
            raise OSError(28, "No space left on device")
        super().write(time_s, event, **facts)


class Room:
    """One session of up to two injections, with faults.

    Args:
        faults: by name, from when to when [s]; drawn by chance when not given.
        prescriptions: the same.
        patience_s: an injection that does not go on for this long is given up.
        report: called with a line for every order and every tick; for a witness in another process.
    """

    def __init__(
        self,
        seed: int,
        folder: Path,
        faults: dict[str, tuple[float, float]] | None = None,
        report: Callable[[str], None] = lambda line: None,
        prescriptions: list[Prescription] | None = None,
        patience_s: float = 20.0,
    ) -> None:
        rng = self._rng = np.random.default_rng([8, seed])
        self.truth = Truth()
        self._patience_s = patience_s
        self._prescriptions = prescriptions or self._drawn_prescriptions()
        given = sum(one.planned_volume_ml for one in self._prescriptions)
        rate = self._prescriptions[0].rate_ml_s
        expected_s = 20.0 + given / rate + 3.0 * given
        if faults is None:
            names = rng.choice(list(FAULTS), size=int(rng.integers(0, 4)), replace=False)
            faults = {}
            for name in names:
                begins_s = float(rng.uniform(3.0, expected_s))
                lasts_s = float(rng.choice([0.2, 0.6, 2.0, 1e9]))
                faults[str(name)] = (begins_s, begins_s + lasts_s)
        self.truth.faults = faults
        self._ends_s = min(1.5 * expected_s + 60.0, 600.0)
        syringe_ml = 3.0 if "syringe empty" in faults else 20.0
        self._model = PumpModel(syringe_ml=syringe_ml, consistency_pa_sn=float(rng.uniform(50, 400)))
        self._machine = PumpMachine(self._model, demonstration_world(0).trocar)
        self._line = VirtualLine(self._machine, rng, self._on)
        self._pump = PumpRole(self._line, f"room-{seed}")  # type: ignore[arg-type]
        self._delivery = Watched(PumpDelivery(self._pump), self._note_order)
        self._report = report
        self._true_s, self._tick = 0.0, 0
        self._offset_s = 1000.0
        self._frames_s = {"ap": 0.0, "lateral": 0.0}
        self._monitor_s = 0.0
        self._held_until_s = self._let_go_until_s = 0.0
        self._side_began_ml = 0.0
        self._told_reset_s = -math.inf
        self._latest_now_s = -math.inf
        self._jumped: set[str] = set()
        # Whether the last order that says so was to run, and when the injection last went on.
        self._flow_is_ordered, self._progress_s = False, 0.0
        journal = FullDisk
        journal.full = staticmethod(lambda: self._on("disk full"))
        bore = self._machine.syringe
        line = replace(
            cannula_line(11, bore._trocar.inner_diameter_mm, bore._trocar.length_mm),
            compliance_ml_per_kpa=0.9 * self._model.compliance_ml_kpa,
        )
        self.path = folder / f"injection-{seed:05d}.jsonl"
        self.session = InjectionSession(LIMITS, lambda: journal(self.path), line, self._now_s, 1.7e9)
        self.session.clock = self.session.clock.mixed(self._now_s - 300.0).with_reading(self._now_s, 22.0)

    def _drawn_prescriptions(self) -> list[Prescription]:
        rng = self._rng
        mode = "stepwise" if rng.random() < 0.7 else "continuous"
        sides = ["left", "right"] if rng.random() < 0.5 else ["left"]
        given = 0.0
        prescriptions: list[Prescription] = []
        for side in sides:
            planned = float(rng.uniform(0.8, 4.0))
            if rng.random() < 0.15:
                planned = min(8.0, 12.0 - given)  # The very limit.
            prescriptions.append(
                Prescription(
                    side,
                    planned,
                    mode=mode,
                    other_volume_ml=0.0,
                    step_volume_ml=float(rng.choice([0.5, 1.0, 2.0])),
                    wait_s=float(rng.choice([0.0, 1.0, 3.0, 20.0], p=[0.3, 0.3, 0.3, 0.1])),
                    rate_ml_s=float(rng.choice([0.05, 0.1, 0.25, 0.5], p=[0.1, 0.3, 0.3, 0.3])),
                    pressure_limit_kpa=2900.0,
                )
            )
            given += planned
        return prescriptions

    def play(self) -> Truth:
        """Until everything is given or nobody goes on."""
        left = list(self._prescriptions)
        while self._true_s < self._ends_s:
            state = self.session.state
            over = state is None or state.phase == "finished" or state.note
            if (over and not left) or self._true_s - self._progress_s > self._patience_s:
                break
            if over and self._pump.reading(self._now_s).ready:
                self._turn_to(left.pop(0))
            self._turn()
        for _ in range(200):  # The after-flow.
            self._true_s += TICK_S
            self._machine.tick(self._true_s)
            self._record()
        self.truth.given_ml = dict(self.session.given_ml)
        if self.session._journal is not None:
            self.session._journal.close()
        return self.truth

    def _turn_to(self, prescription: Prescription) -> None:
        other = "right" if prescription.side == "left" else "left"
        prescription = replace(prescription, other_volume_ml=self.session.given_ml[other])
        self.truth.prescriptions.append(prescription)
        self.session.choose(prescription, self._delivery, self._now_s)

    @property
    def _now_s(self) -> float:
        """By the controller's clock."""
        return self._true_s + self._offset_s

    def _on(self, name: str) -> bool:
        begins_s, ends_s = self.truth.faults.get(name, (math.inf, math.inf))
        return begins_s <= self._true_s < ends_s

    def _once(self, name: str) -> bool:
        """Whether a fault that happens at one moment happens now."""
        if self._on(name) and name not in self._jumped:
            self._jumped.add(name)
            return True
        return False

    def _turn(self) -> None:
        """One tick of the world and of the controller."""
        self._true_s += TICK_S
        self._tick += 1
        rng = self._rng
        if self._once("clock back"):
            self._offset_s -= float(rng.uniform(1, 60))
        if self._once("clock forward"):
            self._offset_s += float(rng.uniform(1, 30))
        if self._once("power cut"):
            self._machine.power_on()
        if self._once("occlusion"):
            self._machine.syringe._model = replace(self._model, consistency_pa_sn=1e5)
        if self._once("cement sets"):
            self.session.clock = self.session.clock.mixed(self._now_s - 3600.0)
        self._machine.ignore_run = self._on("ignore run")
        self._machine.run_after_stop = self._on("run after stop")
        self._line.advance(self._true_s)
        self._pump.poll(self._now_s)
        around = self._surroundings()
        wish = self._person()
        began = len(self.truth.orders)
        if self._flow_is_ordered:
            for doubt in self._doubts(around, wish):
                self.truth.doubts.append((self._tick, doubt))
        self._latest_now_s = max(self._latest_now_s, self._now_s)
        if wish.request == "reset":
            self.truth.resets.append(self._tick)
            self._latest_now_s = self._now_s
        self.session.tick(around, self._delivery, wish, self._now_s)
        self._pump.poll(self._now_s)
        if math.isnan(self.truth.alarmed_s) and self._pump.reading(self._now_s).alarm:
            self.truth.alarmed_s = self._true_s
        self._record()
        for _, name, _, _ in self.truth.orders[began:]:
            self._report(f"order {name}\n")
        self._report(f"out {self._machine.syringe.out_ml:.4f}\n")

    def _record(self) -> None:
        syringe = self._machine.syringe
        self.truth.plunger.append((self._true_s, syringe.displaced_ml, syringe.out_ml, self.session.side))

    def _note_order(self, command: Order) -> None:
        self.truth.orders.append((self._true_s, command.name, dict(command.arguments), self._tick))
        if command.name != "arm":
            self._flow_is_ordered = command.name == "run"
        if command.name in ("run", "hold"):
            self._progress_s = self._true_s

    def _surroundings(self) -> Surroundings:
        now_s = self._now_s
        for view in self._frames_s:
            stale = view == "lateral" and self._on("one view stale")
            if not stale and (now_s - self._frames_s[view] >= FRAME_S or now_s < self._frames_s[view]):
                self._frames_s[view] = now_s
        if not self._on("monitor silent"):
            self._monitor_s = now_s
        frozen = self._on("one view frozen")
        return Surroundings(
            frames_changing={
                view: Observed(not (frozen and view == "lateral"), time_s) for view, time_s in self._frames_s.items()
            },
            monitor_healthy=Observed(not self._on("blind"), self._monitor_s),
            leak=Observed(self._on("leak"), self._monitor_s),
            registration_error_mm=Observed(math.nan if self._on("registration lost") else 1.0, now_s),
            concentricity=Observed(float(self._rng.uniform(0.2, 1.0)), now_s),
        )

    def _person(self) -> Wish:
        """Somebody who arms, holds the button with pauses, decides, withdraws at times, and resets after a while."""
        rng, state = self._rng, self.session.state
        if self._on("wrong buttons") and rng.random() < 0.3:
            request = rng.choice(["arm", "start", "continue", "reset", "withdraw", "withdrawn", "finish"])
            return Wish(str(request), bool(rng.random() < 0.5), float(rng.choice([0.0, 5.0, -3.0, 1e6])))  # type: ignore[arg-type]
        if self._once("stop pressed"):
            return Wish("stop", True)
        if self._once("abort"):
            return Wish("abort", True, note=str(rng.choice(["", "pain"])))
        if state is None:
            return Wish()
        if state.phase == "prepare":
            return Wish("arm", False)
        if state.phase == "stopped":
            if state.note is None and rng.random() < 0.02:
                return Wish("reset", False)
            if state.note == "" and rng.random() < 0.02:
                return Wish("abort", False, note="written later")
            return Wish(None, False)
        if state.phase == "withdrawing":
            return Wish("withdrawn", False, float(rng.uniform(1, 10))) if rng.random() < 0.1 else Wish(None, False)
        if self._true_s > self._held_until_s:
            self._let_go_until_s = self._true_s + float(rng.uniform(0.1, 2.0))
            self._held_until_s = self._let_go_until_s + float(rng.exponential(8.0))
        held = self._true_s > self._let_go_until_s
        chance = rng.random()
        if state.phase == "holding" and "decide" in state.reason and chance < 0.1:
            return Wish("continue", held)
        if state.phase == "holding" and chance < 0.002:
            return Wish("withdraw", held)
        return Wish(None, held)

    def _doubts(self, around: Surroundings, wish: Wish) -> list[str]:
        """What is not in order now, written once more from the limits' description and not from the interlock."""
        now_s, found = self._now_s, []
        if wish.request in ("stop", "abort"):
            found.append("a person")
        if now_s < self._latest_now_s:
            found.append("clock back")
        for view, seen in (around.frames_changing or {}).items():
            if not seen.value or not 0 <= now_s - seen.time_s <= 2 * FRAME_S:
                found.append(f"view {view}")
        if not around.monitor_healthy.value or not 0 <= now_s - around.monitor_healthy.time_s <= 2 * FRAME_S:
            found.append("monitor")
        if around.leak.value:
            found.append("leak")
        if not around.registration_error_mm.value < 2.0:
            found.append("registration")
        if self.session.clock.phase(now_s) != "working":
            found.append("cement")
        reading = self._pump.reading(now_s)
        if not reading.ready or not reading.age_s <= 0.3:
            found.append("pump link")
        if reading.state is not None and (
            reading.state.fault not in ("", "order") or reading.state.pressure_kpa >= 2900
        ):
            found.append("pump")
        return found


@dataclass(frozen=True)
class Verdict:
    """What `judge` found, in words; empty lists when all was kept."""

    volumes: list[str]
    after_stop: list[str]
    late_stops: list[str]
    journal: list[str]
    excess_ml: float
    longest_way_after_stop_s: float

    @property
    def clean(self) -> bool:
        return not (self.volumes or self.after_stop or self.late_stops or self.journal)


def judge(truth: Truth, entries: list[dict[str, Any]], limits: Limits = LIMITS) -> Verdict:
    """Compare what truly happened with what has to be kept."""
    resolution_ml = 0.03
    volumes, after_stop, late, journal = [], [], [], []
    defective = any(name in truth.faults for name in PUMP_DEFECTS)
    # Cement by side until the plunger went forward last, and all of it.
    ahead_ml, total_ml = {"left": 0.0, "right": 0.0}, {"left": 0.0, "right": 0.0}
    for (_, way, out, _), (_, later_way, later_out, side) in pairwise(truth.plunger):
        total_ml[side] += later_out - out
        if later_way > way + 1e-6:
            ahead_ml[side] = total_ml[side]
    for side in total_ml:
        planned = max([one.planned_volume_ml for one in truth.prescriptions if one.side == side], default=0.0)
        for what, limit in (("limit of an ala", limits.ala_volume_ml), ("plan", planned + 0.1)):
            if ahead_ml[side] > limit + resolution_ml and not defective:
                volumes.append(f"{side}: {ahead_ml[side]:.3f} mL with the plunger moving, {what} {limit:.2f}")
    if sum(ahead_ml.values()) > limits.total_volume_ml + resolution_ml and not defective:
        volumes.append(f"both: {sum(ahead_ml.values()):.3f} mL with the plunger moving")
    # Steps: cement out between two orders to run.
    runs = [(time_s, arguments) for time_s, name, arguments, _ in truth.orders if name == "run"]
    step_ml = max((one.step_ml for one in truth.prescriptions), default=0.0)
    for _, arguments in runs:
        if arguments["volume_ml"] > step_ml + 1e-9:
            volumes.append(f"a run of {arguments['volume_ml']:.3f} mL was ordered, the step is {step_ml:.1f} mL")
    # After a stop: no order to move until a person resets, and a plunger that pushes no further once the pump can know.
    longest_s = 0.0
    stop: tuple[int, float] | None = None
    for time_s, name, _, tick in [*truth.orders, (math.inf, "end", {}, -1)]:
        if name == "stop" and stop is None:
            stop = tick, time_s
        elif name in ("reset", "end") and stop is not None:
            if name == "reset" and not any(stop[0] <= asked <= tick for asked in truth.resets):
                after_stop.append(f"reset at {time_s:.2f} s that nobody asked for")
            longest_s = max(longest_s, _pushed_s(truth, stop[1], time_s))
            stop = None
        elif name in ("run", "arm", "withdraw") and stop is not None:
            after_stop.append(f"{name} at {time_s:.2f} s after the stop at {stop[1]:.2f} s")
    # 0.3 s until the pump stops by itself, and the ticks at both ends.
    goes_on = longest_s > 0.3 + 3 * TICK_S
    if goes_on and not defective:
        after_stop.append(f"the plunger went forward {longest_s:.2f} s after a stop")
    if goes_on and defective and math.isnan(truth.alarmed_s):
        after_stop.append(f"the plunger went forward {longest_s:.2f} s after a stop and nobody was alarmed")
    # Any doubt while cement flows: stopped in the same tick.
    stops = {tick for _, name, _, tick in truth.orders if name == "stop"}
    late += [f"{what} at tick {tick}" for tick, what in truth.doubts if tick not in stops]
    # The journal knows every order, in order.
    told = [name for _, name, _, _ in truth.orders if name != "stop"]
    written = [one["command"] for one in entries if one["event"] == "order" and one["command"] != "stop"]
    lost = "disk full" in truth.faults
    if told != written and not (lost and told == written[: len(told)]):
        journal.append(f"orders {told} against the journal's {written}")
    stops_told = any(name == "stop" for _, name, _, _ in truth.orders)
    if stops_told and not lost and not any(one.get("command") == "stop" or one["event"] == "stop" for one in entries):
        journal.append("a stop is not in the journal")
    excess = max([ahead_ml[side] - limits.ala_volume_ml for side in ahead_ml] + [sum(ahead_ml.values()) - 12.0])
    return Verdict(volumes, after_stop, late, journal, excess, longest_s)


def _pushed_s(truth: Truth, from_s: float, until_s: float) -> float:
    """How long after `from_s` the plunger went on to where it had not been before, by more than 0.005 mL; else 0."""
    before = [way for time_s, way, _, _ in truth.plunger if time_s <= from_s]
    furthest, last_s = max(before, default=0.0), from_s
    for time_s, way, _, _ in truth.plunger:
        if from_s < time_s <= until_s and way > furthest + 0.005:
            furthest, last_s = way, time_s
    return last_s - from_s
