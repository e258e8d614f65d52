"""The controller's side of the cement pump. Stop first."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..errors import DeviceError
from .freshness import Freshness
from .link import Client, Received
from .messages import Command, CommandReply, String
from .pump_protocol import (
    DEVICE,
    HEARTBEAT_S,
    STATE_NAME,
    STATE_PERIOD_S,
    Answer,
    Order,
    PumpState,
    parse_answer,
    parse_state,
)
from .pump_watch import PumpWatch, implausible

#: A state older than three periods is none.
OLDEST_STATE_S = 3 * STATE_PERIOD_S
_RETRY_S = 0.15
_GIVE_UP_S = 1.0
_STOP_RETRY_S = 0.05
_GREET_AGAIN_S = 0.5
#: A stop must be confirmed within this time, or a person must see to the pump.
_CONFIRM_S = 0.5
#: A state told before the pump heard our hello may still be on its way; a second one is not.
_STRANGE_STATES = 2


@dataclass(frozen=True)
class PumpReading:
    """The pump as far as it is known now.

    Attributes:
        ready: whether it is connected, speaks our protocol, takes our orders, and its state is fresh.
        state: the newest state, however old; None when there never was one.
        age_s: of that state; infinite when there is none.
        reason: why it is not ready, in words; empty when it is.
        alarm: what it does against its own word or our orders, in words; needs a person at the pump.
    """

    ready: bool
    state: PumpState | None
    age_s: float
    reason: str
    alarm: str = ""


@dataclass
class _Pending:
    order: Order
    message: Command
    first_s: float
    sent_s: float


class PumpRole:
    """Orders to the pump, each repeated until it is answered, and the heartbeat that keeps it running.

    The heartbeat goes out from `poll`: call it from the very loop that decides about stopping, so that the pump stops
    when that loop does.

    Args:
        client: the link to the pump; `poll` polls it.
        session: a word that no other run of a controller uses.
    """

    def __init__(self, client: Client, session: str) -> None:
        self.client = client
        self._session = session
        self._sequence = 0
        self._pending: dict[int, _Pending] = {}
        self._answers: deque[Answer] = deque(maxlen=256)
        self._welcome = False
        self._refusal = "the pump has not answered yet"
        self._connections = 0
        self._strange_states = 0
        self._greeted_s = float("-inf")
        self._state: PumpState | None = None
        self._state_problem = ""
        self._freshness = Freshness()
        self._heartbeat_s = float("-inf")
        self._stop_sequence: int | None = None
        self._stop_sent_s = float("-inf")
        self._stop_ordered_s = float("-inf")
        self._watch = PumpWatch()
        self._ordered_rate_ml_s: float | None = None
        self._restarted = ""

    def arm(self, now_s: float) -> int:
        """Make the pump ready to run. Returns the order's sequence number, as all orders do."""
        return self._order("arm", {}, now_s)

    def run(self, rate_ml_s: float, volume_ml: float, pressure_limit_kpa: float, now_s: float) -> int:
        """Deliver a volume, then hold."""
        self._ordered_rate_ml_s = rate_ml_s
        numbers = {"rate_ml_s": rate_ml_s, "volume_ml": volume_ml, "pressure_limit_kpa": pressure_limit_kpa}
        return self._order("run", numbers, now_s)

    def hold(self, now_s: float) -> int:
        """Halt the screw, stay armed."""
        return self._order("hold", {}, now_s)

    def withdraw(self, volume_ml: float, now_s: float) -> int:
        """Pull the plunger back by a volume."""
        return self._order("withdraw", {"volume_ml": volume_ml}, now_s)

    def reset(self, now_s: float) -> int:
        """Release a latched stop, and an alarm with it. Moves nothing."""
        self._watch.forget()
        return self._order("reset", {}, now_s)

    def stop(self, now_s: float) -> None:
        """Stop, now and without asking. Repeated until the pump says that it is stopped, across reconnections too."""
        if self._stop_sequence is not None:  # Under way already.
            self.poll(now_s)
            return
        self._sequence += 1
        self._stop_sequence = self._sequence
        self._stop_ordered_s = now_s
        for pending in self._pending.values():
            if pending.order.command != "hello":
                self._answers.append(_unanswered(pending.order, "latched", "a stop came after it"))
        self._pending.clear()
        self._send_stop(now_s)
        # At once, not with the next poll; what arrives meanwhile is not lost.
        self.poll(now_s)

    @property
    def stop_pending(self) -> bool:
        """Whether a stop was ordered that the pump has not confirmed."""
        return self._stop_sequence is not None

    def poll(self, now_s: float) -> None:
        """Receive, repeat what is unanswered, send the heartbeat."""
        for received in self.client.poll(now_s):
            self.handle(received)
        self.tend(now_s)

    def tend(self, now_s: float) -> None:
        """All of `poll` but the receiving, for a link that somebody else polls."""
        if not self.client.connected:
            self._forget_connection()
            return
        if self.client.counts.connections != self._connections:
            self._forget_connection()
            self._connections = self.client.counts.connections
        if not self._welcome and now_s - self._greeted_s > _GREET_AGAIN_S:
            self._greeted_s = now_s
            self._order("hello", {}, now_s)
        if self._stop_sequence is not None and now_s - self._stop_sent_s >= _STOP_RETRY_S:
            self._send_stop(now_s)
        self._repeat(now_s)
        if self._welcome and now_s - self._heartbeat_s >= HEARTBEAT_S:
            self._heartbeat_s = now_s
            self.client.send(self._message(Order("heartbeat", self._session, self._sequence, {})))

    def handle(self, received: Received) -> None:
        """Take one message of a link that somebody else polls."""
        message = received.message
        if isinstance(message, String) and message.name == STATE_NAME:
            self._take_state(message, received)
        elif isinstance(message, CommandReply) and message.name == DEVICE:
            self._take_answer(message)

    def take_answers(self) -> list[Answer]:
        """What became of the orders since the last call, refusals and missing answers included."""
        answers = list(self._answers)
        self._answers.clear()
        return answers

    def reading(self, now_s: float) -> PumpReading:
        age_s = self._freshness.age_s(now_s)
        alarm = self._alarm(now_s)
        if not self.client.connected:
            reason = f"no pump: {self.client.reason}"
        elif not self._welcome:
            reason = self._refusal
        elif self._state_problem:
            reason = self._state_problem
        elif not age_s <= OLDEST_STATE_S:
            reason = "the pump does not tell its state" if self._state is None else f"the state is {age_s:.1f} s old"
        elif self._state is not None and self._state.session != self._session:
            other = "another controller is in charge of the pump"
            reason = other if self._state.session else "the pump takes orders from nobody: it has lost this controller"
        else:
            reason = alarm or self._restarted
        return PumpReading(not reason, self._state, age_s, reason, alarm)

    def _alarm(self, now_s: float) -> str:
        unconfirmed_s = now_s - self._stop_ordered_s
        if self._stop_sequence is not None and unconfirmed_s > _CONFIRM_S:
            return f"the pump has not confirmed the stop for {unconfirmed_s:.1f} s: switch it off at the pump"
        return self._watch.alarm

    def _order(self, command: str, numbers: dict[str, float], now_s: float) -> int:
        self._sequence += 1
        order = Order(command, self._session, self._sequence, numbers)
        try:
            message = self._message(order)
        except ValueError:
            self._answers.append(_unanswered(order, "bad-order", "an order cannot hold NaN or infinite numbers"))
        else:
            if self._stop_sequence is not None and command != "hello":
                self._answers.append(_unanswered(order, "latched", "a stop is not confirmed yet"))
            elif self.client.send(message):
                self._pending[order.sequence] = _Pending(order, message, now_s, now_s)
            else:
                self._answers.append(_unanswered(order, "connection-lost", "there is no connection to the pump"))
        return order.sequence

    def _message(self, order: Order) -> Command:
        return Command(DEVICE, command_id=order.sequence, command=order.command, text=order.text())

    def _send_stop(self, now_s: float) -> None:
        assert self._stop_sequence is not None
        self._stop_sent_s = now_s
        self.client.send(self._message(Order("stop", self._session, self._stop_sequence, {})))

    def _repeat(self, now_s: float) -> None:
        for sequence, pending in list(self._pending.items()):
            if now_s - pending.first_s > _GIVE_UP_S:
                del self._pending[sequence]
                if pending.order.command == "hello":
                    self._refusal = "the pump does not answer"
                else:
                    self._answers.append(_unanswered(pending.order, "no-answer", "the pump did not answer"))
            elif now_s - pending.sent_s > _RETRY_S:
                pending.sent_s = now_s
                self.client.send(pending.message)

    def _forget_connection(self) -> None:
        for pending in self._pending.values():
            if pending.order.command != "hello":
                self._answers.append(_unanswered(pending.order, "connection-lost", "the connection to the pump broke"))
        self._pending.clear()
        self._welcome = False
        self._greeted_s = float("-inf")
        self._refusal = "the pump has not answered yet"

    def _take_state(self, message: String, received: Received) -> None:
        try:
            state = parse_state(message.text)
        except DeviceError as error:
            self._state_problem = str(error)
            return
        if self._state is not None and state.counter == self._state.counter:
            return
        if not self._freshness.observe(message.timestamp_s, received.received_s, received.delay_s):
            return
        if self._state is not None and state.counter < self._state.counter:
            self._restarted = "the pump was switched off and on and counts its cement anew: connect again"
        self._state, self._state_problem = state, implausible(state, self._ordered_rate_ml_s)
        if not self._state_problem:
            self._watch.observe(state, received.received_s)
        self._strange_states = 0 if state.session == self._session else self._strange_states + 1
        if self._welcome and self._strange_states >= _STRANGE_STATES:
            # The pump forgot us: it was restarted, or it stopped for want of a heartbeat.
            self._welcome, self._refusal = False, "the pump does not know this controller any more"
        if self._stop_sequence is not None and state.state == "stopped":
            self._stop_sequence = None

    def _take_answer(self, message: CommandReply) -> None:
        pending = self._pending.pop(message.command_id, None)
        if pending is None:  # Of a repeated order that was answered already.
            return
        try:
            answer = parse_answer(message.text)
        except DeviceError as error:
            answer = _unanswered(pending.order, "bad-answer", str(error))
        if pending.order.command == "hello":
            self._welcome, self._refusal = answer.accepted, answer.reason
            self._strange_states = 0
        else:
            self._answers.append(answer)


def _unanswered(order: Order, code: str, reason: str) -> Answer:
    return Answer(order.sequence, order.command, False, code, reason, "unknown")
