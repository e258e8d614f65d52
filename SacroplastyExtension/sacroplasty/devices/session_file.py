"""A recorded device session: one append-only file with every byte that was received and sent.

Layout, little-endian, entry after entry:

    4 bytes  mark `SRec`
    uint32   CRC-32 of all that follows in this entry
    uint8    kind: 0 head, 1 received, 2 sent, 3 link, 4 remark
    uint8    number of the link in the head's list
    uint32   bytes of content
    float64  seconds since the head was written, by the recorder's clock
    ...      content: JSON (UTF-8) for kinds 0, 3 and 4, bytes of the socket for 1 and 2

The first entry is the head. An entry that was cut short or damaged costs itself only: the reader looks for the next
mark whose checksum is right.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DeviceError
from .messages import Message
from .wire import Decoder

HEAD, RECEIVED, SENT, LINK, REMARK = range(5)
VERSION = 1
ENDING = ".session"
_MARK = b"SRec"
_FRAME = struct.Struct("<4sI")
_ENTRY = struct.Struct("<BBId")
_LARGEST_CONTENT = 2**27


def pack_entry(kind: int, link: int, time_s: float, content: bytes | memoryview) -> bytes:
    """The bytes of an entry."""
    head = _ENTRY.pack(kind, link, len(content), time_s)
    return b"".join((_FRAME.pack(_MARK, zlib.crc32(content, zlib.crc32(head))), head, content))


def pack_head(links: Sequence[str], unix_s: float) -> bytes:
    """The bytes of the first entry of a file."""
    head = {"schema": {"name": "session", "version": VERSION}, "links": list(links), "started_unix_s": unix_s}
    return pack_entry(HEAD, 0, 0.0, json.dumps(head).encode())


@dataclass(frozen=True)
class Entry:
    """One thing that happened.

    Attributes:
        time_s: since the beginning of the recording.
        kind: HEAD, RECEIVED, SENT, LINK or REMARK.
        link: number of the link.
    """

    time_s: float
    kind: int
    link: int
    content: memoryview

    @property
    def record(self) -> dict[str, Any]:
        """The JSON object of a LINK or REMARK."""
        found: dict[str, Any] = json.loads(bytes(self.content))
        return found


@dataclass(frozen=True)
class Session:
    """A recording that was opened.

    Attributes:
        links: names, such as `Tracker`.
        started_unix_s: when it began, by the recorder's wall clock.
        entries: all that are whole, in order, without the head.
        damaged_bytes: bytes that belong to no whole entry: the end of a recording that was killed, mostly.
        name: of the file.
    """

    links: tuple[str, ...]
    started_unix_s: float
    entries: tuple[Entry, ...]
    damaged_bytes: int
    name: str = ""

    @property
    def duration_s(self) -> float:
        return self.entries[-1].time_s if self.entries else 0.0

    def messages(self, link: str, kind: int = RECEIVED) -> Iterator[tuple[float, Message]]:
        """Time and message of all that was received (or SENT) over a link, in order."""
        number = self.links.index(link)
        decoder = Decoder()
        for entry in self.entries:
            if entry.link != number:
                continue
            if entry.kind == LINK:
                decoder = Decoder()  # Half a message of one connection is not continued in the next.
            elif entry.kind == kind:
                for message in decoder.feed(entry.content):
                    yield entry.time_s, message


def read_session(path: Path) -> Session:
    """Open a recording; the end that a crash cut short is left out.

    Raises:
        DeviceError: for a file that is no recording, or of a newer version.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise DeviceError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:  # An empty file cannot be mapped.
        data = memoryview(b"")
    return session_of(data, path.name)


def session_of(data: memoryview, name: str) -> Session:
    """The session that bytes hold; see `read_session`."""
    found, damaged = _entries(data)
    head: Any = None
    if found and found[0].kind == HEAD:
        try:
            head = found[0].record
            version, links, unix_s = head["schema"]["version"], tuple(head["links"]), float(head["started_unix_s"])
        except (ValueError, KeyError, TypeError):
            head = None
    if head is None:
        raise DeviceError(f"{name} is no recording of a device session ({ENDING})")
    if not isinstance(version, int) or version > VERSION:
        raise DeviceError(f"{name} is a recording of version {version}; this program reads up to {VERSION}: update it")
    return Session(links, unix_s, tuple(entry for entry in found[1:] if entry.link < len(links)), damaged, name)


def _entries(data: memoryview) -> tuple[list[Entry], int]:
    found: list[Entry] = []
    damaged, at = 0, 0
    size = _FRAME.size + _ENTRY.size
    whole = data.obj if isinstance(data.obj, mmap.mmap) else bytes(data)
    while at < len(data):
        if at + size <= len(data):
            mark, checksum = _FRAME.unpack_from(data, at)
            kind, link, count, time_s = _ENTRY.unpack_from(data, at + _FRAME.size)
            end = at + size + count
            if mark == _MARK and count <= _LARGEST_CONTENT and end <= len(data):
                content = data[at + size : end]
                if zlib.crc32(data[at + _FRAME.size : end]) == checksum:
                    found.append(Entry(time_s, kind, link, content))
                    at = end
                    continue
        following = whole.find(_MARK, at + 1)
        following = len(data) if following < 0 else following
        damaged += following - at
        at = following
    return found, damaged
