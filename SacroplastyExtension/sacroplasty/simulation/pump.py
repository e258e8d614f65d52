"""The simulated cement pump: a screw that pushes a syringe, and the firmware that obeys or refuses."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..devices.link import Received
from ..devices.messages import Command, CommandReply, Sensor, Status, StatusCode, String
from ..devices.pump_protocol import (
    DEAD_MAN_S,
    DEVICE,
    PROTOCOL,
    SENSOR_NAME,
    STATE_NAME,
    STATE_PERIOD_S,
    Answer,
    Order,
    PumpState,
    means_stop,
    parse_order,
)
from ..errors import DeviceError
from .cannula import flow_ml_s as cannula_flow_ml_s
from .faults import Faults, FaultyServer
from .live import LiveFolder
from .world import PumpModel, Trocar, World

_STEP_S = 0.005
#: What the firmware believes of the compliance is this share of the truth.
_KNOWN_COMPLIANCE = 0.9
#: After a stop the screw backs off until the pressure is below this, so that cement does not flow on.
_RELIEVED_KPA = 5.0
_KEPT_ANSWERS = 64


class Syringe:
    """Screw, syringe, line and cannula: where the cement goes when the screw turns.

    The line stretches: pressure = stretched volume / compliance. The cannula lets a power-law fluid through. Line and
    cannula are full of cement from the beginning.

    Attributes:
        displaced_ml: by the plunger since the beginning.
        out_ml: out of the tip.
    """

    def __init__(self, model: PumpModel, trocar: Trocar) -> None:
        self._model = model
        self._trocar = trocar
        self.displaced_ml = 0.0
        self.out_ml = 0.0

    @property
    def pressure_kpa(self) -> float:
        return max(0.0, self.displaced_ml - self.out_ml) / self._model.compliance_ml_kpa

    @property
    def remaining_ml(self) -> float:
        return self._model.syringe_ml - self.displaced_ml

    def turn(self, rate_ml_s: float, seconds: float) -> None:
        """Move the plunger at a rate (negative: back) for a short time, and let the pressure drive cement out."""
        move_ml = min(max(rate_ml_s * seconds, -self.displaced_ml), self.remaining_ml)
        self.displaced_ml += move_ml
        pressure_kpa = self.pressure_kpa
        if pressure_kpa > 0:
            model, trocar = self._model, self._trocar
            flow_ml_s = cannula_flow_ml_s(
                pressure_kpa, model.consistency_pa_sn, model.flow_index, trocar.inner_diameter_mm, trocar.length_mm
            )
            self.out_ml += min(flow_ml_s * seconds, self.displaced_ml - self.out_ml)


@dataclass
class _Firmware:
    state: str = "idle"
    fault: str = ""
    rate_ml_s: float = 0.0
    goal_ml: float = 0.0
    run_from_ml: float = 0.0
    pressure_limit_kpa: float = float("inf")
    session: str = ""
    peer: int | None = None
    heartbeat_s: float = float("-inf")
    sequence: int = 0
    answers: dict[int, Answer] = field(default_factory=dict)


class PumpMachine:
    """The pump without its socket: orders in, answers out, time given.

    Args:
        speed: how many times faster than real the physics run. Heartbeats and messages stay in real time.
    """

    def __init__(self, model: PumpModel, trocar: Trocar, speed: float = 1.0) -> None:
        self.syringe = Syringe(model, trocar)
        self._model = model
        self._speed = speed
        self._now = _Firmware()
        self._last_s: float | None = None
        self._counter = 0
        self._counted_from_ml = 0.0
        self.ignore_run = False
        self.run_after_stop = False

    @property
    def state(self) -> str:
        return self._now.state

    @property
    def peer(self) -> int | None:
        """The client of the controller in charge."""
        return self._now.peer

    def stop(self, fault: str) -> None:
        """Stop and stay stopped. The first fault is kept."""
        if self._now.state != "stopped":
            self._now.state, self._now.fault = "stopped", fault
            if not self.run_after_stop:
                self._now.rate_ml_s = 0.0

    def order(self, text: str, peer: int, now_s: float) -> Answer | None:
        """Act on an order, once. A heartbeat has no answer."""
        if means_stop(text):
            self.stop("order")
        try:
            order = parse_order(text)
        except DeviceError as error:
            return Answer(0, "", False, "bad-order", str(error), self._now.state)
        if order.command == "stop":
            if order.session == self._now.session:
                # Orders given before the stop that come after it are old.
                self._now.sequence = max(self._now.sequence, order.sequence)
            return self._answer(order, "ok", "")
        if order.command == "heartbeat":
            if order.session == self._now.session:
                self._now.heartbeat_s = now_s
            return None
        if order.command == "hello":
            return self._greet(order, peer, now_s)
        if order.session != self._now.session:
            return self._answer(order, "hello-first", "say hello before giving orders")
        if order.sequence in self._now.answers:
            return self._now.answers[order.sequence]
        if order.sequence <= self._now.sequence:
            return self._answer(order, "old-sequence", f"order {self._now.sequence} was given before")
        self._now.sequence = order.sequence
        answer = self._act(order)
        self._now.answers[order.sequence] = answer
        if len(self._now.answers) > _KEPT_ANSWERS:
            del self._now.answers[min(self._now.answers)]
        return answer

    def power_on(self) -> None:
        """What the firmware knows after a power cut: nothing. Plunger and cement are where they were."""
        self._now = _Firmware()
        self._counter = 0
        self._counted_from_ml = self._gone_ml()

    def lose_controller(self, fault: str) -> None:
        """The controller is gone: stop whatever goes on, and take orders from the next that says hello."""
        if self._now.state != "idle":
            self.stop(fault)
        self._now.session, self._now.peer = "", None

    def tick(self, now_s: float) -> None:
        """Let time pass: dead-man, limits, and the screw."""
        seconds = 0.0 if self._last_s is None else max(0.0, now_s - self._last_s)
        self._last_s = now_s
        if self._now.session and now_s - self._now.heartbeat_s > DEAD_MAN_S:
            self.lose_controller("dead-man")
        left_s = seconds * self._speed
        while left_s > 0:
            step_s = min(_STEP_S, left_s)
            left_s -= step_s
            self._turn(step_s)

    def told(self) -> PumpState:
        """The next message of the pump's state."""
        self._counter += 1
        return PumpState(
            counter=self._counter,
            state=self._now.state,
            fault=self._now.fault,
            delivered_ml=round(self._delivered_ml(), 4),
            run_ml=round(self._delivered_ml() - self._now.run_from_ml, 4),
            remaining_ml=round(self.syringe.remaining_ml, 4),
            pressure_kpa=round(self.syringe.pressure_kpa, 2),
            rate_ml_s=0.0 if self.run_after_stop and self._now.state == "stopped" else self._now.rate_ml_s,
            session=self._now.session,
            sequence=self._now.sequence,
        )

    def _delivered_ml(self) -> float:
        """What the firmware takes for delivered since it was switched on."""
        return max(0.0, self._gone_ml() - self._counted_from_ml)

    def _gone_ml(self) -> float:
        """The screw's way less what the line is believed to hold."""
        held_ml = self.syringe.pressure_kpa * self._model.compliance_ml_kpa * _KNOWN_COMPLIANCE
        return self.syringe.displaced_ml - held_ml

    def _turn(self, step_s: float) -> None:
        now, syringe = self._now, self.syringe
        rate_ml_s = now.rate_ml_s
        if now.state == "running" and self.ignore_run:
            rate_ml_s = 0.0
        if now.state == "stopped" and not self.run_after_stop and syringe.pressure_kpa > _RELIEVED_KPA:
            excess_ml = (syringe.pressure_kpa - _RELIEVED_KPA) * self._model.compliance_ml_kpa
            rate_ml_s = -min(self._model.largest_rate_ml_s, excess_ml / step_s)
        before_ml = syringe.displaced_ml
        if now.state == "running":
            rate_ml_s = min(rate_ml_s, max(0.0, now.goal_ml - before_ml) / step_s)
        elif now.state == "withdrawing":
            rate_ml_s = max(rate_ml_s, min(0.0, now.goal_ml - before_ml) / step_s)
        syringe.turn(rate_ml_s, step_s)
        if now.state == "running":
            if syringe.pressure_kpa >= self._model.largest_pressure_kpa:
                self.stop("stall")
            elif syringe.pressure_kpa >= now.pressure_limit_kpa:
                self.stop("pressure-limit")
            elif syringe.remaining_ml <= 1e-9:
                self.stop("empty")
            elif syringe.displaced_ml >= now.goal_ml - 1e-9:
                self._hold()
        elif now.state == "withdrawing":
            if syringe.displaced_ml <= now.goal_ml + 1e-9:
                self._hold()
            elif syringe.displaced_ml <= 1e-9:
                self.stop("end-switch")

    def _hold(self) -> None:
        self._now.state, self._now.rate_ml_s = "holding", 0.0

    def _greet(self, order: Order, peer: int, now_s: float) -> Answer:
        if order.protocol != PROTOCOL:
            return self._answer(order, "version", f"this pump speaks protocol {PROTOCOL}, not {order.protocol}")
        if self._now.session not in ("", order.session):
            return self._answer(order, "occupied", "another controller is in charge")
        if order.session != self._now.session:
            self._now.session, self._now.sequence, self._now.answers = order.session, 0, {}
        self._now.peer, self._now.heartbeat_s = peer, now_s
        self._now.sequence = max(self._now.sequence, order.sequence)
        return self._answer(order, "ok", "")

    def _act(self, order: Order) -> Answer:
        now = self._now
        if order.command == "reset":
            now.state, now.fault, now.rate_ml_s = "idle", "", 0.0
            return self._answer(order, "ok", "")
        if now.state == "stopped":
            return self._answer(order, "latched", f"the pump is stopped ({now.fault}); reset it first")
        if order.command == "hold":
            if now.state in ("running", "withdrawing"):
                self._hold()
            return self._answer(order, "ok", "")
        if now.state in ("running", "withdrawing"):
            return self._answer(order, "busy", f"the pump is {now.state}; hold or stop it first")
        if order.command == "arm":
            now.state = "armed"
            return self._answer(order, "ok", "")
        if now.state == "idle":
            return self._answer(order, "not-armed", "arm the pump first")
        if order.command == "withdraw":
            now.state, now.rate_ml_s = "withdrawing", -self._model.largest_rate_ml_s / 2
            now.goal_ml = self.syringe.displaced_ml - order.numbers["volume_ml"]
            return self._answer(order, "ok", "")
        rate_ml_s, limit_kpa = order.numbers["rate_ml_s"], order.numbers["pressure_limit_kpa"]
        if rate_ml_s > self._model.largest_rate_ml_s:
            return self._answer(order, "limit", f"the pump gives at most {self._model.largest_rate_ml_s} mL/s")
        if limit_kpa > self._model.largest_pressure_kpa:
            return self._answer(order, "limit", f"the pump bears at most {self._model.largest_pressure_kpa} kPa")
        now.state, now.rate_ml_s, now.pressure_limit_kpa = "running", rate_ml_s, limit_kpa
        now.goal_ml = self.syringe.displaced_ml + order.numbers["volume_ml"]
        now.run_from_ml = self._delivered_ml()
        return self._answer(order, "ok", "")

    def _answer(self, order: Order, code: str, reason: str) -> Answer:
        return Answer(order.sequence, order.command, code == "ok", code, reason, self._now.state)


