"""Writes a device session while it happens. Nothing that goes wrong with the file reaches the devices."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DeviceError
from .link import Client
from .session_file import LINK, RECEIVED, REMARK, SENT, pack_entry, pack_head

#: After a failed write the disk is tried again this often.
_RETRY_S = 1.0


class SessionRecorder:
    """Records the bytes of links by tapping them.

    Each entry is handed to the operating system before the next one, so that killing the program loses nothing that was
    recorded; a power cut may cost the last seconds. When the disk is full the session goes on, the recording has a gap,
    and `problem` says so until there is room again.

    Attributes:
        path: of the file.
        problem: why nothing is recorded now, in words; empty while it is.
        lost_bytes: that could not be recorded.
        written_bytes: of the file.
    """

    def __init__(
        self,
        path: Path,
        links: Mapping[str, Client | None],
        now_s: float,
        unix_s: float,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        """Begin.

        Args:
            links: by name; None for one that may come later, see `follow`.
            unix_s: wall time now.
            write: the system's, for a test to replace.

        Raises:
            DeviceError: when the file exists already or cannot be made.
        """
        self.path = Path(path)
        self._names = list(links)
        self._links: list[Client | None] = [None] * len(links)
        self._write = write
        self._started_s = now_s
        self._states: dict[int, tuple[str, int]] = {}
        self._retry_s = float("-inf")
        self._gap_from_s = 0.0
        self._lost_since = 0
        self.problem = ""
        self.lost_bytes = 0
        self.written_bytes = 0
        if self.path.exists():
            raise DeviceError(f"{self.path} exists already; a recording never replaces another")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file: int | None = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise DeviceError(f"{self.path} cannot be recorded to: {error.strerror}") from None
        self._put(pack_head(list(links), unix_s), now_s)
        if self.problem:
            self.close()
            raise DeviceError(f"{self.path} cannot be recorded to: {self.problem}")
        for name, client in links.items():
            self.follow(name, client)
        self.poll(now_s)

    def follow(self, name: str, client: Client | None) -> None:
        """Record another connection under a name; None for none."""
        number = self._names.index(name)
        before = self._links[number]
        if before is not None:
            before.tap = None
        self._links[number] = client
        self._states.pop(number, None)
        if client is not None:
            client.tap = partial(self._tap, number)

    def poll(self, now_s: float) -> None:
        """Note links that came or went; try again when the disk was full. Call it after every poll of the links."""
        for number in range(len(self._links)):
            self._note_link(number, now_s)
        if self.problem and now_s >= self._retry_s:
            self._end_gap(now_s)

    def remark(self, now_s: float, event: str, **facts: Any) -> None:
        """Add a line of the program's own, such as a finding or an alarm."""
        self._put_record(REMARK, 0, now_s, event=event, **facts)

    def close(self) -> None:
        """End the recording, and let go of the links."""
        for client in self._links:
            if client is not None:
                client.tap = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _tap(self, number: int, direction: str, now_s: float, data: bytes | memoryview) -> None:
        # A connection is noted before its first byte.
        self._note_link(number, now_s)
        kind = RECEIVED if direction == "received" else SENT
        self._put(pack_entry(kind, number, now_s - self._started_s, data), now_s)

    def _note_link(self, number: int, now_s: float) -> None:
        client = self._links[number]
        if client is None:
            return
        state = ("connected" if client.connected else client.reason, client.counts.connections)
        if self._states.get(number) != state:
            self._states[number] = state
            self._put_record(LINK, number, now_s, address=client.address, connected=client.connected, state=state[0])

    def _put_record(self, kind: int, number: int, now_s: float, **facts: Any) -> None:
        self._put(pack_entry(kind, number, now_s - self._started_s, json.dumps(facts).encode()), now_s)

    def _put(self, data: bytes, now_s: float) -> None:
        if self._file is None:
            return
        if self.problem:
            self._lose(len(data))
            return
        try:
            rest = data
            while rest:
                # A disk that gets full takes a part; the second attempt then says why.
                rest = rest[self._write(self._file, rest) :]
            self.written_bytes += len(data)
        except OSError as error:
            self.problem = f"nothing is recorded: {error.strerror}"
            self._retry_s, self._gap_from_s = now_s + _RETRY_S, now_s - self._started_s
            self._lose(len(data))

    def _lose(self, count: int) -> None:
        self.lost_bytes += count
        self._lost_since += count

    def _end_gap(self, now_s: float) -> None:
        lost, from_s = self._lost_since, self._gap_from_s
        self.problem = ""
        self.remark(now_s, "gap", from_s=from_s, lost_bytes=lost)
        if self.problem:
            self._gap_from_s = from_s
            return
        self._lost_since = 0
        # A reader must not join what came before the gap to what comes after it.
        self._states.clear()
