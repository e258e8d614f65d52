"""Defects by name, so that every alarm can be seen to go off."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..devices.link import MessageKey, Received, Server
from ..devices.messages import Command, CommandReply, Image, Message, Sensor, String, Transform
from ..devices.wire import HEADER_BYTES, encode
from ..errors import DeviceError

#: What each does from its time on. "They" are the stream of the device: poses, frames, pump states.
FAULTS: dict[str, str] = {
    "drop": "half of them are not sent",
    "delay": "they come 0.4 s late",
    "jitter": "they come unevenly, up to 0.3 s late, in order",
    "duplicate": "each comes twice",
    "reorder": "of two, the later one comes first",
    "freeze": "they repeat the content of the first one, with new time stamps",
    "stale-clock": "their time stamps stand still",
    "clock-jump": "their clock is set forward by an hour, and 2 s later back again",
    "half-open": "the connection stays open and nothing is said or heard",
    "slow-reader": "the device reads one message in half a second",
    "bad-crc": "a third of them is damaged on the way",
    "truncated-body": "a third of them breaks off half way, and the next follows",
    "absurd-size": "a third of them announces a body of 4 GB",
    "garbage": "bytes that mean nothing come between them",
    "reboot": "the device is away for 1.5 s and has forgotten everything",
    "ignore-run": "the pump accepts run, says that it runs, and does not move",
    "run-after-stop": "the pump says that it is stopped and goes on",
    "wrong-units": "poses and geometry in m, volumes in µL and pressures in Pa, under the same names",
}
_SHARE = 1 / 3
_DELAY_S = 0.4
_LARGEST_JITTER_S = 0.3
_CLOCK_JUMP_S = 3600.0
_CLOCK_JUMP_LASTS_S = 2.0
_SLOW_READ_S = 0.5
_REBOOT_S = 1.5
_SIZE_AT = 42
_ABSURD_BYTES = 2**32


@dataclass
class Faults:
    """Which defects are on at which time after the start. Those of one device share one object."""

    since_s: dict[str, float]

    def on(self, name: str, running_s: float) -> bool:
        return running_s >= self.since_s.get(name, float("inf"))


def parse_faults(names: Iterable[str]) -> Faults:
    """Defects by name, `NAME` or `NAME@SECONDS` after the start.

    Raises:
        DeviceError: for a name or time that is none.
    """
    since_s = {}
    for text in names:
        name, _, start = text.partition("@")
        if name not in FAULTS:
            raise DeviceError(f"there is no fault {name!r}; the faults are {', '.join(FAULTS)}")
        try:
            since_s[name] = float(start or 0)
        except ValueError:
            raise DeviceError(f"{text!r}: the time after @ must be seconds") from None
    return Faults(since_s)


@dataclass(frozen=True)
class _Parcel:
    """Bytes to be sent at their time. Late ones have no key: they must not replace what is later still."""

    due_s: float
    data: bytes
    key: MessageKey | None
    to: int | None


class FaultyServer(Server):
    """A server whose stream of poses, frames and states suffers the defects that concern the link.

    COMMAND `Fault` with `{"name": "freeze", "on": true}` begins or ends a defect at once.

    Attributes:
        power_cuts: how often the device has lost its power, and with it all that it had in mind.
    """

    def __init__(self, port: int, faults: Faults, rng: np.random.Generator) -> None:
        super().__init__(port)
        self._faults = faults
        self._rng = rng
        self._started_s: float | None = None
        self._now_s = 0.0
        self._first: dict[MessageKey, Message] = {}
        self._late: list[_Parcel] = []
        self._held: dict[MessageKey, _Parcel] = {}
        self._unread: list[Received] = []
        self._read_s = float("-inf")
        self._down_until_s: float | None = None
        self.power_cuts = 0

    def poll(self, now_s: float, wait_s: float = 0.0) -> list[Received]:
        if self._started_s is None:
            self._started_s = now_s
        self._now_s = now_s
        if self._is_down() or self._on("half-open"):
            time.sleep(wait_s)  # There is nothing to wait for.
            return []
        while self._late and self._late[0].due_s <= now_s:
            parcel = self._late.pop(0)
            self.send_encoded(parcel.data, parcel.key, parcel.to)
        received = [item for item in super().poll(now_s, wait_s) if not self._is_fault(item)]
        return self._read_slowly(received) if self._on("slow-reader") else received

    def flush(self, now_s: float) -> None:
        if not self._on("half-open") and self._down_until_s is None:
            super().flush(now_s)

    def send(self, message: Message, to: int | None = None, replaceable: bool | None = None) -> bool:
        if not isinstance(message, Transform | Image | String | Sensor):
            return super().send(message, to, replaceable)
        stream = (message.type_name, message.name)
        message = self._spoil_content(message, self._first.setdefault(stream, message))
        if self._on("drop") and self._rng.random() < 0.5:
            return True
        data = self._spoil_bytes(encode(message))
        key = stream if replaceable or not isinstance(message, String) else None
        return self._spoil_time(_Parcel(self._now_s, data, key, to), stream)

    def _is_fault(self, item: Received) -> bool:
        """Whether a message is about a defect; then it is obeyed and answered here."""
        command = item.message
        if not isinstance(command, Command) or command.name != "Fault":
            return False
        answer = {"accepted": True, "reason": ""}
        try:
            body = json.loads(command.text)
            if body["on"]:
                since_s = parse_faults([body["name"]]).since_s
                self._faults.since_s |= dict.fromkeys(since_s, self._now_s - (self._started_s or 0.0))
            else:
                self._faults.since_s.pop(body["name"], None)
        except (DeviceError, ValueError, KeyError, TypeError) as error:
            answer = {"accepted": False, "reason": str(error)}
        reply = CommandReply("Fault", command_id=command.command_id, command="Fault", text=json.dumps(answer))
        super().send(reply, to=item.peer)
        return True

    def _spoil_content(self, message: Message, first: Message) -> Message:
        if self._on("freeze"):
            message = replace(first, timestamp_s=message.timestamp_s)
        if self._on("stale-clock"):
            message = replace(message, timestamp_s=first.timestamp_s)
        if self._on("clock-jump") and self._since("clock-jump") < _CLOCK_JUMP_LASTS_S:
            message = replace(message, timestamp_s=message.timestamp_s + _CLOCK_JUMP_S)
        if self._on("wrong-units"):
            message = _in_other_units(message)
        return message

    def _spoil_bytes(self, data: bytes) -> bytes:
        if self._on("bad-crc") and self._rng.random() < _SHARE:
            data = data[:-1] + bytes([data[-1] ^ 0x55])
        if self._on("truncated-body") and self._rng.random() < _SHARE:
            data = data[: HEADER_BYTES + (len(data) - HEADER_BYTES) // 2]
        if self._on("absurd-size") and self._rng.random() < _SHARE:
            damaged = bytearray(data)
            struct.pack_into(">Q", damaged, _SIZE_AT, _ABSURD_BYTES)
            data = bytes(damaged)
        if self._on("garbage") and self._rng.random() < _SHARE:
            data = self._rng.bytes(int(self._rng.integers(1, 200))) + data
        return data

    def _spoil_time(self, parcel: _Parcel, stream: MessageKey) -> bool:
        parcels = [parcel]
        if self._on("reorder"):
            held = self._held.pop(stream, None)
            if held is None:
                self._held[stream] = parcel
                return True
            parcels = [replace(parcel, key=None), replace(held, key=None)]
        if self._on("duplicate"):
            parcels = [replace(one, key=None) for one in parcels for _ in range(2)]
        late_s = 0.0
        if self._on("delay"):
            late_s += _DELAY_S
        if self._on("jitter"):
            late_s += float(self._rng.uniform(0, _LARGEST_JITTER_S))
        if not late_s and not self._late:
            return all([self.send_encoded(one.data, one.key, one.to) for one in parcels])
        # One connection keeps its order: nothing overtakes what is late already.
        due_s = max([self._now_s + late_s, *(one.due_s for one in self._late[-1:])])
        self._late += [replace(one, due_s=due_s, key=None) for one in parcels]
        return True

    def _read_slowly(self, received: list[Received]) -> list[Received]:
        self._unread += received
        if not self._unread or self._now_s - self._read_s < _SLOW_READ_S:
            return []
        self._read_s = self._now_s
        return [self._unread.pop(0)]

    def _is_down(self) -> bool:
        """Goes down at the time of a reboot, and comes up again on the same port."""
        if self._down_until_s is None and self._on("reboot") and self.power_cuts == 0:
            port = self.port
            self.close()
            self.port = port
            self._down_until_s = self._now_s + _REBOOT_S
            self.power_cuts += 1
        if self._down_until_s is not None and self._now_s >= self._down_until_s:
            self._down_until_s = None
            super().__init__(self.port)
        return self._down_until_s is not None

    def _on(self, name: str) -> bool:
        return self._started_s is not None and self._faults.on(name, self._now_s - self._started_s)

    def _since(self, name: str) -> float:
        assert self._started_s is not None
        return self._now_s - self._started_s - self._faults.since_s[name]


def _in_other_units(message: Message) -> Message:
    if isinstance(message, Transform):
        matrix = message.matrix.copy()
        matrix[:3, 3] /= 1000
        return replace(message, matrix=matrix)
    if isinstance(message, Image) and "Geometry" in message.metadata:
        geometry = json.loads(message.metadata["Geometry"])
        for name in ("source_to_detector_mm", "pixel_spacing_mm", "source_in_detector_mm"):
            geometry[name] = (np.array(geometry[name]) / 1000).tolist()
        RASToDetector = np.array(geometry["RASToDetector"])
        RASToDetector[:3, 3] /= 1000
        geometry["RASToDetector"] = RASToDetector.tolist()
        return replace(message, metadata=message.metadata | {"Geometry": json.dumps(geometry)})
    if isinstance(message, String):
        try:
            body = json.loads(message.text)
        except ValueError:
            return message
        scaled = {key: 1000 * value for key, value in body.items() if key.rpartition("_")[2] in ("ml", "kpa", "s")}
        return replace(message, text=json.dumps(body | scaled))
    if isinstance(message, Sensor):
        return replace(message, values=tuple(1000 * value for value in message.values))
    return message
