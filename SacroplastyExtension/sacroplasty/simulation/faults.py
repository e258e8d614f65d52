"""Defects by name, so that every alarm can be seen to go off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..devices.link import MessageKey, Received, Server
from ..devices.messages import Image, Message, String, Transform
from ..devices.wire import encode
from ..errors import DeviceError

#: What each does from its time on.
FAULTS: dict[str, str] = {
    "drop": "half of the poses, frames and pump states are not sent",
    "delay": "they come 0.4 s late",
    "freeze": "they repeat the content of the first one",
    "stale-clock": "their time stamps stand still",
    "bad-crc": "a third of them is damaged on the way",
    "garbage": "bytes that mean nothing come between them",
    "half-open": "the connection stays open and nothing is said or heard",
    "ignore-run": "the pump accepts run and does not move",
    "run-after-stop": "the pump says that it is stopped and goes on",
}
_DELAY_S = 0.4


@dataclass(frozen=True)
class Faults:
    """Which defects are on at which time after the start."""

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


class FaultyServer(Server):
    """A server whose stream of poses, frames and states suffers the defects that concern the link."""

    def __init__(self, port: int, faults: Faults, rng: np.random.Generator) -> None:
        super().__init__(port)
        self._faults = faults
        self._rng = rng
        self._started_s: float | None = None
        self._now_s = 0.0
        self._first: dict[str, Message] = {}
        self._late: list[tuple[float, bytes, MessageKey | None]] = []

    def poll(self, now_s: float, wait_s: float = 0.0) -> list[Received]:
        if self._started_s is None:
            self._started_s = now_s
        self._now_s = now_s
        if self._on("half-open"):
            return []
        while self._late and self._late[0][0] <= now_s:
            _, data, key = self._late.pop(0)
            self.send_encoded(data, key)
        return super().poll(now_s, wait_s)

    def flush(self, now_s: float) -> None:
        if not self._on("half-open"):
            super().flush(now_s)

    def send(self, message: Message, to: int | None = None, replaceable: bool | None = None) -> bool:
        if not isinstance(message, Transform | Image | String):
            return super().send(message, to, replaceable)
        first = self._first.setdefault(f"{message.type_name} {message.name}", message)
        if self._on("freeze"):
            message = replace(first, timestamp_s=message.timestamp_s)
        if self._on("stale-clock"):
            message = replace(message, timestamp_s=first.timestamp_s)
        if self._on("drop") and self._rng.random() < 0.5:
            return True
        data = encode(message)
        if self._on("bad-crc") and self._rng.random() < 1 / 3:
            data = data[:-1] + bytes([data[-1] ^ 0x55])
        if self._on("garbage") and self._rng.random() < 1 / 3:
            data = self._rng.bytes(int(self._rng.integers(1, 200))) + data
        key = (message.type_name, message.name) if replaceable or not isinstance(message, String) else None
        if self._on("delay"):
            # Without a key: what is late must not replace what is later still.
            self._late.append((self._now_s + _DELAY_S, data, None))
            return True
        return self.send_encoded(data, key, to)

    def _on(self, name: str) -> bool:
        return self._started_s is not None and self._faults.on(name, self._now_s - self._started_s)
