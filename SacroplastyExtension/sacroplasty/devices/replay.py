"""A recorded session in place of devices: the same bytes at the same times, at any speed."""

from __future__ import annotations

import math
from collections import deque

from .link import LinkCounts, Received
from .messages import Message
from .session_file import LINK, RECEIVED, Entry, Session
from .wire import Decoder


class ReplayClock:
    """The time of a recording, as a clock of the one who replays it.

    Both clocks show the same at the beginning; from then on the recording's runs `speed` times as fast.
    """

    def __init__(self, begun_s: float, speed: float = 1.0) -> None:
        if not (speed > 0 and math.isfinite(speed)):
            raise ValueError(f"the speed of a replay must be positive, got {speed}")
        self.begun_s = begun_s
        self.speed = speed

    def time_s(self, now_s: float) -> float:
        """What the recording's clock shows now."""
        return self.begun_s + (now_s - self.begun_s) * self.speed


class ReplayLink:
    """One recorded link, for a role to poll in place of a `Client`.

    `poll` takes the time of a `ReplayClock`. Every message bears the time at which it was received when it was
    recorded, so what a role makes of it does not depend on speed, nor on how often it is polled. Nothing can be sent.

    Attributes:
        state, reason, counts: as those of a Client, as they were then.
    """

    def __init__(self, session: Session, link: str, begun_s: float) -> None:
        number = session.links.index(link)
        self._entries: deque[Entry] = deque(entry for entry in session.entries if entry.link == number)
        self._name = session.name
        self._begun_s = begun_s
        self._end_s = session.duration_s
        self._decoder = Decoder()
        self.counts = LinkCounts()
        self.state = "waiting"
        self.reason = "the replay has not come to it yet"

    @property
    def connected(self) -> bool:
        return self.state == "connected"

    @property
    def address(self) -> str:
        return f"replay of {self._name}"

    @property
    def tap(self) -> None:
        """A replay is not recorded."""
        return None

    def send(self, message: Message, replaceable: bool | None = None) -> bool:
        """Nothing is sent into the past."""
        return False

    def poll(self, now_s: float) -> list[Received]:
        """All that was received until then."""
        received: list[Received] = []
        if self.state == "closed":
            return received
        while self._entries and self._begun_s + self._entries[0].time_s <= now_s:
            entry = self._entries.popleft()
            if entry.kind == LINK:
                self._change(entry)
            elif entry.kind == RECEIVED:
                messages = self._decoder.feed(entry.content)
                received += [Received(message, self._begun_s + entry.time_s, 0) for message in messages]
        self.counts.received += len(received)
        self.counts.crc_errors = self._decoder.crc_errors
        self.counts.malformed = self._decoder.malformed
        self.counts.skipped_bytes = self._decoder.skipped_bytes
        if now_s - self._begun_s > self._end_s and self.state != "closed":
            self.state, self.reason = "waiting", "the replay is at its end"
        return received

    def close(self) -> None:
        self._entries.clear()
        self.state, self.reason = "closed", "closed"

    def _change(self, entry: Entry) -> None:
        record = entry.record
        if record.get("connected"):
            self.state, self.reason = "connected", ""
            self.counts.connections += 1
            fresh = Decoder()
            fresh.crc_errors, fresh.malformed = self._decoder.crc_errors, self._decoder.malformed
            fresh.skipped_bytes = self._decoder.skipped_bytes
            self._decoder = fresh
        else:
            self.state, self.reason = "waiting", str(record.get("state", ""))