class SimulatedPump:
    """A PumpMachine behind an OpenIGTLink server, in a world that keeps account of where the cement went.

    Args:
        epoch_s: seconds since 1970 at `now_s` zero, for time stamps.
    """

    def __init__(
        self, world: World, server: FaultyServer, live: LiveFolder, faults: Faults, speed: float, epoch_s: float
    ) -> None:
        self._server = server
        self._power_cuts = 0
        self._live = live
        self._faults = faults
        self._epoch_s = epoch_s
        self._machine = PumpMachine(world.pump, world.trocar, speed)
        self._delivered_ml: dict[str, float] = {}
        self._out_ml = 0.0
        self._next_state_s = float("-inf")
        self._told_state = ""
        self._started_s: float | None = None
        live.write_delivered({})

    def step(self, now_s: float, wait_s: float) -> None:
        """Obey what came (stop before all else), let time pass, tell the state when due."""
        if self._started_s is None:
            self._started_s = now_s
        self._machine.ignore_run = self._faults.on("ignore-run", now_s - self._started_s)
        self._machine.run_after_stop = self._faults.on("run-after-stop", now_s - self._started_s)
        received = self._server.poll(now_s, wait_s)
        if self._server.power_cuts != self._power_cuts:
            self._power_cuts = self._server.power_cuts
            self._machine.power_on()
        orders = [item for item in received if isinstance(item.message, Command) and item.message.name == DEVICE]
        if any(isinstance(item.message, Command) and means_stop(item.message.text) for item in orders):
            self._machine.stop("order")
        for item in orders:
            self._obey(item, now_s)
        if self._machine.peer is not None and self._machine.peer not in self._server.peers:
            self._machine.lose_controller("controller-lost")
        self._machine.tick(now_s)
        self._account()
        changed = self._machine.state != self._told_state
        if changed or now_s >= self._next_state_s:
            self._next_state_s = now_s + STATE_PERIOD_S
            self._tell(changed, self._epoch_s + now_s)
        self._server.flush(now_s)

    def _obey(self, item: Received, now_s: float) -> None:
        assert isinstance(item.message, Command)
        answer = self._machine.order(item.message.text, item.peer, now_s)
        if answer is not None:
            number, name = item.message.command_id, item.message.command
            self._server.send(CommandReply(DEVICE, command_id=number, command=name, text=answer.text()), to=item.peer)

    def _account(self) -> None:
        gone_ml = self._machine.syringe.out_ml - self._out_ml
        if gone_ml > 0:
            self._out_ml = self._machine.syringe.out_ml
            place = self._live.read_hand().connected or "floor"
            self._delivered_ml[place] = self._delivered_ml.get(place, 0.0) + gone_ml

    def _tell(self, changed: bool, stamp_s: float) -> None:
        state = self._machine.told()
        self._live.write_delivered(self._delivered_ml)
        self._server.send(String(STATE_NAME, state.text(), timestamp_s=stamp_s), replaceable=True)
        values = (state.delivered_ml, state.pressure_kpa, state.rate_ml_s)
        self._server.send(Sensor(SENSOR_NAME, values, timestamp_s=stamp_s))
        if changed:
            self._told_state = state.state
            code = StatusCode.OK if state.state != "stopped" else StatusCode.DISABLED
            self._server.send(Status(DEVICE, code, error_name=state.state, text=state.fault, timestamp_s=stamp_s))
