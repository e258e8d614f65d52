"""What a cement pump and its controller say to each other (docs/device-protocol.md), for either side.

Orders are COMMAND messages of the device `Pump` whose text is JSON; each is answered by an RTS_COMMAND with the same
id. The pump tells its state in a STRING `PumpState` ten times a second.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import DeviceError

PROTOCOL = 1
DEVICE = "Pump"
STATE_NAME = "PumpState"
SENSOR_NAME = "PumpSensor"
#: The pump stops by itself when its controller's heartbeat is missing for this long.
DEAD_MAN_S = 0.3
HEARTBEAT_S = 0.1
STATE_PERIOD_S = 0.1
STATES = ("idle", "armed", "running", "holding", "withdrawing", "stopped")
ORDERS = ("hello", "arm", "run", "hold", "withdraw", "stop", "reset", "heartbeat")
#: Numbers that each order needs beside its sequence number; all must be positive.
ORDER_NUMBERS: dict[str, tuple[str, ...]] = {
    "run": ("rate_ml_s", "volume_ml", "pressure_limit_kpa"),
    "withdraw": ("volume_ml",),
}


@dataclass(frozen=True)
class Order:
    """One order of a controller.

    Attributes:
        command: one of `ORDERS`.
        session: the controller's own word for its run of the program; sequence numbers count within it.
        sequence: counts up from 1; a repeated number is a repeated order and acts once.
        numbers: as `ORDER_NUMBERS` asks.
        protocol: version of these rules.
    """

    command: str
    session: str
    sequence: int
    numbers: dict[str, float]
    protocol: int = PROTOCOL

    def text(self) -> str:
        head = {"protocol": self.protocol, "session": self.session, "sequence": self.sequence, "command": self.command}
        return json.dumps(head | self.numbers, allow_nan=False)


def parse_order(text: str) -> Order:
    """The order that the text of a COMMAND holds.

    Raises:
        DeviceError: for anything that is no complete order. A pump refuses it, and if it is about stopping, stops.
    """
    body = _object(text, "order")
    command, session = body.get("command"), body.get("session", "")
    if command not in ORDERS:
        raise DeviceError(f"there is no order {command!r}; the orders are {', '.join(ORDERS)}")
    if not isinstance(session, str) or not 0 < len(session) <= 64:
        raise DeviceError(f"the order {command} needs a session of 1 to 64 characters")
    sequence, protocol = _whole(body, "sequence"), _whole(body, "protocol")
    numbers = {}
    for name in ORDER_NUMBERS.get(command, ()):
        value = body.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise DeviceError(f"the order {command} needs a positive {name}, not {value!r}")
        numbers[name] = float(value)
    return Order(command, session, sequence, numbers, protocol)


def means_stop(text: str) -> bool:
    """Whether a text can be meant as stop, however damaged: the first thing a pump asks of every order."""
    return '"stop"' in text or text.strip().lower() == "stop"


@dataclass(frozen=True)
class Answer:
    """What the pump said to an order.

    Attributes:
        code: `ok`, or the kind of refusal: `latched`, `not-armed`, `not-idle`, `busy`, `hello-first`, `occupied`,
            `version`, `old-sequence`, `bad-order`, `limit`. A controller adds `no-answer` and `connection-lost`.
        reason: in words; empty when accepted.
        state: the pump's state after it.
    """

    sequence: int
    command: str
    accepted: bool
    code: str
    reason: str
    state: str

    def text(self) -> str:
        return json.dumps({"protocol": PROTOCOL, **asdict(self)}, allow_nan=False)


def parse_answer(text: str) -> Answer:
    """The answer that the text of an RTS_COMMAND holds; DeviceError for anything else."""
    body = _object(text, "answer")
    try:
        answer = Answer(**{item.name: body[item.name] for item in fields(Answer)})
    except KeyError as error:
        raise DeviceError(f"the pump's answer lacks {error}") from None
    if not isinstance(answer.accepted, bool):
        raise DeviceError("the pump's answer does not say whether it accepted")
    return answer


@dataclass(frozen=True)
class PumpState:
    """What the pump tells ten times a second.

    Attributes:
        counter: counts up with each message; one that stands still is a pump that hangs.
        state: one of `STATES`; `stopped` is latched until reset.
        fault: what stopped it: empty, `dead-man`, `controller-lost`, `pressure-limit`, `stall`, `empty`, `end-switch`,
            `order` (a stop order).
        delivered_ml: cement out of the syringe since power-on, as the screw's position and the compliance tell.
        run_ml: of that, since the latest `run`.
        remaining_ml: in the syringe.
        pressure_kpa: in the syringe.
        rate_ml_s: of the plunger, negative when it withdraws.
        session: of the controller in charge; empty when there is none.
        sequence: the newest order acted upon.
    """

    counter: int
    state: str
    fault: str
    delivered_ml: float
    run_ml: float
    remaining_ml: float
    pressure_kpa: float
    rate_ml_s: float
    session: str
    sequence: int

    def text(self) -> str:
        return json.dumps({"protocol": PROTOCOL, **asdict(self)}, allow_nan=False)


def parse_state(text: str) -> PumpState:
    """The state that the text of a `PumpState` holds.

    Raises:
        DeviceError: for missing or impossible content, NaN included: an unknown state is none.
    """
    body = _object(text, "state")
    if body.get("protocol") != PROTOCOL:
        raise DeviceError(f"the pump speaks protocol {body.get('protocol')!r}; this program speaks {PROTOCOL}")
    if body.get("state") not in STATES:
        raise DeviceError(f"the pump tells an unknown state {body.get('state')!r}")
    numbers = {}
    for name in ("delivered_ml", "run_ml", "remaining_ml", "pressure_kpa", "rate_ml_s"):
        value = body.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DeviceError(f"the pump tells no usable {name} ({value!r})")
        numbers[name] = float(value)
    for name in ("fault", "session"):
        if not isinstance(body.get(name), str):
            raise DeviceError(f"the pump tells no usable {name}")
    return PumpState(
        counter=_whole(body, "counter"),
        state=body["state"],
        fault=body["fault"],
        session=body["session"],
        sequence=_whole(body, "sequence"),
        **numbers,
    )


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        raise DeviceError(f"the pump {what} is no JSON") from None
    if not isinstance(body, dict):
        raise DeviceError(f"the pump {what} is no JSON object")
    return body


def _whole(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DeviceError(f"{name} must be a whole number from 0, not {value!r}")
    return value
